"""Finding answers: every clause of the rules, on texts as models write them."""

import time

import pytest

from pyllm.mti.comparison import read_gold
from pyllm.mti.parsing import find_answer, find_published, instruction_examples, is_placeholder, read_tags
from pyllm.mti.strict import published_form


def found(text, number=1, **options):
    parsed = find_answer(read_tags(text), number, **options)
    return parsed.state, parsed.text


@pytest.mark.parametrize(
    "text",
    [
        "<task1>4<task1/>",
        "<task1>4</task1>",
        "< task1 > 4 < task1 / >",
        "<TASK1>4</Task1>",
        "<task 1>\n4\n</ task 1 >",
        "I think <b>so</b>: <task1>4</task1>.",
        "<task01>4</task1>",
        "</task1><task1>4</task1>",  # a closing tag too many
        "<task2>9</task2><task1>4</task1><task11>7</task11>",
    ],
)
def test_a_pair_is_found_however_its_tags_are_written(text):
    assert found(text) == ("ok", "4")


@pytest.mark.parametrize(
    "text", ["", "4", "<task2>4</task2>", "<task1/>", "4</task1>", "<task>4</task>", "<taskA>4</taskA>"]
)
def test_without_a_pair_the_answer_is_missing(text):
    assert found(text) == ("missing", None)


@pytest.mark.parametrize(
    "text",
    [
        "<task1>4",
        "<task1>4<task1>",
        "<task1>4<task2/>",
        "<task1>4</task11>",
        "<task1>4 <task2>5<task2/>",
        "<task1>4<task1/",
    ],
)
def test_an_opening_without_a_closing_is_unclosed(text):
    assert found(text) == ("unclosed", None)


def test_a_second_opening_starts_the_answer_again():
    assert found("<task1>4 or rather <task1>5<task1/>") == ("ok", "5")


def test_a_missing_closing_swallows_nothing():
    text = "4</task1> then <task2>5<task2/> and <task1>7"
    assert found(text) == ("unclosed", None)
    assert found(text, 2) == ("ok", "5")


def test_digits_of_other_scripts_are_no_tag_numbers():
    assert found("<task\u0661>4</task\u0661>") == ("missing", None)
    assert found("<ta\u017fk1>4</ta\u017fk1>") == ("missing", None)  # a long s is no s


INSTRUCTION = "Choose one. Return the answer in <task1>N<task1/> format."


def test_an_echo_of_the_instruction_is_skipped_for_another_pair():
    examples = instruction_examples([INSTRUCTION], 1)
    assert examples == {"N"}
    assert found(f"{INSTRUCTION}\n<task1>4<task1/>", examples=examples) == ("ok", "4")
    assert found(f"<task1>4<task1/>\nI was told: {INSTRUCTION}", examples=examples) == ("ok", "4")


def test_an_example_that_is_a_value_counts_when_it_stands_alone():
    order = "(1)-(2)-(3)"
    examples = instruction_examples([f"Return it in <task1>{order}<task1/> format."], 1)
    assert found(f"<task1>{order}</task1>", examples=examples) == ("ok", order)
    assert found(f"<task1>{order}</task1> <task1>{order}<task1/>", examples=examples) == ("ok", order)
    assert found(f"<task1>{order}</task1> <task1>(3)-(1)-(2)</task1>", examples=examples) == ("ok", "(3)-(1)-(2)")
    assert found(f"<task1>(3)-(1)-(2)</task1> <task1>{order}</task1>", examples=examples) == ("ok", "(3)-(1)-(2)")


def test_an_example_counts_when_only_another_step_is_answered():
    examples = instruction_examples(["Return <task1>(1)-(2)<task1/>.", "Return <task2>N<task2/>."], 1)
    assert found("<task1>(1)-(2)<task1/> <task2>7<task2/>", examples=examples) == ("ok", "(1)-(2)")


def test_examples_are_those_of_the_step_and_those_under_its_number():
    instructions = ["Return <task1>N<task1/>.", "Return <task1>X<task1/>.", "Return </task3>."]
    assert instruction_examples(instructions, 1) == {"N", "X"}
    assert instruction_examples(instructions, 2) == {"X"}
    assert instruction_examples(instructions, 3) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        "N",
        "n",
        "n/N",
        "n/8",
        "[N, N, ..]",
        "[N, N..]",
        "[N, N, ...]",
        "[N, N,...]",
        "[N, N, .. ]",
        "(N)",
        "(N)-(N)-(N)",
        "N-N",
    ],
)
def test_placeholders_are_no_answers(text):
    assert is_placeholder(text)
    assert found(f"<task1>{text}<task1/>") == ("missing", None)


