"""How far two people agree beyond chance."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from jaxtyping import Float, Float64

from pyllm.errors import SettingError
from pyllm.stats.bootstrap import DEFAULT_RESAMPLES
from pyllm.stats.intervals import Interval
from pyllm.stats.resampling import bootstrap_counts


@dataclass(frozen=True, slots=True)
class Agreement:
    """Cohen's kappa of two people who labelled the same items.

    Args:
        kappa: 1 where they always agree, 0 where they agree as often as chance would have it; not a number where both
            gave one and the same label throughout, because then chance alone makes them agree.
        interval: Where kappa plausibly lies for other items; None where kappa is no number.
        observed: Share of items on which they agree.
        expected: The share that chance would bring, from how often each gives each label.
        items: How many both labelled.
    """

    kappa: float
    interval: Interval | None
    observed: float
    expected: float
    items: int


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    *,
    seed: int,
    resamples: int = DEFAULT_RESAMPLES,
    confidence: float = 0.95,
) -> Agreement:
    """Agreement of two people beyond chance, with a percentile bootstrap interval over items.

    Args:
        first: The labels that one person gave, an item each.
        second: The labels of the other, of the same items in the same order.
        seed: Of the draws.
        resamples: How often items are drawn again.
        confidence: How often such an interval holds the truth, between 0 and 1.

    Raises:
        SettingError: There are no items, their numbers differ, or an argument is out of range.

    Source: J. Cohen, "A coefficient of agreement for nominal scales", 1960.

    Example:
        >>> cohen_kappa("yyynn", "yyyny", seed=0).kappa
        0.5454545454545455
    """
    if len(first) != len(second):
        raise SettingError(f"{len(first)} and {len(second)} labels differ in number")
    if not first:
        raise SettingError("there are no items that both have labelled")
    if resamples < 1:
        raise SettingError(f"{resamples} resamples are below 1")
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    labels = {label: place for place, label in enumerate(dict.fromkeys([*first, *second]))}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for one, other in zip(first, second, strict=True):
        counts[labels[one], labels[other]] += 1
    observed, expected = _shares(counts[None].astype(np.float64))
    kappa = float(_kappa(observed, expected)[0])
    interval = None
    if not np.isnan(kappa):
        # Only cells that occurred can be drawn, so the table stays small however many labels there are.
        cells = np.flatnonzero(counts)
        drawn = np.zeros((resamples, counts.size))
        drawn[:, cells] = bootstrap_counts(counts.ravel()[cells], seed=seed, resamples=resamples)
        kappas = _kappa(*_shares(drawn.reshape(resamples, *counts.shape)))
        kappas = kappas[~np.isnan(kappas)]  # a draw with one label only says nothing
        low, high = np.quantile(kappas, [(1 - confidence) / 2, (1 + confidence) / 2])
        interval = Interval(float(low), float(high))
    return Agreement(kappa, interval, float(observed[0]), float(expected[0]), len(first))


def _shares(
    counts: Float[np.ndarray, "tables labels labels"],
) -> tuple[Float64[np.ndarray, " tables"], Float64[np.ndarray, " tables"]]:
    """Observed and expected agreement of each table."""
    items = counts.sum(axis=(1, 2))
    observed = np.trace(counts, axis1=1, axis2=2) / items
    expected = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / items**2
    return observed, expected


def _kappa(
    observed: Float64[np.ndarray, " tables"], expected: Float64[np.ndarray, " tables"]
) -> Float64[np.ndarray, " tables"]:
    chance = 1 - expected
    kappas = np.full_like(observed, nan)
    np.divide(observed - expected, chance, out=kappas, where=chance > 1e-12)
    return kappas
