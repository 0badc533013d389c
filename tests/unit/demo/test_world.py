"""The made-up world: facts that stay, pools in which length tells nothing."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.demo import world


def test_every_fact_can_be_told_apart() -> None:
    facts = world.facts()
    assert len(facts) == 360
    assert len({fact.name for fact in facts}) == 360
    assert Counter(fact.skill for fact in facts) == dict.fromkeys(range(6), 60)
    assert len({fact.answer for fact in facts}) == 360


def test_answers_of_a_skill_have_one_length() -> None:
    lengths = {(fact.skill, fact.answer_words) for fact in world.facts()}
    assert len(lengths) == 6
    assert Counter(words for _, words in lengths) == {2: 3, 3: 3}


def test_a_wording_that_does_not_say_what_is_meant_has_it_as_input() -> None:
    fact = world.facts()[0]
    rows = [world.ask(fact, wording, fact.answer) for wording in range(3)]
    for row in rows:
        assert (fact.name in row.instruction) != (fact.name in row.input)
    assert [bool(row.input) for row in rows] == [False, False, True]
    assert not world.ask(fact, 0, "something else").is_right


def names_in(rows: Iterable[Any]) -> set[str]:
    words = " ".join(f"{row.instruction} {row.input}" for row in rows).replace(".", " ").replace("?", " ").split()
    return {fact.name for fact in world.facts()} & set(words)


@hypothesis.settings(max_examples=25)
@given(rows=st.integers(20, 700), seed=st.integers(0, 2**32), noise=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_exchanged_answers_keep_the_lengths_of_their_class(rows: int, seed: int, noise: float) -> None:
    pool, anchors = world.pool_and_anchors(rows, 40, noise=noise, seed=seed)
    clean, same_anchors = world.pool_and_anchors(rows, 40, noise=0.0, seed=seed)
    assert anchors == same_anchors
    assert all(row.is_right for row in (*clean, *anchors))
    assert [(row.instruction, row.input) for row in pool] == [(row.instruction, row.input) for row in clean]
    for words in (2, 3):
        members = [number for number, row in enumerate(clean) if len(row.output.split()) == words]
        assert sorted(pool[number].output for number in members) == sorted(clean[number].output for number in members)
        wrong = [number for number in members if not pool[number].is_right]
        wanted = round(noise * len(members))
        assert len(wrong) == (wanted if wanted > 1 else 0)
        assert all(pool[number].output != clean[number].output for number in wrong)
    assert not names_in(pool) & names_in(anchors)


def test_a_pool_without_others_to_exchange_with_is_refused() -> None:
    with pytest.raises(ValueError, match="too few different answers"):
        world.pool_and_anchors(30, 359, noise=1.0, seed=0)
    with pytest.raises(ValueError, match="leave no fact"):
        world.pool_and_anchors(30, 360, noise=0.5, seed=0)
    with pytest.raises(ValueError, match="not a share"):
        world.pool_and_anchors(30, 10, noise=1.5, seed=0)


def test_equal_seeds_give_equal_pools() -> None:
    assert world.pool_and_anchors(50, 10, noise=0.5, seed=5) == world.pool_and_anchors(50, 10, noise=0.5, seed=5)
    assert world.pool_and_anchors(50, 10, noise=0.5, seed=5) != world.pool_and_anchors(50, 10, noise=0.5, seed=6)
