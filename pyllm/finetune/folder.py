"""The folder of a finetuning run, and which of its checkpoints count.

Layout::

    run.json                 what the run is (its key), where its inputs were, the provenance of its rows; sealed
    data/train.parquet       the rows it trains on; data/eval.parquet the rows held out
    data/train/, data/eval/  the same as packs of token ids
    data/manifest.json       digests of these; sealed, written when all of them are whole
    events.jsonl             one event a line, appended as it happens
    checkpoints/checkpoint-N what resuming needs, and manifest.json, sealed, written last
    final/                   the trained model and its tokenizer
    baselines/               runs of the same kind for the controls, and their comparison
    manifest.json            digests of everything; sealed, written when the run is finished

Invariants: a checkpoint without a sealed manifest that fits it does not exist; a folder is only used for the key it
was made with; nothing is trained before the data is whole.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyllm.data.held import held_folder
from pyllm.data.sealed import file_facts, folder_facts, mismatches, read_sealed, sync_folder, write_sealed
from pyllm.errors import InputError, PyllmError, SettingError
from pyllm.provenance import differences

_log = logging.getLogger(__name__)

RECORD = "run.json"
MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
CHECKPOINTS = "checkpoints"
FINAL = "final"
DATA = "data"
BASELINES = "baselines"
JUDGED = "judge"
"""What `toolkit judge baselines` keeps beside a run; no part of it."""

_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An open run folder.

    Args:
        path: Where it is.
        record: What `run.json` holds.
    """

    path: Path
    record: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / CHECKPOINTS

    @property
    def final(self) -> Path:
        """Where the trained model goes."""
        return self.path / FINAL

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / MANIFEST).is_file()


def is_run(path: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    return (path / RECORD).is_file()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the folder of a run and hold it for this process alone.

    Raises:
        PrerequisiteError: Another process works there, or it cannot be made.
        SettingError: It holds other files.
    """
    with held_folder(path, busy=f"another process trains in {path}"):
        if not is_run(path) and (foreign := sorted(name for name in _names(path) if not _is_leftover(name))):
            raise SettingError(f"`--out {path}` holds other files (`{foreign[0]}`)", hint="name a new folder")
        yield


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def _is_leftover(name: str) -> bool:
    """Whether a file was being written when its process was killed."""
    return name.startswith(".") and name.endswith(".partial")


def begin(path: Path, key: Mapping[str, Any], facts: Mapping[str, Any]) -> RunFolder:
    """Write the record of a new run.

    Args:
        path: Its folder, locked.
        key: Everything that decides its weights.
        facts: What else is known when it begins.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    created = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**facts, "command": "finetune", "created": created, "key": dict(key)}
    write_sealed(path / RECORD, record)
    return RunFolder(path, record)


@contextlib.contextmanager
def withdrawn_on_failure(path: Path) -> Iterator[None]:
    """Take a new run back that fails before it has a checkpoint: there is nothing in it to go on with."""
    is_new = not is_run(path)
    try:
        yield
    except PyllmError:
        if is_new and newest_whole_checkpoint(path / CHECKPOINTS) is None:
            for entry in [path / DATA, path / CHECKPOINTS, path / f"{FINAL}.partial"]:
                shutil.rmtree(entry, ignore_errors=True)
            for name in (EVENTS, RECORD):
                (path / name).unlink(missing_ok=True)
        raise


def reopen(path: Path, key: Mapping[str, Any]) -> RunFolder:
    """Open the folder of a run that began before.

    Raises:
        InputError: Its record was changed.
        SettingError: It is another run; the message names the differences.
    """
    record = read_sealed(path / RECORD)
    if unlike := differences(record.get("key"), dict(key)):
        raise SettingError(
            f"the run in {path} is another one: {'; '.join(unlike)}",
            hint="give the settings, data and model it began with, or name a new folder",
        )
    return RunFolder(path, record)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there, whole or not, ascending."""
    names = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*") if path.is_dir()]
    return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"{_PREFIX}{step}"


def seal_checkpoint(path: Path, step: int) -> None:
    """Write a checkpoint's manifest, which makes it count and ties it to the run and the rows that it came from.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    sync_folder(path)
    made_of = {name: file_facts(file)["sha256"] for name, file in _origins(path).items() if file.is_file()}
    files = folder_facts(path, leave_out=[MANIFEST])
    write_sealed(path / MANIFEST, {"files": files, "made_of": made_of, "step": step})


def _origins(checkpoint: Path) -> dict[str, Path]:
    run = checkpoint.parent.parent
    return {name: run / name for name in (RECORD, f"{DATA}/{MANIFEST}")}


def faults_of_checkpoint(path: Path) -> list[str]:
    """Why a checkpoint does not count, a phrase each; nothing when it does."""
    try:
        manifest = read_checkpoint_manifest(path)
    except InputError as error:
        return [error.message]
    return mismatches(path, manifest["files"])


def read_checkpoint_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, which is that of this step of this run.

    Raises:
        InputError: It is not there, was changed, or belongs to another checkpoint.
    """
    if not (path / MANIFEST).is_file():
        raise InputError(f"{path} was not written to its end")
    manifest = read_sealed(path / MANIFEST)
    if not isinstance(manifest.get("files"), dict) or f"{_PREFIX}{manifest.get('step')}" != path.name:
        raise InputError(f"{path / MANIFEST} is not that of this checkpoint")
    for name, file in _origins(path).items():
        recorded = manifest.get("made_of", {}).get(name)
        if recorded is not None and (not file.is_file() or file_facts(file)["sha256"] != recorded):
            raise InputError(f"{path / MANIFEST} names another `{name}` than the one of this run")
    return manifest


def newest_whole_checkpoint(folder: Path) -> int | None:
    """The last step whose checkpoint is whole; those behind it are named in the log and removed.

    So are earlier ones that a kill found half removed; their files are counted and weighed, not read.

    Returns:
        The step, or None when there is none.
    """
    newest: int | None = None
    for step in reversed(checkpoint_steps(folder)):
        path = checkpoint_path(folder, step)
        faults = faults_of_checkpoint(path) if newest is None else _gaps(path)
        if not faults:
            newest = step if newest is None else newest
            continue
        _log.warning("checkpoint of step %d is left out: %s", step, faults[0])
        shutil.rmtree(path)
    return newest


def _gaps(checkpoint: Path) -> list[str]:
    """Files of a checkpoint that are missing or of another size."""
    try:
        files = read_checkpoint_manifest(checkpoint)["files"]
    except InputError as error:
        return [error.message]
    named = {checkpoint / name: facts["bytes"] for name, facts in files.items()}
    return [f"{path} is not whole" for path, size in named.items() if not path.is_file() or path.stat().st_size != size]


def finish(run: RunFolder, result: Mapping[str, Any]) -> None:
    """Write the manifest of the whole run, behind all that it names.

    Args:
        run: The run.
        result: Its numbers.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    for path in run.path.rglob(".*.partial"):
        path.unlink()
    sync_folder(run.path)
    facts = {
        "files": folder_facts(run.path, leave_out=[MANIFEST]),
        "result": dict(result),
        "steps": run.record["steps"],
    }
    write_sealed(run.path / MANIFEST, facts)
