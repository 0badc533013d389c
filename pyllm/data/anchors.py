"""Anchors chosen from a table: rows drawn by seed, or the real rows nearest to the centres of a K-Means clustering.

Nothing here needs a model: embeddings come from a file or from whoever computed them, and are read where they are. A
memory-mapped matrix is never copied; the rows that can be anchors are named to the clustering by number.

Source: NUGGETS (arXiv 2312.10302), section 3.3, "predefined task set".
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float64, Int, UInt32, UInt64

from pyllm import _core
from pyllm.errors import InputError, SettingError

_log = logging.getLogger(__name__)

CLUSTER_COLUMNS = ("cluster", "cluster_size", "distance")
"""Columns that an anchor table has beside those of its rows; null for anchors that were drawn at random."""

NEAR_SHARE = 0.1
"""Two anchors are near-duplicates if they lie within this share of the median distance between two anchors."""

_NAMED_PAIRS = 5
_MOST_PAIRS = 1_000
_MEASURED_ANCHORS = 2_000  # more do not move the median
_BLOCK_ANCHORS = 512


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two anchors that are almost the same task.

    Args:
        first: Place of one among the anchors.
        second: Place of the other, a later one.
        distance: Euclidean distance of their embeddings.
        cosine: Cosine of the angle between them; 0 where one has no direction.
    """

    first: int
    second: int
    distance: float
    cosine: float


@dataclass(frozen=True, slots=True)
class AnchorClusters:
    """Anchors from a clustering, in cluster order.

    Args:
        rows: The row nearest to each centre, as a number in the table; no row twice.
        cluster_sizes: Rows of each cluster.
        distances: Euclidean distance of each of those rows to its centre.
        inertia: Sum of the squared distances of all rows to their centres.
        iterations: Rounds over all rows.
        near_pairs: Near-duplicates among the anchors, the nearest first.
        near_distance: The distance up to which two are near-duplicates.
    """

    rows: Int[np.ndarray, " anchors"]
    cluster_sizes: UInt64[np.ndarray, " anchors"]
    distances: Float64[np.ndarray, " anchors"]
    inertia: float
    iterations: int
    near_pairs: tuple[NearPair, ...]
    near_distance: float

    def report(self, table: pl.DataFrame) -> dict[str, Any]:
        """Numbers of the clustering, with the ids of near-duplicates."""
        sizes = self.cluster_sizes
        ids = table[self.rows.tolist()]["id"].to_list()
        return {
            "iterations": self.iterations,
            "inertia": self.inertia,
            "cluster_sizes": {"least": int(sizes.min()), "median": float(np.median(sizes)), "most": int(sizes.max())},
            "empty_clusters": int((sizes == 0).sum()),
            "near_distance": self.near_distance,
            "near_duplicates": [
                {
                    "clusters": [pair.first, pair.second],
                    "ids": [ids[pair.first], ids[pair.second]],
                    "distance": pair.distance,
                    "cosine": pair.cosine,
                }
                for pair in self.near_pairs
            ],
        }


def rows_with_answers(table: pl.DataFrame) -> Int[np.ndarray, " eligible"]:
    """The rows of a table of examples that can be anchors, ascending: the first of each content that has an answer."""
    answered = (pl.col("output").is_not_null() & (pl.col("output") != "")) | pl.col("messages").list.eval(
        (pl.element().struct.field("role") == "assistant") & (pl.element().struct.field("content") != "")
    ).list.any().fill_null(value=False)
    usable = table.select(usable=answered.fill_null(value=False) & pl.col("id").is_first_distinct())
    return np.flatnonzero(usable["usable"].to_numpy())


def check_count(count: int, eligible: int, reason: str) -> None:
    """Refuse more anchors than there are rows to choose from.

    Args:
        count: Anchors wanted.
        eligible: Rows to choose from.
        reason: Which rows can be anchors, for the hint.

    Raises:
        InputError: No row can be an anchor.
        SettingError: There are fewer rows.
    """
    if eligible == 0:
        raise InputError("no row of the input can be an anchor", hint=reason)
    if count > eligible:
        raise SettingError(
            f"{count} anchors are wanted, but the input has {eligible} distinct rows that can be one", hint=reason
        )


def random_rows(
    ids: Sequence[str], eligible: Int[np.ndarray, " eligible"], count: int, seed: int
) -> Int[np.ndarray, " anchors"]:
    """`count` rows drawn without replacement, in input order.

    The draw ranks rows by a hash of seed and row id, so it does not depend on the order of the input.

    Args:
        ids: The id of every row.
        eligible: The rows to draw from.
        count: Rows wanted.
        seed: Decides the draw.
    """

    def rank(row: int) -> bytes:
        return hashlib.sha256(f"{seed}:{ids[row]}".encode()).digest()

    return np.array(sorted(sorted(eligible.tolist(), key=rank)[:count]), dtype=np.int64)


