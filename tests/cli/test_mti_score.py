"""`toolkit mti score`, `compare` and `agree` as a user meets them: files in, tables out, words on stderr."""

import io
import json
import subprocess
import sys

import polars as pl
import pytest

from pyllm.cli.app import main
from pyllm.data.tables import read_table
from tests.support.shell import bash, environment

TASKS = {
    "a": {
        "instance": {
            f"a_{n}": {
                "query": "Do:",
                "instruction": {"1": "Choose. <task1>N<task1/>", "2": "Add. <task2>N<task2/>"},
                "context": {},
                "answers": [n, n + 1],
            }
            for n in range(4)
        },
        "sample": "",
        "meta": {"subset": "multi-step", "answer_types": ["int", "int"]},
    },
    "b": {
        "instance": {
            f"b_{n}": {
                "query": "Do:",
                "instruction": {"1": "Choose. <task1>N<task1/>", "2": "Write. <task2>words<task2/>"},
                "context": {},
                "answers": [n, "a small dog"],
            }
            for n in range(2)
        },
        "sample": "",
        "meta": {"subset": "free-form", "answer_types": ["int", "text"]},
    },
}


def outputs():
    rows = []
    for n in range(4):
        right = f"<task1>{n}<task1/> <task2>{n + 1 if n else 7}</task2>"
        rows.append({"uid": f"a_{n}", "mode": "mti", "step": None, "output": right})
        rows.append({"uid": f"a_{n}", "mode": "sti", "step": 1, "output": f"<task1>{n}<task1/>"})
        second = [f"<task2>{n + 1}<task2/>", "<task2>1", f"<task2>8<task2/> or <task2>{n}<task2/>", None][n]
        rows.append({"uid": f"a_{n}", "mode": "sti", "step": 2, "output": second})
    rows.append({"uid": "b_0", "mode": "mti", "step": None, "output": "<task1>0<task1/> <task2>a dog<task2/>"})
    return rows


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.json").write_text(json.dumps(TASKS))
    (tmp_path / "outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in outputs()))
    return tmp_path


def score(*options):
    return main(["mti", "score", "--tasks", "tasks.json", "--outputs", "outputs.jsonl", *options])


def test_marks_metrics_and_report(files, capfd):
    assert score("--out", "marks.parquet", "--metrics", "metrics.csv", "--report", "report.json", "--by", "subset") == 0
    told = capfd.readouterr()
    assert told.out == ""
    marks, steps = read_table("marks.parquet")
    assert marks.height == 2 * 4 + 4 + 3 + 2
    assert marks.filter((pl.col("uid") == "a_2") & (pl.col("mode") == "sti")).select(
        "step", "correct", "parse"
    ).rows() == [
        (1, True, "ok"),
        (2, False, "ambiguous"),
    ]
    assert steps[-1]["command"] == "mti score"
    assert steps[-1]["scoring"] == "typed"
    report = json.loads((files / "report.json").read_text())
    assert (report["instances"], report["marked"], report["outputs_without_text"]) == (6, {"mti": 5, "sti": 4}, 1)
    final = [
        row
        for row in report["metrics"]
        if (row["mode"], row["scope"], row["metric"]) == ("mti", "all", "final_accuracy")
    ]
    assert final[0]["value"] == pytest.approx(4 / 5)
    assert "final_accuracy" in (files / "metrics.csv").read_text()
    for words in (
        "6 instances, typed scoring",
        "mti: 5 instances marked, 1 without any output",
        "sti: 4 instances marked, 2 without any output, 1 lack an output for a step",
        "1 outputs are null: calls that failed",
        "mti - sti, on the same instances",
        "free-form",
        "ROUGE-L",
    ):
        assert words in told.err


def test_strict_gives_the_published_verdicts(files):
    assert score("--scoring", "strict", "--out", "marks.csv", "-q") == 0
    marks = pl.read_csv("marks.csv")
    found = marks.filter((pl.col("uid") == "a_1") & (pl.col("mode") == "mti")).select("step", "correct", "parse").rows()
    assert found == [(1, True, "ok"), (2, False, "unclosed")]


def test_the_same_input_gives_the_same_bytes(files):
    assert score("--out", "one.parquet", "-q") == 0
    assert score("--out", "two.parquet", "-q") == 0
    assert (files / "one.parquet").read_bytes() == (files / "two.parquet").read_bytes()


def test_through_real_pipes(files):
    script = (
        "cat outputs.jsonl | toolkit mti score --tasks tasks.json --outputs - -q"
        " | toolkit mti compare - --modes mti,sti --differences differences.parquet"
    )
    ended = bash(script, cwd=files)
    assert ended.code == 0, ended.stderr
    table = pl.read_parquet(io.BytesIO(ended.stdout))
    assert table.select("uid", "solved_by", "first_pattern", "second_pattern", "note").rows() == [
        ("a_0", "sti", "", "", ""),
        ("a_1", "mti", "", "no output", ""),
        ("a_2", "mti", "", "several outputs", ""),
    ]
    assert "mti alone solves 2 instances, sti alone solves 1 instances" in ended.stderr
    differences = pl.read_parquet(files / "differences.parquet")
    whole = differences.filter((pl.col("scope") == "all") & (pl.col("metric") == "final_accuracy")).row(0, named=True)
    assert (whole["instances"], whole["first_only"], whole["second_only"]) == (3, 2, 1)
    assert whole["p_value"] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[0]], "error: outputs.jsonl, row 14: row 1 has an output for uid `a_0`, mode `mti`"),
        (
            lambda rows: [*rows, {**rows[0], "uid": "z"}],
            "error: outputs.jsonl, row 14: there is no instance `z` in the tasks",
        ),
        (lambda _: [{"uid": "a_0", "output": "x"}], "error: outputs.jsonl: column `mode` is missing"),
    ],
)
def test_bad_outputs_exit_3_and_write_nothing(files, capfd, change, message):
    rows = change(outputs())
    (files / "outputs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert score("--out", "marks.parquet") == 3
    assert message in capfd.readouterr().err
    assert not (files / "marks.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score"], 2, "nothing to score"),
        (["score", "run", "--tasks", "tasks.json"], 2, "a run has tasks and outputs of its own"),
        (["score", "run", "--out", "m.parquet"], 3, "there is no run folder `run`"),
        (["score", ".", "--out", "m.parquet"], 3, "holds no `outputs.parquet`"),
        (["score", "--tasks", "tasks.json", "--outputs", "none.jsonl", "--out", "m.parquet"], 3, "none.jsonl"),
        (["compare", "outputs.jsonl", "--out", "m.parquet"], 3, "outputs.jsonl: column `repeat` is missing"),
        (["compare", "outputs.jsonl", "--modes", "mti", "--out", "m.parquet"], 2, "does not name two modes"),
        (["agree", "outputs.jsonl", "--out", "m.parquet"], 3, "it is not clear which two columns hold labels"),
    ],
)
def test_what_cannot_be_done_is_said(files, capfd, arguments, code, message):
    assert main(["mti", *arguments]) == code
    assert message in capfd.readouterr().err
    assert not (files / "m.parquet").exists()


