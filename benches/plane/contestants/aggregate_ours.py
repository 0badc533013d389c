"""Ours: golden scores of a matrix in memory, or from a file to a table of the best.

Usage: aggregate_ours.py memory|scores|logprob.arrow|logprob_long.parquet|logprob_list.parquet FOLDER TIMES SCRATCH
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _clock import timed

from pyllm import _core

KEPT_SHARE = 100  # one of so many rows: the best 10,000 of a million


def in_memory(folder: Path, *, gains: bool) -> Callable[[], Any]:
    """The matrix is there already, in single precision as it is stored: wins, with or without mean gains beside."""
    matrix, zero_shot = np.load(folder / "logprob.npy"), np.load(folder / "zero_shot.npy").astype(np.float64)
    if gains:
        return lambda: _core.golden_scores(matrix, zero_shot, threads=1).wins
    return lambda: _core.golden_wins(matrix, zero_shot, threads=1)[0]


def from_file(file: Path, out: Path, **kept: int) -> Any:
    """One pass over a file, with one thread; the zero-shot vector is read too."""
    anchors, nats = _core.read_zero_shot(file.with_name("zero_shot.parquet"))
    return _core.aggregate_logprobs([file], nats, out, anchors=anchors, threads=1, **kept)


def found(wins: Any) -> dict[str, Any]:
    """What every contestant tells about the wins: enough to see that all agree."""
    wins = np.asarray(wins, np.int64)
    return {"rows": len(wins), "wins": int(wins.sum()), "order": int((wins * (np.arange(len(wins)) % 997)).sum())}


def main() -> None:
    """Time the one that is asked for; all rows are written and looked at after the clock has stopped."""
    name, folder, times, scratch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    if name in ("memory", "scores"):
        timed(in_memory(folder, gains=name == "scores"), found, times=times)
        return

    def told(_: Any) -> dict[str, Any]:
        import polars as pl

        from_file(folder / name, scratch / "all.parquet")
        return found(pl.read_parquet(scratch / "all.parquet")["wins"].to_numpy())

    best = max(1, len(np.load(folder / "logprob.npy", mmap_mode="r")) // KEPT_SHARE)
    timed(lambda: from_file(folder / name, scratch / "best.parquet", top_rows=best), told, times=times)


main()
