"""Plain lines about a scored pool: how well each way of ranking finds the right rows, and what was selected.

python examples/nano/figures.py demo/scores.parquet demo/best.parquet
"""

import argparse
from pathlib import Path
from random import Random

import numpy as np
import polars as pl

from pyllm.stats.auc import area_under_roc

SHOWN = 3


def rankings(scores: pl.DataFrame, seed: int) -> dict[str, float]:
    """Area under the ROC curve of golden scores and of two controls: the longest rows, and a random order."""
    is_right = scores["is_right"].to_numpy()
    rng = Random(seed)
    ways = {
        "golden score": scores["golden_score"].to_numpy(),
        "longest": scores["demo_tokens"].cast(pl.Float64).to_numpy(),
        "random": np.array([rng.random() for _ in range(scores.height)]),
    }
    return {name: area_under_roc(values, is_right) for name, values in ways.items()}


def row_lines(rows: pl.DataFrame) -> list[str]:
    """Each row as a line: its score, what was asked, the answer, and whether that is right."""
    lines = []
    for row in rows.iter_rows(named=True):
        asked = f"{row['instruction']} ({row['input']})" if row["input"] else row["instruction"]
        mark = "right" if row["is_right"] else "wrong"
        lines.append(f"  {row['golden_score']:.2f}  {mark}  {asked:44}  {row['output']}")
    return lines


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description="Say what a scored pool shows.")
    parser.add_argument("scores", type=Path, help="score table with the column is_right")
    parser.add_argument("selected", type=Path, help="the rows selected from it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random control (default: 0)")
    options = parser.parse_args()
    scores, selected = pl.read_parquet(options.scores), pl.read_parquet(options.selected)
    ordered = scores.sort(["golden_score", "mean_gain_nats"], descending=True)
    print("best rows (golden score, truth, question, answer)")
    print("\n".join(row_lines(ordered.head(SHOWN))))
    print("worst rows")
    print("\n".join(row_lines(ordered.tail(SHOWN))))
    print()
    print(f"right answers: {scores['is_right'].sum()} of {scores.height} rows before selection,", end=" ")
    print(f"{selected['is_right'].sum()} of {selected.height} after")
    for name, area in rankings(scores, options.seed).items():
        print(f"{name} AUC {area:.2f}")


if __name__ == "__main__":
    main()
