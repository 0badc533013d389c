"""`toolkit anchors` as a user meets it: real processes, every kind of embeddings, bad input, the way into `score`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.support.shell import bash
from tests.support.tiny_models import save_tiny_model, write_jsonl
from tests.support.warm import WarmToolkit

ROWS = 60
GROUPS = 5
DIM = 12


def embedded_rows() -> np.ndarray:
    """Rows in clear groups: row r belongs to group r % 5, and lies the nearer to its centre the higher it is."""
    directions = np.random.default_rng(3).normal(size=(GROUPS, DIM))
    noise = np.random.default_rng(4).normal(size=(ROWS, DIM)) * 0.02
    return np.array([directions[row % GROUPS] + noise[row] * (ROWS - row) / ROWS for row in range(ROWS)]).astype("f4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, a model, and embeddings in every form."""
    made = tmp_path_factory.mktemp("anchors-cli")
    save_tiny_model(made / "model")
    write_jsonl(
        made / "rows.jsonl",
        [{"instruction": f"Say number {row}.", "output": f"number {row} it is", "note": row} for row in range(ROWS)],
    )
    assert bash("toolkit anchors rows.jsonl --method random --k 60 --out all.parquet", cwd=made).code == 0
    vectors = embedded_rows()
    np.save(made / "e.npy", vectors)
    np.save(made / "half.npy", vectors.astype("f2"))
    np.save(made / "short.npy", vectors[:-2])
    bad = vectors.copy()
    bad[17, 5] = np.nan
    np.save(made / "nan.npy", bad)
    np.save(made / "equal.npy", np.repeat(vectors[:3], 20, axis=0))
    arrays = pl.Series("vector", vectors.tolist(), dtype=pl.Array(pl.Float32, DIM))
    ids = pl.read_parquet(made / "all.parquet")["id"]
    order = np.random.default_rng(1).permutation(ROWS).tolist()
    pl.DataFrame([ids, arrays])[order].write_parquet(made / "joined.parquet")
    return made


def run(folder: Path, options: str, out: str = "out.parquet") -> tuple[pl.DataFrame, str]:
    ended = bash(f"toolkit anchors rows.jsonl {options} --out {out}", cwd=folder)
    assert ended.code == 0, ended.stderr
    assert ended.stdout == b""
    return pl.read_parquet(folder / out), ended.stderr


