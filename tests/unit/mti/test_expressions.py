"""The expression language of task specs: what it computes, what it refuses, and that its work is bounded."""

import contextlib
import random
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pyllm.mti.compose.functions import FUNCTIONS, content_words, overlap, random_functions, sentences
from pyllm.mti.compose.patterns import read_pattern
from pyllm.mti.compose.templates import read_template
from pyllm.mti.expressions import FUEL, ExpressionError, read_expression


def value(text, **names):
    return read_expression(text, FUNCTIONS)(names)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 + 2 * 3 - 4", 3),
        ("-7 // 2", -4),
        ("-7 % 5", 3),
        ("2 ** 10", 1024),
        ("3 / 8", Fraction(3, 8)),
        ("6 / 3 == 2", True),
        ("1 < 2 < 3", True),
        ("1 < 3 < 2", False),
        ("not (1 > 2) and 'a' in 'cat'", True),
        ("[1, 2] + [3]", [1, 2, 3]),
        ("'ab' + 'c'", "abc"),
        ("[k * k for k in range(4) if k != 2]", [0, 1, 9]),
        ("[[j + k for j in range(2)] for k in [10, 20]]", [[10, 11], [20, 21]]),
        ("row.answers[row.label]", "b"),
        ("row['answers'][-1]", "c"),
        ("row.answers[1:]", ["b", "c"]),
        ("1 if row.label == 0 else 2", 2),
        ("order([2, 1, 3])", "(2)-(1)-(3)"),
        ("inverse([3, 1, 2])", [2, 3, 1]),
        ("inversions([4, 3, 2, 1, 5])", 6),
        ("after_swaps(['x', 'y', 'z'], [[0, 1], [1, 2]])", ["y", "z", "x"]),
        ("places(['a', 'b', 'a'], 'a')", [1, 3]),
        ("place('b', ['a', 'b'])", 2),
        ("insert(['a', 'b'], 3, 'c')", ["a", "b", "c"]),
        ("decimal(3 / 8, 3)", "0.375"),
        ("decimal(6 / 8, 3)", "0.750"),
        ("decimal(1 / 3, 20)", "0.33333333333333333333"),
        ("decimal(5 / 2, 0)", "2"),
        ("decimal(-1 / 10 ** 12, 14)", "-0.00000000000100"),
        ("numbered(['x', 'y'])", "(1) x\n(2) y"),
        ("lettered(['x', 'y'])", "(A)x (B)y"),
        ("whole('1,234')", 1234),
        ("is_whole('12.5')", False),
        ("before('a-b-c', '-') + after('a-b-c', '-')", "ab-c"),
        ("replace('a_b_c', '_', ' ')", "a b c"),
        ("unique([1, 2, 1])", [1, 2]),
        ("join(['a', 1], ', ')", "a, 1"),
    ],
)
def test_values(text, wanted):
    got = value(text, row={"answers": ["a", "b", "c"], "label": 1})
    assert got == wanted
    assert type(got) is type(wanted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os')", "no function `__import__`"),
        ("row.__class__", "no field `__class__`"),
        ("().__class__.__bases__", "has no fields"),
        ("'a'.join(['b'])", "no function `'a'.join`"),
        ("(lambda: 1)()", "no function"),
        ("lambda: 1", "Lambda is not part"),
        ("f'{row}'", "JoinedStr is not part"),
        ("{1: 2}", "Dict is not part"),
        ("{k for k in [1]}", "SetComp is not part"),
        ("b'x'", "bytes is not part"),
        ("1j", "complex is not part"),
        ("...", "ellipsis is not part"),
        ("row is None", "`is` is not part"),
        ("(x := 1)", "NamedExpr is not part"),
        ("[*[1]]", "Starred is not part"),
        ("len(*[1])", "Starred is not part"),
        ("max([1], key=2)", "no named arguments"),
        ("[1 for a, b in [[1, 2]]]", "takes one name"),
        ("[1 for a in [1] for b in [1]]", "one `for`"),
        ("'abc'[::2]", "takes no step"),
        ("1 << 5", "LShift is not part"),
        ("~1", "Invert is not part"),
        ("1 +", "is no expression"),
        ("a = 1", "is no expression"),
        ("import os", "is no expression"),
        ("", "is no expression"),
        ("missing + 1", "there is no `missing`"),
        ("row.nothing", "there is no field `nothing`"),
        ("[1][4]", "no item 4 among 1"),
        ("[1][True]", "not a place"),
        ("1 + 'a'", "a text is not a number"),
        ("'a' * 3", "a text is not a number"),
        ("[0] * 3", "a list is not a number"),
        ("True + 1", "true or false is not a number"),
        ("1 and 2", "a number is neither true nor false"),
        ("1 / 0", "division by zero"),
        ("'%s' % 1", "a text is not a number"),
        ("letter(27)", "there is no letter 27"),
        ("inverse([1, 1])", "no permutation"),
        ("whole('x')", "`x` is no whole number"),
        ("shuffle([1])", "no function `shuffle`"),
        ("place(9, [1])", "`place` fails"),
    ],
)
def test_refusals(text, reason):
    with pytest.raises(ExpressionError) as caught:
        value(text, row={"a": 1})
    assert reason in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9",
        "2 ** 100000",
        "(10 ** 600) * (10 ** 600)",
        "[[[0 for a in range(900)] for b in range(900)] for c in range(900)]",
        "range(10 ** 9)",
        "range(10001)",
        "join([join([text(10 ** 600) for k in range(900)], '') for k in range(900)], '')",
        "replace(join([1 for k in range(2000)], ''), '1', join([1 for k in range(2000)], ''))",
        "decimal(1, 10 ** 9)",
        "1e308 * 10",
        "1e400",
        "-" * 5000 + "1",
        "(" * 250 + "1" + ")" * 250,
        "[" * 90 + "]" * 90,
        "1" * 5000,
        " + ".join(["1"] * 4000),
        "x" * 10_001,
        "inversions(range(10000))",
    ],
)
def test_work_is_bounded(text):
    with pytest.raises(ExpressionError):
        value(text)


