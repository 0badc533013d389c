"""From log-probabilities that are on disk already to a score table, at any size.

The one-shot sums come from our own matrix file (`docs/formats.md`), from NumPy arrays, or from Parquet and Arrow tables
that others wrote: a list a candidate, or a row a pair. Rust reads them in one pass; memory does not grow with them,
except for pairs in no order. Imports nothing heavy: polars only for zero-shot sums in text files.

Invariants: wins are those of numpy's `one_shot > zero_shot` on the arrays as they are (32 bits against 64 are compared
as the exact numbers); NaN never wins and is counted; the table has the same bytes for any number of threads.
"""

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt64

from pyllm import _core
from pyllm.data.top import Top
from pyllm.errors import InputError, SettingError, reason_of
from pyllm.provenance import canonical_json, sha256_hex, step

if TYPE_CHECKING:
    import polars as pl

_log = logging.getLogger(__name__)

MATRIX_FORMAT = "pyllm.logprobs/1"
"""What our matrix files call themselves in their metadata."""

_BINARY_BEGINNINGS = (b"PAR1", b"ARROW1", b"\x93NUMPY", b"\xff\xff\xff\xff")
_ZERO_SHOT_VALUES = (
    "zero_shot_nats", "zero_shot", "zero_shot_logprob", "logprob", "log_prob", "logprobs", "log_probs", "nats", "value",
)  # fmt: skip
_ZERO_SHOT_ANCHORS = ("anchor", "anchor_id", "task", "id")


@dataclass(frozen=True, slots=True)
class LogprobColumns:
    """Names of columns, where they are not the usual ones.

    Args:
        candidate: Ids of candidates.
        anchor: Ids of anchors, in tables with a row a pair.
        value: Log-probabilities: numbers, or lists of them.
    """

    candidate: str | None = None
    anchor: str | None = None
    value: str | None = None


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """What one-shot sums are compared with.

    Args:
        nats: One sum for each anchor.
        anchors: Names of the anchors in the same order, numbers as their digits; None: numbered from 0.
    """

    nats: Float64[np.ndarray, " anchors"]
    anchors: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.anchors is not None and len(self.anchors) != len(self.nats):
            raise InputError(f"{len(self.anchors)} anchors have {len(self.nats)} zero-shot sums")


@dataclass(frozen=True, slots=True)
class Aggregation:
    """The numbers of one aggregation.

    Args:
        rules: Which rows were asked for.
        rows: Candidates read.
        rows_scored: Candidates of whose pairs at least one was tried.
        rows_written: Candidates in the table.
        anchors: Zero-shot sums.
        pairs_scored: Pairs tried.
        pairs_left_out: Pairs not tried: null, or not there when those are skipped.
        nan_pairs: Pairs tried whose gain is not a number; they are lost.
        nan_anchors: Zero-shot sums that are not numbers; nobody wins those anchors.
        mean_golden_score: Over the candidates with a score; None if there is none.
        histogram: For each number of wins from 0 to `anchors`, the candidates with a score that have it.
        passes: How many times the input was read: twice if pairs were in no order.
        seconds: How long it took.
        steps: Provenance of the table, oldest step first.
    """

    rules: dict[str, float | str]
    rows: int
    rows_scored: int
    rows_written: int
    anchors: int
    pairs_scored: int
    pairs_left_out: int
    nan_pairs: int
    nan_anchors: int
    mean_golden_score: float | None
    histogram: UInt64[np.ndarray, " counts"]
    passes: int
    seconds: float
    steps: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        names = [name for name in self.__slots__ if name not in ("histogram", "steps")]
        values = {name: getattr(self, name) for name in names}
        return {"command": "aggregate", **values, "histogram": self.histogram.tolist()}


