"""Exact K-Means iterations from a given start.

Usage: kmeans_peers.py numpy|faiss|superkmeans X.npy ROWS K ITERATIONS

One thread (set by the environment); the start is K rows, evenly spaced, the same for all contestants.
"""

import sys
from typing import Any

import numpy as np
from _clock import timed_iterations

BLOCK_ROWS = 4_096


def start_rows(rows: int, k: int) -> Any:
    """The rows that every contestant starts from."""
    return np.arange(k) * rows // k


def nearest(data: Any, centroids: Any) -> tuple[Any, Any]:
    """Nearest centroid a row by blocked products, and its score x.c - c.c / 2."""
    half = (centroids**2).sum(1) / 2
    labels, best = np.empty(len(data), np.int64), np.empty(len(data), np.float32)
    for start in range(0, len(data), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        scores = data[block] @ centroids.T
        scores -= half
        labels[block] = scores.argmax(1)
        best[block] = np.take_along_axis(scores, labels[block, None], 1)[:, 0]
    return labels, best


def inertia(data: Any, centroids: Any) -> float:
    """Sum of squared distances to the nearest centroid."""
    _, best = nearest(data, centroids)
    return float((np.einsum("ij,ij->i", data, data, dtype=np.float64) - 2 * best.astype(np.float64)).sum())


def by_numpy(data: Any, centroids: Any, iterations: int) -> Any:
    """Lloyd: blocked products and arg-max, sums through a sparse matrix of labels."""
    from scipy.sparse import csr_matrix

    rows, k = len(data), len(centroids)
    for _ in range(iterations):
        labels, _ = nearest(data, centroids)
        ones = csr_matrix((np.ones(rows, np.float32), labels, np.arange(rows + 1)), (rows, k))
        counts = np.bincount(labels, minlength=k)[:, None]
        centroids = np.where(counts > 0, (ones.T @ data) / np.maximum(counts, 1), centroids).astype(np.float32)
    return centroids


def by_faiss(data: Any, centroids: Any, iterations: int) -> Any:
    """Faiss Kmeans over all rows."""
    import faiss

    faiss.omp_set_num_threads(1)
    means = faiss.Kmeans(
        data.shape[1], len(centroids), niter=iterations, max_points_per_centroid=len(data), min_points_per_centroid=1
    )
    means.train(data, init_centroids=centroids)
    return means.centroids


def by_superkmeans(data: Any, centroids: Any, iterations: int) -> Any:
    """SuperKMeans over all rows; it chooses its own start."""
    import superkmeans

    means = superkmeans.SuperKMeans(
        n_clusters=len(centroids),
        dimensionality=data.shape[1],
        hierarchical=False,
        iters=iterations,
        sampling_fraction=1.0,
        max_points_per_cluster=len(data),
        n_threads=1,
        early_termination=False,
    )
    return means.train(data)


def main() -> None:
    """Time the one that is asked for; imports and the inertia it reached are off the clock."""
    name, file, rows, k, iterations = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    data = np.ascontiguousarray(np.load(file, mmap_mode="r")[:rows])
    ways = {"numpy": by_numpy, "faiss": by_faiss, "superkmeans": by_superkmeans}
    centroids = data[start_rows(len(data), k)]
    ways[name](data[: 2 * k], centroids, 1)
    timed_iterations(
        lambda iterations: (ways[name](data, centroids, iterations), iterations),
        lambda reached: {"inertia": inertia(data, np.asarray(reached, np.float32))},
        iterations,
    )


main()
