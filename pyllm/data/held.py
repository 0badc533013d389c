"""Folders that one process at a time writes to."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pyllm.errors import PrerequisiteError, reason_of


@contextlib.contextmanager
def held_folder(folder: Path, *, busy: str) -> Iterator[None]:
    """Make a folder and hold it for this process alone. One that was made and got nothing goes again.

    Args:
        folder: The folder.
        busy: What to say when another process holds it.

    Raises:
        PrerequisiteError: Another process holds it, or it cannot be made.
    """
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        reason = "it is no folder" if isinstance(error, FileExistsError) else reason_of(error)
        raise PrerequisiteError(f"cannot write to {folder}: {reason}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PrerequisiteError(busy, hint="wait for it, or name another folder") from error
        try:
            yield
        finally:
            if made:
                with contextlib.suppress(OSError):  # there is something in it, as there should be
                    folder.rmdir()
    finally:
        os.close(descriptor)
