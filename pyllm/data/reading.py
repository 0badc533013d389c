"""A file of instruction data, of whatever shape and format, to one table in the canonical schema.

Rows keep their order. Rows that cannot be read are left out and named, unless nothing would be left, which refuses
the file. Tables that we wrote ourselves are known by their ids and keep them, with the sources they name.

A column that is kept beside the canonical ones gets the narrowest type that holds every value exactly. Where its
values share none, the whole column is stored as JSON text, so that nothing is lost or guessed at.

Cost: one pass in Rust (`rust/pyllm-examples`) over bytes in memory; memory is a few times the size of the text.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import polars as pl

from pyllm._core import ReadRows, read_rows
from pyllm.data.columns import metadata_steps
from pyllm.data.examples import quoted
from pyllm.data.files import read_file
from pyllm.data.rows import BadRow, counted
from pyllm.data.shapes import check_shape
from pyllm.data.tables import write_bytes_atomically
from pyllm.errors import InputError

_logger = logging.getLogger(__name__)

_NAMED_BAD_ROWS = 5


@dataclass(frozen=True, slots=True)
class ExampleTable:
    """Instruction data as it was read.

    Args:
        table: The canonical columns, then every other column of the file.
        source: The source as it was named.
        rows_read: Records in the source, bad ones and duplicates counted.
        bad_rows: Rows that were left out.
        shapes: Rows per shape; `pyllm` for a table of ours.
        duplicate_rows: Rows whose content stood in an earlier row, dropped or not.
        provenance: Steps found in the metadata of a table of ours.
        source_sha256: Digest of the source's bytes.
    """

    table: pl.DataFrame
    source: str
    rows_read: int
    bad_rows: tuple[BadRow, ...]
    shapes: dict[str, int]
    duplicate_rows: int
    provenance: tuple[dict[str, Any], ...]
    source_sha256: str


def read_examples(
    source: str | os.PathLike[str],
    *,
    shape: str = "auto",
    strict: bool = False,
    bad_rows_path: Path | None = None,
    dedup: bool = False,
) -> ExampleTable:
    """Read instruction data.

    Args:
        source: A path, or `-` for standard input: Parquet, Arrow, JSON array, JSON lines or CSV, plain or packed
            with gzip or zstd.
        shape: One of `pyllm.data.shapes.SHAPES`; `auto` recognises every row by its keys.
        strict: Refuse the file if it has a bad row.
        bad_rows_path: Where to collect bad rows, one JSON object a line; written even when there are none.
        dedup: Drop rows whose content stood in an earlier row.

    Returns:
        The table and what was found on the way.

    Raises:
        InputError: The file cannot be read, holds no rows or no good one, or has a bad row under `strict`.
        SettingError: There is no such shape.
        PrerequisiteError: `bad_rows_path` cannot be written.

    Example:
        >>> read_examples("train.jsonl", dedup=True).table.columns[:3]  # doctest: +SKIP
        ['id', 'source_file', 'source_row']
    """
    started = time.perf_counter()
    check_shape(shape)
    file = read_file(source)
    rows = read_rows(file.data, file.format, source=file.source, file_name=file.file_name, shape=shape)
    if not rows.records:
        message = f"{file.source} holds no rows"
        raise InputError(message)
    bad = [BadRow(file.file_name, *row) for row in rows.bad]
    if bad_rows_path is not None:
        write_bytes_atomically(bad_rows_path, _bad_rows_lines(bad))
    if strict and bad:
        _refuse(file.source, bad)
    if len(bad) == rows.records:
        _refuse_all(file.source, bad)
    table = pl.read_ipc_stream(rows.ipc)
    duplicates = table.height - table["id"].n_unique()
    shapes = dict(rows.shapes)
    _log_columns(file.source, rows)
    _log(file.source, rows.records, shapes, duplicates, time.perf_counter() - started)
    _log_bad(file.source, bad)
    return ExampleTable(
        table=table.unique("id", keep="first", maintain_order=True) if dedup and duplicates else table,
        source=os.fspath(source),
        rows_read=rows.records,
        bad_rows=tuple(bad),
        shapes=shapes,
        duplicate_rows=duplicates,
        provenance=metadata_steps(file),
        source_sha256=file.sha256,
    )


def _refuse(source: str, bad: Sequence[BadRow]) -> NoReturn:
    more = f"; and {len(bad) - 1:,} more" if len(bad) > 1 else ""
    message = f"{source}: {bad[0].place}{more}"
    raise InputError(message, hint="without `--strict`, bad rows are left out and named")


def _refuse_all(source: str, bad: Sequence[BadRow]) -> NoReturn:
    first = bad[0].place
    if all(row.wrong_kind for row in bad):
        message = f"{source} is not instruction data: {first}"
        raise InputError(message)
    message = f"{source}: none of its {len(bad):,} rows can be read; {first}"
    hint = None
    if all(row.field is None and row.reason.startswith("is not valid JSON") for row in bad):
        hint = "each line has to be one JSON object, or the whole file one JSON array"
    raise InputError(message, hint=hint)


def _bad_rows_lines(bad: Sequence[BadRow]) -> bytes:
    names = ("source_file", "row", "line", "field", "reason", "raw")
    lines = (json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False) for row in bad)
    return "".join(f"{line}\n" for line in lines).encode("utf-8")


def _log_columns(source: str, rows: ReadRows) -> None:
    if rows.marked and not rows.own:
        _logger.warning("%s: its ids are not the digests of its content, so it is read as a foreign table", source)
    for name in rows.mixed:
        _logger.info("column `%s` holds values of different types: kept as JSON text", name)
    if rows.left_out:
        _logger.info("%s: the columns of an earlier run are left out: %s", source, quoted(rows.left_out))
    for name, new_name in rows.renamed:
        _logger.info("%s: its column `%s` becomes `%s`", source, name, new_name)


def _log(source: str, rows: int, shapes: dict[str, int], duplicates: int, seconds: float) -> None:
    counts = ", ".join(f"{name} {count:,}" for name, count in shapes.items())
    _logger.info(
        "read %s: %s (%s), %s, %.1f s", source, counted(rows, "row"), counts, counted(duplicates, "duplicate"), seconds
    )


def _log_bad(source: str, bad: Sequence[BadRow]) -> None:
    if not bad:
        return
    named = "; ".join(row.place for row in bad[:_NAMED_BAD_ROWS])
    more = len(bad) - _NAMED_BAD_ROWS
    _logger.warning(
        "%s: %s left out: %s%s", source, counted(len(bad), "bad row"), named, f"; and {more:,} more" if more > 0 else ""
    )
