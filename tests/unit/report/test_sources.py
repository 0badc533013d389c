"""What a path holds is found out from its content, and what cannot be shown is refused with what was expected."""

import json
from pathlib import Path

import polars as pl
import pytest

from pyllm.errors import InputError
from pyllm.finetune.folder import MANIFEST
from pyllm.report.sources import BenchRun, FinetuneRun, Numbers, TableRun, read_source, read_sources
from tests.support.report_sources import score_table, write_finetune, write_recall, write_scores

TRACE = {"dialogue_id": ["d"], "turn": [0], "kept": [[0]], "entropy_nats": [[1.0]], "cache_tokens_after": [1]}
GRADES = {"prompt_id": ["p"], "turn": [1], "repeat": [0], "model": ["m"], "grade": [5.0], "parse": ["ok"]}
VERDICTS = {
    "prompt_id": ["p"], "a": ["m"], "b": ["n"], "order": ["ab"], "verdict": ["a"], "parse": ["ok"],
    "a_characters": [3], "b_characters": [4],
}  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"golden_score": [0.5]}, "scores"),
        ({"id": ["x"], "zero_shot_nats": [-3.0]}, "anchors"),
        (TRACE, "trace"),
        (GRADES, "grades"),
        (VERDICTS, "verdicts"),
        (VERDICTS | {"grade": [None], "model": [None]} | {"probe": ["identical"]}, "verdicts"),
    ],
)
def test_tables_are_told_by_their_columns(columns, kind, tmp_path):
    path = tmp_path / "anything"
    pl.DataFrame(columns).write_parquet(path)
    found = read_source(path, "anything")
    assert isinstance(found, TableRun)
    assert found.kind == kind


def test_json_is_a_report_where_it_names_a_command_and_a_table_where_it_holds_rows(tmp_path):
    (tmp_path / "a.json").write_text('{"command": "score", "seconds": 2}')
    assert read_source(tmp_path / "a.json", "a") == Numbers("a", {"command": "score", "seconds": 2})
    (tmp_path / "b.json").write_text('[{"id": "1", "golden_score": 0.5}]')
    assert isinstance(read_source(tmp_path / "b.json", "b"), TableRun)
    (tmp_path / "c.jsonl").write_text('{"id": "1", "golden_score": 0.5}\n')
    assert isinstance(read_source(tmp_path / "c.jsonl", "c"), TableRun)


def test_folders_are_told_by_what_is_in_them(tmp_path):
    run = read_source(write_finetune(tmp_path / "run"), "run")
    assert isinstance(run, FinetuneRun)
    # Step 3 was done twice, and counts as it was done the second time.
    assert [event["loss"] for event in run.events if event["event"] == "step"] == [3.0, 1.5, 2 / 3, 0.5, 0.4]
    bench = read_source(write_recall(tmp_path / "bench"), "bench")
    assert isinstance(bench, BenchRun)
    assert bench == read_source(tmp_path / "bench" / "recall.json", "bench")


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as raised:
        read_sources([path])
    return raised.value


def test_what_is_unfinished_says_what_was_expected(tmp_path):
    error = refused(write_finetune(tmp_path / "run", finished=False))
    assert (
        error.message == f"`{tmp_path / 'run'}` is an unfinished run of `toolkit finetune`: expected its `{MANIFEST}`"
    )
    assert error.hint == "run the same command again with --resume"
    (tmp_path / "mti").mkdir()
    (tmp_path / "mti" / "run.json").write_text('{"command": "mti run", "status": "unfinished"}')
    assert "unfinished run of `toolkit mti run`: expected status `finished`" in refused(tmp_path / "mti").message
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "dialogues.jsonl").write_text(json.dumps({"key": {"command": "stream bench ppl"}}) + "\n")
    assert "unfinished run of `toolkit stream bench`" in refused(tmp_path / "bench").message
    (tmp_path / "score" / "units").mkdir(parents=True)
    (tmp_path / "score" / "run.json").write_text("{}")
    assert refused(tmp_path / "score").hint == "give the table that it wrote (--out)"
    write_finetune(tmp_path / "compared")
    (tmp_path / "compared" / "baselines").mkdir()
    assert "baselines` is unfinished: expected its `table.json`" in refused(tmp_path / "compared").message


def test_what_is_unknown_says_what_is_known(tmp_path):
    assert "is no run that is known: expected a table of `toolkit score`" in refused(tmp_path).message
    pl.DataFrame({"instruction": ["x"], "output": ["y"]}).write_parquet(tmp_path / "rows.parquet")
    error = refused(tmp_path / "rows.parquet")
    assert "is no table that is known (found `instruction`, `output`): expected a table of" in error.message
    score_table().clear().write_parquet(tmp_path / "empty.parquet")
    assert refused(tmp_path / "empty.parquet").message == f"{tmp_path / 'empty.parquet'} holds no rows"
    (tmp_path / "torn.json").write_text('{"command": "score", ')
    assert "torn.json" in refused(tmp_path / "torn.json").message
    assert "missing.parquet" in refused(tmp_path / "missing.parquet").message


def test_columns_of_another_type_are_named(tmp_path):
    (tmp_path / "trace.csv").write_text("dialogue_id,turn,kept,entropy_nats,cache_tokens_after\na,1,[1],[2.0],1\n")
    assert refused(tmp_path / "trace.csv").message == (
        f"column `kept` of {tmp_path / 'trace.csv'} holds String, not List(Int64)"
    )


def test_a_changed_record_is_refused(tmp_path):
    run = write_finetune(tmp_path / "run")
    text = (run / MANIFEST).read_text()
    (run / MANIFEST).write_text(text.replace('"examples": 20', '"examples": 21'))
    assert "was changed after it was written" in refused(run).message


def test_names_are_as_long_as_they_must_be_and_a_path_counts_once(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_scores(tmp_path / folder / "scores.parquet")
    write_scores(tmp_path / "other.parquet")
    paths = [tmp_path / "a" / "scores.parquet", tmp_path / "b" / "scores.parquet", tmp_path / "other.parquet"]
    found = read_sources([*paths, tmp_path / "a" / ".." / "other.parquet"])
    assert [each.name for each in found.tables] == ["a/scores.parquet", "b/scores.parquet", "other.parquet"]
