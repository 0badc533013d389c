"""Small runs and tables of every kind that a report shows, written by the code that writes them for users."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pyllm.data.tables import write_json_atomically, write_table
from pyllm.finetune.events import Events
from pyllm.finetune.folder import EVENTS, begin, finish, locked
from pyllm.stream.bench.report import Measure, arm_rows

HOSTILE = [
    "</script><script>document.body.id='evil'</script>",
    "<!-- <img src=x onerror=alert(1)>",
    "]]> &lt;b&gt; {{ title }} {% raw %}",
    "\x00\x07\x1b[31mred\x1b[0m",
    "\u202eback\u202c \u200f",
    "$\\frac{1}{2}$ and $x",
    "日本語と絵文字 🙂",
    "`${1}` \"quotes\" 'too' \\",
]


def score_table(rows: int = 60, *, seed: int = 0, texts: list[str] | None = None, anchors: int = 0) -> pl.DataFrame:
    """A table as `toolkit score` writes it, with a row that has no score."""
    generator = np.random.default_rng(seed)
    scores = np.round(generator.beta(2, 2, rows), 2)
    said = texts or [f"question {row}?" for row in range(rows)]
    table = pl.DataFrame(
        {
            "id": [f"{row:032x}" for row in range(rows)],
            "source_file": [("a.jsonl", "b.jsonl")[row % 3 == 0] for row in range(rows)],
            "instruction": [said[row % len(said)] for row in range(rows)],
            "input": [None] * rows,
            "output": [f"{said[row % len(said)]} answered" for row in range(rows)],
            "golden_score": [None if row == 5 else float(scores[row]) for row in range(rows)],
            "wins": pl.Series((scores * 100).astype(int), dtype=pl.UInt32),
            "anchors_scored": pl.Series([100] * rows, dtype=pl.UInt32),
            "mean_gain_nats": generator.normal(size=rows),
            "demo_tokens": pl.Series(generator.integers(5, 400, rows), dtype=pl.UInt32),
        }
    )
    if not anchors:
        return table
    nats = [[float(value) for value in generator.normal(-2, 1, anchors)] for _ in range(rows)]
    return table.with_columns(one_shot_nats=pl.Series(nats, dtype=pl.List(pl.Float64)))


def score_step(**facts: Any) -> dict[str, Any]:
    """The provenance of such a table."""
    key = {"model": {"weights_sha256": "ab" * 32}, "dtype": "float32"}
    return {"command": "score", "version": "0.1.0", "seed": 7, "anchors_sha256": "cd" * 32, "key": key, **facts}


def write_scores(path: Path, table: pl.DataFrame | None = None, **facts: Any) -> Path:
    """Such a table as a file."""
    write_table(score_table() if table is None else table, path, format="parquet", steps=[score_step(**facts)])
    return path


def write_finetune(path: Path, *, finished: bool = True, comparison: dict[str, Any] | None = None) -> Path:
    """A run folder of `toolkit finetune`: five steps, two evaluations, gone on with after the third step."""
    from pyllm.data.sealed import write_sealed

    key = {"model": {"name": "tiny", "weights_sha256": "ab" * 32}, "settings": {"seed": 3}, "version": "0.1.0"}
    with locked(path):
        run = begin(path, key, {"arguments": ["finetune", "rows.jsonl"], "sources": [], "steps": [score_step()]})
        events = Events(path / EVENTS)
        events.write("start", step=0, steps=5)
        events.write("evaluation", step=0, held_out_loss=2.5)
        for step in (1, 2, 3):
            time.sleep(0.01)  # a step takes time, or it has no throughput
            events.write("step", step=step, loss=3.0 / step, learning_rate=1e-3, gradient_norm=1.0, tokens=100)
        events.write("resume", step=2, steps=5)
        for step in (3, 4, 5):
            time.sleep(0.01)  # a step takes time, or it has no throughput
            events.write("step", step=step, loss=2.0 / step, learning_rate=1e-4, gradient_norm=None, tokens=100)
        events.write("evaluation", step=5, held_out_loss=1.25)
        events.write("end", step=5)
        if comparison is not None:
            (path / "baselines").mkdir()
            write_sealed(path / "baselines" / "table.json", comparison)
        if finished:
            numbers = {"step": 5, "steps": 5, "examples": 20, "tokens": 500, "trained_tokens": 200, "seconds": 4.5}
            finish(run, {"command": "finetune", **numbers})
    return path


def write_recall(path: Path) -> Path:
    """A bench folder as `toolkit stream bench recall` leaves it."""
    measures = [Measure("recall", "recall", "right", "asked", percent=True), Measure("nats", "nats", "nats", "tokens")]
    ones = np.ones(6)
    samples = {
        "streaming": {"right": 0 * ones, "asked": ones, "nats": 3 * ones + np.arange(6), "tokens": 2 * ones},
        "sirllm+8": {"right": np.array([1.0, 1, 0, 1, 1, 1]), "asked": ones, "nats": 3 * ones, "tokens": 2 * ones},
    }
    against = dict.fromkeys(samples, "streaming")
    arms = arm_rows([{"arm": arm} for arm in samples], samples, measures, against, seed=0)
    numbers = {
        "command": "stream bench recall", "model": "/somewhere/tiny", "weights_sha256": "ab" * 32, "version": "0.1.0",
        "settings": {"cache": 100, "facts": 4, "seed": 2, "baseline": "streaming"}, "dialogues": 6, "tokens": 400.0,
        "arms": arms, "context": [{"arm": "chance", "recall": 0.25, "nats": None}],
    }  # fmt: skip
    path.mkdir(parents=True)
    write_json_atomically(path / "recall.json", numbers)
    return path
