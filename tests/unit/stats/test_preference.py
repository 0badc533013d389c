"""Length-controlled win rates and strengths: against data whose truth was planted, and against closed forms."""

import math

import numpy as np
import pytest

from pyllm.errors import SettingError
from pyllm.stats.preference import bradley_terry, length_controlled


def logistic(number):
    return 1 / (1 + np.exp(-number))


def planted(generator, *, prompts=400, preference=0.8, length=1.5, place=0.6, lean=120.0):
    """Verdicts in both orders by a judge with stated tastes; the first side's answers are longer by `lean`."""
    difference = np.repeat(generator.normal(lean, 200.0, prompts), 2)
    first = np.tile([1.0, -1.0], prompts)
    scale = np.sqrt(np.mean(difference**2))
    chance = logistic(preference + place * first + length * np.tanh(difference / scale))
    verdicts = (generator.random(2 * prompts) < chance).astype(float)
    return verdicts, difference, first, np.repeat(np.arange(prompts), 2)


class TestLengthControlled:
    def test_finds_what_was_planted_where_the_plain_rate_does_not(self):
        verdicts, difference, first, groups = planted(np.random.default_rng(0), prompts=4000, preference=-0.4)
        found = length_controlled(verdicts, difference, first, groups)
        truth = (logistic(-0.4 + 0.6) + logistic(-0.4 - 0.6)) / 2
        assert found.win_rate == pytest.approx(truth, abs=0.02)
        assert found.preference == pytest.approx(-0.4, abs=0.12)
        assert found.place == pytest.approx(0.6, abs=0.12)
        assert found.length == pytest.approx(1.5, abs=0.2)
        assert verdicts.mean() > 0.5 > found.win_rate  # length alone made the plain rate a win

    def test_its_interval_holds_the_truth_about_as_often_as_it_says(self):
        truth = (logistic(1.4) + logistic(0.2)) / 2
        generator = np.random.default_rng(1)
        held = 0
        for _ in range(200):
            found = length_controlled(*planted(generator, prompts=150))
            held += found.interval.low <= truth <= found.interval.high
        assert 178 <= held <= 200  # 0.95 of 200 is 190, and four deviations are 12

    def test_verdicts_said_twice_are_no_surer(self):
        columns = planted(np.random.default_rng(2), prompts=100)
        once = length_controlled(*columns)
        twice = length_controlled(*(np.concatenate([column, column]) for column in columns))
        width = once.interval.high - once.interval.low
        # The prior weighs a little less against twice the verdicts; counted as independent it would be 0.71.
        assert twice.interval.high - twice.interval.low == pytest.approx(width, rel=0.03)

    def test_a_judge_that_always_takes_the_first_gives_one_half(self):
        first = np.tile([1.0, -1.0], 50)
        verdicts = (first > 0).astype(float)
        found = length_controlled(verdicts, np.linspace(-9, 9, 100), first, np.repeat(np.arange(50), 2))
        assert found.win_rate == pytest.approx(0.5, abs=0.02)
        assert found.place > 3
        assert math.isfinite(found.place_interval.high)

    def test_swapping_the_sides_turns_everything_round(self):
        verdicts, difference, first, groups = planted(np.random.default_rng(4), prompts=60)
        here = length_controlled(verdicts, difference, first, groups)
        there = length_controlled(1 - verdicts, -difference, -first, groups)
        assert there.win_rate == pytest.approx(1 - here.win_rate)
        assert there.place == pytest.approx(here.place)
        assert there.length == pytest.approx(here.length)
        assert there.interval.low == pytest.approx(1 - here.interval.high)

    def test_ties_and_equal_lengths(self):
        found = length_controlled(np.full(8, 0.5), np.zeros(8), np.tile([1.0, -1.0], 4), np.repeat(np.arange(4), 2))
        assert found.win_rate == pytest.approx(0.5)
        assert found.length == 0.0

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda v, d, f, g: (v, d, f, np.zeros_like(g)), "fewer than two prompts"),
            (lambda v, d, f, g: (v * 2, d, f, g), "not from 0 to 1"),
            (lambda v, d, f, g: (v, d * np.nan, f, g), "not finite"),
        ],
    )
    def test_refuses(self, change, said):
        columns = planted(np.random.default_rng(5), prompts=10)
        with pytest.raises(SettingError, match=said):
            length_controlled(*change(*columns))


class TestBradleyTerry:
    def test_two_sides_have_a_closed_form(self):
        strengths = bradley_terry(np.array([[0.0, 70.0], [29.0, 0.0]]))
        assert strengths[0] - strengths[1] == pytest.approx(math.log(70.5 / 29.5))
        assert strengths.sum() == pytest.approx(0.0)

    def test_finds_planted_strengths(self):
        truth = np.array([-1.0, -0.2, 0.3, 0.9])
        chance = logistic(truth[:, None] - truth[None, :])
        wins = np.random.default_rng(0).binomial(20_000, np.triu(chance, 1))
        points = wins + np.tril(20_000 - wins.T, -1) * 1.0
        assert bradley_terry(points) == pytest.approx(truth, abs=0.03)

    def test_is_where_expected_and_counted_wins_agree(self):
        points = np.array([[0.0, 3.0, 5.5], [7.0, 0.0, 2.0], [4.5, 8.0, 0.0]])
        strengths = bradley_terry(points)
        wins = points + 0.5 * (1 - np.eye(3))
        expected = ((wins + wins.T) * logistic(strengths[:, None] - strengths[None, :]) * (1 - np.eye(3))).sum(axis=1)
        assert expected == pytest.approx(wins.sum(axis=1))

    def test_a_side_that_never_lost_has_a_finite_strength(self):
        assert np.isfinite(bradley_terry(np.array([[0.0, 9.0, 9.0], [0.0, 0.0, 4.0], [0.0, 5.0, 0.0]]))).all()

    def test_sides_that_never_met_are_refused(self):
        apart = np.zeros((4, 4))
        apart[0, 1] = apart[2, 3] = 1.0
        with pytest.raises(SettingError, match="never met"):
            bradley_terry(apart)
