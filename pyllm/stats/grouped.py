"""The bootstrap where rows come in few kinds: a win, a tie or a loss is all that most prompts can have.

Drawing as many rows as there are, with replacement, draws each kind as often as a multinomial count says; so the
counts are drawn instead of the rows. The distribution is the same, and the cost is kinds x resamples.
"""

import numpy as np
from jaxtyping import Float, Float64, Int

from pyllm.errors import SettingError
from pyllm.stats.bootstrap import DEFAULT_RESAMPLES
from pyllm.stats.intervals import Interval

_BLOCK_COUNTS = 1 << 22


def drawn_ratios(
    sums: Float[np.ndarray, " rows"],
    sizes: Float[np.ndarray, " rows"],
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
) -> Float64[np.ndarray, " resamples"]:
    """Ratio of the sums to the sizes over rows that are drawn again and again.

    Args:
        sums: What was measured on each row, such as points of all judgements of a prompt.
        sizes: What it is divided by, such as the number of those judgements; above 0.
        seed: Of the draws.
        resamples: How often rows are drawn.

    Raises:
        SettingError: There is no row, or a value is not finite, or a size is not above 0.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979.
    """
    if not len(sums):
        raise SettingError("there is no row to draw from")
    if not (np.isfinite(sums).all() and np.isfinite(sizes).all() and (sizes > 0).all()):
        raise SettingError("a value to draw from is not finite, or a size is not above 0")
    kinds, counts = np.unique(np.column_stack([sums, sizes]).astype(np.float64), axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_COUNTS // len(kinds))
    parts = []
    for start in range(0, resamples, block):
        drawn = _drawn_counts(generator, counts, min(block, resamples - start))
        totals = drawn @ kinds
        parts.append(totals[:, 0] / totals[:, 1])
    return np.concatenate(parts)


def ratio_interval(
    sums: Float[np.ndarray, " rows"],
    sizes: Float[np.ndarray, " rows"],
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    confidence: float = 0.95,
) -> Interval:
    """Percentile interval of the ratio of sums to sizes over rows. See `drawn_ratios`.

    Raises:
        SettingError: As `drawn_ratios`, or the confidence is not between 0 and 1.

    Example:
        >>> ratio_interval(np.array([1.0, 1.0]), np.array([2.0, 2.0]), seed=0)
        Interval(low=0.5, high=0.5)
    """
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    drawn = drawn_ratios(sums, sizes, seed=seed, resamples=resamples)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def _drawn_counts(
    generator: np.random.Generator, counts: Int[np.ndarray, " kinds"], resamples: int
) -> Int[np.ndarray, "resamples kinds"]:
    rows = int(counts.sum())
    if len(counts) > rows // 2:  # nearly every row is its own kind: drawing rows is cheaper
        kind_of_row = np.repeat(np.arange(len(counts)), counts)
        drawn = [
            np.bincount(kind_of_row[generator.integers(0, rows, rows)], minlength=len(counts)) for _ in range(resamples)
        ]
        return np.stack(drawn)
    return generator.multinomial(rows, counts / rows, size=resamples)
