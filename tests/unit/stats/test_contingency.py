"""Tests on two-by-two tables against published worked examples and against counting out every table."""

from fractions import Fraction
from math import comb, inf, isnan

import pytest

from pyllm.errors import SettingError
from pyllm.stats.contingency import TwoByTwo, chi_squared, cochran_mantel_haenszel, mcnemar, odds_ratio

# Admissions to six departments of Berkeley, 1973: admitted and rejected men, admitted and rejected women
# (P. Bickel, E. Hammel and J. O'Connell, 1975).
ADMISSIONS = [
    TwoByTwo(512, 313, 89, 19),
    TwoByTwo(353, 207, 17, 8),
    TwoByTwo(120, 205, 202, 391),
    TwoByTwo(138, 279, 131, 244),
    TwoByTwo(53, 138, 94, 299),
    TwoByTwo(22, 351, 24, 317),
]


def test_within_departments_admission_has_nothing_to_do_with_sex():
    """R's documentation of `mantelhaen.test` prints 1.5246, p 0.2169, 0.9046968 and 0.7719074 to 1.0603298."""
    test, common = cochran_mantel_haenszel(ADMISSIONS)
    assert test.statistic == pytest.approx(1.5246, abs=5e-5)
    assert test.p_value == pytest.approx(0.2169, abs=5e-5)
    assert common.ratio == pytest.approx(0.9046968, abs=5e-8)
    assert common.interval.low == pytest.approx(0.7719074, abs=5e-8)
    assert common.interval.high == pytest.approx(1.0603298, abs=5e-8)


def test_pooled_it_seems_to():
    pooled = TwoByTwo(*(sum(getattr(table, cell) for table in ADMISSIONS) for cell in TwoByTwo.__slots__))
    assert (pooled.both, pooled.first_only, pooled.second_only, pooled.neither) == (1198, 1493, 557, 1278)
    assert chi_squared(pooled).statistic == pytest.approx(92.205, abs=5e-4)
    assert odds_ratio(pooled).ratio == pytest.approx(1.84108, abs=5e-6)


def test_chi_squared_is_the_sum_over_cells():
    table = TwoByTwo(20, 10, 5, 15)
    cells = [(20, 30 * 25), (10, 30 * 25), (5, 20 * 25), (15, 20 * 25)]
    by_hand = sum((count - margins / 50) ** 2 / (margins / 50) for count, margins in cells)
    assert chi_squared(table).statistic == pytest.approx(by_hand)
    # The 5 % and 1 % points of one degree of freedom.
    assert chi_squared(TwoByTwo(0, 1, 1, 0)).p_value == pytest.approx(0.157299, abs=1e-6)  # a statistic of 2


def test_odds_ratio_and_its_interval():
    result = odds_ratio(TwoByTwo(20, 10, 5, 15))
    assert result.ratio == 6
    # exp(ln 6 -+ 1.959964 sqrt(1/20 + 1/10 + 1/5 + 1/15))
    assert result.interval.low == pytest.approx(1.6933, abs=1e-3)
    assert result.interval.high == pytest.approx(21.26, abs=1e-2)


def test_empty_cells_get_a_half():
    assert odds_ratio(TwoByTwo(3, 0, 1, 2)).ratio == pytest.approx(3.5 * 2.5 / (0.5 * 1.5))


def test_what_says_nothing_is_no_number():
    assert isnan(chi_squared(TwoByTwo(3, 4, 0, 0)).statistic)
    assert odds_ratio(TwoByTwo(0, 0, 0, 0)).interval is None
    test, common = cochran_mantel_haenszel([TwoByTwo(3, 0, 0, 0), TwoByTwo(0, 0, 0, 1)])
    assert isnan(test.statistic)
    assert isnan(common.ratio)
    assert cochran_mantel_haenszel([TwoByTwo(3, 0, 0, 3)])[1].ratio == inf


def test_mcnemar_is_counted_out():
    for first in range(8):
        for second in range(8):
            rows = first + second
            as_uneven = [k for k in range(rows + 1) if abs(2 * k - rows) >= abs(first - second)]
            chance = Fraction(sum(comb(rows, k) for k in as_uneven), 2**rows)
            assert mcnemar(first, second).p_value == pytest.approx(float(chance))
    assert mcnemar(0, 0).p_value == 1
    assert mcnemar(1, 8).p_value == 0.0390625


def test_mcnemar_of_many_rows_is_approximated_closely():
    """At the border both ways are at hand."""
    counts = 440, 560
    exact = mcnemar(*counts)
    near = mcnemar(counts[0], counts[1] + 1)
    assert exact.exact
    assert not near.exact
    assert near.p_value == pytest.approx(exact.p_value, rel=0.1)
    assert mcnemar(900, 101).p_value < 1e-100


def test_counts_below_zero_are_refused():
    with pytest.raises(SettingError):
        TwoByTwo(1, -1, 0, 0)
    with pytest.raises(SettingError):
        mcnemar(-1, 2)
    with pytest.raises(SettingError):
        odds_ratio(TwoByTwo(1, 1, 1, 1), confidence=1.0)
