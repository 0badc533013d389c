"""The bootstrap over counts against the one that draws rows, and on data whose truth is known."""

import numpy as np
import pytest

from pyllm.errors import SettingError
from pyllm.stats import resampling
from pyllm.stats.bootstrap import paired_bootstrap
from pyllm.stats.resampling import bootstrap_counts, bootstrap_mean


def test_agrees_with_drawing_rows():
    generator = np.random.default_rng(1)
    first, second = (generator.integers(0, 2, 200).astype(float) for _ in range(2))
    counts = bootstrap_mean(first - second, seed=0, resamples=40_000)
    rows = paired_bootstrap(first, second, seed=0, resamples=40_000)
    assert counts.difference == pytest.approx(rows.difference)
    assert counts.rows == rows.rows
    assert counts.interval.low == pytest.approx(rows.interval.low, abs=0.006)
    assert counts.interval.high == pytest.approx(rows.interval.high, abs=0.006)


def test_many_values_are_drawn_by_row(monkeypatch):
    values = np.random.default_rng(2).random(150)
    by_row = bootstrap_mean(values, seed=0, resamples=20_000)
    monkeypatch.setattr(resampling, "_MOST_VALUES", 1_000)
    by_count = bootstrap_mean(values, seed=0, resamples=20_000)
    assert by_row.difference == by_count.difference
    assert by_row.interval.low == pytest.approx(by_count.interval.low, abs=0.002)
    assert by_row.interval.high == pytest.approx(by_count.interval.high, abs=0.002)


def test_blocks_do_not_matter_for_what_is_drawn(monkeypatch):
    values = np.random.default_rng(2).random(100)
    whole = bootstrap_mean(values, seed=0, resamples=500)
    monkeypatch.setattr(resampling, "_BLOCK_DRAWS", 700)
    assert bootstrap_mean(values, seed=0, resamples=500) == whole


def test_strata_weigh_the_same_and_are_drawn_within():
    values = np.array([1.0] * 90 + [0.0] * 10)
    strata = np.array(["a"] * 90 + ["b"] * 10)
    result = bootstrap_mean(values, strata=strata, seed=0)
    assert result.difference == 0.5
    assert result.interval.low == result.interval.high == 0.5  # nothing varies within a stratum


def test_interval_of_a_share_is_close_to_the_normal_one():
    values = np.array([1.0] * 400 + [0.0] * 600)
    half = 1.96 * (0.4 * 0.6 / 1000) ** 0.5
    interval = bootstrap_mean(values, seed=0, resamples=20_000).interval
    assert interval.low == pytest.approx(0.4 - half, abs=0.002)
    assert interval.high == pytest.approx(0.4 + half, abs=0.002)


def test_counts_are_of_as_many_rows():
    drawn = bootstrap_counts(np.array([3, 0, 7]), seed=0, resamples=50)
    assert (drawn.sum(axis=1) == 10).all()
    assert (drawn[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([], {}),
        ([float("nan")], {}),
        ([1.0], {"resamples": 0}),
        ([1.0], {"confidence": 1.0}),
    ],
)
def test_what_cannot_be_drawn_is_refused(values, options):
    with pytest.raises(SettingError):
        bootstrap_mean(np.array(values, dtype=float), seed=0, **options)
