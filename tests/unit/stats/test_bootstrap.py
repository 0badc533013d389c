"""The paired bootstrap against a twin that draws row by row, and its coverage on data whose truth is known."""

import random

import numpy as np
import pytest

from pyllm.errors import SettingError
from pyllm.stats import bootstrap
from pyllm.stats.bootstrap import paired_bootstrap


def slow_interval(first, second, sizes, second_sizes, *, resamples=20_000, seed=0):
    """The obvious twin: rows drawn one by one, sums by hand, the interval read off the sorted differences."""
    generator = random.Random(seed)
    rows = len(first)
    drawn = []
    for _ in range(resamples):
        places = [generator.randrange(rows) for _ in range(rows)]
        ours = sum(first[place] for place in places) / sum(sizes[place] for place in places)
        theirs = sum(second[place] for place in places) / sum(second_sizes[place] for place in places)
        drawn.append(ours - theirs)
    drawn.sort()
    return drawn[round(0.025 * resamples)], drawn[round(0.975 * resamples)]


@pytest.mark.parametrize("kind", ["mean", "shared sizes", "own sizes"])
def test_agrees_with_drawing_row_by_row(kind):
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 30, 12).astype(float)
    second_sizes = sizes + generator.integers(0, 4, 12)
    first = sizes * generator.normal(2.0, 0.3, 12)
    second = sizes * generator.normal(2.2, 0.3, 12)
    ones = np.ones(12)
    given = {"mean": {}, "shared sizes": {"sizes": sizes}, "own sizes": {"sizes": sizes, "second_sizes": second_sizes}}
    used = {"mean": (ones, ones), "shared sizes": (sizes, sizes), "own sizes": (sizes, second_sizes)}[kind]
    found = paired_bootstrap(first, second, **given[kind], seed=5, resamples=40_000)
    assert found.difference == pytest.approx(first.sum() / used[0].sum() - second.sum() / used[1].sum(), abs=1e-12)
    low, high = slow_interval(first.tolist(), second.tolist(), used[0].tolist(), used[1].tolist())
    width = high - low
    assert found.interval.low == pytest.approx(low, abs=0.03 * width)
    assert found.interval.high == pytest.approx(high, abs=0.03 * width)
    assert found.rows == 12


@pytest.mark.parametrize("ratio", [False, True])
def test_an_interval_of_95_percent_holds_the_truth_about_95_times_in_100(ratio):
    generator = np.random.default_rng(11)
    held = trials = 0
    for trial in range(600):
        # Losses are skewed, rows are hard for both sides at once, and long rows differ by more.
        tokens = generator.integers(2, 40, 120).astype(float)
        hardness = generator.exponential(1.0, 120)
        gap = 0.1 + 0.4 * generator.normal(size=120) + (0.01 * tokens if ratio else 0.0)
        truth = 0.1
        first, second = hardness + gap, hardness
        if ratio:
            # E[tokens (0.1 + 0.01 tokens)] / E[tokens], tokens being uniform from 2 to 39.
            values = np.arange(2, 40)
            truth = 0.1 + 0.01 * (values**2).mean() / values.mean()
            first, second = tokens * first, tokens * second
        found = paired_bootstrap(first, second, sizes=tokens if ratio else None, seed=trial, resamples=400)
        held += found.interval.low <= truth <= found.interval.high
        trials += 1
    # The standard error of the share is 0.9 %; percentile intervals on 120 rows are a little too narrow.
    assert 0.92 <= held / trials <= 0.975


def test_pairing_takes_out_what_is_hard_for_both():
    generator = np.random.default_rng(0)
    hardness = generator.normal(10.0, 5.0, 200)
    found = paired_bootstrap(hardness + 0.1, hardness, seed=0)
    assert found.interval.low == pytest.approx(0.1, abs=1e-9)
    assert found.is_shown
    assert not paired_bootstrap(hardness, hardness, seed=0).is_shown


def test_blocks_do_not_change_the_draws(monkeypatch):
    generator = np.random.default_rng(1)
    first, second, sizes = generator.random(37), generator.random(37), generator.integers(1, 9, 37).astype(float)
    whole = paired_bootstrap(first, second, sizes=sizes, seed=4, resamples=501)
    monkeypatch.setattr(bootstrap, "_BLOCK_DRAWS", 100)
    assert paired_bootstrap(first, second, sizes=sizes, seed=4, resamples=501) == whole
    assert paired_bootstrap(first, second, sizes=sizes, seed=5, resamples=501) != whole


def test_swapping_the_sides_turns_the_interval_round():
    generator = np.random.default_rng(2)
    first, second = generator.random(50), generator.random(50)
    there, back = paired_bootstrap(first, second, seed=0), paired_bootstrap(second, first, seed=0)
    assert back.difference == pytest.approx(-there.difference)
    assert (back.interval.low, back.interval.high) == pytest.approx((-there.interval.high, -there.interval.low))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"first": np.ones(1), "second": np.ones(1)}, "1 rows are too few"),
        ({"first": np.array([1.0, np.nan, 1.0])}, "not finite"),
        ({"sizes": np.array([1.0, -1.0, 1.0])}, "a size is below 0"),
        ({"sizes": np.zeros(3)}, "all of them are 0"),
        ({"second_sizes": np.ones(3)}, "not for the first"),
        ({"resamples": 0}, "0 resamples are below 1"),
        ({"confidence": 1.0}, "a confidence of 1 is not between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(changed, message):
    arguments = {"first": np.ones(3), "second": np.zeros(3), "seed": 0, **changed}
    with pytest.raises(SettingError, match=message):
        paired_bootstrap(**arguments)


def test_sides_of_unequal_length_are_refused():
    # Past the check of shapes, which users do not run.
    with pytest.raises(SettingError, match="differ in number of rows: 3, 4"):
        bootstrap._check([np.ones(3), np.ones(4)], 1, 0.95)
