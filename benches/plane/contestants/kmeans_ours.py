"""Ours: exact K-Means iterations from a given start.

Usage: kmeans_ours.py X.npy ROWS K ITERATIONS

One thread; the start is K rows, evenly spaced, the same for all contestants.
"""

import sys
from typing import Any

import numpy as np
from _clock import timed_iterations

from pyllm import _core

CHECKED_ROWS = 20_000


def main() -> None:
    """Time the iterations; labels are held against full distances afterwards."""
    file, rows, k, iterations = sys.argv[1], *map(int, sys.argv[2:5])
    data = np.ascontiguousarray(np.load(file, mmap_mode="r")[:rows])
    centroids = np.ascontiguousarray(data[np.arange(k) * len(data) // k])

    def work(iterations: int) -> tuple[Any, int]:
        result = _core.kmeans(
            data, k, seed=0, max_iterations=iterations, tolerance=0.0, threads=1, initial_centroids=centroids
        )
        return result, result.iterations

    timed_iterations(work, lambda result: told(data, result), iterations)


def told(data: Any, result: Any) -> dict[str, Any]:
    """The inertia, how many iterations it was, and how many labels differ from full distances in double precision."""
    means = result.centroids.astype(np.float64)
    rows = np.arange(0, len(data), max(1, len(data) // CHECKED_ROWS))
    wrong = 0
    for block in np.array_split(rows, max(1, len(rows) // 2_000)):
        # Equal up to rounding is a tie, and either of two is right.
        x = data[block].astype(np.float64)
        distances = (x**2).sum(1)[:, None] - 2 * x @ means.T + (means**2).sum(1)
        chosen = distances[np.arange(len(block)), result.labels[block]]
        wrong += int((chosen > distances.min(1) + 1e-9).sum())
    return {
        "inertia": float(result.inertia),
        "wrong_labels": wrong,
        "checked": len(rows),
    }


main()
