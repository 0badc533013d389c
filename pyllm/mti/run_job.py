"""A run from files to files: what `toolkit mti run` does, without the shell."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyllm.data.files import read_file
from pyllm.data.lines import open_lines
from pyllm.lm.backends.contract import Backend
from pyllm.mti.demonstrations import read_demonstrations
from pyllm.mti.run import Budget, Chain, RunSettings, answer_chains, make_chains
from pyllm.mti.run_folder import Results, make_folder, results_of, write_beginning, write_results
from pyllm.mti.scoring import Scoring
from pyllm.mti.tasks import Task, read_tasks
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run asks.

    Args:
        tasks: Of the task file.
        data: Its bytes.
        given: Demonstrations by task, of a file of their own.
        chains: All calls, none of them known yet.
    """

    tasks: tuple[Task, ...]
    data: bytes
    given: Mapping[str, Sequence[str]]
    chains: list[Chain]

    def digests(self) -> dict[str, str | None]:
        """What tasks and demonstrations are known by."""
        given = sha256_hex(canonical_json({task: list(steps) for task, steps in self.given.items()}))
        return {"tasks_sha256": sha256_hex(self.data), "demonstrations_sha256": given if self.given else None}


def read_asked(tasks: Path, demonstrations: Path | None, settings: RunSettings) -> Asked:
    """Read what is to be asked.

    Raises:
        InputError: A file is wrong.
        SettingError: Demonstrations are missing.
    """
    read = read_tasks(tasks)
    given = {} if demonstrations is None else read_demonstrations(demonstrations)
    return Asked(read, bytes(read_file(tasks).data), given, make_chains(read, settings, given))


def run_tasks(
    tasks: Path,
    demonstrations: Path | None,
    settings: RunSettings,
    backend: Callable[[], Backend],
    folder: Path,
    *,
    scoring: Scoring = "typed",
    budget: Budget | None = None,
    progress: Progress = no_progress,
    check: Callable[[], None] | None = None,
) -> Results:
    """Ask everything that has no answer yet, mark it, and leave the whole in a folder.

    Args:
        tasks: The task file.
        demonstrations: A file of demonstrations, or None.
        settings: What is asked, and how.
        backend: Opens the backend; called once files and settings are known to be sound.
        folder: Where the run is kept.
        scoring: How answers are judged.
        budget: What may be spent in all.
        progress: Listens; the unit is calls.
        check: Called after every call; whatever it raises ends the work.

    Raises:
        InputError: A file is wrong.
        SettingError: Demonstrations are missing, the folder belongs to other work, or the budget is spent.
        PrerequisiteError: The model is not there or has gone, or the folder cannot be written.
    """
    asked = read_asked(tasks, demonstrations, settings)
    make_folder(folder)
    model = backend()
    key: dict[str, Any] = {**asked.digests(), **settings.key(), "model": model.facts()}
    facts = {"command": "mti run", "key": key, "extent": settings.extent()}
    started = time.perf_counter()
    with open_lines(folder / "calls.jsonl", key) as lines:
        taken_up = len(lines.done)
        write_beginning(folder, asked.data, facts)
        answer_chains(asked.chains, model, lines, settings, budget=budget, progress=progress, check=check)
        results = results_of(asked.chains, asked.tasks, facts, scoring)
        write_results(folder, results, facts)
    _log.info(
        "%d calls, %d answered, %d taken up from before, %.1f seconds",
        results.counts["calls"], results.counts["answered"], taken_up, time.perf_counter() - started,
    )  # fmt: skip
    return results
