"""Any table in, and tables out: whole, typed, with their provenance, or not at all.

Invariants: a file is written under a temporary name, synced and renamed, so that a reader sees the old file or the
new one; equal tables and steps give equal bytes.
"""

import io
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import polars as pl

from pyllm._core import read_rows
from pyllm.data.columns import json_text, metadata_steps, read_frame, with_known_types
from pyllm.data.files import TEXT_FORMATS, read_file
from pyllm.data.rows import BadRow
from pyllm.errors import InputError, PrerequisiteError, reason_of
from pyllm.provenance import canonical_json

TableFormat = Literal["parquet", "jsonl", "csv"]


@runtime_checkable
class ByteSink(Protocol):
    """An open binary stream, such as `sys.stdout.buffer`."""

    def write(self, data: bytes, /) -> object:
        """Take bytes."""

    def flush(self) -> object:
        """Pass on what was taken."""


_ROW_GROUP_ROWS = 65_536  # fixed, so that bytes do not depend on how polars would split the work
_COMPRESSION_LEVEL = 1


def read_table(source: str | os.PathLike[str]) -> tuple[pl.DataFrame, tuple[dict[str, Any], ...]]:
    """Read a table as it is, with no regard to its shape.

    Args:
        source: Parquet, Arrow file or stream, JSON lines, JSON array or CSV, plain or packed with gzip or zstd; `-`
            is standard input.

    Returns:
        The table and the provenance steps of its metadata. Tables of ours that went through JSON or CSV get the
        types of their canonical and score columns back; other CSV columns are text.

    Raises:
        InputError: The source is missing, empty, torn, or holds a bad record.
    """
    file = read_file(source)
    if file.format in TEXT_FORMATS:
        rows = read_rows(file.data, file.format, source=file.source, file_name=file.file_name, mode="table")
        if rows.bad:
            message = f"{file.source}: {BadRow(file.file_name, *rows.bad[0]).place}"
            raise InputError(message)
        return with_known_types(pl.read_ipc_stream(rows.ipc)), ()
    return read_frame(file), metadata_steps(file)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table, for its values and for messages.

    Args:
        source: What messages call the table.
        number: Its place, from 0 on.
        values: By the names of columns.
    """

    source: str
    number: int
    values: Mapping[str, Any]

    def wrong(self, column: str, reason: str) -> InputError:
        """What to raise of a value."""
        return InputError(f"{self.source}: row {self.number}, field `{column}`: {reason}")

    def first_of(self, names: Sequence[str]) -> tuple[str, Any] | None:
        """The first of these columns that has a value here, and the value."""
        for name in names:
            if self.values.get(name) is not None:
                return name, self.values[name]
        return None


def rows_of(table: pl.DataFrame, source: str, *, lower_names: bool = False) -> list[Row]:
    """The rows of a table.

    Args:
        table: As it was read.
        source: What messages call it.
        lower_names: Whether rows have the names of columns in lower case.

    Raises:
        InputError: It has none.
    """
    if not table.height:
        raise InputError(f"{source} holds no rows")
    names = [name.lower() if lower_names else name for name in table.columns]
    return [Row(source, number, dict(zip(names, values, strict=True))) for number, values in enumerate(table.rows())]


def write_table(
    table: pl.DataFrame,
    destination: Path | ByteSink,
    *,
    format: TableFormat,  # noqa: A002  (the option's name)
    steps: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a table.

    Args:
        table: What to write.
        destination: A path, or an open binary stream such as standard output.
        format: Parquet carries `steps`; JSON lines and CSV have no place for them. CSV holds lists and objects as
            JSON text, an empty text as `""` and a null as nothing.
        steps: Provenance, oldest first.

    Raises:
        PrerequisiteError: The destination cannot be written.
    """
    data = _table_bytes(table, format, steps)
    if isinstance(destination, Path):
        write_bytes_atomically(destination, data)
    else:
        destination.write(data)
        destination.flush()


def _table_bytes(table: pl.DataFrame, table_format: TableFormat, steps: Sequence[dict[str, Any]]) -> bytes:
    if table_format == "csv":
        return _csv_ready(table).write_csv().encode("utf-8")
    if table_format == "jsonl":
        return _json_ready(table).write_ndjson().encode("utf-8")
    buffer = io.BytesIO()
    table.rechunk().write_parquet(
        buffer,
        compression="zstd",
        compression_level=_COMPRESSION_LEVEL,
        row_group_size=_ROW_GROUP_ROWS,
        metadata={"pyllm": canonical_json({"steps": list(steps)})},
    )
    return buffer.getvalue()


def _json_ready(table: pl.DataFrame) -> pl.DataFrame:
    # JSON has no bytes; polars writes the rest, non-finite numbers as null.
    return table.with_columns(
        pl.col(name).bin.encode("base64") for name, dtype in table.schema.items() if dtype == pl.Binary
    )


def _csv_ready(table: pl.DataFrame) -> pl.DataFrame:
    columns = []
    for column in table:
        if column.dtype.is_nested():
            texts = [None if value is None else json_text(value) for value in column.to_list()]
            columns.append(pl.Series(column.name, texts, dtype=pl.String))
        elif column.dtype == pl.Binary:
            columns.append(column.bin.encode("base64"))
        elif column.dtype.is_float():
            columns.append(pl.select(pl.when(column.is_finite()).then(column).alias(column.name)).to_series())
        elif column.dtype == pl.Duration:
            columns.append(column.dt.to_string("iso"))
        elif column.dtype == pl.Object:
            texts = [None if value is None else str(value) for value in column.to_list()]
            columns.append(pl.Series(column.name, texts, dtype=pl.String))
        else:
            columns.append(column)
    return pl.DataFrame(columns)


def write_json_atomically(path: Path, value: Any) -> None:
    """Write a JSON file for people and programs: sorted, indented, whole or not at all.

    Raises:
        PrerequisiteError: The path cannot be written.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
    write_bytes_atomically(path, f"{text}\n".encode())


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in its folder, sync it and rename it.

    A link is followed, and a device or a named pipe is written to as it is.

    Raises:
        PrerequisiteError: The path cannot be written; nothing is left behind.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            if stat.S_ISDIR(target.stat().st_mode):
                raise IsADirectoryError(None, "it is a directory")
            target.write_bytes(data)
            return
        _replace(target, data)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        message = f"cannot write {path}: {reason_of(error)}"
        raise PrerequisiteError(message) from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.partial")
    # Opened by hand for the sake of its mode: the user's umask decides, as for any new file.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
