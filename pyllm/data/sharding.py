"""Instruction files of any size to canonical Parquet shards with a manifest.

Rows are read, checked, numbered and written in Rust, block by block: memory does not grow with the input, and equal
inputs and settings give equal bytes for any number of threads. A killed run goes on where it stopped. Nothing heavy
is imported here, so that starting costs little.
"""

import contextlib
import glob
import json
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from pyllm import _core
from pyllm.data.held import held_folder
from pyllm.data.rows import counted
from pyllm.errors import InputError, PrerequisiteError, SettingError, reason_of
from pyllm.provenance import canonical_json, step

_logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 100_000
"""Rows of a shard when nothing else is asked for: some 20 MB of ordinary instruction data."""

DATA_ENDINGS = (".parquet", ".arrow", ".feather", ".ipc", ".jsonl", ".ndjson", ".json", ".csv")
"""What files of a folder are read; packed ones end in `.gz` or `.zst` beside."""

_PACKED_ENDINGS = (".gz", ".zst")
_MANIFEST = "manifest.json"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ShardPart:
    """One shard.

    Args:
        name: Its file in the folder.
        rows: Rows in it.
        size_bytes: Size of the file.
        sha256: Digest of the file.
        content_sha256: Digest over the ids of its rows, in order, 16 bytes each.
    """

    name: str
    rows: int
    size_bytes: int
    sha256: str
    content_sha256: str


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a run found and wrote.

    Args:
        folder: Where the shards are.
        parts: The shards, in order.
        rows_read: Records of all inputs, bad ones and duplicates counted.
        rows: Rows in the shards.
        bad_rows: Rows that were left out.
        duplicate_rows: Rows dropped because their content stood in an earlier row; None where nobody looked.
        shapes: Good rows per shape, the most frequent first.
        bytes_read: Bytes of all inputs, as stored.
        bytes_written: Bytes of all shards.
        finished_before: Whether the folder held this very work, so that nothing was done.
        resumed_parts: Shards that a killed run had finished and that were not written again.
        passes: How often the inputs were read; more than once where their beginnings did not tell enough.
        seconds: Wall time.
        manifest: `manifest.json` as it stands in the folder.
    """

    folder: Path
    parts: tuple[ShardPart, ...]
    rows_read: int
    rows: int
    bad_rows: int
    duplicate_rows: int | None
    shapes: dict[str, int]
    bytes_read: int
    bytes_written: int
    finished_before: bool
    resumed_parts: int
    passes: int
    seconds: float
    manifest: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "rows_read": self.rows_read,
            "rows": self.rows,
            "bad_rows": self.bad_rows,
            "duplicate_rows": self.duplicate_rows,
            "shapes": dict(self.shapes),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "parts": [{"name": part.name, "rows": part.rows, "bytes": part.size_bytes} for part in self.parts],
            "finished_before": self.finished_before,
            "resumed_parts": self.resumed_parts,
            "passes": self.passes,
            "seconds": round(self.seconds, 3),
        }


def shard_files(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    rows_per_shard: int | None = None,
    shards: int | None = None,
    compression: str = "zstd:1",
    threads: int = 0,
    dedup: bool = False,
    shape: str = "auto",
    strict: bool = False,
    bad_rows_path: str | os.PathLike[str] | None = None,
) -> ShardReport:
    """Write the good rows of files as Parquet shards.

    Args:
        inputs: Paths, patterns, folders, or `-` for standard input, in the order of their rows: JSON array, JSON
            lines, CSV, Parquet or Arrow, plain or packed with gzip or zstd.
        out: The folder that gets the shards; it is made if it is not there. Two runs do not share one.
        rows_per_shard: Rows in every shard but the last. `ROWS_PER_SHARD` if neither this nor `shards` is given.
        shards: Number of shards, whose sizes differ by one row at most; fewer where there are fewer rows.
        compression: `zstd:1`, `zstd:3`, `lz4`, `snappy` or `none`.
        threads: Threads to use, 0 for all cores. The shards do not depend on it.
        dedup: Drop rows whose content stood in an earlier row; needs some 20 to 40 bytes of memory a row.
        shape: One of `pyllm.data.shapes.SHAPES`; `auto` recognises every row by its keys.
        strict: Refuse the inputs if one has a bad row.
        bad_rows_path: Where to collect bad rows, one JSON object a line; written even when there are none.

    Returns:
        What was found and written.

    Raises:
        InputError: An input cannot be read, holds no rows or no good one, or has a bad row under `strict`.
        SettingError: Settings contradict each other, or the folder holds something else.
        PrerequisiteError: Something cannot be written, or another run writes to the folder.

    Example:
        >>> shard_files(["train.jsonl"], "shards", rows_per_shard=50_000).rows  # doctest: +SKIP
        52002
    """
    started = time.perf_counter()
    if rows_per_shard is not None and shards is not None:
        raise SettingError("`rows_per_shard` and `shards` contradict each other", hint="give one of them")
    for name, number in {"rows_per_shard": rows_per_shard, "shards": shards}.items():
        if number is not None and number < 1:
            message = f"`{name}` is {number}, but has to be 1 or more"
            raise SettingError(message)
    if rows_per_shard is None and shards is None:
        rows_per_shard = ROWS_PER_SHARD
    paths = find_inputs(inputs)
    folder = Path(out)
    facts = {
        "inputs": [_file_name(path) for path in paths],
        "rows_per_shard": rows_per_shard,
        "shards": shards,
        "compression": compression,
        "dedup": "exact" if dedup else None,
        "shape": shape,
    }
    settings = {name: value for name, value in facts.items() if value is not None}
    with held_folder(folder, busy=f"another run is writing to {folder}"), _at_hand(paths, folder) as files:
        summary = _core.shard(
            files,
            os.fspath(folder),
            rows_per_shard=rows_per_shard,
            shards=shards,
            compression=compression,
            threads=threads,
            dedup=dedup,
            shape=shape,
            strict=strict,
            bad_rows=None if bad_rows_path is None else os.fspath(bad_rows_path),
            step=canonical_json(step("shard", **settings)),
        )
    report = _report(folder, summary, time.perf_counter() - started)
    _log(report, summary)
    return report


def find_inputs(inputs: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files that are meant: patterns in sorted order, and of folders their data files, sorted by name.

    Args:
        inputs: Paths, patterns (`*`, `?`, `[...]`, `**`), folders, or `-`. A path that is there is no pattern.

    Raises:
        InputError: A pattern matches nothing, or a folder holds no data file.
        SettingError: Standard input is named twice.

    Example:
        >>> find_inputs(["-"])
        ['-']
    """
    found: list[str] = []
    for given in (os.fspath(each) for each in inputs):
        if given != "-" and _is_folder(given):
            found += _data_files(given)
        elif given != "-" and glob.has_magic(given) and not Path(given).exists():
            # `Path.glob` would drop the `./` and `..` that the user wrote.
            matches = sorted(path for path in glob.glob(given, recursive=True) if not _is_folder(path))  # noqa: PTH207
            if not matches:
                message = f"no file matches `{given}`"
                raise InputError(message)
            found += matches
        else:
            found.append(given)
    if found.count("-") > 1:
        raise SettingError("standard input is named twice", hint="it can be read once only")
    return found


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # ValueError: a NUL byte in the path
        return False


