"""What a page is made of: sections of words, facts, tables, plots and passages, as plain values."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Real = int | float
"""A number of either kind: JSON does not tell them apart."""

Kind = Literal["number", "word", "text"]
"""Numbers are set to the right, words stay whole, text may be broken."""

_CELL_CHARACTERS = 400
_PASSAGE_CHARACTERS = 4000
_DIGEST_CHARACTERS = 64
_SHORT_DIGEST = 12


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Args:
        text: What is shown.
        value: What the column is sorted by; None sorts by the text, and behind all numbers.
    """

    text: str
    value: Real | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: What stands above it.
        kind: How it is set.
    """

    title: str
    kind: Kind = "number"


@dataclass(frozen=True, slots=True)
class Words:
    """A sentence or two.

    Args:
        text: The words.
        is_warning: Whether the reader must not miss them.
    """

    block: ClassVar[str] = "words"
    text: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A line above what belongs to one of several runs."""

    block: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and what they are, in two columns.

    Args:
        rows: Pairs.
        title: What stands above them; None sets them openly, else they are folded under it.
    """

    block: ClassVar[str] = "facts"
    rows: tuple[tuple[str, str], ...]
    title: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table that the reader can sort.

    Args:
        title: What it shows.
        columns: Its columns.
        rows: Their cells.
        note: What is said below it.
    """

    block: ClassVar[str] = "table"
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing.

    Args:
        title: What it shows.
        svg: The drawing, made by `pyllm.report.drawing`: the one text that a page takes over as it is.
        note: What is said below it.
    """

    block: ClassVar[str] = "plot"
    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Passages:
    """Texts that are folded under a line each.

    Args:
        title: What they are.
        items: The line, and names with their texts.
    """

    block: ClassVar[str] = "passages"
    title: str
    items: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


Block = Heading | Words | Facts | Table | Plot | Passages


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page.

    Args:
        name: What links point to.
        title: Its heading.
        blocks: What stands in it. Plots that follow each other stand side by side where there is room.
    """

    name: str
    title: str
    blocks: tuple[Block, ...]


def words(value: object) -> Cell:
    """A cell of words."""
    return Cell("–" if value is None else one_line(str(value)))


def count(value: Real | None) -> Cell:
    """A cell of a whole number."""
    return Cell("–") if value is None else Cell(f"{value:,.0f}", float(value))


def number(
    value: Real | None,
    interval: Sequence[Real] | None = None,
    *,
    digits: int = 3,
    percent: bool = False,
    signed: bool = False,
) -> Cell:
    """A cell of a number, with its interval where there is one.

    Args:
        value: The number; None and NaN are shown as a dash.
        interval: Where it begins and ends.
        digits: Behind the point; of a share one.
        percent: Whether it is a share, from 0 to 1.
        signed: Whether a plus is shown.
    """
    if value is None or not math.isfinite(value):
        return Cell("–" if value is None or math.isnan(value) else str(value))
    sign, places = ("+" if signed else ""), (1 if percent else digits)

    def said(part: Real) -> str:
        return f"{100 * part if percent else part:{sign},.{places}f}"

    text = said(value) + (" %" if percent else "")
    if interval is not None:
        text += f" ({said(interval[0])} to {said(interval[1])})"
    return Cell(text, float(value))


def one_line(text: str, most: int = _CELL_CHARACTERS) -> str:
    """A text as one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} [...]"


def passage(text: object) -> str:
    """A text with its lines, cut where it is long."""
    whole = "" if text is None else str(text)
    return whole if len(whole) <= _PASSAGE_CHARACTERS else f"{whole[:_PASSAGE_CHARACTERS]} [...]"


def flat_facts(value: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Nested values as pairs with dotted names; digests are shortened and what is empty is left out."""
    return tuple((name, _said(each)) for name, each in _leaves(value, ()) if each not in (None, "", [], {}))


def _leaves(value: Any, path: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name in sorted(value):
            yield from _leaves(value[name], (*path, str(name)))
        return
    yield ".".join(path), value


def _said(value: Any) -> str:
    if isinstance(value, str):
        return short_digest(value)
    if isinstance(value, list):
        return one_line(", ".join(_said(each) if not isinstance(each, dict) else _pairs(each) for each in value))
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}" if abs(value) >= 10_000 else str(value)


def _pairs(value: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {_said(each)}" for name, each in sorted(value.items()))


def short_digest(text: str) -> str:
    """A SHA-256 by its first digits; any other text as it is."""
    is_digest = len(text) == _DIGEST_CHARACTERS and all(letter in "0123456789abcdef" for letter in text)
    return text[:_SHORT_DIGEST] if is_digest else one_line(text)
