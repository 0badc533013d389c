"""One dialogue of a task under one arm: the unit of work of the choice benches.

A turn is played so: room is made at once for the question, the longest answer and what closes it; the question is read,
once; every answer is scored from what the model predicts behind it; the answer that goes on into the cache is the one
that the model chose, right or wrong (`self`), or the right one (`gold`).

The published rule chooses the first answer whose text is what the model would say by itself, token for token, and else
the answer whose first token is likeliest. Rock-paper-scissors goes by the first token alone. Only an answer of more
than one token that begins as the model would needs another look (`Dialogue.peek`), of which nothing stays.

Source: SirLLM, arXiv 2405.12528, and its code, which reads the question once for each answer.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from pyllm.stream.bench.arms import Arm
from pyllm.stream.bench.tasks import Conversation, Item, Task
from pyllm.stream.bench.wording import Asked, Wording
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import StreamModel
from pyllm.stream.replay import dialogue_fits

History = Literal["self", "gold"]
"""Which answer goes into the cache: the model's own, or the right one."""

WINS, TIES, LOSES = "W", "T", "L"


class Tally:
    """What is counted of a dialogue's turns."""

    def __init__(self) -> None:
        self.counts: dict[str, Any] = {
            "turns": 0, "questions": 0, "right": 0, "right_text": 0, "duplicates": 0, "gold_nats": 0.0, "recalls": 0,
            "recalled": 0, "recall_nats": 0.0, "fact_tokens": 0, "fact_kept": 0, "facts_known": 0, "facts_whole": 0,
            "chosen": "", "gold": "", "parts": "", "outcomes": "",
        }  # fmt: skip

    def turn(self, item: Item, chosen: int, nats: Float[ndarray, " answers"]) -> None:
        """Count a turn.

        Args:
            item: The turn.
            chosen: The answer that the model chose.
            nats: -log-probability of each answer's first token.
        """
        counts = self.counts
        counts["turns"] += 1
        counts["chosen"] += chr(ord("A") + chosen)
        counts["gold"] += chr(ord("A") + item.gold)
        counts["parts"] += item.part[0]
        if item.part == "told":
            return
        # Among the answers alone: how unlikely the right one was.
        unlikely = float(nats[item.gold] + np.logaddexp.reduce(-nats))
        names = ("recalls", "recalled", "recall_nats") if item.part == "recall" else ("questions", "right", "gold_nats")
        for name, value in zip(names, (1, int(chosen == item.gold), unlikely), strict=True):
            counts[name] += value
        counts["duplicates"] += item.has_duplicates
        counts["right_text"] += item.part == "question" and item.texts[chosen] == item.texts[item.gold]
        if item.played is not None:
            counts["outcomes"] += WINS if chosen == item.gold else TIES if chosen == item.played else LOSES

    def retention(self, places: Sequence[int], kept: Sequence[int]) -> None:
        """Count which tokens of a fact are there when it is asked for."""
        there = len(set(places) & set(kept))
        self.counts["fact_tokens"] += len(places)
        self.counts["fact_kept"] += there
        self.counts["facts_known"] += 1
        self.counts["facts_whole"] += there == len(places)


def play(
    model: StreamModel, wording: Wording, task: Task, conversation: Conversation, arm: Arm, *, history: History
) -> dict[str, Any]:
    """Play all turns of a dialogue.

    Returns:
        What was counted, the tokens read, the most in the cache after any turn, how many evictions there were; the mean
        ratio by which scores faded and the mean share of the cache older than the horizon, for a decay of `auto`.

    Raises:
        SettingError: The settings do not fit the model.
        RuntimeError: The cache was larger than its budget.
    """
    settings = arm.settings
    dialogue = Dialogue(model, settings)
    tally = Tally()
    fact: list[int] = []
    most, ratios, beyond = 0, [], []
    for number, item in enumerate(conversation.items):
        asked = wording.asked(item, opens=number == 0)
        dialogue.begin_turn()
        dialogue.reserve(asked.most_tokens)
        first = dialogue.memory.seen
        dialogue.feed(asked.ids)
        behind = asked.most_tokens - len(asked.ids)
        dialogue.reserve(behind)  # nothing is left to do but where the turn was longer than the room there can be
        if asked.fact is not None:
            fact = [first + place for place in asked.fact]
        if item.part == "recall" and fact:
            tally.retention(fact, dialogue.memory.positions.tolist())
        nats = first_token_nats(dialogue, asked)
        chosen = int(nats.argmin()) if task == "rps" else choice(dialogue, wording, item, asked, nats)
        tally.turn(item, chosen, nats)
        written = chosen if history == "self" else item.gold
        dialogue.feed([*asked.answers[written], *asked.closing])
        most = max(most, dialogue.cache.tokens)
        hold_budget(arm, dialogue.cache.tokens)
        if arm.horizon_turns is not None and dialogue.memory.evictions:
            ratios.append(dialogue.memory.ratio)
            beyond.append(dialogue.memory.share_beyond(arm.horizon_turns))
    seen = dialogue.memory.seen
    return {
        **tally.counts,
        "tokens": seen,
        "cache_tokens": most,
        "evictions": dialogue.memory.evictions,
        "within_limit": dialogue_fits(model, settings, seen),
        "ratio": float(np.mean(ratios)) if ratios else None,
        "beyond_horizon": float(np.mean(beyond)) if beyond else None,
    }


def hold_budget(arm: Arm, tokens: int) -> None:
    """Stop where a cache is larger than what all arms of its size may have.

    Raises:
        RuntimeError: It is.
    """
    if arm.cache is not None and tokens > arm.cache:
        message = f"{tokens} tokens are in a cache of {arm.cache} under `{arm.label}`"
        raise RuntimeError(message)


def first_token_nats(dialogue: Dialogue, asked: Asked) -> Float[ndarray, " answers"]:
    """-log-probability of each answer's first token behind the question, from one reading of it."""
    logits = dialogue.logits
    if logits is None:
        message = "nothing was read"
        raise RuntimeError(message)
    unlikely = -logits.double().log_softmax(-1)
    return unlikely[[answer[0] for answer in asked.answers]].cpu().numpy()


def choice(dialogue: Dialogue, wording: Wording, item: Item, asked: Asked, nats: Float[ndarray, " answers"]) -> int:
    """The answer that the model chooses under the published rule.

    Args:
        dialogue: Behind the question; room for the answers was made.
        wording: For texts of tokens.
        item: The turn.
        asked: Its tokens.
        nats: -log-probability of each answer's first token.
    """
    logits = dialogue.logits
    said = int(logits.argmax()) if logits is not None else 0
    start = _bare(wording.text_of([said]))
    for place, (answer, ids) in enumerate(zip(item.answers, asked.answers, strict=True)):
        wanted = _bare(answer)
        if len(ids) == 1:
            matches = start == wanted
        else:
            matches = wanted.startswith(start)
            if matches:
                rest = dialogue.peek(ids[:-1]).argmax(-1).tolist()
                matches = _bare(wording.text_of([said, *rest])) == wanted
        if matches:
            return place
    return int(nats.argmin())


def _bare(text: str) -> str:
    return text.replace(" ", "")
