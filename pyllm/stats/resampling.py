"""The bootstrap where few different values occur, as right and wrong: as fast for a million rows as for a thousand.

Drawing rows with replacement and counting how often each value came up is drawing the counts from a multinomial
distribution. So the counts are drawn: the cost is resamples x different values instead of resamples x rows. Values that
are many, such as ROUGE, are drawn row by row.
"""

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from pyllm.errors import SettingError
from pyllm.stats.bootstrap import DEFAULT_RESAMPLES, PairedDifference
from pyllm.stats.intervals import Interval

_MOST_VALUES = 64
_BLOCK_DRAWS = 1 << 20


def bootstrap_mean(
    values: Float64[np.ndarray, " rows"],
    *,
    strata: Shaped[np.ndarray, " rows"] | None = None,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    confidence: float = 0.95,
) -> PairedDifference:
    """Mean of a value over rows, with a percentile interval over rows. Differences of two sides make it paired.

    Args:
        values: One a row, such as what one side measured less what the other did.
        strata: Group of each row, such as its task. With it the mean is that of the groups' means, each group weighing
            the same, and rows are drawn within their groups.
        seed: Of the draws.
        resamples: How often rows are drawn again.
        confidence: How often such an interval holds the truth, between 0 and 1.

    Raises:
        SettingError: There are no rows, a value is not finite, or an argument is out of range.

    Example:
        >>> bootstrap_mean(np.array([1.0, 0.0, 0.0, -1.0, 1.0]), seed=0).difference
        0.2
    """
    if not values.size:
        raise SettingError("no rows to draw from")
    if not np.isfinite(values).all():
        raise SettingError("a value to compare is not finite")
    if strata is not None and strata.shape != values.shape:
        raise SettingError(f"{values.size} values and {strata.size} strata differ in number")
    if resamples < 1:
        raise SettingError(f"{resamples} resamples are below 1")
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    generator = np.random.default_rng(seed)
    groups = [values] if strata is None else [values[strata == name] for name in np.unique(strata)]
    estimate = float(np.mean([group.mean() for group in groups]))
    drawn = np.zeros(resamples)
    for group in groups:
        drawn += _drawn_means(group, generator, resamples)
    low, high = np.quantile(drawn / len(groups), [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(estimate, Interval(float(low), float(high)), values.size)


def bootstrap_counts(
    counts: Int[np.ndarray, " kinds"], *, seed: int, resamples: int = DEFAULT_RESAMPLES
) -> Int[np.ndarray, "resamples kinds"]:
    """How often each kind comes up when as many rows are drawn with replacement as there are, many times over."""
    rows = int(counts.sum())
    return np.random.default_rng(seed).multinomial(rows, counts / rows, size=resamples)


def _drawn_means(
    values: Float64[np.ndarray, " rows"], generator: np.random.Generator, resamples: int
) -> Float64[np.ndarray, " resamples"]:
    kinds, counts = np.unique(values, return_counts=True)
    if kinds.size <= _MOST_VALUES:
        means: Float64[np.ndarray, " resamples"] = (
            generator.multinomial(values.size, counts / values.size, size=resamples) @ kinds / values.size
        )
        return means
    block = max(1, _BLOCK_DRAWS // values.size)
    parts = [
        values[generator.integers(0, values.size, size=(min(block, resamples - start), values.size))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    return np.concatenate(parts)


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
    block = max(1, _BLOCK_DRAWS // len(kinds))
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
