"""Area under the ROC curve against its definition, pair by pair."""

import random

import numpy as np
import pytest

from pyllm.errors import SettingError
from pyllm.stats import area_under_roc


def area_by_pairs(scores, positive):
    """The obvious twin: every positive against every negative, a tie is half a win."""
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, first in zip(scores, positive, strict=True)
        if first
        for other, second in zip(scores, positive, strict=True)
        if not second
    ]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("seed", range(25))
def test_agrees_with_every_pair_compared(seed):
    generator = random.Random(seed)
    rows = generator.randrange(2, 80)
    levels = generator.choice([1, 2, 5, 1000])
    scores = [generator.randrange(levels) / levels for _ in range(rows)]
    positive = [True, False] + [generator.random() < 0.4 for _ in range(rows - 2)]
    found = area_under_roc(np.array(scores), np.array(positive))
    assert found == pytest.approx(area_by_pairs(scores, positive), abs=1e-12)


def test_perfect_reversed_and_uninformative_scores():
    labels = np.array([True, True, False, False])
    assert area_under_roc(np.array([0.9, 0.8, 0.2, 0.1]), labels) == 1.0
    assert area_under_roc(np.array([0.1, 0.2, 0.8, 0.9]), labels) == 0.0
    assert area_under_roc(np.full(4, 0.3), labels) == 0.5


def test_infinite_scores_are_ordered():
    assert area_under_roc(np.array([np.inf, -np.inf]), np.array([True, False])) == 1.0


def test_what_has_no_area_is_refused():
    with pytest.raises(SettingError, match="needs both kinds of rows \\(2 of 2\\)"):
        area_under_roc(np.array([0.1, 0.2]), np.array([True, True]))
    with pytest.raises(SettingError, match="1 of 2 scores are NaN"):
        area_under_roc(np.array([0.1, np.nan]), np.array([True, False]))