@pytest.mark.parametrize("text", ["4", "[1, 2]", "none", "Nine", "n/a", "North", "3/8", "[1, N]", "", "..."])
def test_answers_are_no_placeholders(text):
    assert not is_placeholder(text)
    assert found(f"<task1>{text}<task1/>") == ("ok", text)


def test_a_letter_n_is_an_answer_where_the_instruction_shows_something_else():
    assert found("<task1>N</task1>", words=True, examples={"X"}) == ("ok", "N")
    assert found("<task1>N</task1>", words=True, examples={"N"}) == ("missing", None)
    assert found("<task1>N</task1>", words=False, examples={"X"}) == ("missing", None)


def test_the_last_pair_is_scored_and_different_values_are_ambiguous():
    value = read_gold(4).reads
    assert found("<task1>3<task1/> no, <task1>4<task1/>", value=value) == ("ambiguous", "4")
    assert found("<task1>4<task1/> so <task1>(4)<task1/>", value=value) == ("ok", "(4)")
    assert found("<task1>4<task1/> so <task1>4.0</task1>", value=value) == ("ok", "4.0")
    assert found("<task1>four<task1/> so <task1>4</task1>", value=value) == ("ambiguous", "4")
    assert found("<task1>[1, 2]<task1/> so <task1>2,1</task1>", value=read_gold([3]).reads) == ("ok", "2,1")


def test_an_answer_after_an_unclosed_opening_is_read():
    assert found("<task1>4<task1/> ... <task1>5") == ("ok", "4")


@pytest.mark.parametrize(
    ("text", "state", "content"),
    [
        ("<task1>4<task1/>", "ok", "4"),
        ("<task1> [1, 2]\n<task1/>", "ok", "[1, 2]"),
        ("<task1>4</task1>", "unclosed", None),
        ("<Task1>4<task1/>", "missing", None),
        ("<task1>N<task1/> then <task1>4<task1/>", "ambiguous", "N"),  # the first wins
        ("<task1>4<task1/> then <task1>4<task1/>", "ok", "4"),
        ("<task1>a <task1>b<task1/>", "ok", "a <task1>b"),
        ("4</task1> then <task2>5<task2/> and <task1>7", "unclosed", None),
        ("", "missing", None),
    ],
)
def test_published_parser(text, state, content):
    parsed = find_published(text, 1)
    assert (parsed.state, parsed.text) == (state, content)


HOSTILE = {
    "openings": "<task1>",
    "closings": "<task1/>",
    "angles": "<",
    "open tags": "<task1",
    "pairs": "<task1>x<task1/>",
    "placeholders": "<task1>N<task1/>",
    "control characters": "\x00\x1b[31m\u202e",
}
INSIDE = {
    "digits": "9",
    "brackets": "[",
    "items": "(1)-",
    "list": "1,",
    "spaces": " ",
    "signs": "-",
    "nested": "<task2>",
}


def hostile(kind, size):
    if kind == "spaces in a tag":
        return "<" + " " * size
    if kind == "a long number":
        return "<task" + "1" * size
    if kind == "nested numbers":
        numbers = range(size // 16)
        return "".join(f"<task{number}>" for number in numbers) + "".join(f"<task{number}/>" for number in numbers)
    if kind in HOSTILE:
        return HOSTILE[kind] * (size // len(HOSTILE[kind]))
    return f"<task1>{INSIDE[kind] * (size // len(INSIDE[kind]))}<task1/>"


def read_all_ways(text):
    tags = read_tags(text)
    for gold in (4, [1, 2], "(1)-(2)", "3/7", 2.5, "Cole", "B"):
        read = read_gold(gold)
        parsed = find_answer(tags, 1, value=read.reads, examples={"N"})
        if parsed.text is not None:
            assert not read.accepts(parsed.text)
    first = find_published(text, 1)
    if first.text is not None:
        published_form(first.text)


KINDS = [*HOSTILE, *INSIDE, "spaces in a tag", "a long number", "nested numbers"]


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_texts_take_linear_time(kind):
    began = time.process_time()
    read_all_ways(hostile(kind, 1_000_000))
    assert time.process_time() - began < 10  # quadratic work would be hours


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_ten_megabytes_of_anything_take_linear_time(kind):
    began = time.process_time()
    read_all_ways(hostile(kind, 10 << 20))
    assert time.process_time() - began < 100


def test_ten_megabytes_at_once():
    text = "".join(
        hostile(kind, (10 << 20) // 5) for kind in ("openings", "pairs", "control characters", "digits", "spaces")
    )
    tags = read_tags(text)
    assert find_answer(tags, 1, value=read_gold(4).reads).state == "ambiguous"