def make_run(folder, rows, *, limit=None):
    """What `toolkit mti run` leaves, as far as scoring reads it."""
    folder.mkdir()
    (folder / "tasks.json").write_text(json.dumps(TASKS))
    (folder / "run.json").write_text(json.dumps({"extent": {"limit": limit}}))
    table = pl.DataFrame(rows, schema={"uid": pl.String, "mode": pl.String, "step": pl.Int64, "output": pl.String})
    table.write_parquet(folder / "outputs.parquet")
    calls = table.select(
        pl.col("uid").str.head(1).alias("task"),
        "mode",
        pl.lit(0).alias("repeat"),
        pl.concat_list("uid").alias("uids"),
        pl.when(pl.col("output").is_null()).then(pl.lit("timeout")).alias("error"),
        pl.lit(100).alias("prompt_tokens"),
        pl.lit(None, dtype=pl.Int64).alias("cached_tokens"),
        pl.lit(10).alias("generated_tokens"),
        pl.lit(0.5).alias("wall_seconds"),
        pl.lit(0.5).alias("busy_seconds"),
    )
    calls.write_parquet(folder / "calls.parquet")


def test_a_run_folder_is_scored_with_its_costs(files, capfd):
    make_run(files / "run", outputs(), limit=3)
    assert main(["mti", "score", "run", "--out", "marks.parquet", "--report", "report.json"]) == 0
    told = capfd.readouterr().err
    assert "5 instances, typed scoring; the run was limited: partial results" in told
    assert "cost of one solved instance" in told
    report = json.loads((files / "report.json").read_text())
    costs = {row["mode"]: row for row in report["costs"] if row["scope"] == "all"}
    assert costs["sti"]["failed_calls"] == 1
    assert costs["mti"]["prompt_tokens_per_solved"] == pytest.approx(100 * 5 / 4)
    assert report["partial"] is True
    assert "seconds of a call" in told


def test_two_runs_are_compared_mode_by_mode_with_their_outputs(files, capfd):
    make_run(files / "one", outputs())
    worse = [{**row, "output": "<task1>9<task1/>"} if row["uid"] == "a_3" else row for row in outputs()]
    make_run(files / "two", worse)
    assert main(["mti", "compare", "one", "two", "--out", "only.jsonl", "--report", "report.json"]) == 0
    table, _ = read_table("only.jsonl")
    assert table.select("uid", "solved_by", "second_pattern").rows() == [("a_3", "one mti", "no output")]
    assert table["first_output"].to_list() == [["<task1>3<task1/> <task2>4</task2>"]]
    assert table["second_output"].to_list() == [["<task1>9<task1/>"]]
    assert json.loads((files / "report.json").read_text())["sides"] == [["one mti", "two mti"], ["one sti", "two sti"]]
    assert "one mti - two mti, on the same instances" in capfd.readouterr().err


def test_agreement_of_two_people(files, capfd):
    lines = [
        "uid,anna,ben",
        *(f"u{n},{one},{other}" for n, (one, other) in enumerate(zip("yyyny", "yynny", strict=True))),
    ]
    (files / "labels.csv").write_text("\n".join(lines) + "\n")
    assert main(["mti", "agree", "labels.csv", "--columns", "anna,ben", "--out", "agreement.parquet"]) == 0
    row = pl.read_parquet("agreement.parquet").row(0, named=True)
    assert (row["first"], row["second"], row["items"]) == ("anna", "ben", 5)
    assert row["kappa"] == pytest.approx((0.8 - 0.56) / 0.44)
    assert "kappa" in capfd.readouterr().err


def test_the_bench_runs_and_its_twins_agree(repository_root):
    command = [sys.executable, "benches/bench_mti.py", "--outputs", "60", "--twin-outputs", "30", "--resamples", "100"]
    ended = subprocess.run(
        command, cwd=repository_root, capture_output=True, text=True, check=False, timeout=60, env=environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("ratio") == 4
