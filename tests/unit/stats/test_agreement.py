"""Cohen's kappa against published and hand-counted tables."""

import random
from math import isnan

import pytest

from pyllm.errors import SettingError
from pyllm.stats.agreement import cohen_kappa


def spread(table):
    """The labels of two people from a table of counts."""
    first, second = [], []
    for row, counts in enumerate(table):
        for column, count in enumerate(counts):
            first += [row] * count
            second += [column] * count
    return first, second


def test_cohens_own_example():
    """J. Cohen 1960, table 1, in shares of 200 cases: observed .70, expected .41, kappa .492."""
    table = [[88, 14, 18], [10, 40, 10], [2, 6, 12]]
    result = cohen_kappa(*spread(table), seed=0)
    assert result.observed == pytest.approx(0.70)
    assert result.expected == pytest.approx(0.41)
    assert result.kappa == pytest.approx(0.492, abs=5e-4)
    assert result.items == 200
    # Fleiss, Cohen and Everitt's standard error is about .05: 1.96 of them each way.
    assert result.interval.low == pytest.approx(0.392, abs=0.02)
    assert result.interval.high == pytest.approx(0.592, abs=0.02)


def test_two_labels_by_hand():
    result = cohen_kappa(*spread([[20, 5], [10, 15]]), seed=0)
    assert result.kappa == pytest.approx(0.4)


def test_ends():
    assert cohen_kappa("ab", "ab", seed=0).kappa == 1
    assert cohen_kappa("ab", "ba", seed=0).kappa == -1
    same = cohen_kappa("aa", "aa", seed=0)
    assert isnan(same.kappa)
    assert same.interval is None
    assert same.observed == 1


def test_interval_is_that_of_drawing_items():
    generator = random.Random(4)
    first, second = spread([[30, 8], [6, 16]])
    drawn = []
    for _ in range(4_000):
        places = generator.choices(range(len(first)), k=len(first))
        one, other = [first[place] for place in places], [second[place] for place in places]
        observed = sum(a == b for a, b in zip(one, other, strict=True)) / len(one)
        expected = sum(one.count(label) * other.count(label) for label in (0, 1)) / len(one) ** 2
        drawn.append((observed - expected) / (1 - expected))
    drawn.sort()
    interval = cohen_kappa(first, second, seed=0).interval
    assert interval.low == pytest.approx(drawn[100], abs=0.02)
    assert interval.high == pytest.approx(drawn[3_900], abs=0.02)


def test_the_order_of_items_does_not_matter():
    first, second = spread([[5, 2], [1, 4]])
    assert cohen_kappa(first, second, seed=1).kappa == cohen_kappa(first[::-1], second[::-1], seed=1).kappa


@pytest.mark.parametrize(("first", "second"), [("", ""), ("a", "ab")])
def test_what_cannot_be_compared_is_refused(first, second):
    with pytest.raises(SettingError):
        cohen_kappa(first, second, seed=0)
