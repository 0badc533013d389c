"""Units of work, each done once: what is there is taken up, and what is missing is worked out and written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyllm.data.lines import open_lines
from pyllm.progress import Progress, no_progress


@dataclass(frozen=True, slots=True)
class Unit:
    """One dialogue under one arm.

    Args:
        name: All that tells it from other units of the same run: its arm, and what is read by name and digest.
        facts: Columns that say which it is.
        work: Measures it, given the results so far by unit.
        tokens: About how many tokens it reads, for the progress.
    """

    name: str
    facts: Mapping[str, Any]
    work: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    tokens: int = 0


def do_units(
    path: Path,
    key: Mapping[str, Any],
    units: Sequence[Unit],
    *,
    stage: str,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """Do what is not done yet.

    Args:
        path: Results, a line each, as they come; see `pyllm.data.lines`.
        key: What decides all results alike: the model and the settings that are not an arm's.
        units: What there is to do, in the order of the results.
        stage: What the progress is called.
        progress: Listens; the unit is runs, a dialogue under an arm each.

    Returns:
        Facts and result of each unit.

    Raises:
        SettingError: `path` belongs to other work.
        PrerequisiteError: `path` cannot be written, or another process works there.
    """
    with open_lines(path, key) as lines:
        there = sum(unit.name in lines.done for unit in units)
        progress.start(stage, len(units), done=there, unit="runs")
        for unit in units:
            if unit.name not in lines.done:
                lines.add(unit.name, dict(unit.work(lines.done)))
                progress.advance(1, tokens=unit.tokens)
        progress.finish()
        return [{**unit.facts, **lines.done[unit.name]} for unit in units]
