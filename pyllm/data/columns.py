"""Columns of files: columnar files to frames, known types given back, and any value as JSON text."""

import base64
import io
import json
import logging
import math
from typing import Any

import polars as pl

from pyllm.data.examples import CANONICAL_SCHEMA, SCORE_SCHEMA, DataType
from pyllm.data.files import FileBytes
from pyllm.errors import InputError
from pyllm.provenance import canonical_json

_logger = logging.getLogger(__name__)

_KNOWN_TYPES = {**CANONICAL_SCHEMA, **SCORE_SCHEMA}
_OUR_MARKS = {"id", "source_file", "source_row"}


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
