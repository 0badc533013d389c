"""Benches run, and the methods they compare agree; nothing is timed here."""

import subprocess
import sys
from pathlib import Path

from tests.support.shell import environment


def test_the_scoring_bench_runs_and_both_methods_agree(repository_root: Path) -> None:
    command = [sys.executable, "benches/bench_score.py", "--rows", "1", "--anchors-made", "12", "--rounds", "1"]
    ended = subprocess.run(
        command, cwd=repository_root, capture_output=True, text=True, check=False, timeout=100, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert "ratio" in ended.stdout
