"""Standard errors and Wilson intervals against published and exact values."""

from math import comb, sqrt

import pytest

from pyllm.errors import SettingError
from pyllm.stats import Interval, binomial_standard_error, wilson_interval


def test_standard_error_of_a_share():
    assert binomial_standard_error(0.5, 100) == pytest.approx(0.05)
    assert binomial_standard_error(0.85, 1000) == pytest.approx(sqrt(0.85 * 0.15 / 1000))
    assert binomial_standard_error(1.0, 10) == 0.0


def test_wilson_matches_published_values():
    # Newcombe 1998, table I, method 3.
    for successes, trials, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        interval = wilson_interval(successes, trials)
        assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_wilson_is_symmetric_and_stays_inside_the_unit_range():
    for successes in range(11):
        here, there = wilson_interval(successes, 10), wilson_interval(10 - successes, 10)
        assert here.low == pytest.approx(1 - there.high)
        assert 0 <= here.low <= successes / 10 <= here.high <= 1


def test_wilson_holds_the_truth_about_as_often_as_it_says():
    # Exact coverage at one point, by adding up the binomial.
    trials, truth = 100, 0.8
    covered = sum(
        comb(trials, hits) * truth**hits * (1 - truth) ** (trials - hits)
        for hits in range(trials + 1)
        if wilson_interval(hits, trials).low <= truth <= wilson_interval(hits, trials).high
    )
    assert 0.93 < covered < 0.97


def test_more_confidence_is_wider():
    assert wilson_interval(8, 10, confidence=0.99).low < wilson_interval(8, 10, confidence=0.9).low


def test_impossible_counts_are_refused():
    for call in (
        lambda: binomial_standard_error(1.1, 10),
        lambda: binomial_standard_error(0.5, 0),
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(1, 2, confidence=1.0),
        lambda: Interval(2.0, 1.0),
    ):
        with pytest.raises(SettingError):
            call()