def cluster_anchors(
    embeddings: Float[np.ndarray, "rows dim"],
    eligible: Int[np.ndarray, " eligible"],
    count: int,
    *,
    seed: int,
    threads: int = 0,
    name: str = "embeddings",
) -> AnchorClusters:
    """The row nearest to each of `count` K-Means centres.

    Args:
        embeddings: An embedding for every row of the table, float32 or float16.
        eligible: The rows that can be anchors; only they are clustered.
        count: Clusters, at most as many as `eligible`.
        seed: Decides where the clustering begins.
        threads: Threads to use, 0 for all cores; the result does not depend on it.
        name: What messages call the embeddings.

    Raises:
        InputError: An embedding is not finite; its row is named.
        SettingError: There are fewer distinct embeddings than anchors wanted.
    """
    # Without gaps the matrix is passed on as it is, and rows need not be looked up by number.
    chosen = None if len(eligible) == len(embeddings) else eligible.astype(np.uint32)
    try:
        result = _core.kmeans(embeddings, count, seed=seed, rows=chosen, threads=threads)
    except InputError as error:
        raise InputError(f"{name}: {error.message}", hint=error.hint) from error
    empty = int((result.cluster_sizes == 0).sum())
    if empty:
        _refuse_equal_embeddings(embeddings, eligible, count)
        _log.warning("%d of %d clusters are empty: their anchors are the nearest rows of others", empty, count)
    rows: np.ndarray = eligible[result.nearest_rows.astype(np.int64)]
    pairs, near = near_pairs(embeddings[rows])
    return AnchorClusters(
        rows, result.cluster_sizes, result.nearest_distances, result.inertia, result.iterations, pairs, near
    )


def _refuse_equal_embeddings(embeddings: np.ndarray, eligible: np.ndarray, count: int) -> None:
    # Adding 0 makes the two zeros equal.
    distinct = len({(embeddings[row] + 0).tobytes() for row in eligible.tolist()})
    if distinct < count:
        raise SettingError(
            f"{count} clusters are wanted, but the {len(eligible)} rows that can be anchors have only {distinct}"
            " distinct embeddings",
            hint=f"ask for at most {distinct}",
        )


def near_pairs(vectors: Float[np.ndarray, "anchors dim"]) -> tuple[tuple[NearPair, ...], float]:
    """Pairs of anchors that lie much nearer to each other than anchors usually do.

    Measured against the median distance between two anchors, because neither a distance nor a cosine means the same
    in the spaces of two encoders.

    Returns:
        The pairs, the nearest first, and the distance up to which two anchors are near-duplicates.
    """
    wide = vectors.astype(np.float64)
    count = len(wide)
    if count < 3:
        return (), 0.0
    # Taken from their mean, so that far from the origin nothing is lost to rounding.
    centred = wide - wide.mean(axis=0)
    few = centred[:: -(-count // _MEASURED_ANCHORS)]
    usual = np.median(np.sqrt(_squared(few, few)[np.triu_indices(len(few), 1)]))
    near = NEAR_SHARE * float(usual)
    found = []
    for start in range(0, count, _BLOCK_ANCHORS):
        firsts, seconds = np.nonzero(_squared(centred[start : start + _BLOCK_ANCHORS], centred) <= (1.01 * near) ** 2)
        for first, second in zip((firsts + start).tolist(), seconds.tolist(), strict=True):
            distance = float(np.linalg.norm(wide[first] - wide[second]))
            if first < second and distance <= near:
                lengths = float(np.linalg.norm(wide[first]) * np.linalg.norm(wide[second]))
                cosine = float(wide[first] @ wide[second]) / lengths if lengths > 0 else 0.0
                found.append(NearPair(first, second, distance, min(1.0, cosine)))
    found.sort(key=lambda pair: (pair.distance, pair.first, pair.second))
    return tuple(found[:_MOST_PAIRS]), near


def _squared(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances by one matrix product, none below 0."""
    squares = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)
    squared: np.ndarray = np.maximum(squares - 2 * some @ others.T, 0.0)
    return squared


def warn_of_near_pairs(clusters: AnchorClusters, table: pl.DataFrame) -> None:
    """Say which anchors are near-duplicates: they count one task twice."""
    pairs = clusters.near_pairs
    if not pairs:
        return
    ids = table["id"]
    named = "; ".join(
        f"{ids[int(clusters.rows[pair.first])][:12]} and {ids[int(clusters.rows[pair.second])][:12]}"
        f" (distance {pair.distance:.3g}, cosine {pair.cosine:.4f})"
        for pair in pairs[:_NAMED_PAIRS]
    )
    more = f"; and {len(pairs) - _NAMED_PAIRS:,} more" if len(pairs) > _NAMED_PAIRS else ""
    _log.warning(
        "%s near-duplicate, within %.3g (%g of the median distance between anchors): %s%s",
        "1 pair of anchors is" if len(pairs) == 1 else f"{len(pairs):,} pairs of anchors are",
        clusters.near_distance,
        NEAR_SHARE,
        named,
        more,
    )


def anchor_table(
    table: pl.DataFrame, rows: Int[np.ndarray, " anchors"], clusters: AnchorClusters | None = None
) -> pl.DataFrame:
    """The chosen rows with all their columns, then `cluster`, `cluster_size` and `distance`.

    Args:
        table: The input.
        rows: The anchors.
        clusters: Where they come from; None for anchors drawn at random, which belong to no cluster: nulls.
    """
    count = len(rows)
    cluster: UInt32[np.ndarray, " anchors"] = np.arange(count, dtype=np.uint32)
    chosen: pl.DataFrame = table[rows.tolist()]
    return chosen.drop(CLUSTER_COLUMNS, strict=False).with_columns(
        pl.Series("cluster", [None] * count if clusters is None else cluster, dtype=pl.UInt32),
        pl.Series("cluster_size", [None] * count if clusters is None else clusters.cluster_sizes, dtype=pl.UInt64),
        pl.Series("distance", [None] * count if clusters is None else clusters.distances, dtype=pl.Float64),
    )
