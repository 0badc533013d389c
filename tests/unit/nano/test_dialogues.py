"""Dialogues that tell and ask: each fact is asked for once, after it was told, and nothing else gives it away."""

from random import Random
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.demo import words
from pyllm.stream import recall_task


def drawn(dialogues: ModuleType, seed: int, room: int = 300, **settings: Any) -> list[Any]:
    def cost(exchange: Any) -> int:
        return len(f"{exchange.said} {exchange.answer}{exchange.value}{exchange.end}".split()) + 3

    return list(dialogues.dialogue(Random(seed), room, cost, **{"share": 0.5} | settings))


@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_every_fact_is_told_once_before_it_is_asked_for_once(dialogues: ModuleType, seed: int, share: float) -> None:
    said = drawn(dialogues, seed, share=share)
    asked = [place for place, exchange in enumerate(said) if exchange.value]
    assert asked
    assert len({said[place].answer for place in asked}) == len(asked)  # no key comes twice
    for place in asked:
        value = said[place].value.strip()
        told = [number for number, other in enumerate(said) if f"{value}." in f"{other.said}." or value in other.said]
        assert any(number < place for number in told)


@given(seed=st.integers(0, 10_000), room=st.integers(150, 900))
def test_a_dialogue_fills_its_room_and_no_more(dialogues: ModuleType, seed: int, room: int) -> None:
    said = drawn(dialogues, seed, room)
    used = sum(len(f"{each.said} {each.answer}{each.value}{each.end}".split()) + 3 for each in said)
    assert room - 60 < used <= room


def test_questions_are_asked_near_and_far(dialogues: ModuleType) -> None:
    distances = []
    for seed in range(200):
        said = drawn(dialogues, seed, 600, share=0.4, only_named=True)
        for place, exchange in enumerate(said):
            if exchange.value:
                value = exchange.value.strip()
                told = next(number for number, other in enumerate(said) if value in other.said)
                distances.append((place - told) / len(said))
    assert min(distances) < 0.05
    assert max(distances) > 0.85
    assert sum(distance > 0.5 for distance in distances) > 0.25 * len(distances)


def test_what_the_bench_asks_for_is_never_told_in_training(dialogues: ModuleType) -> None:
    held_out = {*recall_task.THINGS, *recall_task.NAMES}
    for seed in range(200):
        # As in the last stages of training too, where names are any words; syllables that make one up are drawn from
        # the seed of the training, and never were one of these.
        for exchange in drawn(dialogues, seed, 600, share=0.8, varied=0.9 if seed % 2 else 0.0):
            text = f"{exchange.said} {exchange.answer}{exchange.value}".replace(".", " ").replace("?", " ")
            assert not held_out & set(text.replace(",", " ").split())


def test_a_game_is_answered_with_the_favourite_so_far(dialogues: ModuleType) -> None:
    for seed in range(50):
        played: list[str] = []
        for number, exchange in enumerate(dialogues.game(Random(seed))):
            if number:
                played.append(exchange.said.split()[2].rstrip("."))
                assert played.count(exchange.value.strip()) == max(map(played.count, played))


def test_made_up_words_hardly_repeat() -> None:
    draw = Random(0)
    made = [words.made_up_word(draw) for _ in range(2_000)]
    assert len(set(made)) > 1_900
    assert all(word.isalpha() and word.islower() for word in made)


@pytest.mark.parametrize(("word", "expected"), [("old boat", "an old boat"), ("boat", "a boat")])
def test_articles(word: str, expected: str) -> None:
    assert words.a(word) == expected
