"""Runs contestants in fresh processes, in turns, and says how ours stands to its peers.

CPU seconds are user and system time of a process with its threads and children. A contestant says itself what its work
cost, imports left out (`contestants/_clock.py`); what the whole process cost and the most memory it held are taken from
the kernel when it ends. This module needs nothing beyond the standard library: a small parent, because a child's peak
memory starts from its parent's.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, get_args

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = ROOT / ".venv" / "bin" / "python"

Figure = Literal[
    "work_cpu_seconds", "process_cpu_seconds", "wall_seconds", "peak_rss_mib", "grown_rss_mib", "further_cpu_seconds"
]
Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run of the benches was asked for."""

    scale: float
    rounds: int
    data: Path
    peers: Path
    scratch: Path
    threads: int = 2

    def ours(self, script: str, *arguments: object) -> list[str]:
        """Command of one of our contestants."""
        return [str(OURS), str(HERE / "contestants" / script), *map(str, arguments)]

    def peer(self, script: str, *arguments: object) -> list[str]:
        """Command of a contestant in the peers' environment."""
        return [str(self.peers), str(HERE / "contestants" / script), *map(str, arguments)]

    def rows(self, full: int) -> int:
        """That many rows at the scale of this run."""
        return max(1, round(full * self.scale))


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the work: its commands are started together (mostly there is one)."""

    name: str
    commands: Sequence[list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    outputs: Sequence[Path] = ()
    rounds: int | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A target that holds ours against the best of some peers, or against a limit when `limit` is given."""

    label: str
    ours: str
    peers: Sequence[str] = ()
    at_least: float | None = None
    at_most: float | None = None
    figure: Figure = "work_cpu_seconds"
    limit: float | None = None
    scaled_by: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the benches: who runs, what is to be reached, and what must be right."""

    name: str
    title: str
    contestants: Sequence[Contestant]
    ratios: Sequence[Ratio]
    check: Callable[[Results], list[str]]


def run_part(part: Part, setting: Setting) -> dict[str, Any]:
    """Run every contestant in turns, check the results, and give figures, targets and faults as one record."""
    runs: dict[str, list[dict[str, Any]]] = {contestant.name: [] for contestant in part.contestants}
    absent: dict[str, str] = {}
    for turn in range(setting.rounds):
        for contestant in part.contestants:
            if contestant.name in absent or turn >= (contestant.rounds or setting.rounds):
                continue
            print(f"{part.name}: round {turn + 1}, {contestant.name}", file=sys.stderr, flush=True)
            try:
                runs[contestant.name].append(run_once(contestant))
            except ContestantFailedError as error:
                absent[contestant.name] = str(error)
                print(f"{part.name}: {contestant.name} failed: {error}", file=sys.stderr)
    results = {name: _summary(seen) for name, seen in runs.items() if seen and name not in absent}
    return {
        "part": part.name,
        "title": part.title,
        "contestants": results,
        "absent": absent,
        "targets": [_judged(ratio, results, absent) for ratio in part.ratios],
        "faults": part.check(results),
    }


class ContestantFailedError(Exception):
    """A contestant ended with an error; the message is the end of what it said."""


def run_once(contestant: Contestant) -> dict[str, Any]:
    """Run the commands of a contestant together, each in a process of its own, and wait for all."""
    for output in contestant.outputs:
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "NO_COLOR": "1", **contestant.environment}
    with ExitStack() as files:
        start = time.perf_counter()
        children = []
        for command in contestant.commands:
            out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment, cwd=ROOT
            )
            children.append((child, out, err))
        usages = [_wait(child) for child, _, _ in children]
        wall = time.perf_counter() - start
        said = [_said(*child) for child in children]
    return {
        "wall_seconds": wall,
        "process_cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in usages),
        "peak_rss_mib": max(usage.ru_maxrss for usage in usages) / 1024,
        **said[0],
    }


def _wait(child: subprocess.Popen[bytes]) -> Any:
    """What a child used until it ended."""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _said(child: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> dict[str, Any]:
    """What an ended child said in its last line of JSON."""
    out.seek(0)
    err.seek(0)
    if child.returncode != 0:
        complaint = err.read().decode().strip().splitlines()
        raise ContestantFailedError(complaint[-1] if complaint else f"exit code {child.returncode}")
    lines = [line for line in out.read().decode().splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def _summary(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Median, lowest and highest of every figure; the last run's word for what it found."""
    summary: dict[str, Any] = {"runs": len(seen)}
    for name in get_args(Figure):
        values = [run[name] for run in seen if name in run]
        if values:
            summary[name] = statistics.median(values)
            summary[f"{name}_range"] = [min(values), max(values)]
    return {**summary, "found": seen[-1].get("found", {})}


def _judged(ratio: Ratio, results: Results, absent: dict[str, str]) -> dict[str, Any]:
    """What was reached for one target; `met` is None where it could not be measured."""
    bound = ratio.at_least if ratio.at_least is not None else ratio.at_most
    judged: dict[str, Any] = {
        "label": ratio.label,
        "ours": ratio.ours,
        "target": f"{'>=' if ratio.at_least is not None else '<='} {bound:g}",
        "met": None,
    }
    ours = results.get(ratio.ours, {}).get(ratio.figure)
    peers = {name: results[name][ratio.figure] for name in ratio.peers if ratio.figure in results.get(name, {})}
    missing = [name for name in (ratio.ours, *ratio.peers) if name in absent]
    if missing:
        judged["remark"] = "; ".join(f"{name}: {absent[name]}" for name in missing)
    if ours is None or (ratio.peers and not peers):
        return judged
    if ratio.peers:
        best = min(peers, key=peers.__getitem__)
        judged |= {"peer": best, "peer_value": peers[best]}
        reached = (peers[best] / ours if ratio.at_least is not None else ours / peers[best]) * ratio.scaled_by
    else:
        reached = ours * ratio.scaled_by
    met = reached >= bound if ratio.at_least is not None else reached <= bound
    return {**judged, "ours_value": ours, "reached": reached, "met": met}
