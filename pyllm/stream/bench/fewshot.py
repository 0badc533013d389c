"""The few-shot baselines of the paper: no memory, but the turns before, written out again in front of every question.

As the published code does, the shots are plain text: each earlier turn with its answer, a line break between turns, the
newest last. Where a dialogue has fewer turns behind it, those that there are stand there (the published code writes
none until there are enough, and goes on across dialogues: `reference`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.errors import SettingError
from pyllm.progress import Progress, no_progress
from pyllm.stream.bench.choices import MEASURES, ROW_COLUMNS, choice_samples, counted, task_facts
from pyllm.stream.bench.playing import History, Tally, choice, first_token_nats
from pyllm.stream.bench.report import arm_rows
from pyllm.stream.bench.tasks import Conversation, Item, Task
from pyllm.stream.bench.units import Unit, do_units
from pyllm.stream.bench.wording import Asked, Wording
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import StreamModel
from pyllm.stream.settings import StreamSettings

Shot = tuple[Item, int]
"""A turn and the answer that stands behind it."""


def play_shots(
    model: StreamModel,
    wording: Wording,
    task: Task,
    conversation: Conversation,
    *,
    shots: int,
    history: History,
    before: Sequence[Shot] = (),
    reference: bool = False,
) -> dict[str, Any]:
    """Play all turns of a dialogue with so many earlier turns in front of each.

    Args:
        model: The model.
        wording: How turns become tokens; always in vicuna style.
        task: Which experiment.
        conversation: The dialogue.
        shots: How many.
        history: Whether shots have the model's answers, or the right ones.
        before: Turns of earlier dialogues, for `reference`.
        reference: Do as the published code does; see the module docstring.

    Returns:
        What was counted, and the tokens read; the most at once count as the cache.
    """
    tally = Tally()
    said: list[Shot] = list(before)
    tokens = most = 0
    fits = True
    for item in conversation.items:
        shown = said[len(said) - shots :] if len(said) >= shots else [] if reference else said
        asked = asked_behind(wording, shown, item)
        dialogue = Dialogue(model, StreamSettings(policy="full"))
        dialogue.begin_turn()
        dialogue.feed(asked.ids)
        nats = first_token_nats(dialogue, asked)
        chosen = int(nats.argmin()) if task == "rps" else choice(dialogue, wording, item, asked, nats)
        tally.turn(item, chosen, nats)
        said.append((item, chosen if history == "self" else item.gold))
        tokens += asked.most_tokens
        most = max(most, asked.most_tokens)
        fits &= model.context_tokens is None or asked.most_tokens <= model.context_tokens
    counted = {"tokens": tokens, "cache_tokens": most, "evictions": 0, "within_limit": fits}
    return {**tally.counts, **counted, "ratio": None, "beyond_horizon": None}


def asked_behind(wording: Wording, shots: Sequence[Shot], item: Item) -> Asked:
    """A question behind earlier turns, as one text."""
    lines = [f"{wording.written(shot)}{shot.answers[answer]}" for shot, answer in shots]
    context = "\n".join([*lines, wording.written(item).rstrip(" ")])
    return wording.behind(context, item)


def measure_shots(
    model: StreamModel,
    wording: Wording,
    task: Task,
    conversations: Sequence[Conversation],
    path: Path,
    *,
    shots: Sequence[int],
    history: History,
    key: Mapping[str, Any],
    reference: bool = False,
    seed: int = 0,
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Play all dialogues with each number of shots.

    Args:
        model: The model.
        wording: How turns become tokens.
        task: Which experiment.
        conversations: Its dialogues.
        shots: How many earlier turns; the first number is what others are compared with.
        history: Whether shots have the model's answers, or the right ones.
        path: Results, a line each, as they come.
        key: What decides all results alike.
        reference: Do as the published code does; see the module docstring.
        seed: Of the intervals.
        progress: Listens; the unit is runs.

    Returns:
        One row for each dialogue and number of shots, and what is reported.

    Raises:
        SettingError: A number is below 0 or given twice, or `path` belongs to other work.
    """
    if not shots or min(shots) < 0 or len(set(shots)) < len(shots):
        raise SettingError(f"shots are {', '.join(map(str, shots))}: each must be 0 or more, and there once")

    def name(place: int, count: int) -> str:
        each = conversations[place]
        return f"{task}/{each.name}/{each.digest}/{label_of(count)}"

    def before(place: int, count: int, done: Mapping[str, Any]) -> list[Shot]:
        said: list[Shot] = []
        while reference and place > 0 and len(said) < count:
            place -= 1
            chosen = done[name(place, count)]["chosen"]
            items = conversations[place].items
            pairs = zip(items, chosen, strict=True)
            said = [(item, ord(own) - ord("A") if history == "self" else item.gold) for item, own in pairs] + said
        return said

    def unit(place: int, count: int) -> Unit:
        each = conversations[place]
        return Unit(
            name(place, count),
            {"task": task, "dialogue": each.name, "arm": label_of(count)},
            lambda done: play_shots(
                model,
                wording,
                task,
                each,
                shots=count,
                history=history,
                before=before(place, count, done),
                reference=reference,
            ),
            (1 + count) * sum(len(item.text) for item in each.items) // 4,
        )

    units = [unit(place, count) for place in range(len(conversations)) for count in shots]
    rows = do_units(path, key, units, stage="playing", progress=progress)
    table = pl.DataFrame(rows, schema={name: ROW_COLUMNS[name] for name in rows[0]})
    of_arm = dict(table.group_by(["arm"], maintain_order=True))
    samples = {str(label): choice_samples(part) for (label,), part in of_arm.items()}
    baselines = {label_of(count): label_of(shots[0]) for count in shots}
    facts = [{"arm": label_of(count), "shots": count} for count in shots]
    made = arm_rows(facts, samples, MEASURES[task], baselines, seed=seed)
    return table, {**task_facts(task, conversations, history), **counted(of_arm, made), "reference": reference}


def label_of(shots: int) -> str:
    """What the rows of so many shots are called."""
    return f"{shots} shot{'s' * (shots != 1)}"
