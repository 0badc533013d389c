"""Prompts of several instructions that `toolkit mti` reads back."""

from random import Random
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.demo.skills import ALL_MAKERS, MAKERS, Maker
from pyllm.mti.parsing import read_tags


@pytest.mark.parametrize("makers", [MAKERS, ALL_MAKERS])
@given(seed=st.integers(0, 10_000))
def test_every_tag_of_an_answer_is_closed_and_was_asked_for(
    skills: ModuleType, makers: tuple[Maker, ...], seed: int
) -> None:
    prompt, answer = skills.tagged(Random(seed), makers)
    tags = read_tags(answer)
    assert tags.spans
    assert not tags.unclosed
    assert all(f"<task{number}>" in prompt for number in tags.spans)