def test_lists_that_share_themselves_cannot_be_walked_forever():
    names = {"x": [0, 0]}
    for _ in range(60):
        names["x"] = value("[x, x]", **names)
    with pytest.raises(ExpressionError, match=f"{FUEL:,} units"):
        value("text(x)", **names)
    with pytest.raises(ExpressionError, match=f"{FUEL:,} units"):
        value("x == [1]", **names)


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_an_expression_error(text):
    with contextlib.suppress(ExpressionError):
        value(text, row={"a": [1, "b"]})


@given(
    st.recursive(
        st.integers(-50, 50).map(str),
        lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner),
    )
)
def test_arithmetic_agrees_with_python(text):
    assert value(text) == eval(text)


def test_templates():
    template = read_template("{{x}} {len(row.a)} {'}' + row.b}\n{1 / 2} {4 / 2}", FUNCTIONS)
    assert template({"row": {"a": [1, 2], "b": "{c}"}}) == "{x} 2 }{c}\n0.5 2"
    for broken, reason in (("{a", "never closed"), ("a}", "never opened"), ("{}", "is no expression")):
        with pytest.raises(ExpressionError, match=reason):
            read_template(broken, FUNCTIONS)
    with pytest.raises(ExpressionError, match="cannot stand in a text"):
        read_template("{row}", FUNCTIONS)({"row": {}})


def test_patterns_take_texts_apart():
    pattern = read_pattern("Sentence 1: {a} Choices: a. {b}. b. {c}.")
    assert pattern.match("Sentence 1: Hi there. Choices: a. Mr. X. b. Y?.") == {
        "a": "Hi there.",
        "b": "Mr. X",
        "c": "Y?",
    }
    assert pattern.match("Sentence 1: Hi there. Choices: a. X. b. Y") is None
    assert pattern.match("Sentence 1: Choices: a. b. .") is None
    assert read_pattern("{all}").match("a\nb") == {"all": "a\nb"}
    for broken, reason in (("no hole", "no holes"), ("{a}{b}", "apart"), ("{a} {a}", "one name")):
        with pytest.raises(ExpressionError, match=reason):
            read_pattern(broken)


@given(st.lists(st.text("ab", max_size=4), min_size=3, max_size=3))
def test_a_pattern_gives_back_what_was_put_in(parts):
    text = "<{}>|<{}>|<{}>".format(*parts)
    assert read_pattern("<{x}>|<{y}>|<{z}>").match(text) == dict(zip("xyz", parts, strict=True))


def test_content_words():
    assert content_words("Why did the Dog's owner run to the dog?") == ["dog", "dog's", "owner", "run"]
    assert overlap("The dog ran home.", "A dog, at home!") == 2
    assert overlap("Is it?", "It is.") == 0


def test_sentences():
    assert sentences('He left. "Why?" she asked. In 1935, the end came! Yes') == [
        "He left.",
        '"Why?" she asked.',
        "In 1935, the end came!",
        "Yes",
    ]


def test_draws_follow_their_generator():
    draws = [random_functions(random.Random(seed)) for seed in (1, 1, 2)]
    shuffled = [read_expression("shuffle([0, 1, 2, 3, 4, 5, 6, 7, 8])", functions)({}) for functions in draws]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[2]) == list(range(9))
    assert len(set(read_expression("sample([0, 1, 2, 3, 4, 5, 6, 7, 8], 4)", draws[0])({}))) == 4
