"""Typed columns: Python values to polars columns and columnar files to frames.

A column that is kept beside the canonical ones gets the narrowest type that holds every value exactly. Where its
values share none, the whole column is stored as JSON text, so that nothing is lost or guessed at.
"""

import base64
import io
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from pyllm.data.examples import CANONICAL_SCHEMA, SCORE_SCHEMA, DataType
from pyllm.data.files import FileBytes
from pyllm.errors import InputError
from pyllm.provenance import canonical_json

_logger = logging.getLogger(__name__)

_INT64, _UINT64 = range(-(1 << 63), 1 << 63), range(1 << 64)
_EXACT_FLOAT = 1 << 53
_KNOWN_TYPES = {**CANONICAL_SCHEMA, **SCORE_SCHEMA}
_OUR_MARKS = {"id", "source_file", "source_row"}


class _NoCommonTypeError(Exception):
    """The values of a column do not share a type."""


def column_of(name: str, values: Sequence[Any]) -> pl.Series:
    """One column from JSON values.

    Args:
        name: Its name.
        values: One value a row; None is null.

    Returns:
        A column of the type that all values share, or their JSON as text where there is none.
    """
    present = [value for value in values if value is not None]
    try:
        return pl.Series(name, values, dtype=_common_type(present), strict=True)
    except _NoCommonTypeError:
        _logger.info("column `%s` holds values of different types: kept as JSON text", name)
        return pl.Series(name, [None if value is None else json_text(value) for value in values], dtype=pl.String)


def _common_type(values: Sequence[Any]) -> DataType:
    kinds = {type(value) for value in values}
    if not kinds or kinds == {str}:
        return pl.String()
    if kinds == {bool}:
        return pl.Boolean()
    if kinds == {int}:
        return _integer_type(values)
    if kinds == {float}:
        return pl.Float64()
    if kinds == {int, float} and all(abs(value) <= _EXACT_FLOAT for value in values if isinstance(value, int)):
        return pl.Float64()
    if kinds == {list}:
        return pl.List(_common_type([item for value in values for item in value if item is not None]))
    if kinds == {dict}:
        return _struct_type(values)
    raise _NoCommonTypeError


def _integer_type(values: Sequence[int]) -> DataType:
    low, high = min(values), max(values)
    if low in _INT64 and high in _INT64:
        return pl.Int64()
    if low in _UINT64 and high in _UINT64:
        return pl.UInt64()
    raise _NoCommonTypeError


def _struct_type(values: Sequence[dict[str, Any]]) -> DataType:
    # Objects with different keys stay JSON text: a struct would add the missing keys as nulls.
    names = list(values[0])
    if not names or any(value.keys() != values[0].keys() for value in values):
        raise _NoCommonTypeError
    return pl.Struct(
        {name: _common_type([value[name] for value in values if value[name] is not None]) for name in names}
    )


def json_text(value: Any) -> str:
    """Canonical JSON of any value of a table: what JSON cannot hold (infinities, dates, bytes) is made to fit."""
    try:
        return canonical_json(value)
    except (TypeError, ValueError):
        return canonical_json(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | pl.Series):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value if value is None or isinstance(value, str | int) else str(value)


def read_frame(file: FileBytes) -> pl.DataFrame:
    """The table of a columnar file, its categories as text.

    Args:
        file: Parquet, an Arrow file or an Arrow stream.

    Returns:
        The table, in memory.

    Raises:
        InputError: The file is damaged.
    """
    readers = {"parquet": pl.read_parquet, "arrow_file": pl.read_ipc, "arrow_stream": pl.read_ipc_stream}
    try:
        frame = readers[file.format](io.BytesIO(file.data))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
        first_line = str(error).partition("\n")[0]
        message = f"{file.source} is damaged and cannot be read as {file.format.replace('_', ' ')}: {first_line}"
        raise InputError(message) from error
    coded = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Categorical | pl.Enum)]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame


def metadata_steps(file: FileBytes) -> tuple[dict[str, Any], ...]:
    """The provenance steps in a Parquet file's metadata; none where we did not write it."""
    if file.format != "parquet":
        return ()
    stored = pl.read_parquet_metadata(io.BytesIO(file.data)).get("pyllm")
    if stored is None:
        return ()
    try:
        steps = json.loads(stored)["steps"]
    except (ValueError, KeyError, TypeError):
        steps = None
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        _logger.warning("%s: its provenance metadata cannot be read and is left out", file.source)
        return ()
    return tuple(steps)


def with_known_types(frame: pl.DataFrame) -> pl.DataFrame:
    """Give the columns of our own tables their types back, which JSON and CSV do not carry.

    Args:
        frame: Any table; one without our marks (`id`, `source_file`, `source_row`) is returned as it is.

    Returns:
        The table with canonical and score columns of their own types where their values allow it.
    """
    if not set(frame.columns) >= _OUR_MARKS:
        return frame
    return frame.with_columns(
        restored
        for name, dtype in _KNOWN_TYPES.items()
        if name in frame.columns and (restored := _cast(frame[name], dtype)) is not None
    )


def _cast(column: pl.Series, dtype: DataType) -> pl.Series | None:
    try:
        if isinstance(dtype, pl.List) and column.dtype == pl.String:
            return column.str.json_decode(dtype)
        return column.cast(dtype)
    except pl.exceptions.PolarsError:
        return None
