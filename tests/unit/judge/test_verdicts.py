"""Verdicts are read or counted as unread, and never guessed."""

import pytest

from pyllm.judge.verdicts import Verdict, read_choice, read_grade


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Fine. Rating: [[7]]", Verdict("ok", 7.0)),
        ("Rating: [[7.5]]\n", Verdict("ok", 7.5)),
        ("[[ 10 ]]", Verdict("ok", 10.0)),
        ("[[6]] and once more [[6]]", Verdict("ok", 6.0)),
        ("[[6]], that is [[6.0]]", Verdict("ok", 6.0)),
        ("I would say 7 of 10", Verdict("missing")),
        ("Rating: [7]", Verdict("missing")),
        ("", Verdict("missing")),
        ("at first [[4]], then [[8]]", Verdict("ambiguous")),
        ("[[8]] or [[good]]", Verdict("ambiguous")),
        ("[[11]]", Verdict("invalid")),
        ("[[0]]", Verdict("invalid")),
        ("[[good]]", Verdict("invalid")),
        ("[[-3]]", Verdict("invalid")),
        ("[[7/10]]", Verdict("invalid")),
        ("[[\u0667]]", Verdict("invalid")),
        ("[[1e1]]", Verdict("invalid")),
    ],
)
def test_grades(text, verdict):
    assert read_grade(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("B is clearer: [[B]]", Verdict("ok", "B")),
        ("[[A]] [[A]]", Verdict("ok", "A")),
        ("neither: [[C]]", Verdict("ok", "C")),
        ("A", Verdict("missing")),
        ("[[a]]", Verdict("invalid")),
        ("[[D]]", Verdict("invalid")),
        ("if A were right [[A]], but [[B]]", Verdict("ambiguous")),
    ],
)
def test_choices(text, verdict):
    assert read_choice(text) == verdict


def test_a_long_answer_full_of_brackets_takes_no_time():
    assert read_choice("[[" * 500_000 + "[[A]]") == Verdict("ok", "A")
    assert read_grade("[" * 1_000_000).parse == "missing"
