"""Tables that were scored before, what reading says and collects, and dtypes that text formats lack."""

import json
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pyllm.data.reading import read_examples
from pyllm.data.tables import write_table
from pyllm.errors import InputError

SCORES = {
    "golden_score": 0.5,
    "wins": 1,
    "anchors_scored": 2,
    "mean_gain_nats": 0.1,
    "demo_tokens": 9,
    "answer_tokens": 1,
}


def test_the_score_columns_of_an_edited_table_are_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "edited.parquet"
    pl.DataFrame([{"id": "stale", "instruction": "Add.", "output": "5", "note": "kept", **SCORES}]).write_parquet(path)
    with caplog.at_level("INFO"):
        table = read_examples(path).table
    assert [name for name in table.columns if "score" in name or "wins" in name] == []
    assert table["original_id"].to_list() == ["stale"]
    assert table["note"].to_list() == ["kept"]
    assert "the columns of an earlier run are left out" in caplog.text


def test_a_column_that_only_shares_a_name_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "Add.", "output": "5", "wins": 3}))
    assert read_examples(path).table["original_wins"].to_list() == [3]


def test_strict_reading_collects_every_bad_row_before_it_refuses(tmp_path: Path) -> None:
    path, bad = tmp_path / "rows.jsonl", tmp_path / "bad.jsonl"
    path.write_text('{"instruction": "Add.", "output": "5"}\n{"broken\n{"instruction": 7}\n')
    with pytest.raises(InputError, match=r"line 2.*; and 1 more"):
        read_examples(path, strict=True, bad_rows_path=bad)
    assert [json.loads(line)["line"] for line in bad.read_text().splitlines()] == [2, 3]


def test_the_optional_columns_of_an_earlier_run_go_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "edited.jsonl"
    row = {"id": "stale", "source_file": "x", "source_row": 0, "instruction": "Add.", **SCORES}
    path.write_text(json.dumps({**row, "anchor_wins": [True], "one_shot_nats": [-1.5]}))
    table = read_examples(path).table
    assert table.columns[8:] == ["original_id", "original_source_file", "original_source_row"]


def test_one_is_counted_in_the_singular(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, good = tmp_path / "rows.jsonl", '{"instruction": "Add."}\n'
    with caplog.at_level("INFO"):
        path.write_text(good)
        read_examples(path)
        path.write_text(good * 2 + "{\n")
        read_examples(path)
    first, second, warning = [record.getMessage() for record in caplog.records]
    assert ": 1 row (alpaca 1), 0 duplicates, " in first
    assert ": 3 rows (alpaca 2), 1 duplicate, " in second
    assert ": 1 bad row left out: row 2 (line 3)" in warning


def test_durations_are_written_to_csv_as_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_table(pl.DataFrame({"took": [timedelta(minutes=1), None]}), path, format="csv")
    assert path.read_text().splitlines()[:2] == ["took", "PT1M"]


@pytest.mark.parametrize(
    ("column", "lines"),
    [
        (pl.Series([{1}, None, b"x"], dtype=pl.Object), ["{1}", "", "b'x'"]),
        (pl.Series([b"\xff", None, b"x"]), ["/w==", "", "eA=="]),
        (pl.Series([[1, 2], None, [3, 4]], dtype=pl.Array(pl.Int64, 2)), ['"[1,2]"', "", '"[3,4]"']),
        (pl.Series([[timedelta(minutes=1)], None, []]), ['"[""0:01:00""]"', "", "[]"]),
    ],
)
def test_what_csv_cannot_hold_is_written_as_text(tmp_path: Path, column: pl.Series, lines: list[str]) -> None:
    path = tmp_path / "rows.csv"
    write_table(pl.DataFrame([column.alias("c")]), path, format="csv")
    assert path.read_text().splitlines() == ["c", *lines]
