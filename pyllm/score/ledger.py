"""The run folder: every result on disk as soon as it exists, never half-written, never mixed with other work.

Layout of a run folder::

    run.json            what the run is (its key) and what was fixed when it began; written once
    lock                held while a process works here
    NAME.array          arrays of the run: zero-shot sums, chosen anchors, embeddings
    units/000000.unit   one-shot sums of a fixed range of rows

Invariants: a file appears by rename, after it was synced, so it is whole or absent; each file carries its own digest
and one that does not match is computed again; a folder is only used for the key it was made with. The order in which
units appear does not matter, so a killed and resumed run ends with the bytes of an unbroken one.
"""

import fcntl
import hashlib
import io
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pyllm.data.tables import write_bytes_atomically, write_json_atomically
from pyllm.errors import PrerequisiteError, SettingError, reason_of
from pyllm.provenance import canonical_json, differences

_log = logging.getLogger(__name__)

FORMAT = 1
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Ledger:
    """An open run folder.

    Args:
        folder: Where it is.
        facts: The contents of `run.json`.
    """

    folder: Path
    facts: Mapping[str, Any]

    def load(self, name: str) -> np.ndarray | None:
        """The array stored under `name`, or None when it is not there (or was damaged: then it is removed)."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            _log.warning("%s is damaged and will be computed again", path)
            path.unlink()
            return None
        return np.asarray(np.load(io.BytesIO(body), allow_pickle=False))

    def store(self, name: str, array: np.ndarray) -> None:
        """Store an array under `name`, durably.

        Raises:
            PrerequisiteError: The folder cannot be written.
        """
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        body = buffer.getvalue()
        write_bytes_atomically(self.folder / name, body + hashlib.sha256(body).digest())


def unit_name(unit: int) -> str:
    """Where the results of a work unit stand."""
    return f"units/{unit:06d}.unit"


@contextmanager
def open_ledger(folder: Path, key: Mapping[str, Any], fixed: Mapping[str, Any]) -> Iterator[Ledger]:
    """Open a run folder for this key, making it if it is not there, and hold its lock.

    Args:
        folder: The run folder.
        key: Everything that decides the numbers.
        fixed: What a first start chooses and later ones keep (unit size, batch size, number of rows).

    Raises:
        PrerequisiteError: Another process works here, or the folder cannot be made.
        SettingError: The folder belongs to other work; the message names the differences.
    """
    try:
        (folder / "units").mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+")
    except OSError as error:
        raise PrerequisiteError(f"run folder `{folder}` cannot be used: {reason_of(error)}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise PrerequisiteError(
                f"run folder `{folder}` is in use by {holder}", hint="wait for it, or give another --run folder"
            ) from error
        lock.seek(0)
        lock.truncate()
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        for leftover in [*folder.glob(".*.partial"), *(folder / "units").glob(".*.partial")]:
            leftover.unlink(missing_ok=True)
        try:
            yield Ledger(folder, _facts(folder, key, fixed))
        finally:
            with suppress(OSError):
                lock.truncate(0)


def _facts(folder: Path, key: Mapping[str, Any], fixed: Mapping[str, Any]) -> Mapping[str, Any]:
    path = folder / "run.json"
    wanted = json.loads(canonical_json(dict(key)))
    if not path.exists():
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ("units", "lock"))
        if foreign:
            raise SettingError(f"run folder `{folder}` holds other files (`{foreign[0]}`)", hint="give an empty folder")
        created = datetime.now(UTC).isoformat(timespec="seconds")
        facts: dict[str, Any] = {"command": "score", "format": FORMAT, "created": created, **fixed, "key": wanted}
        write_json_atomically(path, facts)
        return facts
    try:
        facts = json.loads(path.read_bytes())
        found = facts["key"]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingError(f"`{path}` is not the record of a run", hint="give another --run folder") from error
    unlike = differences(found, wanted)
    if facts.get("format") != FORMAT:
        unlike.insert(0, f"format: {facts.get('format')} there, {FORMAT} here")
    if unlike:
        raise SettingError(
            f"run folder `{folder}` belongs to other work: " + "; ".join(unlike),
            hint="give another --run folder, or none",
        )
    return dict(facts)
