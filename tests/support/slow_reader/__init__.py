"""Rows read one by one in plain Python: the slow twin of `rust/pyllm-examples`.

It reads the same bytes to the same table, bad rows and counts, in the most direct way there is.
"""

from typing import Any, NamedTuple

import polars as pl

from pyllm.data.columns import read_frame
from pyllm.data.files import TEXT_FORMATS, FileBytes
from pyllm.data.rows import BadRow
from tests.support.slow_reader.columns import column_of
from tests.support.slow_reader.gathering import damaged_records, foreign_table, gather_frame, gather_records
from tests.support.slow_reader.identity import OUR_COLUMNS, own_table
from tests.support.slow_reader.records import Record, text_records


class SlowRows(NamedTuple):
    """What a file holds.

    Args:
        table: The good rows, or None where there are none.
        records: All records.
        bad: Bad rows.
        shapes: Rows per shape, `pyllm` for a table of ours.
    """

    table: pl.DataFrame | None
    records: int
    bad: list[BadRow]
    shapes: dict[str, int]


def read_slowly(file: FileBytes, shape: str = "auto") -> SlowRows:
    """Read the rows of a file.

    Raises:
        InputError: The file as a whole is damaged.
    """
    rows = text_records(file) if file.format in TEXT_FORMATS else read_frame(file)
    own, bad = _own_rows(file, rows)
    if own is not None:
        return SlowRows(own, len(rows), bad, {"pyllm": own.height})
    if isinstance(rows, pl.DataFrame):
        gathered = gather_frame(rows, file.file_name, shape)
    else:
        gathered = gather_records(rows, file.file_name, shape)
    table = foreign_table(gathered, rows, file.file_name, file.source) if gathered.ids else None
    return SlowRows(table, len(rows), gathered.bad, gathered.shapes)


def _own_rows(file: FileBytes, rows: list[Record] | pl.DataFrame) -> tuple[pl.DataFrame | None, list[BadRow]]:
    if isinstance(rows, pl.DataFrame):
        return own_table(rows, file.source), []
    if not any(set(record.value) >= OUR_COLUMNS for record in rows if record.value is not None):
        return None, []
    return own_table(frame_of_records(file, rows), file.source), damaged_records(rows, file.file_name)


def frame_of_records(file: FileBytes, records: list[Record]) -> pl.DataFrame:
    """The good records of a text file as a table, columns in order of first appearance."""
    rows: list[dict[str, Any]] = [record.value for record in records if record.value is not None]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if file.format == "csv":
        schema = dict.fromkeys(names, pl.String)
        return pl.DataFrame({name: [row[name] for row in rows] for name in names}, schema=schema)
    return pl.DataFrame([column_of(name, [row.get(name) for row in rows]) for name in names])