def read_zero_shot(path: Path, *, anchor_column: str | None = None, value_column: str | None = None) -> ZeroShot:
    """Read zero-shot sums: one a row with or without the name of its anchor, one list, or a NumPy vector.

    Args:
        path: Parquet, Arrow, `.npy`, CSV, JSON lines or a JSON array.
        anchor_column: Names of anchors. Default: `anchor`, `anchor_id`, `task` or `id`, if there is one.
        value_column: The sums. Default: `zero_shot_nats`, a similar name, or the only column of floats.

    Raises:
        InputError: The file cannot be read or has no such column.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(8)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {reason_of(error)}") from error
    if beginning.startswith(_BINARY_BEGINNINGS):
        anchors, nats = _core.read_zero_shot(path, anchor_column=anchor_column, value_column=value_column)
        return ZeroShot(nats, None if anchors is None else tuple(anchors))
    return _zero_shot_of_text(path, anchor_column, value_column)


def _zero_shot_of_text(path: Path, anchor_column: str | None, value_column: str | None) -> ZeroShot:
    from pyllm.data.examples import quoted
    from pyllm.data.tables import read_table

    table, _ = read_table(path)
    for column in (anchor_column, value_column):
        if column is not None and column not in table.columns:
            raise InputError(f"column `{column}` is missing from {path} (found {quoted(table.columns)})")
    usual = [name for name in _ZERO_SHOT_VALUES if name in table.columns]
    floats = [name for name in table.columns if table[name].dtype.is_float()]
    chosen = value_column or next(iter(usual), None)
    if chosen is None and len(floats) != 1:
        raise InputError(
            f"{path} has no column that could be the zero-shot sums (found {quoted(table.columns)})",
            hint="name it: --zero-shot-column",
        )
    values = _as_floats(path, table[chosen or floats[0]])
    named = anchor_column or next((name for name in _ZERO_SHOT_ANCHORS if name in table.columns), None)
    if named is not None and table[named].null_count():
        raise InputError(f"`{named}` of row {table[named].is_null().arg_max()} of {path} is null")
    anchors = None if named is None else tuple(str(name) for name in table[named].to_list())
    if not len(values):
        raise InputError(f"{path} holds no zero-shot sums")
    return ZeroShot(values, anchors if len(values) == table.height else None)


def _as_floats(path: Path, column: "pl.Series") -> Float64[np.ndarray, " anchors"]:
    """Numbers, or text that says numbers, or the numbers of one list; what is null is not a number."""
    import polars as pl

    values = column.explode() if isinstance(column.dtype, pl.List) and len(column) == 1 else column
    floats = values.cast(pl.Float64, strict=False)
    wrong = (floats.is_null() & values.is_not_null()).arg_true()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"`{column.name}` of row {row} of {path} is `{values[row]}`, not a number")
    return np.asarray(floats.fill_null(math.nan).to_numpy(), dtype=np.float64)


def aggregate(
    inputs: Sequence[Path],
    zero_shot: ZeroShot,
    out: Path,
    *,
    top: Top | None = None,
    threshold: float | None = None,
    missing: Literal["refuse", "skip"] = "refuse",
    columns: LogprobColumns | None = None,
    threads: int = 0,
) -> Aggregation:
    """Write the score table of one-shot sums, in order of first appearance: `id` and the score columns.

    Args:
        inputs: Files of one-shot sums, read as one in this order.
        zero_shot: What a win is strictly above.
        out: The Parquet file to write.
        top: Only the best rows: by golden score, wins, mean gain (all falling), id, input order (both rising).
        threshold: Only rows with a golden score strictly above this.
        missing: What to do about a candidate without a row for one of the anchors. A null is not missing: that pair was
            not tried, and counts nowhere.
        columns: Names of columns, where they are not the usual ones.
        threads: Threads to read with, 0 for all cores. The table does not depend on it.

    Raises:
        SettingError: Both rules are given, or one is out of range.
        InputError: A file cannot be read, pairs are missing or stand twice, or files do not fit together.
        PrerequisiteError: The table cannot be written.

    Source:
        NUGGETS (arXiv 2312.10302), section 3.2, golden score.
    """
    began = time.monotonic()
    if top is not None and threshold is not None:
        raise SettingError("`top` and `threshold` are two rules, and one can be given", hint="cut by one, then select")
    if threshold is not None and not 0 <= threshold <= 1:
        raise SettingError(f"`threshold` is {threshold:g}, but golden scores lie between 0 and 1")
    columns = columns or LogprobColumns()
    given: dict[str, Any] = {
        "candidate_column": columns.candidate, "anchor_column": columns.anchor, "value_column": columns.value,
    }  # fmt: skip
    rules: dict[str, float | str] = {} if top is None else {"top": str(top)}
    if threshold is not None:
        rules["threshold"] = threshold
    facts = {"rules": rules, "missing": missing, "zero_shot_sha256": _digest(zero_shot)}
    steps = (*_earlier_steps(inputs, given), step("aggregate", **facts, anchors=len(zero_shot.nats)))
    done = _core.aggregate_logprobs(
        list(inputs),
        np.ascontiguousarray(zero_shot.nats, dtype=np.float64),
        out,
        anchors=None if zero_shot.anchors is None else list(zero_shot.anchors),
        **given,
        skip_missing=missing == "skip",
        threshold=threshold,
        top_rows=None if top is None else top.rows,
        top_share=_share(top),
        metadata=canonical_json({"steps": list(steps)}),
        threads=threads,
    )
    seconds = time.monotonic() - began
    _log.info(
        "%d candidates x %d anchors, %d written, %.1f s", done.rows, len(zero_shot.nats), done.rows_written, seconds
    )
    if done.nan_pairs:
        _log.warning("%d pairs gave no number and count as lost", done.nan_pairs)
    if done.nan_anchors:
        _log.warning("%d zero-shot sums are not numbers: nobody wins those anchors", done.nan_anchors)
    return Aggregation(
        rules=rules,
        rows=done.rows,
        rows_scored=done.rows_scored,
        rows_written=done.rows_written,
        anchors=len(zero_shot.nats),
        pairs_scored=done.pairs_scored,
        pairs_left_out=done.pairs_left_out,
        nan_pairs=done.nan_pairs,
        nan_anchors=done.nan_anchors,
        mean_golden_score=None if math.isnan(done.mean_golden_score) else done.mean_golden_score,
        histogram=done.histogram,
        passes=done.passes,
        seconds=round(seconds, 3),
        steps=steps,
    )


def _share(top: Top | None) -> tuple[int, int] | None:
    if top is None or top.percent is None:
        return None
    share = top.percent / 100
    if max(share.numerator, share.denominator) >= 2**64:
        raise SettingError(f"`top` of {float(top.percent):g}% has more digits than can be counted with")
    return share.numerator, share.denominator


def _digest(zero_shot: ZeroShot) -> str:
    names = None if zero_shot.anchors is None else list(zero_shot.anchors)
    return sha256_hex(canonical_json(names).encode() + zero_shot.nats.astype("<f8").tobytes())


def _earlier_steps(inputs: Sequence[Path], columns: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Provenance of the first input, if it is a table of ours."""
    stored = _core.logprobs_metadata(inputs[0], **columns) if inputs else None
    if stored is None:
        return ()
    try:
        steps = json.loads(stored).get("steps", [])
    except (ValueError, AttributeError):
        steps = None
    if not isinstance(steps, list) or not all(isinstance(each, dict) for each in steps):
        _log.warning("%s: its provenance metadata cannot be read and is left out", inputs[0])
        return ()
    return tuple(steps)


