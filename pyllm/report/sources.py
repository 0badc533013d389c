"""What a path holds: a finished run or a table of one kind, told by its content and never by its name."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from pyllm.data.examples import quoted
from pyllm.data.sealed import read_sealed
from pyllm.data.tables import read_table
from pyllm.errors import InputError, reason_of
from pyllm.finetune.events import read_events
from pyllm.finetune.folder import BASELINES, EVENTS, MANIFEST, RECORD
from pyllm.mti.metrics import check_marks
from pyllm.select.rules import SCORE
from pyllm.stream.log import METADATA, SessionLog, read_log

TableKind = Literal["scores", "anchors", "grades", "verdicts", "trace", "marks", "answers"]

_COLUMNS: dict[TableKind, tuple[str, ...]] = {
    "scores": (SCORE,),
    "anchors": ("id", "zero_shot_nats"),
    "verdicts": ("prompt_id", "a", "b", "order", "verdict", "parse", "a_characters", "b_characters"),
    "grades": ("prompt_id", "turn", "repeat", "model", "grade", "parse"),
    "trace": ("dialogue_id", "turn", "kept", "entropy_nats", "cache_tokens_after"),
    "marks": ("uid", "mode", "repeat", "step", "correct", "parse", "gold", "task"),
    "answers": ("dialogue_id", "turn", "cache_tokens", "evicted", "answer_tokens"),
}
"""What tells a table's kind, the first that fits."""

_TYPES: dict[TableKind, dict[str, Any]] = {
    "anchors": {"zero_shot_nats": pl.Float64},
    "trace": {"turn": pl.Int64, "kept": pl.List(pl.Int64), "entropy_nats": pl.List(pl.Float64),
              "cache_tokens_after": pl.Int64},
    "answers": {"turn": pl.Int64, "cache_tokens": pl.Float64, "evicted": pl.Float64, "answer_tokens": pl.Float64},
}  # fmt: skip

_EXPECTED = (
    "a table of `toolkit score`, `aggregate`, `select`, `judge`, `stream replay` or `stream run`, a folder of `toolkit"
    " finetune`, `stream bench`, `mti run` or a session of `stream chat`, or a JSON report of a command"
)


@dataclass(frozen=True, slots=True)
class TableRun:
    """A table of one kind.

    Args:
        name: What the page calls it.
        kind: Which.
        table: Its rows.
        steps: Its provenance, oldest first.
    """

    name: str
    kind: TableKind
    table: pl.DataFrame
    steps: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class FinetuneRun:
    """A finished run of `toolkit finetune`.

    Args:
        name: What the page calls it.
        record: What `run.json` holds.
        result: Its numbers.
        events: What happened, in order.
        comparison: What `baselines/table.json` holds; None where there are no baselines.
    """

    name: str
    record: Mapping[str, Any]
    result: Mapping[str, Any]
    events: tuple[dict[str, Any], ...]
    comparison: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class BenchRun:
    """A finished run of `toolkit stream bench`.

    Args:
        name: What the page calls it.
        numbers: Its JSON report.
    """

    name: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SessionRun:
    """A session of `toolkit stream chat`, as of its last save."""

    name: str
    log: SessionLog


@dataclass(frozen=True, slots=True)
class MtiRun:
    """A finished run of `toolkit mti run`.

    Args:
        name: What the page calls it.
        record: What `run.json` holds.
        metrics: What `metrics.json` holds.
        marks: A row for each answer.
        examples: Answers of every kind of failure, by mode and kind.
    """

    name: str
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    marks: pl.DataFrame
    examples: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Numbers:
    """A JSON report of a command: it adds what the run cost to what its table says."""

    name: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """All that a page is made of, each kind in the order given."""

    tables: tuple[TableRun, ...] = ()
    finetunes: tuple[FinetuneRun, ...] = ()
    benches: tuple[BenchRun, ...] = ()
    sessions: tuple[SessionRun, ...] = ()
    mti: tuple[MtiRun, ...] = ()
    numbers: tuple[Numbers, ...] = ()
    everything: tuple["Source", ...] = field(default=())

    def of_kind(self, kind: TableKind) -> list[TableRun]:
        """The tables of a kind."""
        return [each for each in self.tables if each.kind == kind]


Source = TableRun | FinetuneRun | BenchRun | SessionRun | MtiRun | Numbers


def read_sources(paths: "list[Path] | tuple[Path, ...]") -> Sources:
    """Read everything that a page is made of.

    Args:
        paths: Run folders and files, `-` for a table on standard input; one that is named twice counts once.

    Raises:
        InputError: One cannot be read, is not finished, or is nothing that is known.
    """
    known = {path.resolve(): path for path in paths}
    given = list(known.values())
    names = ["standard input" if str(path) == "-" else name for path, name in zip(given, _names(given), strict=True)]
    read = tuple(read_source(path, name) for path, name in zip(known.values(), names, strict=True))

    def of(kind: type[Any]) -> tuple[Any, ...]:
        return tuple(each for each in read if isinstance(each, kind))

    return Sources(of(TableRun), of(FinetuneRun), of(BenchRun), of(SessionRun), of(MtiRun), of(Numbers), read)


