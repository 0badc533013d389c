"""The memory of a dialogue equals its slow twin, and no policy ever exceeds the budget."""

from dataclasses import replace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pyllm.stream.memory import Memory
from pyllm.stream.policies import POLICY_NAMES, policy_of
from pyllm.stream.selection import SpanSources, highest
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.slow_memory import SlowMemory


@st.composite
def possible_budgets(draw):
    sinks, entropy, recent = draw(st.integers(0, 6)), draw(st.integers(0, 40)), draw(st.integers(0, 20))
    assume(entropy + recent > 0)
    return Budget(sinks, entropy, recent)


turns = st.lists(st.integers(1, 70), min_size=1, max_size=12)
decays = st.sampled_from([1.0, 0.5, 0.9, 0.0])


def scores_of(seed: int, turn: int, count: int, decay: float) -> list[float]:
    """Scores with exact ties; for a ratio that is no power of two, ties within a turn only."""
    random = np.random.default_rng([seed, turn])
    values = random.choice([0.0, 0.5, 1.0, 2.0, 4.0, 8.0], count)
    return values.tolist() if decay != 0.9 else (values * (1 + random.random())).tolist()


@settings(max_examples=200)
@given(
    possible_budgets(),
    turns,
    decays,
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["newer", "older"])),
    st.integers(0, 2**32),
)
def test_memory_is_its_slow_twin(budget, lengths, decay, rule, seed):
    after, before, ties = rule
    lazy = StreamSettings(budget=budget, decay=decay, span_after=after, span_before=before, ties=ties)
    memories = [Memory(each, policy_of(each)) for each in (lazy, replace(lazy, reference=True))]
    twin = SlowMemory(budget, decay, after, before, newer_first=ties == "newer")
    for turn, length in enumerate(lengths):
        scores = scores_of(seed, turn, length, decay)
        start = 0
        for piece in memories[0].pieces(length):
            expected = twin.make_room(piece)
            for memory in memories:
                kept = memory.make_room(piece, lambda: np.empty(0))
                assert (kept is None) == (expected is None)
                assert memory.positions.tolist() == twin.cached
            if start == 0 and turn:
                twin.fade()
                for memory in memories:
                    memory.decay()
            twin.read(scores[start : start + piece])
            for memory in memories:
                memory.append(np.array(scores[start : start + piece]))
                assert len(memory.positions) <= budget.tokens
            start += piece
        assert start == length


@given(possible_budgets(), turns, st.integers(0, 40), st.integers(0, 40), st.sampled_from(POLICY_NAMES))
def test_no_policy_exceeds_the_budget(budget, lengths, after, before, policy):
    chosen = StreamSettings(policy=policy, budget=budget, span_after=after, span_before=before)
    memory = Memory(chosen, policy_of(chosen))
    random = np.random.default_rng(0)
    sinks = set(range(min(budget.sinks, sum(lengths))))
    for length in lengths:
        for piece in memory.pieces(length):
            held = len(memory.positions)
            kept = memory.make_room(piece, lambda held=held: random.random(held))
            if kept is not None:
                # All of the room is used, and what was chosen was there.
                assert len(memory.positions) == budget.tokens - piece
            memory.append(random.random(piece))
            if memory.watches == "attention":
                memory.observe(random.random((piece, len(memory.positions))))
        if policy != "full":
            assert len(memory.positions) <= budget.tokens
        if policy != "window":
            assert sinks & set(range(memory.seen)) <= set(memory.positions.tolist())
        assert (np.diff(memory.positions) > 0).all()
    assert memory.seen == sum(lengths)
    if policy == "full":
        assert memory.positions.tolist() == list(range(memory.seen))


@given(possible_budgets(), turns, st.sampled_from(["sirllm", "h2o", "keydiff", "random"]), st.integers(0, 2**32))
def test_spans_of_nothing_are_the_rule_without_spans(budget, lengths, policy, seed):
    """The rule without spans, written out: the highest own scores, sinks, and the newest rest."""
    chosen = StreamSettings(policy=policy, budget=budget, span_after=0, span_before=0)
    memory = Memory(chosen, policy_of(chosen))
    random = np.random.default_rng(seed)
    for length in lengths:
        for piece in memory.pieces(length):
            held = len(memory.positions)
            similarity = random.random(held)
            own = {
                "sirllm": memory.nats,
                "h2o": memory.attention.total,
                "keydiff": -similarity,
                "random": np.random.default_rng([0, memory.evictions]).random(held),
            }[policy]
            if policy == "random":
                own[memory.held] = -np.inf
            before = memory.positions
            if memory.make_room(piece, lambda similarity=similarity: similarity) is not None:
                ranked = sorted(range(held), key=lambda place: (-own[place], -place))
                stays = set(ranked[: max(0, budget.entropy - piece)]) | set(np.flatnonzero(before < budget.sinks))
                newest = [place for place in reversed(range(held)) if place not in stays]
                stays |= set(newest[: budget.tokens - piece - len(stays)])
                assert memory.positions.tolist() == [int(before[place]) for place in sorted(stays)]
            memory.append(random.random(piece))
            if memory.watches == "attention":
                memory.observe(random.random((piece, len(memory.positions))))


@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, float("-inf")]), min_size=1, max_size=60),
    st.integers(-3, 70),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_highest_is_a_sort(scores, count, newer_first, has_own, seed):
    values = np.array(scores)
    own = np.random.default_rng(seed).integers(0, 3, len(scores)).astype(float) if has_own else None
    got = highest(values, count, newer_first=newer_first, own=own)
    ranked = sorted(
        range(len(scores)),
        key=lambda place: (-values[place], 0.0 if own is None else -own[place], -place if newer_first else place),
    )
    assert sorted(got.tolist()) == sorted(ranked[: max(0, count)])


@given(st.integers(0, 70), st.integers(0, 70), st.lists(st.integers(1, 30), min_size=2, max_size=8), st.integers(0, 99))
def test_spread_is_the_maximum_of_a_window_over_everything_read(after, before, lengths, seed):
    """Whatever was evicted meanwhile, at random."""
    random = np.random.default_rng(seed)
    sources = SpanSources(after, before)
    history: list[float] = []
    cached = np.empty(0, np.int64)
    for length in lengths:
        cached = np.concatenate([cached, np.arange(length) + len(history)])
        history += random.random(length).tolist()
        sources.append(length)
        own = np.array(history)[cached]
        got = sources.spread(own)
        assert got.tolist() == [max(history[max(0, at - after) : at + before + 1]) for at in cached]
        kept = np.flatnonzero(random.random(len(cached)) < 0.6)
        cached = cached[kept]
        sources.keep(kept, cached, len(history))
        if sources.widens:
            assert len(sources.values) <= len(cached) * (after + before + 1) + after
