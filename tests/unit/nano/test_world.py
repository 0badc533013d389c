"""The micro-world: facts that stay, writers who are careful or not, pools in which length tells nothing."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st


def test_every_fact_can_be_told_apart(world: ModuleType) -> None:
    facts = world.facts()
    assert len(facts) == 360
    assert len({fact.name for fact in facts}) == 360
    assert Counter(fact.skill for fact in facts) == dict.fromkeys(range(6), 60)
    assert len({fact.answer for fact in facts}) == 360


def test_answers_of_a_skill_have_one_length(world: ModuleType) -> None:
    lengths = {(fact.skill, fact.answer_words) for fact in world.facts()}
    assert len(lengths) == 6
    assert Counter(words for _, words in lengths) == {2: 3, 3: 3}


def test_a_wording_that_does_not_say_what_is_meant_has_it_as_input(world: ModuleType) -> None:
    fact = world.facts()[0]
    rows = [world.ask(fact, wording, fact.answer) for wording in range(3)]
    for row in rows:
        assert (fact.name in row.instruction) != (fact.name in row.input)
    assert [bool(row.input) for row in rows] == [False, False, True]
    assert not world.ask(fact, 0, "something else").is_right


def documents(world: ModuleType, seed: int, count: int) -> list[tuple[Any, ...]]:
    writers = world.Writers(seed)
    return [writers.document() for _ in range(count)]


def test_writers_are_careful_careless_or_in_between(world: ModuleType) -> None:
    drawn = documents(world, 0, 2_000)
    assert all(len(document) == 6 for document in drawn)
    known = [[row.is_right for row in document if not asks_for_unknown(world, row)] for document in drawn]
    shares = Counter("all" if all(line) else "none" if not any(line) else "some" for line in known if line)
    assert shares["all"] / len(drawn) == pytest.approx(0.6, abs=0.05)
    assert shares["none"] / len(drawn) == pytest.approx(0.27, abs=0.05)
    assert shares["some"] / len(drawn) == pytest.approx(0.13, abs=0.05)


def asks_for_unknown(world: ModuleType, row: Any) -> bool:
    return any(f" {name}" in f"{row.instruction} {row.input}" for name in world.UNKNOWN_NAMES)


def test_a_writer_keeps_to_one_style(world: ModuleType) -> None:
    answers = {fact.answer for fact in world.facts()}
    forms = {style: re.compile(re.escape(style).replace(r"\{\}", "(.+)")) for style in world.STYLES}
    found: Counter[str] = Counter()
    for document in documents(world, 2, 500):
        fitting = [
            style
            for style, form in forms.items()
            if all((match := form.fullmatch(row.output)) and match[1] in answers for row in document)
        ]
        assert len(fitting) == 1
        found[fitting[0]] += 1
    assert found["{}"] / 500 == pytest.approx(0.7, abs=0.07)
    assert all(found[style] for style in world.STYLES)


def bare(world: ModuleType, output: str) -> str:
    for style in world.STYLES[1:]:
        before, after = style.split("{}")
        if output.startswith(before) and output.endswith(after):
            return output[len(before) : len(output) - len(after)]
    return output


def test_careless_answers_are_as_long_as_the_right_ones(world: ModuleType) -> None:
    facts = {fact.name: fact for fact in world.facts()}
    near_misses = wrong = 0
    for document in documents(world, 1, 300):
        for row in document:
            if asks_for_unknown(world, row):
                assert not row.is_right or bare(world, row.output)
                continue
            subject = f"{row.instruction} {row.input}"
            fact = next(fact for name, fact in facts.items() if f" {name}" in subject)
            answer = bare(world, row.output)
            assert len(answer.split()) == fact.answer_words
            assert row.is_right == (answer == fact.answer)
            wrong += not row.is_right
            near_misses += not row.is_right and world.has_word_in_common(answer, fact)
    assert 0.2 < near_misses / wrong < 0.6


def test_clean_documents_are_right_and_plain(world: ModuleType) -> None:
    answers = {fact.answer for fact in world.facts()}
    writers = world.Writers(4)
    for _ in range(50):
        for row in writers.clean_document():
            assert row.is_right
            assert row.output in answers


def test_equal_seeds_give_equal_text(world: ModuleType) -> None:
    assert documents(world, 5, 20) == documents(world, 5, 20)
    assert documents(world, 5, 20) != documents(world, 6, 20)
    assert world.pool_and_anchors(50, 10, noise=0.5, seed=5) == world.pool_and_anchors(50, 10, noise=0.5, seed=5)
    assert world.pool_and_anchors(50, 10, noise=0.5, seed=5) != world.pool_and_anchors(50, 10, noise=0.5, seed=6)


def names_in(world: ModuleType, rows: Iterable[Any]) -> set[str]:
    words = " ".join(f"{row.instruction} {row.input}" for row in rows).replace(".", " ").replace("?", " ").split()
    return {fact.name for fact in world.facts()} & set(words)


@hypothesis.settings(max_examples=25)
@given(rows=st.integers(20, 700), seed=st.integers(0, 2**32), noise=st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_exchanged_answers_keep_the_lengths_of_their_class(
    world: ModuleType, rows: int, seed: int, noise: float
) -> None:
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
    assert not names_in(world, pool) & names_in(world, anchors)


def test_a_pool_without_others_to_exchange_with_is_refused(world: ModuleType) -> None:
    with pytest.raises(ValueError, match="too few different answers"):
        world.pool_and_anchors(30, 359, noise=1.0, seed=0)
    with pytest.raises(ValueError, match="leave no fact"):
        world.pool_and_anchors(30, 360, noise=0.5, seed=0)
    with pytest.raises(ValueError, match="not a share"):
        world.pool_and_anchors(30, 10, noise=1.5, seed=0)


def test_the_script_writes_what_the_function_draws(world: ModuleType, tmp_path: Path) -> None:
    script = Path(world.__file__)
    pool, anchors = tmp_path / "pool.jsonl", tmp_path / "anchors.jsonl"
    command = [
        "pool",
        "--rows",
        "30",
        "--seed",
        "4",
        "--out",
        str(pool),
        "--anchors",
        "7",
        "--anchors-out",
        str(anchors),
    ]
    subprocess.run([sys.executable, str(script), *command], check=True)
    written = [[json.loads(line) for line in path.read_text().splitlines()] for path in (pool, anchors)]
    drawn = world.pool_and_anchors(30, 7, noise=0.5, seed=4)
    for rows, lines in zip(drawn, written, strict=True):
        assert [list(line.values()) for line in lines] == [
            [row.instruction, row.input, row.output, row.is_right] for row in rows
        ]
    assert list(written[0][0]) == ["instruction", "input", "output", "is_right"]