def _data_files(folder: str) -> list[str]:
    # The manifest of shards is JSON, but no data.
    files = [path for path in Path(folder).iterdir() if _is_data(path.name) and path.name != _MANIFEST]
    found = sorted(os.fspath(path) for path in files if not path.is_dir())
    if not found:
        message = f"the folder {folder} holds no data file"
        raise InputError(message, hint=f"files of a folder are known by their endings: {', '.join(DATA_ENDINGS)}")
    return found


def _is_data(name: str) -> bool:
    path = PurePath(name.lower())
    return not name.startswith(".") and (
        path.suffix in DATA_ENDINGS or (path.suffix in _PACKED_ENDINGS and PurePath(path.stem).suffix in DATA_ENDINGS)
    )


def _file_name(path: str) -> str:
    return path if path == "-" else PurePath(path).name


@contextlib.contextmanager
def _at_hand(paths: Sequence[str], folder: Path) -> Iterator[list[tuple[str, str, str, bool]]]:
    """Inputs as files that can be read more than once: what comes through a pipe is kept in the folder meanwhile."""
    files: list[tuple[str, str, str, bool]] = []
    kept: list[Path] = []
    try:
        for place, path in enumerate(paths):
            shown = "standard input" if path == "-" else path
            if path == "-" or _is_pipe(path):
                kept.append(folder / f".shard-spool-{place}.partial")
                _keep(path, shown, kept[-1])
                files.append((shown, _file_name(path), os.fspath(kept[-1]), True))
            else:
                files.append((shown, _file_name(path), path, False))
        yield files
    finally:
        for each in kept:
            each.unlink(missing_ok=True)


