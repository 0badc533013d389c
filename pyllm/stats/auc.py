"""How well a score tells two kinds of rows apart: the area under the ROC curve.

It is the chance that a random positive row scores above a random negative one, a tie counting one half: the
Mann-Whitney statistic over the number of pairs. Computed from ranks in O(rows log rows), exactly up to one rounding.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from pyllm.errors import SettingError


def area_under_roc(scores: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve, ties counted one half.

    Args:
        scores: Higher should mean positive. No NaN.
        positive: Which rows are positive; at least one must be, and at least one must not.

    Raises:
        SettingError: A score is NaN, the lengths differ, or one of the two kinds is absent.

    Source: Hanley and McNeil, "The meaning and use of the area under a ROC curve", 1982, equation 1.

    Example:
        >>> area_under_roc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
        0.875
    """
    if scores.shape != positive.shape:
        raise SettingError(f"{scores.size} scores and {positive.size} labels differ in number")
    if np.isnan(scores).any():
        raise SettingError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are NaN")
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        raise SettingError(f"the area under the ROC curve needs both kinds of rows ({positives} of {positive.size})")
    doubled_ranks = _doubled_ranks(scores)
    # Twice the Mann-Whitney statistic, in whole numbers: no rounding until the division.
    doubled_wins = int(doubled_ranks[positive].sum()) - positives * (positives + 1)
    return doubled_wins / (2 * positives * negatives)


def _doubled_ranks(scores: Float[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Twice the rank of each score, ranks from 1, equal scores sharing the mean of theirs."""
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (2 * ends - sizes + 1)[group.reshape(-1)]
