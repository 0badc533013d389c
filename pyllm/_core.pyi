"""The exact, CPU-bound work of pyllm, in Rust: clustering and golden-score aggregation.

Arrays are borrowed, so they are C-contiguous and of the type that is stated. The work runs without holding the
interpreter, on threads of its own; Ctrl-C is answered while it runs.
"""

from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = ["GoldenScores", "KMeansResult", "__version__", "golden_scores", "kmeans"]

__version__: str

@final
class GoldenScores:
    """Wins, anchors scored and mean gain of each row."""

    @property
    def wins(self) -> NDArray[np.uint32]:
        """Anchors won by each row."""
    @property
    def anchors_scored(self) -> NDArray[np.uint32]:
        """Anchors tried by each row: all but those left out."""
    @property
    def mean_gain_nats(self) -> NDArray[np.float64]:
        """Mean of one-shot minus zero-shot sums over the pairs tried that are numbers; NaN if there is none."""
    @property
    def nan_pairs(self) -> int:
        """Pairs tried whose gain is not a number: they are lost and not in the mean."""

@final
class KMeansResult:
    """Clusters, and the real row nearest each centroid."""

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Coordinates of each centroid: clusters x dim."""
    @property
    def labels(self) -> NDArray[np.uint32]:
        """The nearest centroid of each row; ties go to the lowest."""
    @property
    def cluster_sizes(self) -> NDArray[np.uint64]:
        """Rows of each cluster; 0 only where rows are too few or too equal to fill it, or the rounds ran out."""
    @property
    def nearest_rows(self) -> NDArray[np.uint64]:
        """The row nearest each centroid, no row twice: one that an earlier centroid has is passed over."""
    @property
    def nearest_distances(self) -> NDArray[np.float64]:
        """Euclidean distance of each nearest row to its centroid."""
    @property
    def inertia(self) -> float:
        """Sum of the squared distances of all rows to their centroids."""
    @property
    def iterations(self) -> int:
        """Rounds over all rows in which centroids moved."""

def golden_scores(
    one_shot_nats: NDArray[np.float64],
    zero_shot_nats: NDArray[np.float64],
    left_out: NDArray[np.bool_] | None = None,
    *,
    threads: int = 0,
) -> GoldenScores:
    """Aggregate the sums of `rows x anchors` pairs: an anchor is won when one-shot is strictly above zero-shot.

    A NaN is never a win: the pair is counted in `nan_pairs` and `anchors_scored`, and is not in the mean gain.

    Args:
        one_shot_nats: Sum of the answer's log-probabilities behind each row: rows x anchors.
        zero_shot_nats: The same without a row: anchors.
        left_out: Pairs to count nowhere: rows x anchors.
        threads: Threads to use, 0 for all cores. The result does not depend on it.

    Raises:
        InputError: The shapes do not fit together, or an array is not C-contiguous.
        PrerequisiteError: The threads could not be started.

    Source:
        NUGGETS (arXiv 2312.10302), section 3.2, golden score.
    """

def kmeans(
    data: NDArray[np.float32],
    k: int,
    *,
    seed: int,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    sample_rows: int = 0,
    threads: int = 0,
) -> KMeansResult:
    """Exact, seeded K-Means: k-means++ and Lloyd's rounds on a sample, then rounds over all rows.

    Args:
        data: Rows to cluster, rows x dim, all finite.
        k: Clusters, at most as many as rows.
        seed: Everything random follows from it (0 to 2**64 - 1).
        max_iterations: Most rounds, on the sample and again on all rows.
        tolerance: Stop when less than this share of the rows changed cluster in a round; 0 goes on until none does.
        sample_rows: Rows in the sample, at least `k`; 0 for 256 for each cluster and at least 50,000.
        threads: Threads to use, 0 for all cores. The result does not depend on it.

    Raises:
        SettingError: `k` is 0 or above the number of rows, or `tolerance` is negative or not finite.
        InputError: A value is not finite (the first such row is named), there are no columns, or `data` is not
            C-contiguous.
        PrerequisiteError: The threads could not be started.

    Source:
        Arthur and Vassilvitskii, SODA 2007 (k-means++); Lloyd, IEEE Transactions on Information Theory, 1982.
    """