def _names(paths: list[Path]) -> list[str]:
    """For each path as many of its last parts as tell it from the others."""
    parts = [path.resolve().parts for path in paths]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        names.append("/".join(own[-length:]))
    return names


def read_source(path: Path, name: str) -> Source:
    """Find out what a path holds, and read it.

    Args:
        path: A folder or a file.
        name: What to call it.

    Raises:
        InputError: It cannot be read, is not finished, or is nothing that is known.
    """
    if path.is_dir():
        return _read_folder(path, name)
    return _read_file(path, name)


def _read_folder(path: Path, name: str) -> Source:
    if (path / METADATA).is_file():
        return SessionRun(name, read_log(path))
    record = _read_object(path / RECORD) if (path / RECORD).is_file() else None
    if record is not None and record.get("command") == "finetune":
        return _finetune(path, name)
    if record is not None and record.get("command") == "mti run":
        return _mti(path, name, record)
    if record is not None and ((path / "units").is_dir() or (path / "zero_shot.array").is_file()):
        raise InputError(
            f"`{path}` is where `toolkit score` keeps its results while it runs, not what it ended with",
            hint="give the table that it wrote (--out)",
        )
    if bench := _bench(path, name):
        return bench
    raise InputError(f"`{path}` is no run that is known: expected {_EXPECTED}")


def _finetune(path: Path, name: str) -> FinetuneRun:
    if not (path / MANIFEST).is_file():
        raise InputError(
            f"`{path}` is an unfinished run of `toolkit finetune`: expected its `{MANIFEST}`",
            hint="run the same command again with --resume",
        )
    table = path / BASELINES / "table.json"
    if (path / BASELINES).is_dir() and not table.is_file():
        raise InputError(
            f"`{path / BASELINES}` is unfinished: expected its `table.json`",
            hint="run the same command again with --resume",
        )
    try:
        events = tuple(read_events(path / EVENTS))
    except OSError as error:
        raise InputError(f"{path / EVENTS} cannot be read: {reason_of(error)}") from error
    return FinetuneRun(
        name,
        read_sealed(path / RECORD),
        read_sealed(path / MANIFEST)["result"],
        events,
        read_sealed(table) if table.is_file() else None,
    )


def _mti(path: Path, name: str, record: Mapping[str, Any]) -> MtiRun:
    if record.get("status") != "finished":
        raise InputError(
            f"`{path}` is an unfinished run of `toolkit mti run`: expected status `finished` in its `{RECORD}`",
            hint="run the same command again, it goes on",
        )
    marks, _ = read_table(path / "marks.parquet")
    return MtiRun(
        name, record, _read_object(path / "metrics.json"), check_marks(marks), _read_object(path / "examples.json")
    )


def _bench(path: Path, name: str) -> BenchRun | None:
    for file in sorted(path.glob("*.json")):
        numbers = _object_in(file)
        if numbers is not None and str(numbers.get("command", "")).startswith("stream bench "):
            return BenchRun(name, numbers)
    unfinished = sorted(path.glob("*.jsonl"))
    if any(_starts_a_bench(file) for file in unfinished):
        raise InputError(
            f"`{path}` is an unfinished run of `toolkit stream bench`: expected its JSON report",
            hint="run the same command again, it goes on",
        )
    return None


def _starts_a_bench(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = json.loads(file.readline())
        return str(head["key"]["command"]).startswith("stream bench")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _read_file(path: Path, name: str) -> Source:
    numbers = _object_in(path)
    if numbers is not None and isinstance(numbers.get("command"), str):
        return BenchRun(name, numbers) if numbers["command"].startswith("stream bench ") else Numbers(name, numbers)
    table, steps = read_table(path)
    for kind, columns in _COLUMNS.items():
        if all(column in table.columns for column in columns):
            if not table.height:
                raise InputError(f"{path} holds no rows")
            return TableRun(name, kind, _typed(table, kind, path), steps)
    raise InputError(f"{path} is no table that is known (found {quoted(table.columns)}): expected {_EXPECTED}")


def _typed(table: pl.DataFrame, kind: TableKind, path: Path) -> pl.DataFrame:
    """The table with the columns that plots are made of as what they are written as.

    Raises:
        InputError: One holds something else, such as lists that went through CSV.
    """
    for column, dtype in _TYPES.get(kind, {}).items():
        try:
            table = table.with_columns(pl.col(column).cast(dtype))
        except pl.exceptions.PolarsError as error:
            found = table[column].dtype
            raise InputError(f"column `{column}` of {path} holds {found}, not {dtype}") from error
    return table


def _object_in(path: Path) -> dict[str, Any] | None:
    """The one JSON object that a file holds; None where it holds anything else."""
    try:
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return None
            file.seek(0, os.SEEK_SET)
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: The file holds none.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not a JSON object")
    return value
