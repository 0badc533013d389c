"""The choice benches: DailyDialog, grocery, rock-paper-scissors, under many arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pyllm.progress import Progress, no_progress
from pyllm.stream.bench.arms import Arm, baseline_of
from pyllm.stream.bench.playing import TIES, WINS, History, play
from pyllm.stream.bench.report import Measure, Samples, arm_rows
from pyllm.stream.bench.tasks import Conversation, Task
from pyllm.stream.bench.units import Unit, do_units
from pyllm.stream.bench.wording import Wording
from pyllm.stream.model import StreamModel

BLOCK_ROUNDS = 50
"""Rounds of a game that are drawn together: what a cache holds makes neighbours alike."""

_CHOICE = (
    Measure("accuracy", "right %", "right", "questions", percent=True),
    Measure("accuracy_by_text", "by text %", "right_text", "questions", percent=True, compared=False),
    Measure("gold_nats", "nats of the right", "gold_nats", "questions"),
)
MEASURES: dict[Task, tuple[Measure, ...]] = {
    "dailydialog": _CHOICE,
    "grocery": (
        Measure("accuracy", "questions %", "right", "questions", percent=True),
        Measure("recall", "recall %", "recalled", "recalls", percent=True),
        Measure("recall_nats", "nats of the item", "recall_nats", "recalls", compared=False),
        Measure("retention", "item's tokens kept %", "fact_kept", "fact_tokens", percent=True),
        Measure("whole", "whole items %", "facts_whole", "facts_known", percent=True, compared=False),
    ),
    "rps": (
        Measure("win", "win %", "wins", "rounds", percent=True),
        Measure("tie", "tie %", "ties", "rounds", percent=True, compared=False),
        Measure("lose", "lose %", "losses", "rounds", percent=True, compared=False),
    ),
}
"""What is reported of each task."""

ROW_COLUMNS: dict[str, Any] = {
    "task": pl.String, "dialogue": pl.String, "arm": pl.String, "policy": pl.String, "cache": pl.Int64,
    "recent": pl.Int64, "span": pl.Int64, "decay": pl.String, "horizon_turns": pl.Int64, "score": pl.String,
    "turns": pl.Int64, "tokens": pl.Int64, "cache_tokens": pl.Int64, "evictions": pl.Int64,
    "within_limit": pl.Boolean, "questions": pl.Int64, "right": pl.Int64, "right_text": pl.Int64,
    "duplicates": pl.Int64, "gold_nats": pl.Float64, "recalls": pl.Int64, "recalled": pl.Int64,
    "recall_nats": pl.Float64, "fact_tokens": pl.Int64, "fact_kept": pl.Int64, "facts_known": pl.Int64,
    "facts_whole": pl.Int64, "ratio": pl.Float64, "beyond_horizon": pl.Float64, "chosen": pl.String,
    "gold": pl.String, "parts": pl.String, "outcomes": pl.String,
}  # fmt: skip
"""Columns of the results, one row for each dialogue and arm: sums over its turns."""


@dataclass(frozen=True, slots=True)
class ChoiceWork:
    """What to measure of one task.

    Args:
        task: Which.
        conversations: Its dialogues.
        arms: Under what.
        history: Which answers go into the cache.
        baseline: The arm, or its policy, that others are compared with.
        seed: Of the intervals.
    """

    task: Task
    conversations: tuple[Conversation, ...]
    arms: tuple[Arm, ...]
    history: History = "self"
    baseline: str | None = None
    seed: int = 0


def choice_units(model: StreamModel, wording: Wording, work: ChoiceWork) -> list[Unit]:
    """A unit for each dialogue and arm."""

    def unit(conversation: Conversation, arm: Arm) -> Unit:
        return Unit(
            f"{work.task}/{conversation.name}/{conversation.digest}/{arm.label}",
            {"task": work.task, "dialogue": conversation.name, **arm.facts()},
            lambda _: play(model, wording, work.task, conversation, arm, history=work.history),
            sum(len(item.text) for item in conversation.items) // 4,
        )

    # All arms of a dialogue before the next dialogue: a run that was stopped compares what it has.
    return [unit(conversation, arm) for conversation in work.conversations for arm in work.arms]


def measure_choices(
    model: StreamModel,
    wording: Wording,
    works: Sequence[ChoiceWork],
    path: Path,
    *,
    key: Mapping[str, Any],
    progress: Progress = no_progress,
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Play all dialogues of all tasks under all arms.

    Args:
        model: The model.
        wording: How turns become tokens.
        works: What to measure.
        path: Results, a line each, as they come.
        key: What decides all results alike.
        progress: Listens; the unit is runs.

    Returns:
        One row for each dialogue and arm (see `ROW_COLUMNS`), and for each task what is reported.

    Raises:
        SettingError: A baseline is not among the arms, or `path` belongs to other work.
    """
    baselines = [baseline_of(work.arms, work.baseline) for work in works]
    units = [unit for work in works for unit in choice_units(model, wording, work)]
    rows = do_units(path, key, units, stage="playing", progress=progress)
    table = pl.DataFrame(rows, schema=ROW_COLUMNS)
    reports = [
        choice_report(table.filter(task=work.task), work, names) for work, names in zip(works, baselines, strict=True)
    ]
    return table, reports


