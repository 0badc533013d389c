"""What a selection is made of, next to the table it came from: lengths and sources.

Scores that favour long rows are a known trap, so the shift in length is always reported. Lengths are demo tokens
where the table has them, else characters of the answer.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Int

LengthUnit = Literal["tokens", "characters"]
_PARTS = 10


@dataclass(frozen=True, slots=True)
class LengthBand:
    """Rows of similar length: about a tenth of the table.

    Args:
        shortest: Length of the shortest row in it.
        longest: Length of the longest row in it.
        rows_before: Its rows in the whole table.
        rows_after: Its rows in the selection.
    """

    shortest: int
    longest: int
    rows_before: int
    rows_after: int


@dataclass(frozen=True, slots=True)
class SourceShare:
    """Rows of one source file; None for rows that name none."""

    source_file: str | None
    rows_before: int
    rows_after: int


@dataclass(frozen=True, slots=True)
class Composition:
    """Lengths and sources of a table and of the rows chosen from it.

    Args:
        length_unit: What lengths are counted in; None if the table shows no length.
        median_before: Median length in the whole table; None if there are no lengths.
        median_after: Median length in the selection; None if it is empty.
        bands: Deciles of the whole table, short to long. Equal lengths share a band, so there may be fewer than ten.
        sources: The source files, most rows first; empty if the table has no such column.
    """

    length_unit: LengthUnit | None
    median_before: float | None
    median_after: float | None
    bands: tuple[LengthBand, ...]
    sources: tuple[SourceShare, ...]

    @property
    def median_ratio(self) -> float | None:
        """How many times longer the median chosen row is; None where that has no meaning."""
        if not self.median_before or self.median_after is None:
            return None
        return self.median_after / self.median_before


def composition(table: pl.DataFrame, rows: Int[np.ndarray, " kept"]) -> Composition:
    """Compare a selection with its table.

    Args:
        table: The whole table; `demo_tokens`, `output`, `messages` and `source_file` are used where present.
        rows: Indices of the chosen rows.
    """
    unit, lengths = lengths_of(table)
    chosen = [lengths[row] for row in rows.tolist()] if unit is not None else []
    return Composition(
        length_unit=unit,
        median_before=float(median(lengths)) if lengths else None,
        median_after=float(median(chosen)) if chosen else None,
        bands=_bands(lengths, chosen),
        sources=_sources(table, rows),
    )


def lengths_of(table: pl.DataFrame) -> tuple[LengthUnit | None, list[int]]:
    """The length of each row, and what it is counted in; None and no lengths where the table shows none."""
    if "demo_tokens" in table.columns and table["demo_tokens"].dtype.is_integer():
        tokens = table["demo_tokens"]
        if tokens.null_count() == 0:
            return "tokens", tokens.to_list()
    answers: list[pl.Series] = []
    if "output" in table.columns and table["output"].dtype == pl.String:
        answers.append(table["output"].str.len_chars().fill_null(0).cast(pl.Int64))
    if "messages" in table.columns and _holds_messages(table["messages"]):
        answers.append(_answer_characters(table["messages"]))
    if not answers or not table.height:
        return None, []
    total = answers[0] if len(answers) == 1 else answers[0] + answers[1]
    return "characters", total.to_list()


def _holds_messages(column: pl.Series) -> bool:
    kind = column.dtype
    if not isinstance(kind, pl.List) or not isinstance(kind.inner, pl.Struct):
        return False
    return {"role", "content"} <= {field.name for field in kind.inner.fields}


def _answer_characters(messages: pl.Series) -> pl.Series:
    message = pl.element().struct
    characters = (
        pl.when(message.field("role") == "assistant").then(message.field("content").str.len_chars()).otherwise(0)
    )
    frame = pl.DataFrame([messages.alias("messages")])
    answers = pl.col("messages").list.eval(characters.fill_null(0).cast(pl.Int64)).list.sum().fill_null(0)
    return frame.select(answers)["messages"]


def _bands(lengths: Sequence[int], chosen: Sequence[int]) -> tuple[LengthBand, ...]:
    if not lengths:
        return ()
    ordered = sorted(lengths)
    # Nearest-rank quantiles in whole numbers; equal ones fall together.
    edges = sorted({ordered[-(-part * len(ordered) // _PARTS) - 1] for part in range(1, _PARTS + 1)})
    before = np.searchsorted(edges, ordered)
    after = Counter(np.searchsorted(edges, chosen).tolist())
    bands = []
    for band in range(len(edges)):
        first, end = np.searchsorted(before, [band, band + 1]).tolist()
        bands.append(LengthBand(ordered[first], ordered[end - 1], end - first, after[band]))
    return tuple(bands)


def _sources(table: pl.DataFrame, rows: Int[np.ndarray, " kept"]) -> tuple[SourceShare, ...]:
    if "source_file" not in table.columns:
        return ()
    names = table["source_file"].cast(pl.String)
    before = Counter(names.to_list())
    after = Counter(names.gather(rows).to_list())
    largest_first = sorted(before, key=lambda name: (-before[name], name is None, name or ""))
    return tuple(SourceShare(name, before[name], after[name]) for name in largest_first)
