"""A million rows through `toolkit shard` and then `toolkit pack`: does memory stay where it is?

Usage: python benches/plane/million.py [--scale 1] [--json FILE]

Samples the resident memory of each command while it runs, and prints it at a quarter, a half, three quarters and
the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import HERE, ROOT

TOOLKIT = str(ROOT / ".venv" / "bin" / "toolkit")
SAMPLE_SECONDS = 0.05


def resident_mib(pid: int) -> float | None:
    """Memory a process holds now; None when it has just ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command and sample its memory until it ends."""
    start = time.perf_counter()
    child = subprocess.Popen(command, cwd=ROOT)
    samples: list[float] = []
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        held = resident_mib(child.pid)
        samples += [held] if held else []
        time.sleep(SAMPLE_SECONDS)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command[:2])} ended with {child.returncode}")
    return {
        "wall_seconds": time.perf_counter() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_mib": usage.ru_maxrss / 1024,
        "rss_mib_at": {f"{share}%": round(samples[(len(samples) - 1) * share // 100]) for share in (25, 50, 75, 100)},
    }


def main() -> None:
    """Run both commands one after the other and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is a million rows (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="inputs (default benches/.data/SCALE)")
    parser.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="where outputs go for a while (default: the system's)"
    )
    parser.add_argument(
        "--peers", type=Path, default=ROOT / ".venv-bench" / "bin" / "python", help="Python of the peers"
    )
    choices = parser.parse_args()
    data = choices.data or ROOT / "benches" / ".data" / f"{choices.scale:g}"
    generator = [str(choices.peers), str(HERE / "generate.py"), "--scale", str(choices.scale), "--out", str(data)]
    subprocess.run([*generator, "--only", "instr,tokenizer"], check=True)
    threads = ["--threads", str(choices.threads), "--quiet"]
    with tempfile.TemporaryDirectory(prefix="pyllm-bench-", dir=choices.scratch) as scratch:
        shards, packed = f"{scratch}/shards", f"{scratch}/packed"
        pack = [
            TOOLKIT,
            "pack",
            shards,
            "--tokenizer",
            str(data / "tokenizer.json"),
            "--length",
            "2048",
            "--out",
            packed,
        ]
        figures = {
            "shard": watched([TOOLKIT, "shard", str(data / "instr.jsonl"), "--out", shards, *threads]),
            "pack": watched([*pack, *threads]),
        }
        manifest = json.loads((Path(packed) / "manifest.json").read_text())
    rows = round(1_000_000 * choices.scale)
    for name, figure in figures.items():
        print(
            f"toolkit {name}: {rows:,} rows in {figure['wall_seconds']:.1f} s, {figure['cpu_seconds']:.1f} CPU-s,"
            f" peak {figure['peak_rss_mib']:.0f} MiB; held at 25/50/75/100 % of the run:"
            f" {'/'.join(str(held) for held in figure['rss_mib_at'].values())} MiB"
        )
    if choices.json:
        choices.json.write_text(json.dumps({"rows": rows, **figures, "pack_manifest": manifest}, indent=2) + "\n")


if __name__ == "__main__":
    main()
