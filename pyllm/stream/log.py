"""The log of a session folder, read without the model: what was said, what went, and what the session was made with.

`pyllm.stream.session` writes it and says what stands where. Reading takes no lock: what `session.json` counts never
changes, so a dialogue that is going on elsewhere can be looked at.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyllm.data.sealed import read_sealed
from pyllm.errors import InputError, reason_of
from pyllm.provenance import sha256_hex

FORMAT = 1
METADATA, LOG = "session.json", "turns.jsonl"


@dataclass(frozen=True, slots=True)
class SessionLog:
    """What a folder says.

    Args:
        metadata: What `session.json` holds.
        data: The part of the log that counts.
    """

    metadata: dict[str, Any]
    data: bytes

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        return [json.loads(line) for line in self.data.splitlines()]


def read_metadata(folder: Path) -> dict[str, Any]:
    """What a session was made with, and what counts of its files.

    Raises:
        InputError: It is not what was written, or was written by another version.
    """
    metadata = read_sealed(folder / METADATA)
    if metadata.get("format") != FORMAT:
        raise InputError(f"session `{folder}` has format {metadata.get('format')}, and this version reads {FORMAT}")
    return metadata


def read_log(folder: Path, metadata: dict[str, Any] | None = None) -> SessionLog:
    """The log of a session.

    Args:
        folder: The session.
        metadata: What `read_metadata` gave, where it was read already.

    Raises:
        InputError: It is not what was written.
    """
    metadata = read_metadata(folder) if metadata is None else metadata
    log = metadata["log"]
    data = read_whole(folder / LOG)[: log["bytes"]]
    if len(data) != log["bytes"] or sha256_hex(data) != log["sha256"]:
        raise InputError(f"{folder / LOG} was changed: its SHA-256 is not the recorded one")
    return SessionLog(metadata, data)


def read_whole(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}") from error
