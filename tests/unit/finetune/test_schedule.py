"""Which examples make which step, and how a step is cut into forward passes."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data.tokens import MASKED
from pyllm.finetune.schedule import TrainingSchedule, by_examples, by_packs, deal, epoch_order
from pyllm.finetune.sequences import Sequences

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=24)


def sequences_of(lengths: list[int], packs: list[int] | None = None) -> Sequences:
    """Examples of given lengths, whose first token is not trained; `packs` counts the examples of each."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(starts[-1], dtype=np.uint32)
    labels = ids.astype(np.int32)
    labels[starts[:-1]] = MASKED
    ends = np.cumsum(packs if packs is not None else [1] * len(lengths))
    return Sequences(ids, labels, starts, np.concatenate([[0], ends]), tuple(map(str, range(len(lengths)))))


def steps_of(schedule: TrainingSchedule) -> list[list[int]]:
    """The examples of each step."""
    count = schedule.passes_per_step
    assert len(schedule.passes) == count * schedule.steps
    parts = [schedule.passes[first : first + count] for first in range(0, len(schedule.passes), count)]
    return [[place for each in part for place in each] for part in parts]


PLANS = st.fixed_dictionaries(
    {
        "examples": st.integers(1, 9),
        "epochs": st.sampled_from([0.3, 1.0, 1.5, 2.0, 3.0]),
        "pass_tokens": st.integers(1, 100),
        "seed": st.integers(0, 3),
        "processes": st.integers(1, 3),
    }
)


@given(lengths=LENGTHS, plan=PLANS)
def test_steps_of_examples(lengths: list[int], plan: dict[str, Any]) -> None:
    schedule = by_examples(sequences_of(lengths), **plan)
    steps = steps_of(schedule)
    wanted = max(1, round(plan["epochs"] * len(lengths)))
    assert [len(step) for step in steps[:-1]] == [plan["examples"]] * (len(steps) - 1)
    assert sum(map(len, steps)) == wanted
    assert 1 <= len(steps[-1]) <= plan["examples"]
    # Each example once an epoch, in an order that the slow way gives too; within a step the order is that of passes.
    stream = [place for epoch in range(4) for place in epoch_order(len(lengths), plan["seed"], epoch).tolist()][:wanted]
    for number, step in enumerate(steps):
        first = number * plan["examples"]
        assert Counter(step) == Counter(stream[first : first + plan["examples"]])
    assert schedule.step_tokens.tolist() == [sum(lengths[place] for place in step) for step in steps]
    assert schedule.trained_tokens.tolist() == [sum(lengths[place] - 1 for place in step) for step in steps]
    assert schedule.tokens == sum(lengths[place] for place in stream)


