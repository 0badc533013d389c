"""Results of a long run as lines of one file: each is there whole or not at all, and a run goes on behind them.

The first line says what the run is (its key); every other one is a unit of work with its name, its result and the
digest of both. A line is written in one piece and synced. What a crash left half written, or what was damaged since,
does not fit its digest, is dropped, and is worked out again.
"""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pyllm.data.tables import write_bytes_atomically
from pyllm.errors import PrerequisiteError, SettingError, reason_of
from pyllm.provenance import canonical_json, differences, sha256_hex

_log = logging.getLogger(__name__)

FORMAT = 1


class Lines:
    """An open file of results. Made by `open_lines`.

    Args:
        path: Where it is.
        file: The same, open at its end.
        done: Results that were there, by unit.
    """

    def __init__(self, path: Path, file: IO[bytes], done: dict[str, Any]) -> None:
        self._path = path
        self._file = file
        self.done = done

    def add(self, unit: str, value: Any) -> Any:
        """Write the result of a unit down, durably; what a later run will read of it.

        Raises:
            PrerequisiteError: The file cannot be written.
        """
        line = _line(unit, value)
        try:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise PrerequisiteError(f"cannot write `{self._path}`: {reason_of(error)}") from error
        self.done[unit] = json.loads(line)["value"]
        return self.done[unit]


@contextmanager
def open_lines(path: Path, key: Mapping[str, Any]) -> Iterator[Lines]:
    """Open the results of a run, making the file if it is not there, and keep other processes out.

    Args:
        path: The file; its folder is made too.
        key: Everything that decides the results.

    Raises:
        PrerequisiteError: Another process works here, or the file cannot be used.
        SettingError: The file belongs to other work; the message names the differences.
    """
    head = canonical_json({"format": FORMAT, "key": dict(key)}).encode() + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise PrerequisiteError(f"cannot write `{path}`: {reason_of(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PrerequisiteError(f"`{path}` is in use by another process", hint="wait for it") from error
        done = _read(path, head)
        whole = head + b"".join(_line(unit, value) for unit, value in done.items())
        if not path.exists() or path.read_bytes() != whole:
            write_bytes_atomically(path, whole)
        with path.open("ab", buffering=0) as file:
            yield Lines(path, file, done)


def _line(unit: str, value: Any) -> bytes:
    text = canonical_json({"unit": unit, "value": value})
    return canonical_json({"unit": unit, "value": value, "sha256": sha256_hex(text)}).encode() + b"\n"


def _read(path: Path, head: bytes) -> dict[str, Any]:
    """Results in a file of the same key, by unit.

    Raises:
        SettingError: It belongs to other work, or is something else.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise PrerequisiteError(f"cannot read `{path}`: {reason_of(error)}") from error
    if not lines or (len(lines) == 1 and head.startswith(lines[0])):  # a crash before anything was done
        return {}
    if lines[0] != head:
        raise _other_work(path, lines[0], head)
    done, dropped = {}, 0
    for line in lines[1:]:
        try:
            found = json.loads(line)
            unit, value = str(found["unit"]), found["value"]
        except (ValueError, KeyError, TypeError):
            dropped += 1
            continue
        if _line(unit, value) == line:
            done[unit] = value
        else:
            dropped += 1
    if dropped:
        _log.warning("`%s`: damaged lines are dropped (%d) and will be worked out again", path, dropped)
    return done


def _other_work(path: Path, found: bytes, head: bytes) -> SettingError:
    hint = "give another place, or remove what is there"
    try:
        there = json.loads(found)
        unlike = differences(there["key"], json.loads(head)["key"])
        if there["format"] != FORMAT:
            unlike.insert(0, f"format: {there['format']} there, {FORMAT} here")
    except (ValueError, KeyError, TypeError):
        return SettingError(f"`{path}` is not the record of a run", hint=hint)
    return SettingError(f"`{path}` belongs to other work: " + "; ".join(unlike), hint=hint)
