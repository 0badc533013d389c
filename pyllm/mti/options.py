"""Numbered and lettered lists inside texts: the options that instructions ask to choose from.

Lists are written in many ways: `(1) ...` or `1: ...` a line each, `1. ... 2. ...` or `(A)... (B)...` in one line, and
one inside the other. A list is a run of labels of one style that counts up from its first (`1`, `A` or `a`).
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_STYLES: Final = (
    r"\((?P<label>[0-9]{1,3})\):?",
    r"\((?P<label>[A-Z])\):?",
    r"\((?P<label>[a-z])\):?",
    r"(?P<label>[0-9]{1,3})[:.)](?=\s)",
    r"(?P<label>[A-Z])[.)](?=\s)",
)
# How the first label of each style looks: most texts hold none of them.
_FIRST_LABELS: Final = (("(1)",), ("(A)",), ("(a)",), ("1:", "1.", "1)"), ("A.", "A)"))
_AT_LINE_START: Final = tuple(re.compile(rf"^[^\S\n]*{style}", re.MULTILINE) for style in _STYLES)
_ANYWHERE: Final = tuple(re.compile(rf"(?<!\S){style}") for style in _STYLES)
# Numbers and letters without parentheses are options only where a text begins with them, but for a heading.
_BARE_LIST: Final = re.compile(r"\s*(?:#[^\n]*\n\s*)?[1A][:.)]")


@dataclass(frozen=True, slots=True)
class OptionList:
    """One list of options.

    Args:
        labels: `1`, `2`, ... or `A`, `B`, ... or `a`, `b`, ...; at least two.
        texts: What follows each label, up to the next one, as it stands there (line ends and all).
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@functools.lru_cache(maxsize=1 << 14)
def option_lists(text: str) -> tuple[OptionList, ...]:
    """The lists of options in a text, those of each style in the order of the text.

    Where a style has a list with a label a line, its labels inside lines are taken for part of the options.
    """
    found: list[OptionList] = []
    for first, lines, anywhere in zip(_FIRST_LABELS, _AT_LINE_START, _ANYWHERE, strict=True):
        if any(label in text for label in first) and ("(" in first[0] or _BARE_LIST.match(text)):
            found += list(_lists(text, lines, whole_lines=True)) or list(_lists(text, anywhere, whole_lines=False))
    return tuple(found)


def _lists(text: str, pattern: re.Pattern[str], *, whole_lines: bool) -> Iterator[OptionList]:
    for run in _runs(list(pattern.finditer(text))):
        ends = [match.start() for match in run[1:]] + [_end(text, pattern, run[-1], whole_lines=whole_lines)]
        pairs = zip(run, ends, strict=True)
        yield OptionList(tuple(match["label"] for match in run), tuple(text[m.end() : end] for m, end in pairs))


def _runs(matches: list[re.Match[str]]) -> Iterator[list[re.Match[str]]]:
    run: list[re.Match[str]] = []
    for match in matches:
        if match["label"] in {"1", "A", "a"}:
            if len(run) > 1:
                yield run
            run = [match]
        elif run and match["label"] == _after(run[-1]["label"]):
            run.append(match)
    if len(run) > 1:
        yield run


def _after(label: str) -> str:
    return str(int(label) + 1) if label.isdigit() else chr(ord(label) + 1)


def _end(text: str, pattern: re.Pattern[str], last: re.Match[str], *, whole_lines: bool) -> int:
    """Where the last option ends: at the next list of its style, or with the text or, inside a line, with the line."""
    following = pattern.search(text, last.end())
    end = following.start() if following else len(text)
    if whole_lines:
        return end
    line_end = text.find("\n", last.end())
    return end if line_end < 0 else min(end, line_end)


def plain(text: str) -> str:
    """A text for comparison: one space between words, none around, lower case."""
    return " ".join(text.split()).casefold()