def test_anchors_are_the_real_rows_nearest_to_the_centres(folder: Path) -> None:
    table, told = run(folder, "--method kmeans --k 5 --embeddings e.npy --report numbers.json")
    assert table.columns[-4:] == ["note", "cluster", "cluster_size", "distance"]
    assert table["cluster"].to_list() == list(range(GROUPS))
    assert table["cluster_size"].to_list() == [ROWS // GROUPS] * GROUPS
    vectors = embedded_rows().astype("f8")
    for row, distance in zip(table["source_row"].to_list(), table["distance"].to_list(), strict=True):
        members = range(row % GROUPS, ROWS, GROUPS)
        centre = np.mean([vectors[member] for member in members], axis=0).astype("f4")
        distances = {member: float(np.linalg.norm(vectors[member] - centre)) for member in members}
        assert min(distances, key=distances.__getitem__) == row
        assert distance == pytest.approx(distances[row], rel=1e-9)
    assert sorted(row % GROUPS for row in table["source_row"].to_list()) == list(range(GROUPS))
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["anchor_ids"] == table["id"].to_list()
    assert (numbers["near_duplicates"], numbers["empty_clusters"], numbers["eligible_rows"]) == ([], 0, ROWS)
    assert "near-duplicates" not in told
    assert "clusters of 12 to 12 rows" in told


def test_embeddings_joined_by_id_give_the_same_anchors(folder: Path) -> None:
    wanted, _ = run(folder, "--k 5 --embeddings e.npy")
    table, _ = run(folder, "--k 5 --embeddings joined.parquet", "joined-out.parquet")
    assert table.equals(wanted)


def test_half_precision_is_clustered_as_it_is(folder: Path) -> None:
    table, _ = run(folder, "--k 5 --embeddings half.npy")
    assert sorted(row % GROUPS for row in table["source_row"].to_list()) == list(range(GROUPS))


def test_threads_change_no_byte_and_a_seed_repeats(folder: Path) -> None:
    for threads in (1, 2):
        run(folder, f"--k 7 --embeddings e.npy --threads {threads}", f"{threads}.parquet")
    assert (folder / "1.parquet").read_bytes() == (folder / "2.parquet").read_bytes()
    other, _ = run(folder, "--method random --k 7 --seed 1")
    again, _ = run(folder, "--method random --k 7 --seed 1")
    assert other.equals(again)


def test_random_anchors_belong_to_no_cluster(folder: Path) -> None:
    table, _ = run(folder, "--method random --k 9")
    assert table.columns[-3:] == ["cluster", "cluster_size", "distance"]
    assert table.select(pl.col("cluster", "cluster_size", "distance").is_null().all()).row(0) == (True, True, True)
    assert table["source_row"].to_list() == sorted(set(table["source_row"].to_list()))


def test_near_duplicates_are_kept_and_named(folder: Path) -> None:
    vectors = np.eye(6, DIM, dtype="f4")[np.arange(ROWS) % 6]
    vectors[np.arange(ROWS) % 6 == 5] = vectors[4] + np.float32(0.01)
    np.save(folder / "near.npy", vectors)
    table, told = run(folder, "--k 6 --embeddings near.npy --report near.json")
    (pair,) = json.loads((folder / "near.json").read_text())["near_duplicates"]
    assert {table["source_row"][place] % 6 for place in pair["clusters"]} == {4, 5}
    assert pair["ids"] == [table["id"][place] for place in pair["clusters"]]
    assert pair["distance"] == pytest.approx(0.01 * DIM**0.5, rel=1e-4)
    assert "warning: 1 pair of anchors is near-duplicate" in told
    assert table.height == 6


def test_rows_without_an_answer_and_repeated_rows_are_no_anchors(folder: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Ask {row}", "output": ["", "yes", "yes", "no"][row % 4]} for row in (0, 1, 1, 2, 3, 4)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    np.save(tmp_path / "e.npy", np.arange(12, dtype="f4").reshape(6, 2) ** 2)
    for options in ("--method random", "--embeddings e.npy"):
        ended = bash(f"toolkit anchors rows.jsonl {options} --k 3 --out out.parquet", cwd=tmp_path)
        assert ended.code == 0, ended.stderr
        table = pl.read_parquet(tmp_path / "out.parquet")
        assert sorted(table["source_row"].to_list()) == [1, 3, 4]
        ended = bash(f"toolkit anchors rows.jsonl {options} --k 4 --out out.parquet", cwd=tmp_path)
        assert ended.code == 2
        assert "4 anchors are wanted, but the input has 3 distinct rows that can be one" in ended.stderr


def test_one_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Ask", "output": "yes"}])
    np.save(tmp_path / "e.npy", np.ones((1, 3), dtype="f4"))
    ended = bash("toolkit anchors rows.jsonl --k 1 --embeddings e.npy --format jsonl", cwd=tmp_path)
    assert ended.code == 0, ended.stderr
    (row,) = [json.loads(line) for line in ended.text.splitlines()]
    assert (row["cluster"], row["cluster_size"], row["distance"]) == (0, 1, 0.0)


def test_a_model_chooses_the_rows_that_a_scoring_run_chooses(folder: Path, warm: WarmToolkit) -> None:
    ended = bash(
        "toolkit anchors rows.jsonl --k 4 --model model --device cpu --out chosen.parquet --report chosen.json"
        " && toolkit score rows.jsonl --anchors kmeans:4 --anchors-out own.parquet --model model --device cpu"
        " --out scores.parquet",
        cwd=folder,
        warm=warm,
    )
    assert ended.code == 0, ended.stderr
    chosen = pl.read_parquet(folder / "chosen.parquet")
    assert chosen["cluster_size"].sum() == ROWS
    assert chosen["id"].to_list() == pl.read_parquet(folder / "own.parquet")["id"].to_list()
    assert json.loads((folder / "chosen.json").read_text())["model"]["weights_sha256"]


def test_anchors_pipe_into_score(folder: Path, warm: WarmToolkit) -> None:
    ended = bash(
        "toolkit anchors rows.jsonl --k 3 --embeddings e.npy"
        " | toolkit score rows.jsonl --anchors - --model model --device cpu --out piped.parquet",
        cwd=folder,
        warm=warm,
    )
    assert ended.code == 0, ended.stderr
    assert set(pl.read_parquet(folder / "piped.parquet")["anchors_scored"]) == {2, 3}


def test_embeddings_need_neither_torch_nor_a_model(folder: Path) -> None:
    program = (
        "import sys; from pyllm.cli.app import main;"
        "code = main(['anchors', 'rows.jsonl', '--k', '5', '--embeddings', 'e.npy', '--out', 'light.parquet']);"
        "print(code, sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ended = bash(f'python -c "{program}"', cwd=folder)
    assert ended.text == "0 []\n", ended.stderr


BAD = [
    ("rows.jsonl --k 61 --embeddings e.npy", 2, "61 anchors are wanted, but the input has 60"),
    ("rows.jsonl --k 4 --embeddings equal.npy", 2, "only 3 distinct embeddings"),
    ("rows.jsonl --k 5 --embeddings e.npy --model model", 2, "contradict"),
    ("rows.jsonl --k 5 --method random --model model", 2, "`--method kmeans` only"),
    ("rows.jsonl --k 5 --embeddings e.npy --report e.npy", 2, "overwrite the embeddings"),
    ("rows.jsonl --k 5 --embeddings short.npy", 3, "short.npy has 58 rows, but the input has 60"),
    ("rows.jsonl --k 5 --embeddings nan.npy", 3, "nan.npy: row 17 is not finite: column 5 is NaN"),
    ("rows.jsonl --k 5 --model nowhere", 4, "nowhere"),
    ("rows.jsonl --k 5 --embeddings e.npy --out no/such.parquet", 4, "no/such"),
    ("nowhere.jsonl --k 5 --method random", 3, "nowhere.jsonl"),
]


@pytest.mark.parametrize(("options", "code", "named"), BAD, ids=[options for options, _, _ in BAD])
def test_bad_input_gets_its_exit_code_and_writes_nothing(folder: Path, options: str, code: int, named: str) -> None:
    before = (folder / "e.npy").read_bytes()
    command = f"toolkit anchors {options}"
    ended = bash(command if "--out" in options else f"{command} --out bad-out.parquet", cwd=folder)
    assert ended.code == code, ended.stderr
    assert named in ended.stderr
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (folder / "bad-out.parquet").exists()
    assert (folder / "e.npy").read_bytes() == before


def test_a_memory_mapped_matrix_is_not_copied(tmp_path: Path) -> None:
    rows, dim = 40_000, 768
    vectors = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype="f2", shape=(rows, dim))
    vectors[:] = np.random.default_rng(0).integers(-9, 9, size=(rows, 1))
    vectors[:, :8] += np.random.default_rng(1).normal(size=(rows, 8)).astype("f2")
    vectors.flush()
    program = (
        "import resource, numpy as np; from pyllm.data.anchors import cluster_anchors;"
        f"e = np.load('e.npy', mmap_mode='r'); few = np.arange({rows});"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "made = cluster_anchors(e, few[1:], 10, seed=0, threads=1);"
        "print(len(set(made.rows.tolist())), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    distinct, grown = map(int, ended.stdout.split())
    assert distinct == 10
    # The file itself counts once it is read (60 MB); a copy in single precision would be 120 MB more.
    assert grown * 1024 < rows * dim * 2 + 250 * rows + 32e6
