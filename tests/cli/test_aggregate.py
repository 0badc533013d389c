"""`toolkit aggregate` as a user meets it: real processes, real pipes, files of others."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyllm.score.aggregate import write_matrix
from tests.support.shell import bash
from tests.support.tiny_models import save_tiny_model, write_jsonl

ONE_SHOT = np.array(
    [[-1.0, -2.0, -3.0, -4.0], [-0.5, -0.5, -0.5, -0.5], [-9.0, np.nan, -9.0, -9.0], [-1.0, -2.0, -3.0, -9.0]],
    dtype=np.float32,
)
ZERO_SHOT = np.array([-2.0, -2.0, -4.0, -5.0])
IDS = ["d", "c", "b", "a"]
WINS = [3, 4, 0, 2]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One matrix in every layout, and its zero-shot sums in every format."""
    write_matrix(tmp_path / "own.arrow", IDS, ONE_SHOT, ["p", "q", "r", "s"], steps=[{"command": "score", "seed": 7}])
    np.save(tmp_path / "matrix.npy", ONE_SHOT)
    np.save(tmp_path / "zero.npy", ZERO_SHOT)
    listed = pa.table({"id": IDS, "one_shot_nats": [row.tolist() for row in ONE_SHOT]})
    pq.write_table(listed, tmp_path / "lists.parquet")
    long = [
        (row, anchor, float(ONE_SHOT[place, at])) for place, row in enumerate(IDS) for at, anchor in enumerate("pqrs")
    ]
    pairs = pl.DataFrame(long, schema=["candidate", "anchor", "logprob"], orient="row")
    pairs.write_parquet(tmp_path / "pairs.parquet")
    pairs.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "mixed.parquet")
    pairs.filter((pl.col("candidate") != "b") | (pl.col("anchor") != "r")).write_parquet(tmp_path / "hole.parquet")
    pl.concat([pairs, pairs[[5]]]).write_parquet(tmp_path / "twice.parquet")
    pairs.with_columns(anchor=pl.lit("t")).write_parquet(tmp_path / "unknown.parquet")
    zero = pl.DataFrame({"id": list("pqrs"), "zero_shot_nats": ZERO_SHOT})
    zero.write_parquet(tmp_path / "zero.parquet")
    zero.write_csv(tmp_path / "zero.csv")
    zero.reverse().write_ndjson(tmp_path / "zero.jsonl")
    zero.write_ipc(tmp_path / "zero.arrow")
    pl.DataFrame({"list": [ZERO_SHOT.tolist()]}).write_parquet(tmp_path / "list.parquet")
    return tmp_path


def table_of(finished, path: Path | None = None) -> pl.DataFrame:
    assert finished.code == 0, finished.stderr
    return pl.read_parquet(io.BytesIO(finished.stdout) if path is None else path)


@pytest.mark.parametrize(
    ("inputs", "zero"),
    [
        ("own.arrow", "zero.npy"),
        ("own.arrow", "zero.jsonl"),
        ("lists.parquet", "list.parquet"),
        ("pairs.parquet", "zero.arrow"),
        ("mixed.parquet", "zero.csv"),
        ("matrix.npy", "zero.parquet"),
    ],
)
def test_every_layout_gives_the_same_scores(files, inputs, zero):
    finished = bash(f"toolkit aggregate {inputs} --zero-shot {zero} --out out.parquet --report report.json", cwd=files)
    table = table_of(finished, files / "out.parquet")
    assert finished.stdout == b""
    assert table.columns == ["id", "golden_score", "wins", "anchors_scored", "mean_gain_nats"]
    if inputs == "matrix.npy":
        assert table["id"].to_list() == [0, 1, 2, 3]
    else:
        assert set(table["id"]) == set(IDS)
    if inputs == "mixed.parquet":
        table = table.sort("id", descending=True)
    elif inputs != "matrix.npy":
        assert table["id"].to_list() == IDS
    assert table["wins"].to_list() == WINS
    assert table["golden_score"].to_list() == [wins / 4 for wins in WINS]
    assert table["mean_gain_nats"].to_list() == pytest.approx([0.75, 2.75, -16 / 3, -0.5])
    report = json.loads((files / "report.json").read_text())
    assert (report["rows"], report["anchors"], report["nan_pairs"]) == (4, 4, 1)
    assert report["histogram"] == [1, 0, 1, 1, 1]


