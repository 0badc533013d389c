"""A real server that is not ours, driven end to end: it gives what the same model gives in this process."""

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from pyllm.cli.app import main
from tests.support.mti_tasks import write_tasks
from tests.support.real_server import save_long_model, transformers_serve

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_long_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with transformers_serve(model, tmp_path_factory.mktemp("server") / "log") as url:
        yield url


def test_mti_run(model: Path, server: str, tmp_path: Path) -> None:
    tasks = write_tasks(tmp_path / "tasks.json", instances=2, tasks=(("900", 2),))
    served, here = tmp_path / "served", tmp_path / "here"
    options = ["mti", "run", str(tasks), "--mode", "mti,sti", "--max-new-tokens", "6", "--model", str(model)]
    options += ["--format", "csv", "-q"]
    assert main([*options, "--endpoint", server, "--concurrency", "2", "--out", str(served)]) == 0
    assert main([*options, "--out", str(here)]) == 0
    theirs, ours = (pl.read_parquet(folder / "calls.parquet") for folder in (served, here))
    assert theirs["error"].null_count() == theirs.height == 2 + 4
    first = pl.col("call") == 1
    assert theirs.filter(first)["output"].to_list() == ours.filter(first)["output"].to_list()
    assert theirs["prompt_tokens"].to_list() == ours["prompt_tokens"].to_list()
    assert theirs["cached_tokens"].null_count() == theirs.height


def test_generate_and_judge(model: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_CACHE", str(tmp_path / "cache"))
    rows = [{"id": f"p{place}", "turns": [f"Name colour {place}.", "And another?"][: 1 + place]} for place in range(2)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    served, here = tmp_path / "served.parquet", tmp_path / "here.parquet"
    options = ["generate", str(prompts), "--model", str(model), "--max-new-tokens", "6", "-q"]
    assert main([*options, "--endpoint", server, "--out", str(served)]) == 0
    assert main([*options, "--out", str(here)]) == 0
    theirs, ours = pl.read_parquet(served), pl.read_parquet(here)
    assert theirs["error"].null_count() == theirs.height == 3
    # Special tokens come back as texts and are no longer themselves when asked again: first turns alone are the same.
    first = pl.col("turn") == 1
    assert theirs.filter(first)["answer"].to_list() == ours.filter(first)["answer"].to_list()
    judge = ["--judge", str(model), "--judge-endpoint", server, "--max-new-tokens", "6", "--allow-empty", "-q"]
    grades, verdicts = tmp_path / "grades.parquet", tmp_path / "verdicts.parquet"
    assert main(["judge", "grade", str(served), *judge, "--out", str(grades)]) == 0
    assert main(["judge", "pair", str(served), str(here), *judge, "--out", str(verdicts)]) == 0
    graded, paired = pl.read_parquet(grades), pl.read_parquet(verdicts)
    assert graded["error"].null_count() == graded.height == 3
    assert set(graded["parse"]) == {"missing"}  # a random model gives no verdict, and none is guessed
    assert paired["error"].null_count() == paired.height == 6
    assert graded["prompt_tokens"].null_count() == 0
