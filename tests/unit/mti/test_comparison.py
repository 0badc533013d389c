"""Typed comparison: which spellings are the value, which are not."""

import pytest

from pyllm.mti.comparison import read_gold, type_of


def accepts(gold, answer, answer_type=None):
    return read_gold(gold, answer_type).accepts(answer)


@pytest.mark.parametrize(
    ("gold", "answer_type"),
    [
        ([1, 2], "set"),
        ([], "set"),
        (["a", "b"], "set"),
        (4, "int"),
        (-4, "int"),
        ("366", "int"),
        ("-12010", "int"),
        ("1,234", "int"),
        ("(3)", "int"),
        (2.0, "number"),
        ("1809.3", "number"),
        ("0.000000930934", "number"),
        ("1e-5", "number"),
        ("4.0", "number"),
        ("3/7", "fraction"),
        ("-3/7", "fraction"),
        ("(4)-(2)-(1)-(3)", "order"),
        ("(a)-(d)-(c)-(b)", "order"),
        ("B", "letter"),
        ("b", "letter"),
        ("(B)", "letter"),
        ("Cole", "span"),
        ("spring and summer", "span"),
        ("1-2", "span"),
        ("", "span"),
        ("\u0663", "span"),
    ],
)
def test_the_type_of_a_gold_alone(gold, answer_type):
    assert type_of(gold) == answer_type
    assert accepts(gold, str(gold))  # and every gold is its own answer


@pytest.mark.parametrize("answer", ["4", "+4", "(4)", "4.", "4.0", "4.000", " 4 ", "04", "( 4 )", "(+4)"])
def test_whole_numbers_accept(answer):
    assert accepts(4, answer)
    assert accepts("4", answer)


@pytest.mark.parametrize(
    "answer",
    [
        "5",
        "-4",
        "4.1",
        "4.00001",
        "2+2",
        "8/2",
        "2*2",
        "4 apples",
        "four",
        "4 4",
        "4,",
        "4%",
        "$4",
        "\uff14",
        "\u0664",
        "IV",
        "",
        "()",
        "[4]",
        "4e0",
        "0x4",
        "4\x00",
    ],
)
def test_whole_numbers_refuse(answer):
    assert not accepts(4, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (1234, "1,234", True),
        (1234, "1234", True),
        (1234, "12,34", False),
        (1234, "1,2,3,4", False),
        (82710960, "82,710,960", True),
        (1000, "1,000", True),
        (0, "-0", True),
        (0, "0", True),
        (-5, "-5", True),
        (-5, "(5)", False),
        (10**30, "1" + "0" * 30, True),
        (10**30, "1" + "0" * 29 + "1", False),
    ],
)
def test_whole_numbers_exactly(gold, answer, right):
    assert accepts(gold, answer) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        (2.0, "2", True),
        (2.0, "2.0", True),
        (2.0, "2.002", True),  # at the bound, exactly
        (2.0, "2.0021", False),
        (2.0, "1.998", True),
        (2.0, "1.9979", False),
        (0.5714285714285715, "0.5714", True),
        (0.5714285714285715, "0.57", False),
        (0.5714285714285715, "4/7", False),  # no arithmetic
        (-0.39999999999999997, "-0.4", True),
        (-0.39999999999999997, "0.4", False),
        (0.19999999999999996, ".2", True),
        ("0.000000930934", "9.30934e-07", True),
        ("0.000000930934", "0", False),
        ("1809.3", "1,809.3", True),
        ("1809.3", "(1809.3)", True),
        ("1809.3", "1809.3.", False),
        ("0.0", "0", True),
        ("0.0", "0.0000001", False),
        (2.0, "nan", False),
        (2.0, "inf", False),
        (2.0, "2e0", True),
        (2.0, "1e999999", False),
        (2.0, "2e99999999999", False),
        (2.0, "\uff12.0", False),
    ],
)
def test_numbers_are_right_within_a_thousandth(gold, answer, right):
    assert accepts(gold, answer) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("3/7", "3/7", True),
        ("3/7", "3 / 7", True),
        ("3/7", "6/14", True),
        ("4/8", "1/2", True),
        ("4/8", "0.5", True),
        ("8/8", "1", True),
        ("0/8", "0", True),
        ("3/7", "4/7", False),
        ("3/7", "0.43", False),
        ("3/7", "3/0", False),
        ("3/7", "3/7 of them", False),
        ("3/7", "(1+2)/7", False),
        ("-3/7", "3/-7", True),
        ("1,000/3", "1000/3", True),
        ("3/7", "3/7/1", False),
        ("3/7", "1e999999", False),
    ],
)
def test_fractions_by_value(gold, answer, right):
    assert accepts(gold, answer) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("0.750", "0.750", True),
        ("0.750", "0.75", True),
        ("0.750", ".75", True),
        ("0.750", "0.751", False),
        ("0.750", "0.7", False),
        ("0.333", "0.3333", True),
        ("0.333", "0.33", False),
        ("0.333", "0.334", False),
        ("0.750", "3/4", False),
        (0.75, "0.7501", True),  # a number of JSON does not say how many digits it had
    ],
)
def test_decimals_to_the_digits_of_the_gold(gold, answer, right):
    assert accepts(gold, answer, "decimal") is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ([1, 2], "[1, 2]", True),
        ([1, 2], "[2, 1]", True),
        ([1, 2], "[1,2]", True),
        ([1, 2], "1, 2", True),
        ([1, 2], "(1), (2)", True),
        ([1, 2], "{1, 2}", True),
        ([1, 2], "(1, 2)", True),
        ([1, 2], "[1, 2, 2]", True),
        ([1, 2], "[1]", False),
        ([1, 2], "[1, 2, 3]", False),
        ([1, 2], "[1, 2", False),
        ([1, 2], "1 2", False),
        ([1, 2], "12", False),
        ([4], "4", True),
        ([4], "[4]", True),
        ([], "[]", True),
        ([], "", False),
        ([], "none", False),
        (["a", "c"], "['c', 'a']", True),
        (["a", "c"], "C, A", True),
        (["New York", "Rome"], "Rome, New York", True),
        (["a, b", "c"], "['a, b', 'c']", True),
        ([1, 2], "[1, \uff12]", False),
    ],
)
def test_sets(gold, answer, right):
    assert accepts(gold, answer) is right


