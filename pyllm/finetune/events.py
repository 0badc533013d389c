"""The event stream of a run: one JSON object a line, on disk as it happens."""

import json
import time
from pathlib import Path
from typing import Any

from pyllm.errors import InputError, PrerequisiteError, reason_of


class Events:
    """The event stream of a run: one JSON object a line, on disk as it happens.

    Args:
        path: The file, which is appended to; None writes nothing (processes other than the first).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._began = time.monotonic()

    def write(self, event: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            PrerequisiteError: The file cannot be written.
        """
        if self._path is None:
            return
        seconds = round(time.monotonic() - self._began, 3)
        line = json.dumps({"event": event, "seconds": seconds, **facts}, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise PrerequisiteError(f"cannot write {self._path}: {reason_of(error)}") from error


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run in which each step stands once: what was done again after a resumption replaces the first.

    Raises:
        InputError: A line that is not the last cannot be read; the last may be torn by a kill.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == len(lines) or '"event": "resume"' in lines[number]:
                continue
            raise InputError(f"{path}: line {number} is not an event") from error
        if event["event"] in ("start", "resume"):
            events = [each for each in events if each["step"] <= event["step"]]
        events.append(event)
    return events
