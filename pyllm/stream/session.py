"""A dialogue in a folder, from which it goes on to the bit.

    session.json                sealed: what the session was made with, and which state and how much of the log count
    turns.jsonl                 append-only: a line for every turn, and for what was pinned and forgotten between turns
    state-000012.safetensors    keys, values and bookkeeping of the dialogue behind the log's 12 lines
    lock                        held by the one process that has the session open

Idea: a save writes a new state beside the old one, appends to the log, and then replaces `session.json`, which alone
decides what counts. Whenever the process is killed, the folder holds the dialogue as it was after the last whole save;
what a broken save left behind is cut off by the next.

Cost: a save writes the whole cache. Invariants: everything that is read is compared with its digest first; a session
goes on only with the model, the types and the settings it was made with.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors.torch

from pyllm.data.sealed import write_sealed
from pyllm.data.tables import write_bytes_atomically
from pyllm.errors import InputError, PrerequisiteError, SettingError, reason_of
from pyllm.lm.sources import ModelSource
from pyllm.provenance import canonical_json, differences, package_version, sha256_hex
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.log import FORMAT, LOG, METADATA, read_log, read_metadata, read_whole
from pyllm.stream.model import StreamModel
from pyllm.stream.settings import StreamSettings

LOCK = "lock"
_STATES = "state-*.safetensors"


def session_facts(source: ModelSource, model: StreamModel, settings: StreamSettings, template: str) -> dict[str, Any]:
    """What a session must be gone on with.

    Args:
        source: Where the model came from.
        model: The model.
        settings: What decides who stays.
        template: How texts become tokens.
    """
    facts = {
        "model": source.digests(),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        # By number, so that a difference names the layer.
        "plan": {f"layer {number}": layer for number, layer in enumerate(model.plan.as_dict()["layers"])},
        "settings": settings.as_dict(),
        "template": template,
    }
    made: dict[str, Any] = json.loads(canonical_json(facts))
    return made


class Session:
    """An open session folder. Close it, or use it in a `with` block: only one process has it open at a time.

    Args:
        folder: The folder; made where there is none.
        facts: What the dialogue is made with, from `session_facts`.

    Raises:
        SettingError: The session there was made with something else (the message says what), or the folder holds
            other files.
        InputError: What is there is not what was written.
        PrerequisiteError: Another process has it open, or the folder cannot be written.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder = folder
        self._facts = dict(facts)
        self._state: dict[str, Any] | None = None
        self._log_bytes, self._log_digest = 0, hashlib.sha256()
        self.records: list[dict[str, Any]] = []
        """What happened, as the log had it when the folder was opened."""
        self._count = 0
        self._lock = self._take_lock()
        try:
            if (folder / METADATA).exists():
                self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def is_new(self) -> bool:
        """Whether nothing was saved here yet."""
        return self._state is None

    def close(self) -> None:
        """Let another process have the folder. Harmless when done before."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> int:
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / METADATA).exists():
                self._refuse_other_files()
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise PrerequisiteError(f"session `{folder}` cannot be opened: {reason_of(error)}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            hint = "end that one first, or use another folder"
            raise PrerequisiteError(f"session `{folder}` is open in another process", hint=hint) from error
        return descriptor

    def _refuse_other_files(self) -> None:
        """What a killed first save leaves behind is ours; anything else is not to be mixed with."""
        for path in sorted(self.folder.iterdir()):
            if path.name not in (LOG, LOCK) and not path.match(_STATES) and not path.name.endswith(".partial"):
                raise SettingError(
                    f"folder `{self.folder}` is no session: it holds `{path.name}`", hint="give a folder of its own"
                )

    def _open(self) -> None:
        metadata = read_metadata(self.folder)
        differing = differences(metadata["facts"], self._facts)
        if differing:
            raise SettingError(
                f"session `{self.folder}` was made with something else: {'; '.join(differing)}",
                hint="give what it was made with, or use another folder",
            )
        log = read_log(self.folder, metadata)
        self.records = log.records()
        self._count, self._log_bytes = len(self.records), len(log.data)
        self._log_digest = hashlib.sha256(log.data)
        self._state = metadata["state"]

    def restore(self, dialogue: Dialogue) -> None:
        """Let a fresh dialogue go on where the saved one was.

        Raises:
            InputError: Nothing was saved, or it is not what was written.
        """
        if self._state is None:
            raise InputError(f"session `{self.folder}` holds nothing yet")
        path = self.folder / self._state["file"]
        data = read_whole(path)
        if len(data) != self._state["bytes"] or sha256_hex(data) != self._state["sha256"]:
            raise InputError(f"{path} was changed: its SHA-256 is not the recorded one")
        dialogue.restore(safetensors.torch.load(data))

    def save(self, dialogue: Dialogue, records: Sequence[Mapping[str, Any]]) -> None:
        """Make the dialogue as it is now what the folder holds, whole or not at all. Call it between turns.

        Args:
            dialogue: The dialogue.
            records: What happened since the last save, a line of the log each.

        Raises:
            SettingError: The session was closed.
            PrerequisiteError: The folder cannot be written; what was saved before still counts.
        """
        if self._lock < 0:
            raise SettingError(f"session `{self.folder}` was closed, and another process may have it open")
        lines = "".join(f"{canonical_json(dict(record))}\n" for record in records).encode()
        count = self._count + len(records)
        state = safetensors.torch.save({name: part.cpu().contiguous() for name, part in dialogue.state().items()})
        name = f"state-{count:06}.safetensors"
        write_bytes_atomically(self.folder / name, state)
        self._append(lines)
        digest = self._log_digest.copy()
        digest.update(lines)
        facts = {"file": name, "bytes": len(state), "sha256": sha256_hex(state)}
        size = self._log_bytes + len(lines)
        metadata = {
            "format": FORMAT,
            "version": package_version(),
            "facts": self._facts,
            "log": {"bytes": size, "sha256": digest.hexdigest(), "records": count},
            "state": facts,
        }
        write_sealed(self.folder / METADATA, metadata)
        self._count, self._log_bytes, self._log_digest, self._state = count, size, digest, facts
        self._remove_leftovers(name)

    def _append(self, lines: bytes) -> None:
        path = self.folder / LOG
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "r+b") as file:
                # A save that was cut short may have left lines that do not count.
                file.truncate(self._log_bytes)
                file.seek(self._log_bytes)
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PrerequisiteError(f"cannot write {path}: {reason_of(error)}") from error

    def _remove_leftovers(self, newest: str) -> None:
        """Remove older states, and what saves that were killed did not come to rename."""
        for path in [*self.folder.glob(_STATES), *self.folder.glob(".*.partial")]:
            if path.name != newest:
                try:
                    path.unlink()
                except OSError as error:
                    raise PrerequisiteError(f"cannot remove {path}: {reason_of(error)}") from error