def test_ordered_lists_keep_their_order():
    assert accepts([1, 2], "[1, 2]", "list")
    assert not accepts([1, 2], "[2, 1]", "list")
    assert not accepts([1, 2], "[1, 2, 2]", "list")


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(4)-(2)-(1)-(3)", True),
        ("(4) - (2) - (1) - (3)", True),
        ("4-2-1-3", True),
        ("4, 2, 1, 3", True),
        ("[4, 2, 1, 3]", True),
        ("(4)->(2)->(1)->(3)", True),
        ("(4)-(2)-(3)-(1)", False),
        ("(4)-(2)-(1)", False),
        ("4213", False),
        ("(4)-(2)-(1)-(3)-", False),
        ("first (4)-(2)-(1)-(3)", False),
        ("(4)-(2)-(1)-(\uff13)", False),
    ],
)
def test_orders(answer, right):
    assert accepts("(4)-(2)-(1)-(3)", answer) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        *((text, True) for text in ("B", "b", "(B)", "B)", "B.", "(b).")),
        *((text, False) for text in ("C", "BB", "Option B", "B: yes", "", "\u0412", "A or B")),
    ],
)
def test_letters(answer, right):
    assert accepts("B", answer) is right


@pytest.mark.parametrize(
    ("gold", "answer", "right"),
    [
        ("Cole", "cole", True),
        ("Cole", "The Cole.", True),
        ("spring and summer", "Spring and  summer", True),
        ("spring and summer", "spring, and summer!", True),
        ("spring and summer", "summer and spring", False),
        ("Cole", "Cole and Maya", False),
        ("Cole", "", False),
        ("<No Answer>", "no answer", True),
        # Nothing is left of these golds, so they are compared as they are.
        ("The", "The", True),
        ("The", "the", False),
        ("...", "...", True),
        ("...", "", False),
        ("...", "?", False),
        ("Öl", "öl", True),
        ("1-2", "1-2", True),
    ],
)
def test_spans_as_squad_normalises_them(gold, answer, right):
    assert accepts(gold, answer) is right


def test_a_stated_type_comes_before_the_look_of_the_gold():
    assert accepts("4", "4.0")
    assert not accepts("4", "4.0", "span")
    assert accepts("B", "b.", "span")
    assert not accepts("word", "Word", "int")  # no value of its type
    assert accepts("word", "word", "int")
    assert not accepts("a text", "a text", "text")  # measured, never matched
