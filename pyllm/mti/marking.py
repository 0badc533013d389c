"""From files to marks and measures: what `toolkit mti score` and `compare` do, without the shell."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.files import read_file
from pyllm.data.tables import read_table
from pyllm.errors import InputError, SettingError, reason_of
from pyllm.mti import costs as spending
from pyllm.mti.compare import differences, discordant, mode_differences, side_of
from pyllm.mti.metrics import Coverage, association, check_marks, coverage, metrics, modes_of
from pyllm.mti.scoring import Scoring, checked_outputs, score_outputs
from pyllm.mti.tasks import Task, read_tasks
from pyllm.provenance import sha256_hex, step

TASKS_FILE = "tasks.json"
OUTPUTS_FILE = "outputs.parquet"
CALLS_FILE = "calls.parquet"


@dataclass(frozen=True, slots=True)
class Marked:
    """Marks and what they add up to.

    Args:
        marks: One row an answer.
        metrics: Every measure.
        differences: Between modes.
        association: Of each step with the next.
        costs: What each mode cost; None where the outputs do not come from a run.
        latency: How long calls took; None likewise.
        coverage: What was marked of what was asked.
        failed: Rows of outputs without a text.
        partial: Whether the run was limited to some instances of each task.
        scoring: How answers were judged.
        steps: Provenance.
    """

    marks: pl.DataFrame
    metrics: pl.DataFrame
    differences: pl.DataFrame
    association: pl.DataFrame
    costs: pl.DataFrame | None
    latency: pl.DataFrame | None
    coverage: Coverage
    failed: int
    partial: bool
    scoring: Scoring
    steps: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers for a report."""
        return {
            "scoring": self.scoring,
            "partial": self.partial,
            "instances": self.coverage.instances,
            "marked": self.coverage.marked,
            "complete": self.coverage.complete,
            "incomplete": self.coverage.incomplete,
            "outputs_without_text": self.failed,
            "metrics": self.metrics.to_dicts(),
            "differences": self.differences.to_dicts(),
            "association": self.association.to_dicts(),
            "costs": None if self.costs is None else self.costs.to_dicts(),
            "latency": None if self.latency is None else self.latency.to_dicts(),
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """Two sides, paired.

    Args:
        names: What each pair of sides is called.
        differences: How much they differ.
        discordant: The instances that only one of them solves.
        steps: Provenance.
    """

    names: tuple[tuple[str, str], ...]
    differences: pl.DataFrame
    discordant: pl.DataFrame
    steps: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The numbers for a report."""
        return {
            "sides": [list(names) for names in self.names],
            "differences": self.differences.to_dicts(),
            "only_one_solves": self.discordant.height,
        }


@dataclass(frozen=True, slots=True)
class _Source:
    """Marks, and the outputs they were made from where those are at hand."""

    name: str
    marks: pl.DataFrame
    outputs: pl.DataFrame | None
    digest: str


def mark(
    *,
    run: Path | None = None,
    tasks: Path | None = None,
    outputs: str | None = None,
    scoring: Scoring = "typed",
    seed: int = 0,
) -> Marked:
    """Mark the outputs of a run, or a file of outputs.

    Args:
        run: A run folder; then the rest of the files is found in it.
        tasks: The task file.
        outputs: The table of outputs; `-` is standard input.
        scoring: How answers are judged.
        seed: Of the bootstrap.

    Raises:
        InputError: A file cannot be read, or the outputs do not fit the tasks.
        SettingError: Neither a run nor both files are given.
    """
    calls, limit = None, None
    if run is not None:
        _check_run(run)
        tasks, outputs, name = run / TASKS_FILE, str(run / OUTPUTS_FILE), str(run / OUTPUTS_FILE)
        limit = _limit(run)
        if (run / CALLS_FILE).exists():
            calls, _ = read_table(run / CALLS_FILE)
    elif tasks is None or outputs is None:
        raise SettingError("neither a run nor both tasks and outputs are given")
    else:
        name = "standard input" if outputs == "-" else outputs
    known = read_tasks(tasks)
    table, steps = read_table(outputs)
    marks = score_outputs(known, table, scoring, name=name)
    fact = step("mti score", scoring=scoring, tasks_sha256=sha256_hex(read_file(tasks).data), rows=table.height)
    return summarise(
        marks,
        known,
        scoring,
        calls=calls,
        failed=table["output"].null_count(),
        limit=limit,
        seed=seed,
        steps=(*steps, fact),
    )


def summarise(
    marks: pl.DataFrame,
    tasks: tuple[Task, ...],
    scoring: Scoring,
    *,
    calls: pl.DataFrame | None = None,
    failed: int = 0,
    limit: int | None = None,
    seed: int = 0,
    steps: tuple[dict[str, Any], ...] = (),
) -> Marked:
    """Marks with everything that they add up to.

    Args:
        marks: What `scoring.score_outputs` returned.
        tasks: The tasks that were asked.
        scoring: How they were judged.
        calls: What each call cost; see `costs.costs`.
        failed: Rows of outputs without a text.
        limit: How many instances of each task were asked, from its first; None for all.
        seed: Of the bootstrap.
        steps: Provenance.
    """
    return Marked(
        marks=marks,
        metrics=metrics(marks, seed=seed),
        differences=mode_differences(marks, seed=seed),
        association=association(marks),
        costs=None if calls is None else spending.costs(calls, marks, tasks),
        latency=None if calls is None else spending.latency(calls),
        coverage=coverage(marks, instances=sum(len(task.instances[:limit]) for task in tasks)),
        failed=failed,
        partial=limit is not None and any(len(task.instances) > limit for task in tasks),
        scoring=scoring,
        steps=steps,
    )


def compare_sources(
    first: str,
    second: str | None = None,
    *,
    modes: tuple[str, str] | None = None,
    scoring: Scoring = "typed",
    seed: int = 0,
) -> Compared:
    """Compare two runs or tables of marks, or two modes of one.

    Args:
        first: A run folder or a table of marks; `-` is standard input.
        second: The same; None compares two modes of the first.
        modes: The mode of each side. None takes each mode that both have, or `mti` and `sti` of one.
        scoring: How outputs of run folders are judged.
        seed: Of the bootstrap.

    Raises:
        InputError: A file cannot be read or is no table of marks, or the sides share no instance.
        SettingError: A mode is not there.
    """
    left = _read_source(first, scoring)
    right = left if second is None else _read_source(second, scoring)
    names, parts, listed = [], [], []
    for mode, other in _mode_pairs(left, right, modes):
        sides = side_of(left.marks, mode), side_of(right.marks, other)
        if not set(sides[0]["uid"]) & set(sides[1]["uid"]):
            raise InputError(f"{left.name} ({mode}) and {right.name} ({other}) have no instance in common")
        called = _names(left, right, mode, other)
        names.append(called)
        parts.append(differences(*sides, names=called, seed=seed))
        found = discordant(*sides, names=called, outputs=(left.outputs, right.outputs))
        listed.append(found.select(pl.lit(" - ".join(called)).alias("sides"), pl.all()))
    facts = step("mti compare", sides=[list(pair) for pair in names], inputs=[left.digest, right.digest], seed=seed)
    return Compared(tuple(names), pl.concat(parts), pl.concat(listed, how="vertical_relaxed"), (facts,))


def _names(left: _Source, right: _Source, mode: str, other: str) -> tuple[str, str]:
    """Two names for two sides, as short as they can be and still differ."""
    first, second = Path(left.name).name, Path(right.name).name
    if first == second:
        first, second = left.name, right.name
    if right is left and mode != other:
        return mode, other
    if first == second:
        return f"first {mode}", f"second {other}"
    return f"{first} {mode}", f"{second} {other}"


def _mode_pairs(left: _Source, right: _Source, modes: tuple[str, str] | None) -> list[tuple[str, str]]:
    if modes is not None:
        return [modes]
    if right is left:
        there = modes_of(left.marks)
        if "sti" not in there or len(there) < 2:
            found = ", ".join(there)
            raise SettingError(
                f"{left.name} has no two modes to compare by default (found {found})",
                hint="name two modes, as in --modes mti,batch, or a second run",
            )
        return [(mode, "sti") for mode in there if mode != "sti"]
    shared = [mode for mode in modes_of(left.marks) if mode in modes_of(right.marks)]
    if not shared:
        raise SettingError(
            f"{left.name} and {right.name} share no mode ({', '.join(modes_of(left.marks))} against"
            f" {', '.join(modes_of(right.marks))})",
            hint="name the mode of each side, as in --modes mti,sti",
        )
    return list(itertools.zip_longest(shared, shared))


def _read_source(source: str, scoring: Scoring) -> _Source:
    path = Path(source)
    name = "standard input" if source == "-" else source
    if source != "-" and path.is_dir():
        _check_run(path)
        table, _ = read_table(path / OUTPUTS_FILE)
        outputs = checked_outputs(table, name=str(path / OUTPUTS_FILE))
        marks = score_outputs(read_tasks(path / TASKS_FILE), table, scoring, name=str(path / OUTPUTS_FILE))
        return _Source(name, marks, outputs, sha256_hex(read_file(path / OUTPUTS_FILE).data))
    table, _ = read_table(source)
    return _Source(name, check_marks(table, name=name), None, sha256_hex(table.write_csv()))


def _check_run(run: Path) -> None:
    """See that a folder is a run.

    Raises:
        InputError: It is not there or lacks its files.
    """
    if not run.is_dir():
        raise InputError(f"there is no run folder `{run}`", hint="`toolkit mti run` makes one")
    for file in (TASKS_FILE, OUTPUTS_FILE):
        if not (run / file).is_file():
            raise InputError(f"`{run}` holds no `{file}`, so it is no finished run of `toolkit mti run`")


def _limit(run: Path) -> int | None:
    """How many instances of each task the run asked, as its `run.json` says."""
    path = run / "run.json"
    try:
        limit = json.loads(path.read_bytes())["extent"]["limit"]
    except OSError as error:
        raise InputError(f"cannot read `{path}`: {reason_of(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"`{path}` does not say how far the run went") from error
    return limit if isinstance(limit, int) else None