def test_tables_go_from_pipe_to_pipe_with_their_provenance(files):
    script = "toolkit aggregate own.arrow --zero-shot zero.parquet | toolkit select --top 2 --out best.parquet"
    table = table_of(bash(script, cwd=files), files / "best.parquet")
    assert table["id"].to_list() == ["d", "c"]
    stored = json.loads(pl.read_parquet_metadata(files / "best.parquet")["pyllm"])
    assert [step["command"] for step in stored["steps"]] == ["score", "aggregate", "select"]


@pytest.mark.parametrize(
    ("rule", "ids"), [("--top 2", ["d", "c"]), ("--top 26%", ["d", "c"]), ("--threshold 0.5", ["d", "c"])]
)
def test_rules_keep_the_order_of_the_input(files, rule, ids):
    assert (
        table_of(bash(f"toolkit aggregate pairs.parquet --zero-shot zero.csv {rule}", cwd=files))["id"].to_list() == ids
    )


def test_threads_and_ways_out_change_no_byte(files):
    script = """
    toolkit aggregate own.arrow lists.parquet --zero-shot zero.npy --threads 1 --out one.parquet
    toolkit aggregate own.arrow lists.parquet --zero-shot zero.npy --threads 2 > two
    cmp one.parquet two
    """
    finished = bash(script, cwd=files)
    assert finished.code == 0, finished.stderr
    assert pl.read_parquet(files / "one.parquet")["id"].to_list() == IDS * 2


def test_other_formats(files):
    script = """
    toolkit aggregate own.arrow --zero-shot zero.npy --out t.csv
    toolkit aggregate own.arrow --zero-shot zero.npy --format table
    """
    finished = bash(script, cwd=files)
    assert finished.code == 0, finished.stderr
    assert pl.read_csv(files / "t.csv")["wins"].to_list() == WINS
    assert "golden_score" in finished.text


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("hole.parquet --zero-shot zero.csv", 3, ["candidate `b` of hole.parquet", "anchor `r`", "--missing skip"]),
        ("twice.parquet --zero-shot zero.csv", 3, ["candidate `c` has anchor `q` twice in twice.parquet"]),
        ("unknown.parquet --zero-shot zero.csv", 3, ["anchor `t` of row 0 of unknown.parquet"]),
        ("pairs.parquet --zero-shot zero.npy", 3, ["anchor `p` of row 0", "numbered from 0"]),
        ("pairs.parquet own.arrow --zero-shot zero.csv", 3, ["pairs.parquet has a row for each pair"]),
        ("own.arrow matrix.npy --zero-shot zero.npy", 3, ["ids of matrix.npy are whole numbers"]),
        ("own.arrow --zero-shot nothing.npy", 3, ["cannot read nothing.npy: no such file"]),
        ("nothing.npy --zero-shot zero.npy", 3, ["cannot read nothing.npy: no such file"]),
        ("zero.csv --zero-shot zero.npy", 3, ["zero.csv is neither Parquet"]),
        ("own.arrow --zero-shot zero.npy --top 2 --threshold 0.5", 2, ["two rules"]),
        ("own.arrow --zero-shot zero.npy --top 0", 2, ["below 1"]),
        ("own.arrow --zero-shot zero.npy --threshold 2", 2, ["between 0 and 1"]),
        ("own.arrow --zero-shot zero.npy --value-column y", 3, ["column `y` is missing from own.arrow"]),
        ("own.arrow --zero-shot zero.npy --out missing/t.parquet", 4, ["the folder", "does not exist"]),
        ("own.arrow --zero-shot zero.npy --out zero.npy --format parquet --report own.arrow", 2, ["overwrite"]),
    ],
)
def test_refusals_name_the_thing_and_write_nothing(files, arguments, code, words):
    before = sorted(path.name for path in files.iterdir())
    out = "" if "--out" in arguments else "--out t.parquet"
    finished = bash(f"toolkit aggregate {arguments} {out}", cwd=files)
    assert finished.code == code, finished.stderr
    for word in words:
        assert word in finished.stderr
    assert finished.stdout == b""
    assert sorted(path.name for path in files.iterdir()) == before


