"""The run folders in the user's cache: what they hold, and making room.

Only what `pyllm.score.ledger` put there is touched: a folder without `run.json` is neither listed nor removed.
"""

import fcntl
import json
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pyllm import cache
from pyllm.errors import PrerequisiteError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run folder.

    Args:
        folder: Where it is.
        created: When the run began (UTC); None if its record does not say.
        used: When a result was last stored in it (UTC).
        rows_done: Rows whose results are there; None if the record does not say how rows are kept.
        rows_total: Rows of the whole run; None if the record does not say.
        size_bytes: Size of its files.
        model: The model it scores with; empty if the record does not say.
        locked: Whether a process works in it now.
    """

    folder: Path
    created: datetime | None
    used: datetime
    rows_done: int | None
    rows_total: int | None
    size_bytes: int
    model: str
    locked: bool

    @property
    def is_complete(self) -> bool:
        """Whether every row has its result."""
        return self.rows_total is not None and self.rows_done == self.rows_total


def cache_folder() -> Path:
    """Where runs are kept that were given no `--run` folder. It may not exist yet."""
    return cache.cache_folder() / "runs"


def list_runs(folder: Path | None = None) -> list[RunSummary]:
    """The runs in the cache, the last used first.

    Args:
        folder: Where to look; the user's cache if None.

    Raises:
        PrerequisiteError: The folder cannot be read.
    """
    root = cache_folder() if folder is None else folder
    try:
        records = sorted(root.glob("*/run.json"))
        runs = [_summary(record) for record in records]
    except OSError as error:
        raise PrerequisiteError(f"cannot read the run folders in `{root}`: {error.strerror}") from error
    return sorted(runs, key=lambda run: (-run.used.timestamp(), run.folder.name))


def older_than(runs: Iterable[RunSummary], days: float, *, now: datetime | None = None) -> list[RunSummary]:
    """Those runs in which nothing was stored for `days` days."""
    limit = (now or datetime.now(UTC)) - timedelta(days=days)
    return [run for run in runs if run.used < limit]


def clean_runs(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Remove run folders, but never one that a process works in.

    Args:
        runs: What to remove.

    Returns:
        The runs that were removed.

    Raises:
        PrerequisiteError: A folder cannot be removed.
    """
    removed = []
    for run in runs:
        with _held(run.folder) as free:
            if not free:
                _log.warning("kept `%s`: a process works in it", run.folder)
                continue
            try:
                # Without its record the rest is no run any more, should the removal stop half-way.
                (run.folder / "run.json").unlink(missing_ok=True)
                shutil.rmtree(run.folder)
            except OSError as error:
                raise PrerequisiteError(f"cannot remove `{run.folder}`: {error.strerror}") from error
        removed.append(run)
    return removed


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run folder if it is free; yields whether it was."""
    try:
        lock = (folder / "lock").open("rb")
    except OSError:
        yield True
        return
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _summary(record: Path) -> RunSummary:
    folder = record.parent
    try:
        found = json.loads(record.read_bytes())
    except ValueError:
        found = {}
    facts: Mapping[str, Any] = found if isinstance(found, dict) else {}
    # A running process makes and renames files meanwhile: one that has gone is simply not counted.
    stats = [status for status in map(_status, folder.rglob("*")) if status is not None]
    rows_total = facts.get("rows") if isinstance(facts.get("rows"), int) else None
    with _held(folder) as free:
        locked = not free
    return RunSummary(
        folder=folder,
        created=_moment(facts.get("created")),
        used=datetime.fromtimestamp(max((modified for _, modified in stats), default=0.0), UTC),
        rows_done=_rows_done(folder, rows_total, facts.get("unit_rows")),
        rows_total=rows_total,
        size_bytes=sum(size for size, _ in stats),
        model=str(facts.get("model") or ""),
        locked=locked,
    )


def _status(path: Path) -> tuple[int, float] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return (0 if path.is_dir() else status.st_size), status.st_mtime


def _rows_done(folder: Path, rows_total: int | None, unit_rows: object) -> int | None:
    if rows_total is None or not isinstance(unit_rows, int):
        return None
    units = [int(path.stem) for path in folder.glob("units/*.unit") if path.stem.isdecimal()]
    return sum(max(0, min(unit_rows, rows_total - unit * unit_rows)) for unit in units)


def _moment(text: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
