"""Packed rows as they stand in files, taken apart again into the examples they are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int, Int32, UInt32
from numpy import ndarray

from pyllm.data.tokens import MASKED
from pyllm.errors import InputError

_COLUMNS = ("input_ids", "labels", "seq_lengths")


@dataclass(frozen=True, slots=True)
class Sequences:
    """Examples as token ids, one behind the other.

    Args:
        ids: Token ids of all examples.
        labels: What is trained: the id, or `MASKED`.
        starts: First token of each example, and one past the last of all.
        packs: First example of each pack, and one past the last of all.
        row_ids: Id of the row that each example came from.
    """

    ids: UInt32[ndarray, " tokens"]
    labels: Int32[ndarray, " tokens"]
    starts: Int[ndarray, " examples_and_one"]
    packs: Int[ndarray, " packs_and_one"]
    row_ids: tuple[str, ...]

    def __len__(self) -> int:
        """Examples."""
        return len(self.starts) - 1

    @property
    def lengths(self) -> Int[ndarray, " examples"]:
        """Tokens of each example."""
        return np.diff(self.starts)

    @property
    def tokens(self) -> int:
        """Tokens of all examples."""
        return int(self.starts[-1])

    @property
    def trained_tokens(self) -> Int[ndarray, " examples"]:
        """Trained tokens of each example."""
        seen = np.concatenate([[0], np.cumsum(self.labels != MASKED)])
        return np.diff(seen[self.starts])

    def example(self, place: int) -> tuple[UInt32[ndarray, " tokens"], Int32[ndarray, " tokens"]]:
        """Ids and labels of one example."""
        span = slice(int(self.starts[place]), int(self.starts[place + 1]))
        return self.ids[span], self.labels[span]

    def take(self, places: Sequence[int] | Int[ndarray, " kept"]) -> "Sequences":
        """Some of the examples, in the order given, each a pack of its own."""
        spans = [self.example(int(place)) for place in places]
        starts = np.concatenate([[0], np.cumsum([len(ids) for ids, _ in spans], dtype=np.int64)])
        ids = np.concatenate([np.empty(0, np.uint32), *(ids for ids, _ in spans)])
        labels = np.concatenate([np.empty(0, np.int32), *(labels for _, labels in spans)])
        row_ids = tuple(self.row_ids[int(place)] for place in places)
        return Sequences(ids, labels, starts, np.arange(len(spans) + 1), row_ids)

    def in_order_of(self, row_ids: Sequence[str]) -> "Sequences":
        """The same examples in the order of a table's rows; rows of equal content are equal examples."""
        place = {row_id: number for number, row_id in reversed(list(enumerate(row_ids)))}
        order = sorted(range(len(self)), key=lambda each: place.get(self.row_ids[each], len(place)))
        return self.take(order)


def read_packs(paths: Sequence[Path]) -> Sequences:
    """Read packed rows: files of `toolkit pack`, or of another program with the same columns.

    Args:
        paths: Parquet files with `input_ids`, `labels` (-100 where a token is not trained), and, where a row holds
            more than one example, `seq_lengths`; `row_ids` where they are known.

    Returns:
        The examples, in the order of the files.

    Raises:
        InputError: A column is missing or of another type, or lengths do not fit together.
    """
    parts = [_read(path) for path in paths]
    token_starts = np.cumsum([0, *(part.tokens for part in parts)])
    example_starts = np.cumsum([0, *(len(part) for part in parts)])
    zero = np.zeros(1, np.int64)
    return Sequences(
        ids=np.concatenate([part.ids for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        starts=np.concatenate([zero, *(part.starts[1:] + at for part, at in zip(parts, token_starts, strict=False))]),
        packs=np.concatenate([zero, *(part.packs[1:] + at for part, at in zip(parts, example_starts, strict=False))]),
        row_ids=tuple(row_id for part in parts for row_id in part.row_ids),
    )


def is_packs(path: Path) -> bool:
    """Whether a file is a Parquet table of packed rows."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                return False
        return {"input_ids", "labels"} <= set(pl.scan_parquet(path, glob=False).collect_schema())
    except (OSError, pl.exceptions.PolarsError):
        return False


def _read(path: Path) -> Sequences:
    try:
        table = pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    fixed = [name for name in _COLUMNS if isinstance(table.schema.get(name), pl.Array)]
    table = table.with_columns(pl.col(name).arr.to_list() for name in fixed)
    for name in _COLUMNS[:2]:
        _check_column(table, name, path)
    for name, lowest, highest in (("input_ids", 0, 2**32 - 1), ("labels", MASKED, 2**31 - 1)):
        _check_range(table[name].explode(), lowest, highest, path)
    lengths = table["input_ids"].list.len().to_numpy().astype(np.int64)
    if "seq_lengths" in table.columns:
        _check_column(table, "seq_lengths", path)
        sequence_lengths = table["seq_lengths"].explode().to_numpy().astype(np.int64)
        sums, counts = table["seq_lengths"].list.sum().to_numpy(), table["seq_lengths"].list.len().to_numpy()
    else:
        sequence_lengths, sums, counts = lengths, lengths, np.ones(len(lengths), np.int64)
    label_lengths = table["labels"].list.len().to_numpy()
    for what, found in (("`labels`", label_lengths), ("`seq_lengths`", sums)):
        unlike = np.flatnonzero(found != lengths)
        if len(unlike):
            row = int(unlike[0])
            raise InputError(
                f"{path}: row {row}: {what} stand for {found[row]} tokens and `input_ids` holds {lengths[row]}"
            )
    if not len(sequence_lengths) or sequence_lengths.min() < 1:
        raise InputError(f"{path} holds {'an empty sequence' if len(sequence_lengths) else 'no rows'}")
    known = "row_ids" in table.columns
    row_ids = table["row_ids"].explode().to_list() if known else [f"{path.name}:{n}" for n in range(int(counts.sum()))]
    if len(row_ids) != len(sequence_lengths):
        raise InputError(f"{path}: `row_ids` names {len(row_ids)} examples and there are {len(sequence_lengths)}")
    return Sequences(
        ids=table["input_ids"].explode().to_numpy().astype(np.uint32),
        labels=table["labels"].explode().to_numpy().astype(np.int32),
        starts=np.concatenate([[0], np.cumsum(sequence_lengths)]),
        packs=np.concatenate([[0], np.cumsum(counts.astype(np.int64))]),
        row_ids=tuple(map(str, row_ids)),
    )


def _check_column(table: pl.DataFrame, name: str, path: Path) -> None:
    if name not in table.columns:
        raise InputError(f"column `{name}` is missing from `{path}`", hint="make packs with `toolkit pack`")
    dtype = table.schema[name]
    inner = getattr(dtype, "inner", None)
    if inner is None or not inner.is_integer():
        raise InputError(f"{path}: column `{name}` has type {dtype}, not a list of whole numbers")
    if table[name].null_count() or table[name].explode().null_count():
        raise InputError(f"{path}: column `{name}` has nulls")


def _check_range(values: pl.Series, lowest: int, highest: int, path: Path) -> None:
    wide = values.cast(pl.Int64, strict=False)  # null where it does not fit
    wrong = values.filter(wide.is_null() | (wide < lowest) | (wide > highest) | ((wide < 0) & (wide != MASKED)))
    if len(wrong):
        raise InputError(f"{path}: column `{values.name}` holds {wrong[0]}, which is no token")
