"""Embeddings from a file: a NumPy matrix, memory-mapped, or a column of Parquet.

Invariant: a `.npy` file of float32 or float16 is used where it lies; no whole copy of it is made.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from pyllm.errors import InputError, reason_of

_NPY, _PARQUET = b"\x93NUMPY", b"PAR1"
_ID = "id"


@dataclass(frozen=True, slots=True)
class Embeddings:
    """An embedding for every row of a table.

    Args:
        vectors: Row by row, float32 or float16.
        sha256: Digest of the file.
        joined: Whether rows were found by id rather than by their order.
    """

    vectors: Float[np.ndarray, "rows dim"]
    sha256: str
    joined: bool


def read_embeddings(path: Path, table: pl.DataFrame) -> Embeddings:
    """Read the embeddings of the rows of a table.

    Args:
        path: A `.npy` matrix of float32 or float16, one row for each row of the table in its order; or a Parquet file
            with one column of lists of numbers, and, where rows are to be found by it, an `id` column.
        table: The rows.

    Raises:
        InputError: The file is missing or in another format, has another number of rows, or misses an id.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_NPY))
        if start.startswith(_NPY):
            vectors, joined = _read_npy(path, table.height), False
        elif start.startswith(_PARQUET):
            vectors, joined = _read_parquet(path, table)
        else:
            raise InputError(
                f"{path} holds no embeddings: it is neither a NumPy matrix nor Parquet",
                hint="numpy.save writes one; rows x dim, float32 or float16",
            )
        with path.open("rb") as file:
            return Embeddings(vectors, hashlib.file_digest(file, "sha256").hexdigest(), joined)
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason_of(error)}") from error


def _check_rows(path: Path, found: int, wanted: int) -> None:
    if found != wanted:
        raise InputError(
            f"{path} has {found:,} rows, but the input has {wanted:,}",
            hint="embeddings stand in the order of the input's rows, bad rows and dropped duplicates left out;"
            " Parquet with an `id` column is joined by it",
        )


def _read_npy(path: Path, rows: int) -> np.ndarray:
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is a torn or unusable NumPy file: {str(error).splitlines()[0].lower()}") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or vectors.dtype.itemsize not in (2, 4):
        raise InputError(
            f"{path} is a {vectors.ndim}-dimensional array of {vectors.dtype}, but a matrix of float32 or float16 is"
            " wanted",
            hint="numpy.save(path, vectors.astype('float32'))",
        )
    _check_rows(path, len(vectors), rows)
    # Both are rare and cost a copy: columns first, or bytes in the order of another machine.
    return np.ascontiguousarray(vectors, dtype=vectors.dtype.newbyteorder("="))


def _read_parquet(path: Path, table: pl.DataFrame) -> tuple[np.ndarray, bool]:
    try:
        schema = pl.scan_parquet(path, glob=False).collect_schema()
        lists = [name for name, kind in schema.items() if isinstance(kind, pl.List | pl.Array)]
        numeric = [name for name in lists if schema[name].inner.is_float()]  # type: ignore[attr-defined]
        if len(numeric) != 1:
            found = ", ".join(f"`{name}`" for name in schema)
            raise InputError(
                f"{path} has {len(numeric)} columns of lists of floats, but one is wanted (found {found})",
                hint="keep one column of embeddings, and an `id` column if rows are to be joined by it",
            )
        name = numeric[0]
        joined = _ID in schema
        frame = pl.read_parquet(path, columns=[_ID, name] if joined else [name], glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} is torn or no Parquet: {str(error).splitlines()[0].lower()}") from error
    if joined:
        frame = _in_order_of(frame, table, path)
    else:
        _check_rows(path, frame.height, table.height)
    return _matrix(frame[name], path), joined


def _in_order_of(frame: pl.DataFrame, table: pl.DataFrame, path: Path) -> pl.DataFrame:
    if frame[_ID].dtype != pl.String:
        raise InputError(f"column `id` of {path} is {frame[_ID].dtype}, but text is wanted")
    # Rows of equal content share their id, and may have an embedding each: the first stands for all.
    first = frame.with_row_index("at").unique(_ID, keep="first")
    places = table.select(_ID).join(first.select(_ID, "at"), on=_ID, how="left", maintain_order="left")["at"]
    missing = places.null_count()
    if missing:
        row = int(places.is_null().arg_max() or 0)
        raise InputError(
            f"{path} has {frame.height:,} rows, but none for {missing:,} of the {table.height:,} rows of the input;"
            f" the first is row {row}, id {table[_ID][row]}"
        )
    return frame[places]


def _matrix(column: pl.Series, path: Path) -> np.ndarray:
    lengths = column.list.len() if isinstance(column.dtype, pl.List) else column.arr.len()
    width = max(lengths.drop_nulls().to_list(), default=0)
    bad = (lengths.is_null() | (lengths != width)).arg_true()
    if len(bad):
        row = int(bad[0])
        found = "no" if lengths[row] is None else lengths[row]
        raise InputError(f"{path} row {row}: {found} numbers in `{column.name}`, but other rows have {width}")
    values = column.explode(empty_as_null=False) if column.len() else pl.Series([], dtype=pl.Float32)
    if values.null_count():
        row = int(values.is_null().arg_max() or 0) // width
        raise InputError(f"{path} row {row}: a number in `{column.name}` is missing")
    half = values.dtype == pl.Float16
    return values.to_numpy().astype(np.float16 if half else np.float32, copy=False).reshape(column.len(), width)
