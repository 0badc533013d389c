"""How much of what was told early is known at the end, for many policies of one budget: the bench of far memory.

Every arm (a policy with its span) reads the same dialogues of `recall_task` with a cache of the same size. Then each
fact is asked for. All questions are asked of the same memory: what a question and its answer leave behind is undone
before the next, so no answer helps or hides another; the room that a question needs is paid for in the usual way.

Measured are: `recall`, whether the name comes first in the greedy answer; `choice`, whether it is the likeliest of
all names told in that dialogue; `answer_nats`, how unlikely the name was; `nats`, the mean surprisal of a token of the
dialogue before the questions, its very first token left out. Beside the arms stand three rows that remember no fact:
`chance`, which guesses among the names that were told; `frequency`, which always says the name that the other
dialogues told most; and `unseen`, the model asked with nothing before the question.

Intervals are bootstraps over dialogues; differences are paired, dialogue by dialogue, against one of the arms.

Source: the policies and spans are those of `docs/methods/sirllm.md`; the task is ours.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from pyllm.data.framing import Tokenizer
from pyllm.data.lines import open_lines
from pyllm.errors import SettingError
from pyllm.progress import Progress, no_progress
from pyllm.stats.bootstrap import paired_bootstrap
from pyllm.stream.dialogue import Dialogue, limit_warning
from pyllm.stream.model import StreamModel
from pyllm.stream.recall_task import Question, RecallDialogue, recall_dialogue
from pyllm.stream.replay import dialogue_fits
from pyllm.stream.settings import Budget, StreamSettings
from pyllm.stream.turns import TurnTemplate

_log = logging.getLogger(__name__)

DEFAULT_ARMS = (
    "full",
    "window",
    "streaming",
    "random",
    "random+4",
    "random+8",
    "sirllm",
    "sirllm+2",
    "sirllm+4",
    "sirllm+8",
)
"""A policy, and how many tokens behind a high score are kept with it."""
_UNSEEN = "unseen"
_RATIOS = {
    "recall": ("recalled", "facts"),
    "choice": ("chosen", "facts"),
    "answer_nats": ("answer_nats", "facts"),
    "nats": ("nats", "scored_tokens"),
}
"""What is reported, as a sum over dialogues divided by another."""
ROW_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "dialogue": pl.Int64,
    "arm": pl.String,
    "tokens": pl.Int64,
    "cache_tokens": pl.Int64,
    "evictions": pl.Int64,
    "facts": pl.Int64,
    "recalled": pl.Int64,
    "chosen": pl.Int64,
    "answer_nats": pl.Float64,
    "nats": pl.Float64,
    "scored_tokens": pl.Int64,
    "names": pl.List(pl.String),
    "answers": pl.List(pl.String),
    "choices": pl.List(pl.String),
}
"""Columns of the results, one row for each dialogue and arm: sums over its facts and tokens."""


@dataclass(frozen=True, slots=True)
class RecallSettings:
    """What to measure.

    Args:
        arms: Policies, each with `+A` behind its name for a span of A tokens.
        facts: How many names a dialogue tells and asks for.
        tokens: About how many tokens a dialogue has before the questions.
        cache: Tokens that every arm but `full` keeps; None is a quarter of `tokens`.
        sinks: First tokens, always kept.
        recent: Newest tokens kept.
        dialogues: How many.
        seed: Of the dialogues, and of the policy `random`.
        template: How texts become turns.
        baseline: The arm that others are compared with; None is `sirllm` where it is measured, else the first.

    Raises:
        SettingError: A number is out of its range, or there is no such baseline.
    """

    arms: tuple[str, ...] = DEFAULT_ARMS
    facts: int = 6
    tokens: int = 1000
    cache: int | None = None
    sinks: int = 4
    recent: int = 32
    dialogues: int = 20
    seed: int = 0
    template: TurnTemplate = "auto"
    baseline: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("tokens", self.tokens), ("dialogues", self.dialogues)):
            if value < 1:
                raise SettingError(f"{name} is {value}: it must be 1 or more")
        if self.cache_tokens <= self.sinks + self.recent:
            raise SettingError(
                f"a cache of {self.cache_tokens:,} tokens has no place beside {self.sinks:,} sinks and"
                f" {self.recent:,} recent tokens",
                hint="give a larger cache, or fewer of these",
            )
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise SettingError("policies are given twice" if self.arms else "no policies are given")
        if self.baseline is not None and self.baseline not in self.arms:
            raise SettingError(f"baseline `{self.baseline}` is not among the policies {', '.join(self.arms)}")

    @property
    def cache_tokens(self) -> int:
        """Tokens that every arm but `full` keeps."""
        return self.tokens // 4 if self.cache is None else self.cache

    @property
    def compared_with(self) -> str:
        """The arm that others are compared with."""
        return self.baseline or ("sirllm" if "sirllm" in self.arms else self.arms[0])

    def of_arm(self, arm: str) -> StreamSettings:
        """How a dialogue is remembered under an arm.

        Raises:
            SettingError: What stands behind the `+` is no number.
        """
        policy, plus, span = arm.partition("+")
        if plus and not span.isdecimal():
            raise SettingError(
                f"policy `{arm}`: `{span}` is no number of tokens", hint="write sirllm+8 for a span of 8"
            )
        budget = Budget(self.sinks, self.cache_tokens - self.sinks - self.recent, self.recent)
        return StreamSettings(policy=policy, budget=budget, span_after=int(span or 0), seed=self.seed)


@dataclass(frozen=True, slots=True)
class Recall:
    """What came of it.

    Args:
        table: One row for each dialogue and arm (see `ROW_COLUMNS`).
        report: The table for people as data: settings, one entry an arm with means, intervals and differences.
    """

    table: pl.DataFrame
    report: dict[str, Any]


def measure_recall(
    model: StreamModel,
    tokenizer: Tokenizer,
    settings: RecallSettings,
    path: Path,
    *,
    identity: Mapping[str, Any],
    decode: Callable[[list[int]], str],
    progress: Progress = no_progress,
) -> Recall:
    """Measure every arm on every dialogue, going on from what `path` holds.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        settings: What to measure.
        path: Results, a line each, as they come; see `pyllm.data.lines`.
        identity: What decides the numbers beside the settings: digests of weights and tokenizer, the type.
        decode: Text of token ids, without special tokens.
        progress: Listens; the unit is arms of a dialogue.

    Raises:
        SettingError: The settings do not fit each other or the model, or `path` belongs to other work.
        PrerequisiteError: `path` cannot be written, or the model gives no number for a token.
    """
    arms = {arm: settings.of_arm(arm) for arm in settings.arms}
    for each in arms.values():
        Dialogue(model, each)  # finds a wrong name before anything is measured
    _warn(model, list(arms.values()), settings.tokens)
    # The number of dialogues and the baseline decide no single result: a run can be made longer.
    facts = {name: value for name, value in asdict(settings).items() if name not in ("dialogues", "baseline", "arms")}
    key = {"command": "stream bench recall", "settings": {**facts, "cache": settings.cache_tokens}, **identity}
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    names = [*settings.arms, _UNSEEN]
    rows: list[dict[str, Any]] = []
    with open_lines(path, key) as lines:
        units = [(number, arm) for number in range(settings.dialogues) for arm in names]
        there = sum(_unit(number, arm) in lines.done for number, arm in units)
        progress.start("recalling", len(units), done=there, unit="runs")
        made: RecallDialogue | None = None
        for number, arm in units:
            if arm == names[0]:
                made = None
            unit = _unit(number, arm)
            if unit not in lines.done:
                made = made or recall_dialogue(
                    tokenizer, facts=settings.facts, tokens=settings.tokens, seed=settings.seed, number=number,
                    template=settings.template, vocabulary=vocabulary,
                )  # fmt: skip
                found = _unseen(model, made, decode) if arm == _UNSEEN else _read(model, made, arms[arm], decode)
                lines.add(unit, {"dialogue": number, "arm": arm, **found})
                progress.advance(1, tokens=made.tokens)
            rows.append(lines.done[unit])
        progress.finish()
    table = pl.DataFrame(rows, schema=ROW_COLUMNS)
    return Recall(table, _report(table, settings))


def _warn(model: StreamModel, arms: Sequence[StreamSettings], tokens: int) -> None:
    warnings = dict.fromkeys(limit_warning(model, each) for each in arms)
    for warning in warnings:
        if warning is not None:
            _log.warning("%s", warning)
    if not all(dialogue_fits(model, each, tokens) for each in arms):
        _log.warning("`full` goes past the %s positions that model `%s` was made for", model.context_tokens, model.name)


def _unit(number: int, arm: str) -> str:
    return f"{number}/{arm}"


def _read(
    model: StreamModel, made: RecallDialogue, settings: StreamSettings, decode: Callable[[list[int]], str]
) -> dict[str, Any]:
    """One arm on one dialogue."""
    dialogue = Dialogue(model, settings)
    nats = [dialogue.read_turn(turn).nats for turn in made.history]
    scored = np.concatenate(nats)[1:]
    cached, evictions, state = dialogue.cache.tokens, dialogue.memory.evictions, dialogue.state()
    answers = []
    for question in made.questions:
        dialogue.restore(state)
        answers.append(_ask(dialogue, question, question.ids, decode))
    counted = {"tokens": made.tokens, "cache_tokens": cached, "evictions": evictions}
    return {**counted, **_sums(made, answers), "nats": float(scored.sum()), "scored_tokens": len(scored)}


def _unseen(model: StreamModel, made: RecallDialogue, decode: Callable[[list[int]], str]) -> dict[str, Any]:
    """The same questions with nothing before them."""
    answers = []
    for question in made.questions:
        dialogue = Dialogue(model, StreamSettings(policy="full"))
        answers.append(_ask(dialogue, question, question.alone, decode))
    counted = {"tokens": 0, "cache_tokens": 0, "evictions": 0}
    return {**counted, **_sums(made, answers), "nats": None, "scored_tokens": 0}


def _ask(
    dialogue: Dialogue, question: Question, ids: Sequence[int], decode: Callable[[list[int]], str]
) -> tuple[list[float], str]:
    """Log-probability of every name behind a question, and the greedy answer."""
    longest = max(len(name) for name in question.names)
    dialogue.begin_turn()
    dialogue.reserve(len(ids) + longest + 1)
    dialogue.feed(ids)
    dialogue.reserve(longest)  # nothing is left to do but where the question was longer than the room there can be
    first = _predicted(dialogue)
    sums = []
    for name in question.names:
        total = float(first.log_softmax(-1)[name[0]])
        if len(name) > 1:
            behind = dialogue.peek(name[:-1]).double().log_softmax(-1)
            total += sum(float(row[token]) for row, token in zip(behind, name[1:], strict=True))
        sums.append(total)
    answer: list[int] = []
    for _ in range(longest + 1):  # one more, to see that the word ends
        answer.append(int(_predicted(dialogue).argmax()))
        dialogue.feed(answer[-1:])
    return sums, decode(answer)


def _predicted(dialogue: Dialogue) -> torch.Tensor:
    if dialogue.logits is None:
        raise SettingError("nothing was read, so nothing is predicted")
    return dialogue.logits.double()


def _sums(made: RecallDialogue, answers: Sequence[tuple[list[float], str]]) -> dict[str, Any]:
    choices = [made.names[int(np.argmax(sums))] for sums, _ in answers]
    texts = [" ".join(text.split()) for _, text in answers]
    return {
        "facts": len(made.names),
        "recalled": sum(starts_with_name(text, name) for text, name in zip(texts, made.names, strict=True)),
        "chosen": sum(choice == name for choice, name in zip(choices, made.names, strict=True)),
        "answer_nats": -sum(sums[question.told] for question, (sums, _) in zip(made.questions, answers, strict=True)),
        "names": list(made.names),
        "answers": texts,
        "choices": choices,
    }


def starts_with_name(text: str, name: str) -> bool:
    """Whether an answer begins with a name as a whole word, whatever the case."""
    start, rest = text.lstrip()[: len(name)], text.lstrip()[len(name) :]
    return start.casefold() == name.casefold() and not rest[:1].isalnum()


def _report(table: pl.DataFrame, settings: RecallSettings) -> dict[str, Any]:
    of_arm = {arm: table.filter(pl.col("arm") == arm).sort("dialogue") for arm in [*settings.arms, _UNSEEN]}
    base = of_arm[settings.compared_with]
    rows = [_arm_row(arm, of_arm[arm], base, settings) for arm in settings.arms]
    known = replace(settings, cache=settings.cache_tokens, baseline=settings.compared_with)
    guessed = 1.0 / settings.facts
    return {
        "command": "stream bench recall",
        "settings": asdict(known),
        "dialogues": settings.dialogues,
        "tokens": float(base["tokens"].mean()),  # type: ignore[arg-type]
        "arms": rows,
        "context": [
            # A name that was told, whichever it is, is right for one question of N: so is one name for all of them.
            {"arm": "chance", "recall": guessed, "choice": guessed, "answer_nats": None, "nats": None},
            {"arm": "frequency", "recall": _frequency(base), "choice": guessed, "answer_nats": None, "nats": None},
            {"arm": _UNSEEN, **_means(of_arm[_UNSEEN])},
        ],
    }


def _means(rows: pl.DataFrame) -> dict[str, float | None]:
    """Each ratio of sums; None where nothing was counted."""
    means: dict[str, float | None] = {}
    for name, (above, below) in _RATIOS.items():
        size = float(rows[below].sum())
        means[name] = float(rows[above].sum()) / size if size else None
    return means


def _arm_row(arm: str, rows: pl.DataFrame, base: pl.DataFrame, settings: RecallSettings) -> dict[str, Any]:
    made: dict[str, Any] = {"arm": arm, "cache_tokens": int(rows["cache_tokens"].max()), **_means(rows)}  # type: ignore[arg-type]
    made["evictions"] = float(rows["evictions"].mean())  # type: ignore[arg-type]
    made["intervals"], made["differences"] = {}, {}
    if rows.height < 2:
        return made
    for name, (above, below) in _RATIOS.items():
        own, sizes, other = (each.to_numpy().astype(np.float64) for each in (rows[above], rows[below], base[above]))
        spread = paired_bootstrap(own, np.zeros(len(own)), sizes=sizes, seed=settings.seed).interval
        made["intervals"][name] = [spread.low, spread.high]
        if arm != settings.compared_with:
            apart = paired_bootstrap(own, other, sizes=sizes, seed=settings.seed)
            made["differences"][name] = {
                "difference": apart.difference, "low": apart.interval.low, "high": apart.interval.high,
                "is_shown": apart.is_shown,
            }  # fmt: skip
    return made


def _frequency(rows: pl.DataFrame) -> float:
    """Share of questions that fit the name which the other dialogues told most, given to all of them."""
    told: list[list[str]] = rows["names"].to_list()
    everywhere = Counter(name for names in told for name in names)
    hits = 0
    for names in told:
        elsewhere = everywhere - Counter(names)
        # The first in the alphabet, where several were told as often; names within a dialogue differ.
        hits += max(sorted(elsewhere), key=lambda name: elsewhere[name], default="") in names
    return hits / sum(len(names) for names in told)
