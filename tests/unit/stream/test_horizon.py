"""Decay that follows from a horizon: against a slow twin, and what must hold whatever the scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.errors import SettingError
from pyllm.stream.horizon import KEY_SHARE, LARGEST_SHARE, MEMORY_TOKENS, STEPS, ScoreHistory
from pyllm.stream.memory import Memory
from pyllm.stream.policies import policy_of
from pyllm.stream.settings import Budget, StreamSettings

SCORES = st.one_of(
    st.floats(0.0, 20.0), st.sampled_from([0.0, 1e-9, 1e-4, 1.0, 1e4, 1e300]), st.just(float("inf")), st.just(2.5)
)
TURNS = st.lists(st.lists(SCORES, min_size=1, max_size=30), min_size=1, max_size=8)
BUDGETS = st.builds(Budget, st.integers(0, 4), st.integers(1, 120), st.integers(0, 20))


def history_of(turns):
    history = ScoreHistory()
    for turn in turns:
        history.add(np.array(turn))
        history.end_turn()
    return history


def slow_ratio(turns, horizon, budget):
    """Every candidate tried, token by token."""
    told, read = [], sum(map(len, turns))
    weight_of_turns, before = 0.0, 0
    for turn in turns:
        before += len(turn)
        # A turn fades by its own tokens too, and by all that came behind it.
        weight = (1 - 1 / MEMORY_TOKENS) ** (read - before + len(turn))
        weight_of_turns += weight
        told += [(round(STEPS * math.log(min(max(score, 1e-4), 1e4))), weight) for score in turn]
    total = sum(weight for _, weight in told)
    key = max(level for level, _ in told if sum(w for other, w in told if other >= level) >= KEY_SHARE * total)
    a_turn = total / weight_of_turns
    coming = budget.pieces(max(1, round(a_turn)))[0]
    wanted = total * min(max(1, budget.entropy - coming) / a_turn, LARGEST_SHARE * horizon) * (1 - 1e-9)

    def filled(step):
        return sum(
            weight for level, weight in told for turn in range(1, horizon + 1) if level >= key - turn * step - 1e-9
        )

    steps = {0.0} | {max(0, key - level) / turn for level, _ in told for turn in range(1, horizon + 1)}
    return math.exp(-min(step for step in steps if filled(step) >= wanted) / STEPS)


@settings(max_examples=40, deadline=None)
@given(TURNS, st.integers(1, 9), BUDGETS)
def test_against_trying_every_ratio(turns, horizon, budget):
    assert history_of(turns).ratio(horizon, budget) == pytest.approx(slow_ratio(turns, horizon, budget), rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(TURNS, BUDGETS, st.lists(st.integers(1, 10**9), min_size=2, max_size=5))
def test_a_longer_horizon_never_makes_the_ratio_smaller(turns, budget, horizons):
    history = history_of(turns)
    ratios = [history.ratio(horizon, budget) for horizon in sorted([*horizons, *range(1, 5)])]
    assert all(0.0 < ratio <= 1.0 for ratio in ratios)
    assert ratios == sorted(ratios)
    assert history.ratio(10**12, budget) == 1.0


def test_what_nothing_was_read_of_does_not_fade():
    assert ScoreHistory().ratio(5, Budget()) == 1.0
    assert history_of([[], []]).ratio(5, Budget()) == 1.0


@pytest.mark.parametrize("score", [0.0, 3.0, float("inf")])
def test_equal_scores_do_not_fade(score):
    assert history_of([[score] * 40] * 5).ratio(3, Budget(4, 60, 8)) == 1.0


def test_after_one_turn_a_key_token_is_worth_a_middling_new_one():
    scores = np.exp(np.linspace(-2, 2, 65))  # the median is 1
    ratio = history_of([scores.tolist()] * 3).ratio(1, Budget(0, 10_000, 0))
    assert ratio * scores[-1] == pytest.approx(1.0, rel=1 / STEPS)


@pytest.mark.parametrize(
    ("horizon", "budget"), [(10, Budget(4, 220, 32)), (40, Budget(4, 220, 32)), (10, Budget(0, 90, 0))]
)
def test_the_cache_remembers_as_far_as_the_horizon(horizon, budget):
    """Long after the beginning, hardly anything is older, and much is not much younger."""
    memory = Memory(made := StreamSettings(budget=budget, horizon_turns=horizon), policy_of(made))
    draw = np.random.default_rng(0)
    oldest, beyond = [], []
    for turn in range(160):
        memory.begin_turn()
        count = int(draw.integers(40, 80))
        memory.make_room(count, lambda: np.empty(0))
        if turn:
            memory.decay()
        if turn > 100:
            beyond.append(memory.share_beyond(horizon))
            oldest.append(np.quantile(memory.turn - memory.turns[memory.positions >= budget.sinks], 0.95))
        memory.append(draw.gamma(0.6, 3.5, count))
        assert len(memory.positions) <= budget.tokens
    assert np.mean(beyond) < 0.02
    assert 0.4 * horizon < np.mean(oldest) <= horizon


def test_neither_old_extremes_nor_amnesia():
    """Early tokens of twice the later scores fill a cache that does not fade; one with a horizon lets go of them."""
    shares = {}
    for name, fading in (("rigid", {}), ("amnesia", {"decay": 0.1}), ("auto", {"horizon_turns": 20})):
        made = StreamSettings(budget=Budget(0, 100, 0), **fading)
        memory, draw = Memory(made, policy_of(made)), np.random.default_rng(1)
        for turn in range(120):
            memory.begin_turn()
            memory.make_room(20, lambda: np.empty(0))
            if turn:
                memory.decay()
            memory.append(draw.gamma(2.0, 1.0 + (turn < 20), 20))
        ages = memory.turn - memory.turns
        shares[name] = np.mean(ages > 20), np.mean((ages > 8) & (ages <= 20))
    assert shares["rigid"][0] > 0.5
    assert shares["amnesia"] == (0.0, 0.0)
    assert shares["auto"][0] < 0.05
    assert shares["auto"][1] > 0.1


@pytest.mark.parametrize("spans", [(0, 0), (3, 2)])
def test_lazy_decay_keeps_what_multiplying_keeps(spans):
    """With ratios that change every turn; the published code's way multiplies every score."""
    kept = []
    for reference in (False, True):
        made = StreamSettings(
            budget=Budget(2, 40, 6), horizon_turns=4, span_after=spans[0], span_before=spans[1], reference=reference
        )
        memory, draw, seen = Memory(made, policy_of(made)), np.random.default_rng(2), []
        for turn in range(60):
            memory.begin_turn()
            count = int(draw.integers(5, 20))
            memory.make_room(count, lambda: np.empty(0))
            if turn:
                memory.decay()
            memory.append(draw.gamma(0.8, 3.0, count))
            seen.append((memory.ratio, memory.positions.tolist()))
        kept.append(seen)
    assert kept[0] == kept[1]
    assert len({ratio for ratio, _ in kept[0]}) > 10


