"""Drawing counts of kinds against drawing rows one by one."""

import random
import time

import numpy as np
import pytest

from pyllm.errors import SettingError
from pyllm.stats.resampling import drawn_ratios, ratio_interval


def slow_ratios(sums, sizes, *, resamples, seed):
    generator = random.Random(seed)
    rows = range(len(sums))
    drawn = []
    for _ in range(resamples):
        places = generator.choices(rows, k=len(sums))
        drawn.append(sum(sums[place] for place in places) / sum(sizes[place] for place in places))
    return drawn


@pytest.mark.parametrize("kinds", ["few", "as many as rows"])
def test_the_distribution_is_that_of_drawing_rows(kinds):
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 4, 60).astype(float)
    sums = sizes * generator.choice([0.0, 0.5, 1.0], 60) if kinds == "few" else sizes * generator.random(60)
    fast = drawn_ratios(sums, sizes, seed=1, resamples=20_000)
    slow = np.array(slow_ratios(sums, sizes, resamples=20_000, seed=2))
    marks = [0.025, 0.25, 0.5, 0.75, 0.975]
    assert np.quantile(fast, marks) == pytest.approx(np.quantile(slow, marks), abs=0.01)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.002)


def test_the_same_seed_draws_the_same():
    sums, sizes = np.array([0.0, 1.0, 1.0, 0.5]), np.ones(4)
    assert (drawn_ratios(sums, sizes, seed=5) == drawn_ratios(sums, sizes, seed=5)).all()
    assert (drawn_ratios(sums, sizes, seed=5) != drawn_ratios(sums, sizes, seed=6)).any()


def test_ten_thousand_verdicts_take_a_moment():
    sums = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 10_000)
    began = time.process_time()
    interval = ratio_interval(sums, np.ones(10_000), seed=0)
    assert time.process_time() - began < 1.0
    assert interval.low < sums.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * sums.std() / 100, rel=0.05)


@pytest.mark.parametrize(("sums", "sizes"), [([], []), ([1.0], [0.0]), ([np.nan], [1.0])])
def test_refuses(sums, sizes):
    with pytest.raises(SettingError):
        ratio_interval(np.array(sums), np.array(sizes), seed=0)
