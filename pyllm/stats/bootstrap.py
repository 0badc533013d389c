"""How sure a difference is that was measured on the same rows twice: the paired bootstrap.

Rows are drawn with replacement as often as there are rows, each with what both sides measured on it, and the
difference is computed again; the middle of many such differences is the interval. Pairing takes out what makes rows
hard for both sides, which is usually most of the noise.

The interval is about rows only: that other rows of the same kind would have been measured. Whatever else was drawn
once (a seed, a training run) is held fixed. It is a percentile interval; on few rows it is somewhat too narrow.

Cost: rows x resamples draws, a block at a time, in bounded memory.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from pyllm.errors import SettingError
from pyllm.stats.intervals import Interval

DEFAULT_RESAMPLES = 10_000

_BLOCK_DRAWS = 1 << 20


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The first side's mean (or ratio) less the second's.

    Args:
        difference: On all rows.
        interval: Where it plausibly lies for other rows of the same kind.
        rows: How many it was measured on.
    """

    difference: float
    interval: Interval
    rows: int

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.interval.low > 0 or self.interval.high < 0


def paired_bootstrap(
    first: Float[np.ndarray, " rows"],
    second: Float[np.ndarray, " rows"],
    *,
    sizes: Float[np.ndarray, " rows"] | None = None,
    second_sizes: Float[np.ndarray, " rows"] | None = None,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    confidence: float = 0.95,
) -> PairedDifference:
    """Difference between two sides measured on the same rows, with a percentile interval over rows.

    Without sizes it is the difference of two means over rows. With sizes it is the difference of two ratios of sums,
    such as the loss per token of sums of nats and counts of tokens: long rows count for more.

    Args:
        first: What the first side measured on each row.
        second: What the second side measured on the same rows, in the same order.
        sizes: What each row of `first` is divided by, all at or above 0 and not all 0; None takes means.
        second_sizes: The same for `second`; None takes `sizes`.
        seed: Of the draws.
        resamples: How often rows are drawn again.
        confidence: How often such an interval holds the truth, between 0 and 1.

    Raises:
        SettingError: There are fewer than two rows, the sides differ in number, a value is not finite, or an argument
            is out of range.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", 1979; percentile interval.

    Example:
        >>> measured = paired_bootstrap(np.array([3.0, 4.0, 6.0]), np.array([2.0, 3.0, 5.0]), seed=0)
        >>> measured.difference, measured.interval
        (1.0, Interval(low=1.0, high=1.0))
    """
    if second_sizes is not None and sizes is None:
        raise SettingError("sizes are given for the second side and not for the first")
    columns = [first, second]
    if sizes is not None:
        columns += [sizes, sizes if second_sizes is None else second_sizes]
    _check(columns, resamples, confidence)
    if len(columns) == 2:
        columns = [first.astype(np.float64) - second.astype(np.float64)]
    elif columns[3] is sizes:
        columns = [columns[0].astype(np.float64) - columns[1].astype(np.float64), columns[2].astype(np.float64)]
    else:
        columns = [column.astype(np.float64) for column in columns]
    estimate = float(_difference([column.mean(keepdims=True) for column in columns])[0])
    drawn = _drawn_differences(columns, seed, resamples)
    drawn = drawn[np.isfinite(drawn)]  # a draw of rows that all have size 0 says nothing
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return PairedDifference(estimate, Interval(float(low), float(high)), len(first))


def _check(columns: list[np.ndarray], resamples: int, confidence: float) -> None:
    rows = len(columns[0])
    if any(len(column) != rows for column in columns):
        raise SettingError(f"the sides differ in number of rows: {', '.join(str(len(column)) for column in columns)}")
    if rows < 2:
        raise SettingError(f"{rows} rows are too few to draw from: at least 2 are wanted")
    if not all(np.isfinite(column).all() for column in columns):
        raise SettingError("a value to compare is not finite")
    if any((column < 0).any() or not column.any() for column in columns[2:]):
        raise SettingError("a size is below 0, or all of them are 0")
    if resamples < 1:
        raise SettingError(f"{resamples} resamples are below 1")
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")


def _drawn_differences(columns: list[np.ndarray], seed: int, resamples: int) -> Float64[np.ndarray, " resamples"]:
    rows = len(columns[0])
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK_DRAWS // rows)
    parts = []
    for start in range(0, resamples, block):
        places = generator.integers(0, rows, size=(min(block, resamples - start), rows))
        parts.append(_difference([column[places].mean(axis=1) for column in columns]))
    return np.concatenate(parts)


def _difference(means: list[np.ndarray]) -> Float64[np.ndarray, " resamples"]:
    """From the means of the columns: of differences; of differences and sizes; or of both sides and their sizes."""
    result: np.ndarray
    with np.errstate(divide="ignore", invalid="ignore"):
        if len(means) == 1:
            result = means[0]
        elif len(means) == 2:
            result = means[0] / means[1]
        else:
            result = means[0] / means[2] - means[1] / means[3]
    return result