def test_only_what_was_read_before_decides():
    """Two dialogues that differ from the tenth turn on have had the same ratios until then."""
    ratios = []
    for later in (1.0, 100.0):
        made = StreamSettings(budget=Budget(0, 50, 0), horizon_turns=5)
        memory, draw, seen = Memory(made, policy_of(made)), np.random.default_rng(3), []
        for turn in range(20):
            memory.begin_turn()
            memory.make_room(15, lambda: np.empty(0))
            memory.decay()
            seen.append(memory.ratio)
            memory.append(draw.gamma(1.0, 2.0, 15) ** (later if turn >= 10 else 1.0))
        ratios.append(seen)
    assert ratios[0][:11] == ratios[1][:11]
    assert ratios[0][11:] != ratios[1][11:]


def test_a_memory_goes_on_from_its_state():
    made = StreamSettings(budget=Budget(2, 30, 4), horizon_turns=3)
    draw = np.random.default_rng(4)
    turns = [draw.gamma(1.0, 2.0, int(draw.integers(3, 12))) for _ in range(24)]

    def go(memory, some):
        for turn in some:
            memory.begin_turn()
            memory.make_room(len(turn), lambda: np.empty(0))
            if memory.turn:
                memory.decay()
            memory.append(turn)

    whole, first, second = (Memory(made, policy_of(made)) for _ in range(3))
    go(whole, turns)
    go(first, turns[:11])
    second.restore({name: part.copy() for name, part in first.state().items()})
    go(second, turns[11:])
    assert whole.ratio == second.ratio < 1.0
    for name, part in whole.state().items():
        np.testing.assert_array_equal(part, second.state()[name])


def test_a_first_token_that_is_scored_again_counts_once():
    """Its score grows with its turn's largest; the counts are those of a turn that came at once."""
    made = StreamSettings(horizon_turns=3)
    memory = Memory(made, policy_of(made))
    memory.begin_turn()
    memory.append(np.array([1.0, 1.0]))
    memory.append(np.array([7.0]))
    memory.rescore(0, 7.0)
    np.testing.assert_array_equal(memory.history.counts, history_now([7.0, 1.0, 7.0]).counts)


def history_now(nats):
    history = ScoreHistory()
    history.add(np.array(nats))
    return history


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"horizon_turns": 0}, "horizon turns is 0: it must be 1 or more"),
        ({"horizon_turns": 5, "decay": 0.9}, "decay is 0.9, and a horizon of 5 turns decides it too"),
    ],
)
def test_settings_that_cannot_be(values, message):
    with pytest.raises(SettingError, match=message):
        StreamSettings(**values)


def test_settings_as_a_session_keeps_them():
    auto = StreamSettings(horizon_turns=7)
    assert auto.as_dict()["horizon_turns"] == 7
    assert StreamSettings.from_dict(auto.as_dict()) == auto
    # A session that was made before there were horizons goes on.
    assert "horizon_turns" not in StreamSettings().as_dict()
    assert StreamSettings.from_dict(StreamSettings(decay=0.5).as_dict()) == StreamSettings(decay=0.5)