def choice_report(table: pl.DataFrame, work: ChoiceWork, baselines: Mapping[str, str]) -> dict[str, Any]:
    """What is reported of a task.

    Args:
        table: Its rows.
        work: What was measured.
        baselines: For each arm the one that it is compared with.
    """
    of_arm = dict(table.group_by(["arm"], maintain_order=True))
    samples = {str(label): choice_samples(part) for (label,), part in of_arm.items()}
    rows = arm_rows([arm.facts() for arm in work.arms], samples, MEASURES[work.task], baselines, seed=work.seed)
    for row in rows:
        part = of_arm[row["arm"],]
        row["ratio"], row["beyond_horizon"] = part["ratio"].mean(), part["beyond_horizon"].mean()
    return {**task_facts(work.task, work.conversations, work.history), **counted(of_arm, rows), "budget_held": True}


def task_facts(task: Task, conversations: Sequence[Conversation], history: History) -> dict[str, Any]:
    """What is said of a task, whatever the arms, and its rows that need no model."""
    items = [item for each in conversations for item in each.items]
    return {
        "task": task,
        "history": history,
        "dialogues": len(conversations),
        "turns": len(items),
        "turns_with_duplicate_choices": sum(item.has_duplicates for item in items if item.part != "told"),
        "context": context_rows(task, conversations),
    }


def counted(of_arm: Mapping[Any, pl.DataFrame], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of a report with what was counted under each arm, and the tokens that one arm reads."""
    for row in rows:
        part = of_arm[row["arm"],]
        row["most_cache_tokens"] = part["cache_tokens"].max()
        row["evictions"] = part["evictions"].sum()
        row["dialogues_within_limit"] = int(part["within_limit"].sum())
    return {"tokens": int(of_arm[rows[0]["arm"],]["tokens"].sum()), "arms": rows}


def choice_samples(part: pl.DataFrame) -> Samples:
    """Sums to draw from: a dialogue each, or of a game a stretch of rounds each."""
    if part["outcomes"].str.len_chars().sum():
        blocks = [
            outcomes[start : start + BLOCK_ROUNDS]
            for outcomes in part["outcomes"].to_list()
            for start in range(0, len(outcomes), BLOCK_ROUNDS)
        ]
        counted = [(block.count(WINS), block.count(TIES), len(block)) for block in blocks]
        wins, ties, rounds = (np.array(column, np.float64) for column in zip(*counted, strict=True))
        return {"wins": wins, "ties": ties, "losses": rounds - wins - ties, "rounds": rounds}
    numeric = [name for name, dtype in part.schema.items() if dtype.is_numeric() and name in _SUMS]
    return {name: part[name].to_numpy().astype(np.float64) for name in numeric}


_SUMS = frozenset(
    each for measures in (*MEASURES.values(),) for measure in measures for each in (measure.above, measure.below)
)


def context_rows(task: Task, conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    """What needs no model: constant answers, chance, and in a game a count of what the user played."""
    if task == "rps":
        return _game_rows(conversations)
    items = {
        part: [item for each in conversations for item in each.items if item.part == part]
        for part in ("question", "recall")
    }
    names = {"question": "accuracy", "recall": "recall"}
    letters = sorted({answer for part in items.values() for item in part for answer in item.answers})
    rows: list[dict[str, Any]] = [{"arm": f"always {letter}"} for letter in letters] + [{"arm": "chance"}]
    for part, asked in items.items():
        if not asked:
            continue
        for letter, row in zip(letters, rows, strict=False):
            row[names[part]] = float(np.mean([item.answers[item.gold] == letter for item in asked]))
        rows[-1][names[part]] = float(np.mean([1 / len(item.answers) for item in asked]))
    return rows


def _game_rows(conversations: Sequence[Conversation]) -> list[dict[str, Any]]:
    """Every row gives for each round of each player what it would answer."""
    policies: dict[str, list[list[int]]] = {}
    for each in conversations:
        beats = {item.played: item.gold for item in each.items}
        played = [item.played or 0 for item in each.items]
        for move, name in enumerate(each.items[0].texts):
            policies.setdefault(f"always {name}", []).append([move] * len(played))
        counts, answers = [0, 0, 0], []
        for move in played:
            likeliest = int(np.argmax(counts))
            answers.append(beats.get(likeliest, 0))
            counts[move] += 1
        policies.setdefault("frequency counter", []).append(answers)
        preferred = int(np.argmax(counts))
        policies.setdefault("counter to the preferred move", []).append([beats.get(preferred, 0)] * len(played))
    rows: list[dict[str, Any]] = []
    for name, answers_of in policies.items():
        outcomes = np.zeros(3)
        for each, answered in zip(conversations, answers_of, strict=True):
            for item, answer in zip(each.items, answered, strict=True):
                outcomes[0 if answer == item.gold else 1 if answer == item.played else 2] += 1
        win, tie, lose = (outcomes / max(1.0, outcomes.sum())).tolist()
        rows.append({"arm": name, "win": win, "tie": tie, "lose": lose})
    return [*rows, {"arm": "chance", "win": 1 / 3, "tie": 1 / 3, "lose": 1 / 3}]
