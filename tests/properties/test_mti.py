"""Random outputs: reading never fails, never runs anything, and finds what was written between tags."""

import json

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyllm.mti.comparison import read_gold, value_of
from pyllm.mti.parsing import find_answer, find_published, read_tags
from pyllm.mti.rouge import rouge_l
from pyllm.mti.scoring import score_outputs
from pyllm.mti.strict import is_published_match
from pyllm.mti.tasks import ANSWER_TYPES, Instance, Task

PIECES = [
    "<task1>",
    "<task1/>",
    "</task1>",
    "<task2>",
    "< Task 1 >",
    "<task1",
    "/>",
    "<",
    ">",
    "N",
    "n/N",
    "4",
    "-",
    "(",
    ")",
    "[",
    "]",
]
PIECES += [
    ",",
    "1,234",
    "3/7",
    "0.5",
    "1e9",
    "B",
    "the",
    " ",
    "\n",
    "\x00",
    "\u0664",
    "\ud83d\ude42",
    "__import__('os')",
    "'",
    "~",
    "9" * 30,
]
OUTPUTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
GOLDS = [4, [1, 2], "(1)-(2)", "3/7", 2.5, "B", "Cole", "0.750", ""]


def read_every_way(text):
    tags = read_tags(text)
    for number in (1, 2):
        for gold in GOLDS:
            read = read_gold(gold)
            found = find_answer(tags, number, value=read.reads)
            if found.text is None:
                assert found.state in ("missing", "unclosed")
            else:
                assert found.state in ("ok", "ambiguous")
                assert found.text in text
                read.accepts(found.text)
        first = find_published(text, number)
        is_published_match(first.text, "4")
    for answer_type in ANSWER_TYPES:
        value = value_of(text, answer_type)
        assert value is None or value == value_of(text, answer_type)
        hash(value)
    assert 0 <= rouge_l(text, "the cat sat") <= 1


@given(OUTPUTS)
def test_any_text_is_read(text):
    read_every_way(text)


@pytest.mark.soak
@settings(max_examples=1_000_000)
@given(OUTPUTS)
def test_a_million_texts_are_read(text):
    read_every_way(text)


PLAIN = st.text(st.characters(exclude_characters="<>Nn", exclude_categories=("Cs",)), max_size=20).map(str.strip)


@given(PLAIN, st.sampled_from(["<task1/>", "</task1>", "</ TASK1 >"]), PLAIN, PLAIN)
def test_what_stands_between_tags_is_found(answer, closing, before, after):
    found = find_answer(read_tags(f"{before}<task1> {answer}\n{closing}{after}"), 1)
    assert (found.state, found.text) == ("ok", answer)


@given(st.integers(), st.sampled_from(["{}", "({})", "{}.", "{}.0", "+{}", " {} ", "{:,}"]))
def test_a_whole_number_is_itself_in_every_form(number, form):
    if number < 0:
        form = form.replace("+", "")
    assert read_gold(number).accepts(form.format(number))
    assert not read_gold(number + 1).accepts(form.format(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_itself(number):
    assert read_gold(number).accepts(repr(number))
    assert number == 0 or not read_gold(number).accepts(repr(-number))


@given(st.lists(st.integers(0, 30), max_size=8), st.randoms(use_true_random=False))
def test_a_set_has_no_order(items, generator):
    shuffled = list(items)
    generator.shuffle(shuffled)
    assert read_gold(items).accepts(str(shuffled))
    assert not read_gold(items).accepts(str([*shuffled, 31]))


@given(
    st.one_of(
        st.integers(),
        st.text(max_size=20),
        st.lists(st.integers(), max_size=5),
        st.lists(st.text(max_size=5), max_size=4),
    )
)
def test_every_gold_accepts_itself(gold):
    read = read_gold(gold)
    assert read.accepts(read.text)


@given(
    st.lists(
        st.tuples(st.sampled_from(["u", "v"]), st.sampled_from([None, 1, 2]), st.none() | OUTPUTS),
        max_size=4,
        unique_by=lambda row: row[0],
    )
)
def test_marks_are_one_a_step_with_an_output(given_rows):
    instances = tuple(
        Instance(uid, "t", "", ("<task1>N<task1/>", "<task2>N<task2/>"), ((), ()), (4, "B")) for uid in "uv"
    )
    table = pl.DataFrame(
        {
            "uid": [row[0] for row in given_rows],
            "mode": ["sti"] * len(given_rows),
            "step": [row[1] for row in given_rows],
            "output": [None if row[2] is None else row[2].encode("utf-8", "replace").decode() for row in given_rows],
        },
        schema={"uid": pl.String, "mode": pl.String, "step": pl.Int64, "output": pl.String},
    )
    for scoring in ("strict", "typed"):
        marks = score_outputs([Task("t", instances, "", None)], table, scoring)
        assert marks.height == sum((2 if row[1] is None else 1) for row in given_rows if row[2] is not None)
        assert marks["correct"].null_count() == 0
        json.dumps(marks.to_dicts())
