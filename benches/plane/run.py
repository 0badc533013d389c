"""Runs the data-plane benches: ours against the named peers, in turns, as ratios.

Usage: python benches/plane/run.py [--scale 0.1] [--rounds 5] [--only shard,kmeans] [--json FILE]

Scale 1 is a million rows. Inputs are made by generate.py and kept in benches/.data. Prints one table a part; nothing
is asserted about figures, but a contestant that finds something else than the others makes the run end with 1.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import part_aggregate
import part_kmeans
import part_packing
import part_shard
import part_tokens
from harness import HERE, ROOT, ContestantFailedError, Part, Setting, run_part

PARTS = {
    "shard": (part_shard.part, "instr"),
    "tokens": (part_tokens.part, "instr,tokenizer"),
    "packing": (part_packing.part, "lens"),
    "kmeans": (part_kmeans.part, "emb,flat"),
    "aggregate": (part_aggregate.part, "logprob"),
}


def main() -> int:
    """Run the parts that were asked for; 1 if a result was wrong."""
    choices = _choices()
    data = choices.data or ROOT / "benches" / ".data" / f"{choices.scale:g}"
    records = []
    for name in choices.only:
        make, inputs = PARTS[name]
        generator = [str(choices.peers), str(HERE / "generate.py"), "--scale", str(choices.scale)]
        subprocess.run([*generator, "--out", str(data), "--only", inputs], check=True)
        with tempfile.TemporaryDirectory(prefix="pyllm-bench-", dir=choices.scratch) as scratch:
            setting = Setting(choices.scale, choices.rounds, data, choices.peers, Path(scratch))
            records.append(run_or_tell(name, make, setting))
        print(table(records[-1]), flush=True)
    if choices.json:
        choices.json.write_text(json.dumps({**_conditions(choices), "parts": records}, indent=2) + "\n")
    return int(any(record["faults"] for record in records))


def run_or_tell(name: str, make: Callable[[Setting], Part], setting: Setting) -> dict[str, Any]:
    """The record of a part; where what it needs cannot be prepared, a record that says so."""
    try:
        part = make(setting)
    except ContestantFailedError as error:
        return {
            "part": name, "title": name, "contestants": {}, "absent": {"preparation": str(error)}, "targets": [],
            "faults": [],
        }  # fmt: skip
    return run_part(part, setting)


def _choices() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="1 is a million rows (default 0.1)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant (default 5)")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="inputs (default benches/.data/SCALE)")
    parser.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="where outputs go for a while (default: the system's)"
    )
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-bench" / "bin" / "python", help="Python of the peers"
    )
    choices = parser.parse_args()
    if unknown := [name for name in choices.only if name not in PARTS]:
        parser.error(f"--only names {', '.join(unknown)}, which is none of {', '.join(PARTS)}")
    if not choices.peers.exists():
        parser.error(f"{choices.peers} is not there: run scripts/setup-benches.sh")
    return choices


def _conditions(choices: argparse.Namespace) -> dict[str, Any]:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")][:1]
    return {
        "scale": choices.scale,
        "rounds": choices.rounds,
        "commit": described.stdout.strip() or None,
        "cpus": os.cpu_count(),
        "cpu": model[0].partition(": ")[2] if model else platform.processor(),
        "python": platform.python_version(),
    }


def table(record: dict[str, Any]) -> str:
    """The record of one part as plain text: contestants, then targets."""
    heads = ("work CPU-s", "process CPU-s", "wall s", "peak MiB")
    lines = ["", record["title"], f"  {'contestant':36} {heads[0]:>24} {heads[1]:>14} {heads[2]:>8} {heads[3]:>9}"]
    for name, figures in record["contestants"].items():
        lowest, highest = figures.get("work_cpu_seconds_range", (0, 0))
        work = f"{figures['work_cpu_seconds']:.4g} ({lowest:.4g}-{highest:.4g})" if highest else "-"
        process, wall, peak = (figures[key] for key in ("process_cpu_seconds", "wall_seconds", "peak_rss_mib"))
        lines.append(f"  {name:36} {work:>24} {process:>14.3g} {wall:>8.3g} {peak:>9.0f}")
    lines += [f"  {name:36} not run: {reason}" for name, reason in record["absent"].items()]
    lines.append(f"  {'target':60} {'wanted':>8} {'reached':>8}")
    for target in record["targets"]:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[target["met"]]
        reached = f"{target['reached']:.3g}" if "reached" in target else "-"
        against = f"{target['label']}, against {target['peer']}" if "peer" in target else target["label"]
        lines.append(f"  {against:60} {target['target']:>8} {reached:>8}  {verdict}")
    lines += [f"  WRONG: {fault}" for fault in record["faults"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
