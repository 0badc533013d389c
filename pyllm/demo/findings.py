"""What the runs of the demo show, read from what they wrote."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import polars as pl

from pyllm.demo.talk import Talk
from pyllm.stats.auc import area_under_roc

_SHOWN_ROWS = 3


@dataclass(frozen=True, slots=True)
class Selection:
    """A scored pool with known wrong answers, and what was selected from it.

    Args:
        areas: Area under the ROC curve of right against wrong rows: of golden scores, of length, of a random order.
        right_before: Share of right rows in the pool.
        right_after: The same in the selection.
    """

    areas: dict[str, float]
    right_before: float
    right_after: float


def selection(scores: Path, selected: Path, seed: int) -> Selection:
    """Read a score table and a selection from it; rows without a score, or of which the truth is unknown, count not.

    Args:
        scores: Output of `toolkit score` with a column `is_right`.
        selected: Output of `toolkit select`.
        seed: Of the random order.
    """
    rows = _known(scores)
    chosen = pl.read_parquet(selected, glob=False).drop_nulls("is_right")
    draw = Random(f"order {seed}")
    is_right = rows["is_right"].to_numpy()
    rankings = {
        "golden score": rows["golden_score"].to_numpy(),
        "longest": rows["demo_tokens"].cast(pl.Float64).to_numpy(),
        "random": np.array([draw.random() for _ in range(rows.height)]),
    }
    return Selection(
        areas={name: area_under_roc(values, is_right) for name, values in rankings.items()},
        right_before=float(is_right.mean()),
        right_after=float(chosen["is_right"].to_numpy().mean()),
    )


def _known(scores: Path) -> pl.DataFrame:
    return pl.read_parquet(scores, glob=False).drop_nulls(["golden_score", "is_right"])


def best_and_worst(scores: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Rows of a score table with the highest and with the lowest scores, a line each."""
    ordered = _known(scores).sort(["golden_score", "mean_gain_nats"], descending=True)
    return _lines(ordered.head(_SHOWN_ROWS)), _lines(ordered.tail(_SHOWN_ROWS))


def _lines(rows: pl.DataFrame) -> tuple[str, ...]:
    found = []
    for row in rows.iter_rows(named=True):
        if row["messages"]:
            question, answer = (message["content"] for message in row["messages"])
        else:
            question, answer = row["instruction"], row["output"]
        if row["input"]:
            question = f"{question} ({row['input']})"
        mark = "right" if row["is_right"] else "wrong"
        found.append(f"{row['golden_score']:.2f}  {mark}  {question:50}  {answer}")
    return tuple(found)


def held_out_losses(run: Path) -> dict[str, float]:
    """Held-out loss in nats a token before training and of each arm, from a run of `toolkit finetune --baseline`."""
    table = json.loads((run / "baselines" / "table.json").read_text(encoding="utf-8"))
    return {arm["arm"]: float(arm["loss_per_token"]) for arm in table["arms"]}


@dataclass(frozen=True, slots=True)
class Memory:
    """What a bounded cache remembered in one dialogue.

    Args:
        known: How many names were answered rightly.
        tokens: Most tokens in the cache behind any turn.
    """

    known: int
    tokens: int


def memory(talk: Talk, answers: Path) -> Memory:
    """Read the answers of `toolkit stream chat` to a dialogue, one JSON object a line."""
    rows = _answers(answers)
    known = [name in row["content"] for name, row in zip(talk.names, rows[talk.first_question :], strict=True)]
    return Memory(sum(known), max(row["cache_tokens"] for row in rows))


def _answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def some_turns(talk: Talk, answers: Path) -> list[str]:
    """Two names as they are told and as they are asked for, and the last turn between: number, who speaks, text."""
    rows, asked = _answers(answers), talk.first_question
    shown = [*talk.told_turns[:2], asked - 1, asked, asked + 1]
    lines = []
    for turn in shown:
        lines.append(f"{turn + 1:4}  you   {talk.said[turn]}")
        lines.append(f"      nano  {rows[turn]['content'].strip()}")
    return lines


def recall(report: Path) -> dict[str, float]:
    """Share of names known at the end by policy, from `recall.json` of `toolkit stream bench recall`."""
    return {arm["arm"]: float(arm["recall"]) for arm in json.loads(report.read_text(encoding="utf-8"))["arms"]}


def of_packing(marks: pl.DataFrame, mode: str) -> dict[str, np.ndarray]:
    """Which answers of a packing could be read, which are right, and which instances are right in all of them."""
    rows = marks.filter(pl.col("mode") == mode)
    whole = rows.group_by("uid", maintain_order=True).agg(pl.col("correct").all())
    shares = {
        "parsed": rows["parse"].is_in(["ok", "ambiguous"]),
        "step right": rows["correct"],
        "all right": whole["correct"],
    }
    return {name: values.cast(pl.Float64).to_numpy() for name, values in shares.items()}


@dataclass(frozen=True, slots=True)
class Packing:
    """How several instructions fared in one packing.

    Args:
        mode: Its name.
        parsed: Share of the answers that were found in their tags.
        right: Share of right answers.
        all_right: Share of instances all of whose answers are right.
    """

    mode: str
    parsed: float
    right: float
    all_right: float


def packings(marks: Path, modes: Sequence[str]) -> list[Packing]:
    """Read `marks.parquet` of `toolkit mti run`."""
    table = pl.read_parquet(marks, glob=False)
    return [Packing(mode, *(float(values.mean()) for values in of_packing(table, mode).values())) for mode in modes]