class MatrixWriter:
    """Writes a matrix file some rows at a time; it appears under its name when it is finished.

    Args:
        path: The file.
        anchors: Names of the anchors, in the order of the values of a row.
        dtype: `float32` or `float64`.
        steps: Provenance, oldest first.

    Raises:
        InputError: There are no anchors.
        PrerequisiteError: The file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        anchors: Sequence[object],
        *,
        dtype: Literal["float32", "float64"] = "float32",
        steps: Sequence[dict[str, Any]] = (),
    ) -> None:
        names = [str(anchor) for anchor in anchors]
        metadata = canonical_json({"anchors": names, "format": MATRIX_FORMAT, "steps": list(steps)})
        self._writer = _core.MatrixWriter(path, len(names), wide=dtype == "float64", metadata=metadata)

    def write(
        self,
        ids: Sequence[str],
        logprobs: Float[np.ndarray, "rows anchors"],
        left_out: Bool[np.ndarray, "rows anchors"] | None = None,
    ) -> None:
        """Append rows; pairs in `left_out` were not tried, and become null."""
        mask = None if left_out is None else np.ascontiguousarray(left_out)
        self._writer.write(list(ids), np.ascontiguousarray(logprobs), mask)

    def finish(self) -> None:
        """Sync the file and give it its name."""
        self._writer.finish()


def write_matrix(
    path: str | os.PathLike[str],
    ids: Sequence[str],
    logprobs: Float[np.ndarray, "rows anchors"],
    anchors: Sequence[object],
    *,
    left_out: Bool[np.ndarray, "rows anchors"] | None = None,
    steps: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a whole matrix file.

    Args:
        path: The file; it appears when it is whole.
        ids: Names of the rows.
        logprobs: One-shot sums, float32 or float64, and stored as that.
        anchors: Names of the anchors, in column order.
        left_out: Pairs that were not tried; they are stored as null and count nowhere.
        steps: Provenance, oldest first.

    Raises:
        InputError: The shapes do not fit together.
        PrerequisiteError: The file cannot be written.
    """
    writer = MatrixWriter(path, anchors, dtype="float32" if logprobs.dtype == np.float32 else "float64", steps=steps)
    writer.write(ids, logprobs, left_out)
    writer.finish()
