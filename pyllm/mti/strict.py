"""Exact match as the published scorer decides it, without running anything a model wrote.

The published code gives the text of a tag to Python's `eval`. Here the text is read as a Python literal, which gives
the same value for every number, list and quoted text; whatever else Python would compute stays text. All its other
habits are kept: a text with a slash or a leading parenthesis is left alone, and an answer that is not there becomes the
number -1210.
"""

import ast
import functools
import re
import warnings

_NOT_THERE = "-1210"

# Python's own reader of literals may exhaust the stack on deep nesting. No literal a scorer could want is near these.
_LONGEST_LITERAL = 10_000
_DEEPEST_NESTING = 90
_PLAIN_INTEGER = re.compile(r"-?[1-9][0-9]{0,17}|0", re.ASCII)
_WORDS = re.compile(r"(?!True\b|False\b|None\b)[A-Za-z][\w ]*", re.ASCII)
_NESTING = re.compile(r"[-+~(\[{]")


def is_published_match(answer: str | None, gold: str) -> bool:
    """Whether the published scorer accepts an answer.

    Args:
        answer: What `parsing.find_published` found; None if it found nothing.
        gold: `str` of the gold answer.

    Example:
        >>> is_published_match("[1,2]", "[1, 2]"), is_published_match("4.", "4"), is_published_match("(4)", "4")
        (True, False, False)
    """
    return published_form(_NOT_THERE if answer is None else answer) == gold


def published_form(text: str) -> str:
    """A text as the published scorer compares it.

    Source: `norm_text` of the published code.
    """
    if "/" in text or text.startswith("(") or _PLAIN_INTEGER.fullmatch(text):
        return text
    if len(text) > _LONGEST_LITERAL or _WORDS.fullmatch(text):
        return text
    return _literal_form(text)


@functools.lru_cache(maxsize=1 << 16)
def _literal_form(text: str) -> str:
    if len(_NESTING.findall(text)) > _DEEPEST_NESTING and _nesting(text) > _DEEPEST_NESTING:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and of numbers that run into words
            return str(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _nesting(text: str) -> int:
    """An upper bound of how deep the expression nests: brackets that are open, and runs of signs."""
    deepest = depth = signs = 0
    for letter in text:
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter in "+-~":
            signs += 1
        elif letter == ",":
            signs = 0
        deepest = max(deepest, depth + signs)
    return deepest