@given(lengths=LENGTHS, plan=PLANS)
def test_no_pass_is_above_the_limit_and_none_is_wasted(lengths: list[int], plan: dict[str, Any]) -> None:
    schedule = by_examples(sequences_of(lengths), **plan)
    limit = max(plan["pass_tokens"], *lengths)
    assert schedule.passes_per_step % plan["processes"] == 0
    assert all(sum(lengths[place] for place in each) <= limit for each in schedule.passes)
    fewer = schedule.passes_per_step - plan["processes"]
    if fewer > 0:
        # With one round fewer, some step dealt out in the same way would not fit.
        steps = [[lengths[place] for place in step] for step in steps_of(schedule)]
        dealt = [[sum(step[number] for number in part) for part in deal_slowly(step, fewer)] for step in steps]
        assert max(map(max, dealt)) > limit


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=9), plan=PLANS, data=st.data())
def test_steps_of_packs_keep_packs_whole(counts: list[int], plan: dict[str, Any], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=sum(counts), max_size=sum(counts)))
    schedule = by_packs(sequences_of(lengths, counts), packs=plan.pop("examples"), **plan)
    ends = np.cumsum(counts).tolist()
    whole = {tuple(range(end - count, end)) for end, count in zip(ends, counts, strict=True)}
    seen: Counter[tuple[int, ...]] = Counter()
    for each in schedule.passes:
        rest = list(each)
        while rest:
            pack = next(pack for pack in whole if pack[0] == rest[0])
            assert rest[: len(pack)] == list(pack)
            seen[pack] += 1
            del rest[: len(pack)]
    wanted = max(1, round(plan["epochs"] * len(counts)))
    assert seen.total() == wanted
    assert all(seen[pack] in (wanted // len(counts), -(-wanted // len(counts))) for pack in whole)


@given(lengths=LENGTHS, plan=PLANS, limit=st.integers(1, 600))
def test_a_run_of_limited_tokens_is_the_beginning_of_the_whole_one(
    lengths: list[int], plan: dict[str, Any], limit: int
) -> None:
    whole, cut = (
        by_examples(sequences_of(lengths), **plan),
        by_examples(sequences_of(lengths), **plan, max_tokens=limit),
    )
    trained = [place for step in steps_of(cut) for place in step]
    assert cut.tokens <= limit or len(trained) == 1
    stream = [place for epoch in range(4) for place in epoch_order(len(lengths), plan["seed"], epoch).tolist()]
    assert Counter(trained) == Counter(stream[: len(trained)])
    if cut.tokens < whole.tokens:
        assert cut.tokens + lengths[stream[len(trained)]] > limit


def test_the_order_follows_from_seed_and_epoch() -> None:
    sequences = sequences_of([5] * 50)
    plan: dict[str, Any] = {"examples": 50, "epochs": 2.0, "pass_tokens": 5}

    def order(seed: int) -> list[tuple[int, ...]]:
        return list(by_examples(sequences, seed=seed, **plan).passes)

    assert order(1) == order(1)
    assert order(1) != order(2)
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        assert sorted(epoch_order(50, seed, epoch).tolist()) == list(range(50))
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()
    assert epoch_order(50, 0, 1).tolist() != epoch_order(50, 1, 0).tolist()


def test_the_first_steps_do_not_depend_on_the_number_of_processes() -> None:
    lengths = list(range(1, 33))
    alone = by_examples(sequences_of(lengths), examples=8, epochs=1.0, pass_tokens=40, seed=3)
    together = by_examples(sequences_of(lengths), examples=8, epochs=1.0, pass_tokens=40, seed=3, processes=4)
    assert [sorted(step) for step in steps_of(alone)] == [sorted(step) for step in steps_of(together)]


def test_a_short_last_step_is_filled_up_with_empty_passes() -> None:
    schedule = by_examples(sequences_of([10] * 5), examples=4, epochs=1.0, pass_tokens=10, seed=0)
    assert schedule.passes_per_step == 4
    assert [len(each) for each in schedule.passes] == [1, 1, 1, 1, 1, 0, 0, 0]


def deal_slowly(weights: list[int], parts: int) -> list[list[int]]:
    """The heaviest thing that is left, the first of equals, to the part that has least, the first of equals."""
    left, dealt = list(range(len(weights))), [[] for _ in range(parts)]
    while left:
        heaviest = max(left, key=lambda number: (weights[number], -number))
        left.remove(heaviest)
        min(dealt, key=lambda part: sum(weights[number] for number in part)).append(heaviest)
    return [sorted(part) for part in dealt]


@given(weights=st.lists(st.integers(1, 20), max_size=20), parts=st.integers(1, 6))
def test_dealing_equals_the_slow_way(weights: list[int], parts: int) -> None:
    assert deal(weights, parts) == deal_slowly(weights, parts)


@pytest.mark.parametrize(("weights", "parts", "dealt"), [([], 2, [[], []]), ([7], 3, [[0], [], []])])
def test_dealing_little(weights: list[int], parts: int, dealt: list[list[int]]) -> None:
    assert deal(weights, parts) == dealt
