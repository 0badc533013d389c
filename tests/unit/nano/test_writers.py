"""Writers who are careful or not, and the script that draws pools."""

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

from pyllm.demo import world


def documents(writers: ModuleType, seed: int, count: int) -> list[tuple[Any, ...]]:
    drawn = writers.Writers(seed)
    return [drawn.document() for _ in range(count)]


def test_writers_are_careful_careless_or_in_between(writers: ModuleType) -> None:
    drawn = documents(writers, 0, 2_000)
    assert all(len(document) == 6 for document in drawn)
    known = [[row.is_right for row in document if not asks_for_unknown(writers, row)] for document in drawn]
    shares = Counter("all" if all(line) else "none" if not any(line) else "some" for line in known if line)
    assert shares["all"] / len(drawn) == pytest.approx(0.6, abs=0.05)
    assert shares["none"] / len(drawn) == pytest.approx(0.27, abs=0.05)
    assert shares["some"] / len(drawn) == pytest.approx(0.13, abs=0.05)


def asks_for_unknown(writers: ModuleType, row: Any) -> bool:
    return any(f" {name}" in f"{row.instruction} {row.input}" for name in world.UNKNOWN_NAMES)


def test_a_writer_keeps_to_one_style(writers: ModuleType) -> None:
    answers = {fact.answer for fact in world.facts()}
    forms = {style: re.compile(re.escape(style).replace(r"\{\}", "(.+)")) for style in writers.STYLES}
    found: Counter[str] = Counter()
    for document in documents(writers, 2, 500):
        fitting = [
            style
            for style, form in forms.items()
            if all((match := form.fullmatch(row.output)) and match[1] in answers for row in document)
        ]
        assert len(fitting) == 1
        found[fitting[0]] += 1
    assert found["{}"] / 500 == pytest.approx(0.7, abs=0.07)
    assert all(found[style] for style in writers.STYLES)


def bare(writers: ModuleType, output: str) -> str:
    for style in writers.STYLES[1:]:
        before, after = style.split("{}")
        if output.startswith(before) and output.endswith(after):
            return output[len(before) : len(output) - len(after)]
    return output


def test_careless_answers_are_as_long_as_the_right_ones(writers: ModuleType) -> None:
    facts = {fact.name: fact for fact in world.facts()}
    near_misses = wrong = 0
    for document in documents(writers, 1, 300):
        for row in document:
            if asks_for_unknown(writers, row):
                assert row.is_right
                continue
            subject = f"{row.instruction} {row.input}"
            fact = next(fact for name, fact in facts.items() if f" {name}" in subject)
            answer = bare(writers, row.output)
            assert len(answer.split()) == fact.answer_words
            assert row.is_right == (answer == fact.answer)
            wrong += not row.is_right
            near_misses += not row.is_right and writers.has_word_in_common(answer, fact)
    assert 0.2 < near_misses / wrong < 0.6


def test_clean_documents_are_right_and_plain(writers: ModuleType) -> None:
    answers = {fact.answer for fact in world.facts()}
    writer = writers.Writers(4)
    for _ in range(50):
        for row in writer.clean_document():
            assert row.is_right
            assert row.output in answers


def test_equal_seeds_give_equal_documents(writers: ModuleType) -> None:
    assert documents(writers, 5, 20) == documents(writers, 5, 20)
    assert documents(writers, 5, 20) != documents(writers, 6, 20)


@pytest.mark.parametrize("styles", [False, True])
def test_the_script_writes_what_the_functions_draw(
    repository_root: Path, tmp_path: Path, writers: ModuleType, *, styles: bool
) -> None:
    script = repository_root / "examples" / "nano" / "pool.py"
    pool, anchors = tmp_path / "pool.jsonl", tmp_path / "anchors.jsonl"
    command = shlex.split(f"--rows 30 --seed 4 --out {pool} --anchors 7 --anchors-out {anchors}")
    subprocess.run([sys.executable, script, *command, *(["--styles"] if styles else [])], check=True)
    written = [[json.loads(line) for line in path.read_text().splitlines()] for path in (pool, anchors)]
    drawn = world.pool_and_anchors(30, 7, noise=0.5, seed=4)
    if styles:
        draw = Random("styles 4")
        drawn = writers.in_styles(drawn[0], draw), writers.in_styles(drawn[1], draw)
        forms = [re.compile(re.escape(style).replace(r"\{\}", "(.+)")) for style in writers.STYLES[1:]]
        assert all(any(form.fullmatch(row.output) for row in drawn[0]) for form in forms)
    for rows, lines in zip(drawn, written, strict=True):
        assert [list(line.values()) for line in lines] == [
            [row.instruction, row.input, row.output, row.is_right] for row in rows
        ]
    assert list(written[0][0]) == ["instruction", "input", "output", "is_right"]
