"""The folder that packed rows are written to: for one run at a time, whole or not at all."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyllm.data.held import held_folder
from pyllm.errors import PrerequisiteError, SettingError, reason_of

MANIFEST = "manifest.json"
"""Written last: a folder without it holds no finished run."""

SPOOLED = ".rows.parquet.partial"
"""Rows of an input that is no table of ours, while they are packed."""

_MARK = ".packing"


@contextlib.contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """The folder of the output, for this run alone; gone again if the run made it and left nothing in it."""
    mark = out / _MARK
    with held_folder(out, busy=f"another run is writing to {out}"):
        if not mark.exists() and not (out / MANIFEST).exists() and (other := next(out.glob("part-*.parquet"), None)):
            raise SettingError(
                f"`--out {out}` holds `{other.name}`, which is not of this command", hint="name a new folder"
            )
        try:
            mark.touch()
        except OSError as error:
            raise PrerequisiteError(f"cannot write to {out}: {reason_of(error)}") from error
        try:
            yield out
        finally:
            if not (out / MANIFEST).exists():
                clear(out)
            mark.unlink(missing_ok=True)


def finished_work(folder: Path, work: str) -> dict[str, Any] | None:
    """The manifest of the same work, done before.

    Raises:
        SettingError: Other work was done there, or its files are not whole.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    hint = "name a new folder, or remove this one"
    try:
        manifest = json.loads(path.read_bytes())
        same = manifest["kind"] == "pack" and manifest["work"] == work
        whole = same and all((folder / part["name"]).stat().st_size == part["bytes"] for part in manifest["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"`--out {folder}` holds a manifest of something else", hint=hint) from error
    if not same:
        raise SettingError(f"`--out {folder}` holds the result of other inputs or settings", hint=hint)
    if not whole:
        raise SettingError(f"`--out {folder}` holds the result of this work, but its files were changed", hint=hint)
    return dict(manifest)


def clear(folder: Path) -> None:
    """Take away what a run left that did not come to its end, this one or one that was killed."""
    for path in [*folder.glob("part-*.parquet"), *folder.glob(".part-*.partial"), folder / SPOOLED]:
        path.unlink(missing_ok=True)