def test_missing_pairs_can_be_skipped(files):
    finished = bash("toolkit aggregate hole.parquet --zero-shot zero.csv --missing skip --report r.json", cwd=files)
    table = table_of(finished)
    assert table["anchors_scored"].to_list() == [4, 4, 3, 4]
    assert json.loads((files / "r.json").read_text())["pairs_left_out"] == 1


@pytest.mark.parametrize("name", ["own.arrow", "matrix.npy", "lists.parquet"])
def test_torn_files_are_named(files, name):
    whole = (files / name).read_bytes()
    for keep in (0, 5, len(whole) // 2, len(whole) - 3):
        (files / f"torn-{name}").write_bytes(whole[:keep])
        finished = bash(f"toolkit aggregate torn-{name} --zero-shot zero.npy --out t.parquet", cwd=files)
        assert (finished.code, f"torn-{name}" in finished.stderr) == (3, True), finished.stderr
        assert "Traceback" not in finished.stderr
    assert not (files / "t.parquet").exists()


def test_ragged_lists_are_named(files):
    pq.write_table(pa.table({"x": [[-1.0] * 4, [-1.0] * 3]}), files / "ragged.parquet")
    finished = bash("toolkit aggregate ragged.parquet --zero-shot zero.npy", cwd=files)
    assert finished.code == 3
    assert "row 1 of ragged.parquet has 3 log-probabilities, but there are 4 anchors" in finished.stderr


def test_no_rows_give_an_empty_table(files):
    np.save(files / "none.npy", ONE_SHOT[:0])
    table = table_of(bash("toolkit aggregate none.npy --zero-shot zero.npy", cwd=files))
    assert (table.height, table.columns[0]) == (0, "id")


def test_a_full_disk_is_said_and_leaves_nothing(files):
    finished = bash(
        "ulimit -f 1; trap '' XFSZ; toolkit aggregate own.arrow --zero-shot zero.npy --out t.parquet", cwd=files
    )
    assert finished.code == 4, finished.stderr
    assert not (files / "t.parquet").exists()
    assert not list(files.glob(".*.partial"))


def test_help_ends_with_examples(files):
    finished = bash("toolkit aggregate --help", cwd=files)
    assert finished.code == 0
    assert "Examples:" in finished.text


def test_the_matrix_of_a_scoring_run_gives_its_scores_again(tmp_path, warm):
    save_tiny_model(tmp_path / "model")
    rows = [{"instruction": f"Say {word}.", "output": word * 2} for word in ("red", "blue", "stone", "red", "north")]
    rows.append({"instruction": "Say nothing.", "output": ""})
    write_jsonl(tmp_path / "rows.jsonl", rows)
    # The second anchor is a row of the input, which is not tried on itself; nobody can win the last.
    write_jsonl(tmp_path / "anchors.jsonl", [{"instruction": "Say seven.", "output": "seven"}, rows[1], rows[-1]])
    script = """
    toolkit score rows.jsonl --anchors anchors.jsonl --model model --device cpu --per-anchor \
        --matrix-out matrix.arrow --anchors-out anchors.parquet --out scores.parquet
    toolkit aggregate matrix.arrow --zero-shot anchors.parquet --out from-matrix.parquet
    toolkit aggregate scores.parquet --value-column one_shot_nats --zero-shot anchors.parquet --out from-lists.parquet
    """
    finished = bash(script, cwd=tmp_path, warm=warm)
    assert finished.code == 0, finished.stderr
    columns = ["id", "golden_score", "wins", "anchors_scored", "mean_gain_nats"]
    scores = pl.read_parquet(tmp_path / "scores.parquet").select(columns)
    assert scores["anchors_scored"].to_list() == [2, 1, 2, 2, 2, 0]
    assert pl.read_parquet(tmp_path / "from-matrix.parquet").equals(scores)
    assert pl.read_parquet(tmp_path / "from-lists.parquet").equals(scores)
