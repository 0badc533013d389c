"""ROUGE-L against the textbook table, and words of scripts other than Latin."""

import random

import pytest

from pyllm.mti.rouge import common_subsequence_length, rouge_l, words


def slow_length(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            best = table[row][column] + 1 if one == other else max(table[row][column + 1], table[row + 1][column])
            table[row + 1][column + 1] = best
    return table[-1][-1]


def test_length_is_that_of_the_textbook_table():
    generator = random.Random(5)
    for _ in range(300):
        first, second = (generator.choices("abcd", k=generator.randrange(0, 90)) for _ in range(2))
        assert common_subsequence_length(first, second) == slow_length(first, second)


@pytest.mark.parametrize(
    ("answer", "gold", "score"),
    [
        # C.-Y. Lin 2004, section 3.1: "police killed the gunman" against two candidates.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("A Bully", "a bully.", 1.0),
        ("", "a bully", 0.0),
        ("...", "a bully", 0.0),
        ("a bully", "", 0.0),
        ("The running dogs", "the dog runs", 1 / 3),  # no stemming
        ("one two three", "one", 2 * 1 / 4),
    ],
)
def test_f1(answer, gold, score):
    assert rouge_l(answer, gold) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't stop_me, 3.5!", ["don", "t", "stop", "me", "3", "5"]),
        ("Öffne Microsoft Edge", ["öffne", "microsoft", "edge"]),
        ("cafe\u0301", ["café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("中文 字、abc", ["中", "文", "字", "abc"]),
        ("Привет, мир", ["привет", "мир"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("٣ ٤٥", ["٣", "٤٥"]),
        ("\x00\x1b🙂", []),
    ],
)
def test_words_of_any_script(text, found):
    assert words(text) == found