def _is_pipe(path: str) -> bool:
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _keep(path: str, shown: str, target: Path) -> None:
    # Read here and not in Rust, because only Python's main thread is told of Ctrl-C while a pipe is silent.
    if path == "-" and (sys.stdin is None or sys.stdin.closed):
        raise InputError("standard input is closed")
    try:
        source = sys.stdin.buffer if path == "-" else Path(path).open("rb")  # noqa: SIM115  (closed below)
    except OSError as error:
        message = f"cannot read {shown}: {reason_of(error)}"
        raise InputError(message) from error
    try:
        with _naming(target, shown), target.open("wb") as file:
            while chunk := _chunk(source, shown):
                file.write(chunk)
    finally:
        if path != "-":
            source.close()


def _chunk(source: Any, shown: str) -> bytes:
    try:
        return bytes(source.read(_COPY_BYTES))
    except OSError as error:
        message = f"cannot read {shown}: {reason_of(error)}"
        raise InputError(message) from error


@contextlib.contextmanager
def _naming(target: Path, shown: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot keep {shown} in {target.parent} for the time of the run: {reason_of(error)}"
        raise PrerequisiteError(message) from error


def _report(folder: Path, summary: _core.ShardSummary, seconds: float) -> ShardReport:
    manifest = json.loads(summary.manifest)
    totals = manifest["totals"]
    return ShardReport(
        folder=folder,
        parts=tuple(
            ShardPart(part["name"], part["rows"], part["bytes"], part["sha256"], part["content_sha256"])
            for part in manifest["parts"]
        ),
        rows_read=totals["rows_read"],
        rows=totals["rows"],
        bad_rows=totals["bad_rows"],
        duplicate_rows=totals["duplicate_rows"],
        shapes={each["shape"]: each["rows"] for each in manifest["shapes"]},
        bytes_read=totals["bytes_read"],
        bytes_written=totals["bytes"],
        finished_before=summary.finished_before,
        resumed_parts=summary.resumed_parts,
        passes=summary.passes,
        seconds=seconds,
        manifest=manifest,
    )


def _log(report: ShardReport, summary: _core.ShardSummary) -> None:
    if report.finished_before:
        _logger.info("%s holds this very work already: nothing was written", report.folder)
    for shown, bad_rows, named in summary.bad:
        more = bad_rows - len(named)
        _logger.warning(
            "%s: %s left out: %s%s",
            shown,
            counted(bad_rows, "bad row"),
            "; ".join(named),
            f"; and {more:,} more" if more else "",
        )
    for name, stored in summary.renamed:
        _logger.info("column `%s` becomes `%s`", name, stored)
    if summary.left_out:
        _logger.info("the columns of an earlier run are left out: %s", ", ".join(f"`{n}`" for n in summary.left_out))
    for name in summary.mixed:
        _logger.info("column `%s` holds values of different types: kept as JSON text", name)
    _logger.debug(
        "read all inputs %s, %s", counted(report.passes, "time"), counted(report.resumed_parts, "resumed part")
    )
