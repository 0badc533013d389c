"""Rows of a foreign file to columns: the canonical ones, and every other one beside them.

Only Python objects of the current row are made for columnar files; the columns that are kept stay in polars.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pyllm.data.columns import json_text
from pyllm.data.examples import CANONICAL_COLUMNS, CANONICAL_SCHEMA, SCORE_COLUMNS, content_id, quoted
from pyllm.data.rows import BadRow
from pyllm.errors import InputError
from tests.support.slow_reader.columns import column_of
from tests.support.slow_reader.conversations import Turn
from tests.support.slow_reader.records import Record
from tests.support.slow_reader.rows import BadFieldError
from tests.support.slow_reader.shapes import KNOWN_KEYS, Content, ShapeReader

_logger = logging.getLogger(__name__)

_ALWAYS_SCORED = 6
"""The score columns that every scoring run writes stand first; a table with all of them was scored before."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the rows of one file say, as columns.

    Args:
        ids: Ids of the good rows.
        places: Their places among all rows, bad ones counted.
        contents: What they say.
        bad: The bad rows.
    """

    ids: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    contents: list[Content] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, int]:
        """Rows per shape, the most frequent first."""
        return dict(Counter(content.shape for content in self.contents).most_common())


def gather_records(records: list[Record], file_name: str, shape: str) -> Gathered:
    """Read the records of a text file.

    Args:
        records: All of its records.
        file_name: Its name, for bad rows.
        shape: One of `pyllm.data.shapes.SHAPES`.

    Returns:
        Good rows as columns, and the bad ones.
    """
    gathered, reader = Gathered(), ShapeReader(shape)
    for record in records:
        if record.value is None:
            problem: BadFieldError | None = BadFieldError(None, record.reason or "is bad")
        else:
            problem = _take(gathered, reader, record.row, record.value)
        if problem is not None:
            gathered.bad.append(_bad_record(record, file_name, problem))
    return gathered


def damaged_records(records: list[Record], file_name: str) -> list[BadRow]:
    """The records of a text file that are bad in themselves; arguments as for `gather_records`."""
    return gather_records([record for record in records if record.value is None], file_name, "auto").bad


def gather_frame(frame: pl.DataFrame, file_name: str, shape: str) -> Gathered:
    """Read the rows of a columnar file; arguments and result as for `gather_records`."""
    wanted = [name for name in frame.columns if name.lower() in KNOWN_KEYS]
    gathered = Gathered()
    reader = ShapeReader(shape, beside=[name for name in frame.columns if name not in wanted])
    for place, row in enumerate(_frame_rows(frame, wanted)):
        problem = _take(gathered, reader, place, row)
        if problem is not None:
            raw = json_text(frame.row(place, named=True))
            bad = BadRow(file_name, place, None, problem.field, problem.reason, raw, problem.wrong_kind)
            gathered.bad.append(bad)
    return gathered


def _bad_record(record: Record, file_name: str, problem: BadFieldError) -> BadRow:
    raw = json_text(record.value) if record.raw is None else record.raw
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return BadRow(file_name, record.row, record.line, problem.field, problem.reason, whole, problem.wrong_kind)


def _frame_rows(frame: pl.DataFrame, wanted: list[str]) -> Iterator[Mapping[str, Any]]:
    if wanted:
        return frame.select(wanted).iter_rows(named=True)
    return ({} for _ in range(frame.height))


def _take(gathered: Gathered, reader: ShapeReader, place: int, row: Mapping[str, Any]) -> BadFieldError | None:
    try:
        content = reader.read(row)
        digest = content_id(content.instruction, content.input, content.output, content.turns, content.tools)
    except BadFieldError as problem:
        return problem
    except InputError as error:
        return BadFieldError(None, error.message)
    gathered.ids.append(digest)
    gathered.places.append(place)
    gathered.contents.append(content)
    return None


def foreign_table(gathered: Gathered, rows: list[Record] | pl.DataFrame, file_name: str, source: str) -> pl.DataFrame:
    """The good rows in the canonical schema, with all other columns after it.

    Args:
        gathered: The rows as read.
        rows: What they were read from.
        file_name: Goes to `source_file`.
        source: The file's name, for the log.

    Returns:
        One row a good row. Other columns whose name is taken become `original_*`.
    """
    contents = gathered.contents
    values: dict[str, list[Any]] = {
        "id": gathered.ids,
        "source_file": [file_name] * len(contents),
        "source_row": gathered.places,
        "instruction": [content.instruction for content in contents],
        "input": [content.input for content in contents],
        "output": [content.output for content in contents],
        "messages": [_messages(content.turns) for content in contents],
        "tools": [content.tools for content in contents],
    }
    canonical = [pl.Series(name, values[name], dtype=dtype) for name, dtype in CANONICAL_SCHEMA.items()]
    others = _frame_others(rows, gathered) if isinstance(rows, pl.DataFrame) else _record_others(rows, gathered)
    return pl.DataFrame([*canonical, *_renamed(list(others), source)])


def _messages(turns: list[Turn] | None) -> list[dict[str, Any]] | None:
    if turns is None:
        return None
    return [{"role": role, "content": content, "trained": trained} for role, content, trained in turns]


def _record_others(records: list[Record], gathered: Gathered) -> Iterator[pl.Series]:
    rows = [records[place].value or {} for place in gathered.places]
    columns: dict[str, list[Any]] = {}
    for place, (row, content) in enumerate(zip(rows, gathered.contents, strict=True)):
        for name, value in row.items():
            if name in content.used:
                continue
            column = columns.setdefault(name, [])
            column.extend([None] * (place - len(column)))
            column.append(value)
    for name, column in columns.items():
        column.extend([None] * (len(rows) - len(column)))
        if _is_kept(name, empty=all(value is None for value in column)):
            yield column_of(name, column)


def _frame_others(frame: pl.DataFrame, gathered: Gathered) -> Iterator[pl.Series]:
    good = frame[gathered.places]
    for name in good.columns:
        kept = pl.col(name)
        if name.lower() in KNOWN_KEYS:
            unused = pl.Series([name not in content.used for content in gathered.contents], dtype=pl.Boolean)
            kept = pl.when(unused).then(kept)
        column = good.select(kept.alias(name)).to_series()
        if _is_kept(name, empty=column.null_count() == len(column)):
            yield column


def _is_kept(name: str, *, empty: bool) -> bool:
    # A known key without any value was read as absent, or was used in every row; nothing of it is left to keep.
    return not empty or name.lower() not in KNOWN_KEYS


def _renamed(others: list[pl.Series], source: str) -> Iterator[pl.Series]:
    if {column.name for column in others} >= set(SCORE_COLUMNS[:_ALWAYS_SCORED]):
        scores = [column.name for column in others if column.name in SCORE_COLUMNS]
        _logger.info("%s: the columns of an earlier run are left out: %s", source, quoted(scores))
        others = [column for column in others if column.name not in SCORE_COLUMNS]
    taken = {*CANONICAL_COLUMNS, *SCORE_COLUMNS, *(column.name for column in others)}
    for column in others:
        name = column.name
        if name in CANONICAL_COLUMNS or name in SCORE_COLUMNS:
            name = f"original_{name}"
            while name in taken:
                name = f"original_{name}"
            taken.add(name)
            _logger.info("%s: its column `%s` becomes `%s`", source, column.name, name)
        yield column.alias(name)
