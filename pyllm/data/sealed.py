"""JSON files that carry their own digest, and the digests of the files beside them.

A sealed file is canonical to the byte: it is read, written again and compared, so a change anywhere in it is seen.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyllm.data.tables import write_bytes_atomically
from pyllm.errors import InputError, reason_of
from pyllm.provenance import canonical_json, sha256_hex

_SEAL = "sealed"
_UNLIKE = "its SHA-256 is not the recorded one"


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its digest, whole or not at all.

    Raises:
        PrerequisiteError: The path cannot be written.
    """
    write_bytes_atomically(path, _sealed(dict(value)))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed file.

    Raises:
        InputError: It is not there, or is not what was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
    value: Any = None
    try:
        value = json.loads(data)
        intact = isinstance(value, dict) and value.pop(_SEAL, None) is not None and _sealed(value) == data
    except (ValueError, RecursionError):  # also where the text is JSON, but none that can be written again
        intact = False
    if not intact:
        raise InputError(f"{path} was changed after it was written: it is not what its own digest names")
    return dict(value)


def _sealed(value: dict[str, Any]) -> bytes:
    seal = sha256_hex(canonical_json(value))
    text = json.dumps({**value, _SEAL: seal}, ensure_ascii=False, sort_keys=True, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def file_facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": os.fstat(file.fileno()).st_size, "sha256": digest}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error


def folder_facts(folder: Path, *, leave_out: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Size and digest of every file in a folder and below, by its path in the folder."""
    left_out = set(leave_out)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: file_facts(path) for name, path in named.items() if name not in left_out}


def mismatches(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What of the named files is not as it was, a phrase each; sizes are compared before anything is hashed."""
    phrases = (mismatch(folder / name, facts) for name, facts in sorted(files.items()))
    return [phrase for phrase in phrases if phrase is not None]


def mismatch(
    path: Path, facts: Mapping[str, Any], *, facts_of: Callable[[Path], Mapping[str, Any]] = file_facts
) -> str | None:
    """What of a file is not as it was, as a phrase that begins with its path; None when all is.

    Args:
        path: The file.
        facts: What it had: `bytes` and `sha256`.
        facts_of: What it has; asked only where the size is the recorded one.
    """
    try:
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{path} has {size:,} bytes and had {facts['bytes']:,}"
        return None if facts_of(path)["sha256"] == facts["sha256"] else f"{path} was changed: {_UNLIKE}"
    except OSError as error:
        return f"{path} cannot be read: {reason_of(error)}"
    except InputError as error:
        return error.message


def sync_folder(folder: Path) -> None:
    """Have the system write a folder's files out, so that a manifest written next never names what is not there."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
