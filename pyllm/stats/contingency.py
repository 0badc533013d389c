"""Tables of two kinds by two: do two things that each happen or not, happen together?

Counts are read as `both, first_only, second_only, neither`. One degree of freedom throughout, so the tail of the
chi-squared distribution is that of a normal one and no library is needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb, erfc, exp, inf, log, nan, sqrt
from statistics import NormalDist

from pyllm.errors import SettingError
from pyllm.stats.intervals import Interval

_MOST_EXACT = 1_000


@dataclass(frozen=True, slots=True)
class TwoByTwo:
    """How often two things happened together, alone or not at all.

    Raises:
        SettingError: A count is below 0.
    """

    both: int
    first_only: int
    second_only: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both, self.first_only, self.second_only, self.neither) < 0:
            raise SettingError(f"a count of {self} is below 0")

    @property
    def rows(self) -> int:
        """All that was counted."""
        return self.both + self.first_only + self.second_only + self.neither

    @classmethod
    def count(cls, first: Iterable[bool], second: Iterable[bool]) -> "TwoByTwo":
        """Count pairs.

        Example:
            >>> TwoByTwo.count([True, True, False], [True, False, False])
            TwoByTwo(both=1, first_only=1, second_only=0, neither=1)
        """
        cells = [0, 0, 0, 0]
        for one, other in zip(first, second, strict=True):
            cells[2 * (not one) + (not other)] += 1
        return cls(*cells)


@dataclass(frozen=True, slots=True)
class ChiSquared:
    """A test statistic of one degree of freedom.

    Args:
        statistic: Not a number where the counts allow none.
        p_value: Chance of one as large if nothing is going on.
    """

    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class OddsRatio:
    """By what factor the odds of one thing are higher where the other happened.

    Args:
        ratio: 1 where they have nothing to do with each other; not a number without counts.
        interval: Where it plausibly lies.
    """

    ratio: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class McNemar:
    """Whether two sides that were tried on the same rows succeed equally often.

    Args:
        first_only: Rows on which only the first side succeeded.
        second_only: Rows on which only the second did.
        p_value: Chance of counts as uneven as these if both succeed equally often.
        exact: Whether it was counted out or approximated.
    """

    first_only: int
    second_only: int
    p_value: float
    exact: bool


def chi_squared(table: TwoByTwo) -> ChiSquared:
    """Pearson's chi-squared test that two things are independent, without continuity correction.

    Example:
        >>> round(chi_squared(TwoByTwo(20, 10, 5, 15)).statistic, 3)
        8.333

    Source: K. Pearson, 1900.
    """
    a, b, c, d = table.both, table.first_only, table.second_only, table.neither
    margins = _margins(table)
    if margins == 0:
        return ChiSquared(nan, nan)
    return _tested(table.rows * (a * d - b * c) ** 2 / margins)


def odds_ratio(table: TwoByTwo, *, confidence: float = 0.95) -> OddsRatio:
    """The odds ratio of a table with an interval on its logarithm; where a cell is empty, one half is added to each.

    Where one of the two things always or never happens there is nothing to compare, and the ratio is no number.

    Source: B. Woolf, 1955; J. B. S. Haldane and F. J. Anscombe, 1956, for the halves.
    """
    z = _normal_bound(confidence)
    if not _margins(table):
        return OddsRatio(nan, None)
    cells = [float(cell) for cell in (table.both, table.first_only, table.second_only, table.neither)]
    if 0 in cells:
        cells = [cell + 0.5 for cell in cells]
    a, b, c, d = cells
    ratio = a * d / (b * c)
    half = z * sqrt(sum(1 / cell for cell in cells))
    return OddsRatio(ratio, Interval(ratio * exp(-half), ratio * exp(half)))


def cochran_mantel_haenszel(tables: Iterable[TwoByTwo], *, confidence: float = 0.95) -> tuple[ChiSquared, OddsRatio]:
    """Whether two things go together within strata, and the odds ratio that the strata share.

    Pooling strata of different difficulty makes things look related that are not; here each stratum is compared with
    what its own margins lead to expect. Strata in which one thing always or never happens say nothing and drop out.

    Returns:
        The test, without continuity correction, and the Mantel-Haenszel odds ratio with the interval of Robins,
        Breslow and Greenland; not a number, and no interval, where no stratum says anything.

    Source: W. G. Cochran, 1954; N. Mantel and W. Haenszel, 1959; J. Robins, N. Breslow and S. Greenland, 1986.
    """
    z = _normal_bound(confidence)
    excess = variance = agree = differ = 0.0
    spread_agree = spread_mixed = spread_differ = 0.0
    for table in tables:
        n = table.rows
        if n < 2:
            continue
        a, b, c, d = table.both, table.first_only, table.second_only, table.neither
        excess += a - (a + b) * (a + c) / n
        variance += (a + b) * (c + d) * (a + c) * (b + d) / (n * n * (n - 1))
        r, s = a * d / n, b * c / n
        p, q = (a + d) / n, (b + c) / n
        agree, differ = agree + r, differ + s
        spread_agree += p * r
        spread_mixed += p * s + q * r
        spread_differ += q * s
    test = _tested(excess * excess / variance) if variance > 0 else ChiSquared(nan, nan)
    if agree == 0 and differ == 0:
        return test, OddsRatio(nan, None)
    if agree == 0 or differ == 0:
        return test, OddsRatio(0.0 if agree == 0 else inf, None)
    ratio = agree / differ
    half = z * sqrt(
        spread_agree / (2 * agree**2) + spread_mixed / (2 * agree * differ) + spread_differ / (2 * differ**2)
    )
    return test, OddsRatio(ratio, Interval(exp(log(ratio) - half), exp(log(ratio) + half)))


def mcnemar(first_only: int, second_only: int) -> McNemar:
    """McNemar's test that two sides succeed equally often on the same rows.

    Only the rows count on which one side succeeded and the other did not. Up to 1,000 of them the chance is counted
    out; beyond, it is approximated by the chi-squared distribution with continuity correction.

    Raises:
        SettingError: A count is below 0.

    Example:
        >>> mcnemar(1, 8).p_value
        0.0390625

    Source: Q. McNemar, 1947; A. L. Edwards, 1948, for the correction.
    """
    if first_only < 0 or second_only < 0:
        raise SettingError(f"counts of {first_only} and {second_only} rows cannot be")
    rows = first_only + second_only
    if rows <= _MOST_EXACT:
        tail = sum(comb(rows, successes) for successes in range(min(first_only, second_only) + 1))
        # Whole numbers up to the division: no rounding, and nothing too small for a float.
        return McNemar(first_only, second_only, min(1.0, 2 * tail / 2**rows), exact=True)
    statistic = max(abs(first_only - second_only) - 1, 0) ** 2 / rows
    return McNemar(first_only, second_only, _tested(statistic).p_value, exact=False)


def _margins(table: TwoByTwo) -> int:
    a, b, c, d = table.both, table.first_only, table.second_only, table.neither
    return (a + b) * (c + d) * (a + c) * (b + d)


def _tested(statistic: float) -> ChiSquared:
    return ChiSquared(statistic, erfc(sqrt(statistic / 2)))


def _normal_bound(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise SettingError(f"a confidence of {confidence:g} is not between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
