"""Golden scores the way people do them.

Usage: aggregate_peers.py numpy|numba|duckdb|pyarrow FOLDER TIMES
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _clock import timed

BLOCK_ROWS = 1_000


def wins_by_blocks(matrix: Any, zero_shot: Any) -> Any:
    """Wins a row, a block that stays in the cache at a time."""
    wins = np.empty(len(matrix), np.int64)
    for start in range(0, len(matrix), BLOCK_ROWS):
        wins[start : start + BLOCK_ROWS] = np.count_nonzero(matrix[start : start + BLOCK_ROWS] > zero_shot, axis=1)
    return wins


def found(wins: Any) -> dict[str, Any]:
    """What every contestant tells about the wins: enough to see that all agree."""
    wins = np.asarray(wins, np.int64)
    return {"rows": len(wins), "wins": int(wins.sum()), "order": int((wins * (np.arange(len(wins)) % 997)).sum())}


def loaded(folder: Path, dtype: Any) -> tuple[Any, Any]:
    """The matrix and the zero-shot vector."""
    return tuple(np.load(folder / name).astype(dtype, copy=False) for name in ("logprob.npy", "zero_shot.npy"))


def by_numpy(folder: Path) -> Callable[[], Any]:
    """In memory, in blocks, single precision."""
    matrix, zero_shot = loaded(folder, np.float32)
    return lambda: wins_by_blocks(matrix, zero_shot)


def by_numba(folder: Path) -> Callable[[], Any]:
    """In memory, one loop over rows; compiled before the clock starts."""
    import numba

    @numba.njit
    def wins_of(matrix: Any, zero_shot: Any) -> Any:
        wins = np.empty(len(matrix), np.int64)
        for row in range(len(matrix)):
            won = 0
            for anchor in range(len(zero_shot)):
                won += matrix[row, anchor] > zero_shot[anchor]
            wins[row] = won
        return wins

    matrix, zero_shot = loaded(folder, np.float32)
    wins_of(matrix[:1], zero_shot)
    return lambda: wins_of(matrix, zero_shot)


def by_duckdb(folder: Path) -> Callable[[], Any]:
    """From long Parquet, with one thread as ours."""
    import duckdb

    query = (
        "SELECT candidate, count(*) FILTER (WHERE p.logprob > z.logprob) AS wins"
        f" FROM read_parquet('{folder}/logprob_long.parquet') p"
        f" JOIN read_parquet('{folder}/zero_shot.parquet') z USING (anchor) GROUP BY candidate ORDER BY candidate"
    )

    def work() -> Any:
        duckdb.execute("SET threads = 1")
        return duckdb.execute(query).fetchnumpy()["wins"]

    return work


def by_pyarrow(folder: Path) -> Callable[[], Any]:
    """From Parquet of lists, a batch at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    pa.array([1.0]).to_numpy()  # loads pandas, which is no part of the work

    def work() -> Any:
        zero_shot = np.load(folder / "zero_shot.npy")
        batches = pq.ParquetFile(folder / "logprob_list.parquet").iter_batches(columns=["logprob"], use_threads=False)
        wins = [
            wins_by_blocks(batch.column(0).flatten().to_numpy().reshape(-1, len(zero_shot)), zero_shot)
            for batch in batches
        ]
        return np.concatenate(wins)

    return work


def main() -> None:
    """Time the one that is asked for."""
    name, folder, times = sys.argv[1:]
    ways = {
        "numpy": by_numpy,
        "numba": by_numba,
        "duckdb": by_duckdb,
        "pyarrow": by_pyarrow,
    }
    timed(ways[name](Path(folder)), found, times=int(times))


main()
