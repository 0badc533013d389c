"""Score tables as files, for the commands that read them."""

from pathlib import Path

import polars as pl
import pytest

from pyllm.data.tables import write_table


@pytest.fixture
def score_table() -> pl.DataFrame:
    """Six rows of two sources: ties, one row without a score, text that tries to steer the terminal."""
    return pl.DataFrame(
        {
            "id": [f"{row:032x}" for row in range(6)],
            "source_file": ["a.jsonl"] * 4 + ["b.jsonl"] * 2,
            "source_row": pl.Series(range(6), dtype=pl.UInt64),
            "instruction": [
                "Name a colour",
                "Add the numbers\nand explain",
                "Translate \x1b[31mthis\x1b[0m",
                "说出三种颜色",
                "Empty",
                "Write a poem",
            ],
            "input": [None, "2 and 3", None, None, None, ""],
            "output": ["Red", "Five, because 2 + 3 = 5", "dies", "红、绿、蓝", None, "Roses are red " * 20],
            "golden_score": [0.9, 0.5, 0.86, 0.86, None, 0.2],
            "wins": pl.Series([90, 50, 86, 86, None, 20], dtype=pl.UInt32),
            "anchors_scored": pl.Series([100] * 4 + [None, 100], dtype=pl.UInt32),
            "mean_gain_nats": [1.5, 0.1, 0.75, 1.25, None, -0.5],
            "demo_tokens": pl.Series([10, 20, 30, 40, 5, 100], dtype=pl.UInt32),
            "answer_tokens": pl.Series([1, 9, 2, 6, 0, 80], dtype=pl.UInt32),
            "note": ["kept", "too", None, "x", "y", "z"],
        }
    )


@pytest.fixture
def scored_file(tmp_path: Path, score_table: pl.DataFrame) -> Path:
    """The table as `scores.parquet`, with the provenance of a scoring run."""
    path = tmp_path / "scores.parquet"
    write_table(score_table, path, format="parquet", steps=[{"command": "score", "seed": 7}])
    return path
