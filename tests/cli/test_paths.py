"""Names of files and folders that a library would take for patterns."""

import shlex
from pathlib import Path

import numpy as np
import polars as pl

from tests.support.shell import bash
from tests.support.tiny_models import write_jsonl
from tests.support.warm import WarmToolkit

NAME = "new [1]*?{a,b}"
ROWS = 24


def test_pattern_characters_in_a_path_mean_themselves(tmp_path: Path, warm: WarmToolkit) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    # What the name would find, were it a pattern.
    decoy = tmp_path / "new 1xxa"
    decoy.mkdir()
    rows = [{"instruction": f"Say {number}.", "output": f"number {number}"} for number in range(ROWS + 4)]
    write_jsonl(folder / "rows.jsonl", rows[:ROWS])
    write_jsonl(folder / "held-out.jsonl", rows[ROWS:])
    vectors = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    np.save(folder / "e.npy", vectors)
    pl.DataFrame({"vector": vectors}).write_parquet(folder / "e.parquet")
    steps = (
        "score {}/rows.jsonl --anchors random:3 --model nano --device cpu --per-anchor --out {}/scores.parquet"
        " --matrix-out {}/matrix.arrow --anchors-out {}/anchors.parquet",
        "aggregate {}/matrix.arrow --zero-shot {}/anchors.parquet --out {}/again.parquet",
        "select {}/scores.parquet --top 50% --out {}/best.parquet",
        "shard {}/best.parquet --rows-per-shard 5 --out {}/shards",
        "pack {}/shards --tokenizer nano --length 96 --out {}/packed",
        "pack {}/best.parquet --tokenizer nano --length 96 --out {}/packed.parquet",
        "finetune {}/packed.parquet --model nano --device cpu --out {}/x --plan",
        "finetune {}/packed --model nano --device cpu --out {}/x --plan",
        "finetune {}/best.parquet --model nano --device cpu --out {}/compared --eval-data {}/held-out.jsonl"
        " --baseline random --pool {}/scores.parquet --seeds 1 --epochs 1",
        "verify {}/compared",
        "anchors {}/rows.jsonl --k 3 --embeddings {}/e.npy --out {}/chosen.parquet",
        "anchors {}/rows.jsonl --k 3 --embeddings {}/e.parquet --out {}/again-chosen.parquet",
        "report {}/scores.parquet {}/best.parquet {}/compared --out {}/page.html",
    )
    for step in steps:
        ended = bash(f"toolkit {step.replace('{}', shlex.quote(NAME))}", cwd=tmp_path, warm=warm)
        assert ended.code == 0, f"{step}: {ended.stderr}"
    assert pl.read_parquet(folder / "chosen.parquet", glob=False).height == 3
    assert pl.read_parquet(folder / "again.parquet", glob=False).height == ROWS
    assert not list(decoy.iterdir())
