"""Benches run, and the methods they compare agree; nothing is timed here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.shell import environment


def test_the_scoring_bench_runs_and_both_methods_agree(repository_root: Path) -> None:
    command = [sys.executable, "benches/bench_score.py", "--rows", "1", "--anchors-made", "12", "--rounds", "1"]
    ended = subprocess.run(
        command, cwd=repository_root, capture_output=True, text=True, check=False, timeout=100, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert "ratio" in ended.stdout


@pytest.fixture(scope="module")
def plane(repository_root: Path) -> Path:
    return repository_root / "benches" / "plane"


def generate(plane: Path, folder: Path, scale: float, only: str) -> None:
    command = [sys.executable, "generate.py", "--scale", str(scale), "--out", str(folder), "--only", only]
    subprocess.run(command, cwd=plane, check=True, capture_output=True, timeout=60, env=environment())


def test_the_generator_makes_the_same_rows_at_every_scale(plane: Path, tmp_path: Path) -> None:
    generate(plane, tmp_path / "few", 0.0002, "instr,lens,logprob")
    generate(plane, tmp_path / "more", 0.0005, "instr,lens,logprob")
    few, more = ((tmp_path / name / "instr.jsonl").read_bytes() for name in ("few", "more"))
    assert more.startswith(few)
    assert len(more.splitlines()) == 500
    for name in ("lens.npy", "logprob.npy"):
        first, longer = (np.load(tmp_path / scale / name) for scale in ("few", "more"))
        assert np.array_equal(longer[: len(first)], first)


def test_the_rows_have_the_lengths_of_the_recipe(plane: Path, tmp_path: Path) -> None:
    generate(plane, tmp_path, 0.005, "instr,lens,logprob")
    rows = [json.loads(line) for line in (tmp_path / "instr.jsonl").read_text(encoding="utf-8").splitlines()]
    means = [np.mean([len(row[field].encode()) for row in rows]) for field in ("instruction", "input", "output")]
    # The recipe's means of a million rows; five thousand rows leave some chance.
    assert np.allclose(means, [55, 23, 252], rtol=0.08)
    assert abs(np.mean([not row["input"] for row in rows]) - 0.6) < 0.02
    assert abs(np.load(tmp_path / "lens.npy").mean() - 179.53) < 6
    wins = np.load(tmp_path / "logprob.npy") > np.load(tmp_path / "zero_shot.npy")
    assert abs(wins.mean() - 0.461) < 0.01


def test_every_layout_holds_the_same_log_probs(plane: Path, tmp_path: Path) -> None:
    generate(plane, tmp_path, 0.0002, "logprob")
    matrix = np.load(tmp_path / "logprob.npy")
    long = pl.read_parquet(tmp_path / "logprob_long.parquet")
    assert np.array_equal(long["logprob"].to_numpy().reshape(matrix.shape), matrix)
    assert long["candidate"].to_list() == [row for row in range(len(matrix)) for _ in range(matrix.shape[1])]
    lists = pl.read_parquet(tmp_path / "logprob_list.parquet")
    assert np.array_equal(np.array(lists["logprob"].to_list(), np.float32), matrix)
    ours = pl.read_ipc(tmp_path / "logprob.arrow")
    assert np.array_equal(ours["logprob"].to_numpy(), matrix)


def test_ratios_are_judged_in_the_direction_of_the_target(plane: Path) -> None:
    program = """
import harness
figures = {"ours": 2.0, "a": 4.0, "b": 3.0}
results = {name: {"work_cpu_seconds": value, "wall_seconds": value} for name, value in figures.items()}
judge = lambda **bounds: harness._judged(harness.Ratio("x", "ours", **bounds), results, {"gone": "why"})
assert judge(peers=["a", "b"], at_least=1.4)["met"] and judge(peers=["a", "b"], at_least=1.4)["peer"] == "b"
assert not judge(peers=["a", "b"], at_least=1.6)["met"]
assert judge(peers=["a"], at_most=0.5)["met"] and not judge(peers=["a", "b"], at_most=0.5)["met"]
assert not judge(at_most=1.9)["met"] and judge(at_most=2)["met"]
assert judge(peers=["a"], at_least=0.9, figure="wall_seconds", scaled_by=0.5)["reached"] == 1
assert judge(peers=["gone"], at_least=1)["met"] is None
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=plane, capture_output=True, text=True, check=False, env=environment()
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("part", ["shard", "tokens", "packing", "kmeans", "aggregate"])
def test_the_bench_of_the_data_plane_runs_without_its_peers(
    plane: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, part: str
) -> None:
    # Our own interpreter stands in for the peers': what it lacks is told in the table, and ours must run and be right.
    figures = tmp_path / "figures.json"
    command = [
        sys.executable, "run.py", "--scale", "0.0003", "--rounds", "1", "--only", part, "--peers", sys.executable,
        "--data", str(tmp_path_factory.getbasetemp() / "plane"), "--scratch", str(tmp_path), "--json", str(figures),
    ]  # fmt: skip
    ended = subprocess.run(
        command, cwd=plane, capture_output=True, text=True, check=False, timeout=100, env=environment()
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (record,) = json.loads(figures.read_text())["parts"]
    assert record["faults"] == []
    assert record["targets"], record["absent"]
    ran = set(record["contestants"])
    # The flat embeddings are made with scikit-learn, which only the peers' environment has.
    wanted = {target["ours"] for target in record["targets"] if "flat" not in target["ours"]}
    assert wanted <= ran, record["absent"]
