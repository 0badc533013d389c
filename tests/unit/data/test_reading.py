"""Files of instruction data become one schema; what is left out, dropped or renamed is said."""

import io
import json
import logging
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pyllm.data.examples import (
    CANONICAL_COLUMNS,
    CANONICAL_SCHEMA,
    SCORE_COLUMNS,
    Message,
    example_id,
    examples_from_table,
)
from pyllm.data.reading import ExampleTable, read_examples
from pyllm.data.tables import TableFormat, read_table, write_table
from pyllm.errors import InputError, PrerequisiteError, SettingError

ROWS: list[dict[str, Any]] = [
    {"instruction": "Name a fruit.", "input": "", "output": "An apple.", "score": 0.5},
    {"instruction": "Name a fish.", "input": "No input", "output": "", "id": 7},
    {"messages": [{"role": "user", "content": " Hi\n"}, {"role": "assistant", "content": "Hello."}], "tools": "[]"},
    {"instruction": "Name a fruit.", "input": "", "output": "An apple.", "score": 2},
]


def jsonl(tmp_path: Path, *rows: Any, name: str = "in.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def read(tmp_path: Path, *rows: Any, **settings: Any) -> ExampleTable:
    return read_examples(str(jsonl(tmp_path, *rows)), **settings)


def test_one_schema_with_the_other_columns_after_it(tmp_path: Path) -> None:
    found = read(tmp_path, *ROWS)
    assert found.table.columns == [*CANONICAL_COLUMNS, "score", "original_id"]
    assert {name: found.table.schema[name] for name in CANONICAL_COLUMNS} == dict(CANONICAL_SCHEMA)
    assert found.table["source_row"].to_list() == [0, 1, 2, 3]
    assert found.table["source_file"].to_list() == ["in.jsonl"] * 4
    assert found.table["input"].to_list() == ["", "No input", None, ""]
    assert found.table["score"].to_list() == [0.5, None, None, 2.0]
    assert found.table["original_id"].to_list() == [None, 7, None, None]
    assert (found.rows_read, found.bad_rows, found.provenance) == (4, (), ())
    assert found.shapes == {"alpaca": 3, "messages": 1}
    ids = found.table["id"].to_list()
    assert ids[0] == ids[3] == example_id("Name a fruit.", "", "An apple.", None, None)
    turns = [Message("user", " Hi\n", trained=False), Message("assistant", "Hello.", trained=True)]
    assert ids[2] == example_id(None, None, None, turns, "[]")
    assert examples_from_table(found.table)[2].messages == tuple(turns)


def test_duplicates_are_counted_and_dropped_on_request(tmp_path: Path) -> None:
    assert read(tmp_path, *ROWS).duplicate_rows == 1
    found = read(tmp_path, *ROWS, dedup=True)
    assert (found.table["source_row"].to_list(), found.duplicate_rows, found.rows_read) == ([0, 1, 2], 1, 4)


def test_bad_rows_are_left_out_named_and_collected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = tmp_path / "bad.jsonl"
    image = {"messages": [{"role": "user", "content": "<image>"}], "images": ["x.png"]}
    found = read(tmp_path, ROWS[0], '{"torn', {"instruction": 5, "x": "é"}, image, ROWS[1], bad_rows_path=bad)
    assert found.table["source_row"].to_list() == [0, 4]
    assert [(row.row, row.line, row.field, row.wrong_kind) for row in found.bad_rows] == [
        (1, 2, None, False),
        (2, 3, "instruction", False),
        (3, 4, "images", True),
    ]
    written = [json.loads(line) for line in bad.read_text().splitlines()]
    assert written[1] == {
        "source_file": "in.jsonl",
        "row": 2,
        "line": 3,
        "field": "instruction",
        "reason": "is a number, not text",
        "raw": '{"instruction": 5, "x": "\\u00e9"}',
    }
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "3 bad rows left out: row 1 (line 2): is not valid JSON" in warnings[0]
    assert "row 2 (line 3), field `instruction`: is a number, not text" in warnings[0]


def test_only_the_first_bad_rows_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(tmp_path, ROWS[0], *["{"] * 9)
    assert "9 bad rows left out" in caplog.text
    assert "row 5 (line 6)" in caplog.text
    assert "row 6 (line 7)" not in caplog.text
    assert caplog.text.rstrip().endswith("and 4 more")


def test_a_file_without_bad_rows_leaves_an_empty_collection(tmp_path: Path) -> None:
    read(tmp_path, ROWS[0], bad_rows_path=tmp_path / "bad.jsonl")
    assert (tmp_path / "bad.jsonl").read_bytes() == b""
    with pytest.raises(PrerequisiteError, match="cannot write"):
        read(tmp_path, ROWS[0], bad_rows_path=tmp_path / "none" / "bad.jsonl")


def test_strict_refuses_at_the_first_bad_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl: row 1 \(line 2\), field `output`: is a number, not text"):
        read(tmp_path, ROWS[0], {"instruction": "i", "output": 3}, "{", strict=True)


def test_a_file_of_another_kind_is_refused_with_the_field(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(InputError, match=r"in\.jsonl is not instruction data: row 0 \(line 1\), field `chosen`"):
        read(tmp_path, pair, pair)
    assert read(tmp_path, pair, ROWS[0]).table.height == 1


def test_a_file_without_a_good_row_is_refused_and_still_collected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 2 rows can be read; row 0 \(line 1\): fits no known shape"):
        read(tmp_path, {"label": 1}, {"label": 2}, bad_rows_path=tmp_path / "bad.jsonl")
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError) as caught:
        read(tmp_path, json.dumps(ROWS[0], indent=1))
    assert "each line has to be one JSON object" in str(caught.value.hint)


@pytest.mark.parametrize("content", [b"[]", b"instruction,output\n", b"", b"\n"])
def test_files_without_rows_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "in"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is empty|holds no rows"):
        read_examples(str(path))


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    pl.DataFrame(schema=CANONICAL_SCHEMA).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="holds no rows"):
        read_examples(str(tmp_path / "in.parquet"))


def test_the_shape_can_be_forced(tmp_path: Path) -> None:
    row = {"instruction": "i", "question": "q", "answer": "a"}
    found = read(tmp_path, row, shape="qa")
    assert found.table["instruction"].to_list() == ["q"]
    assert found.table["original_instruction"].to_list() == ["i"]
    with pytest.raises(SettingError):
        read_examples("none", shape="orca")


def test_both_answers_are_kept_the_preferred_one_as_output(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "output": "o", "response": "r"},
        {"instruction": "b", "output": None, "response": "s"},
        {"instruction": "c", "Response": "t", "output": None},
    ]
    found = read(tmp_path, *rows)
    assert found.table["output"].to_list() == ["o", "s", "t"]
    assert found.table["response"].to_list() == ["r", None, None]
    assert found.table.columns == [*CANONICAL_COLUMNS, "response"]


def test_columnar_files_read_as_their_rows_do(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "Instruction": ["a", None, None, "d", None],
            "output": ["o", None, None, None, "x"],
            "response": ["r", None, "s", "t", None],
            "conversations": [None, [{"from": "human", "value": "h"}], None, None, None],
            "kind": pl.Series(["x", "y", None, "x", "y"], dtype=pl.Categorical),
            "when": [None, None, None, 1.5, None],
            "prompt": [None, None, "p", None, None],
        }
    )
    for name, method in (("in.parquet", "write_parquet"), ("in.arrow", "write_ipc"), ("in.feed", "write_ipc_stream")):
        getattr(frame, method)(tmp_path / name)
        found = read_examples(tmp_path / name)
        assert found.shapes == {"alpaca": 2, "sharegpt": 1, "prompt": 1}
        assert found.table["source_row"].to_list() == [0, 1, 2, 3]
        assert found.table["instruction"].to_list() == ["a", None, "p", "d"]
        assert found.table["output"].to_list() == ["o", None, "s", "t"]
        assert found.table.select("response", "kind", "when").to_dict(as_series=False) == {
            "response": ["r", None, None, None],
            "kind": ["x", "y", None, "x"],
            "when": [None, None, None, 1.5],
        }
        bad = found.bad_rows[0]
        assert (bad.row, bad.line, bad.reason) == (4, None, "fits no known shape (found `output`, `kind`, `when`)")
        assert json.loads(bad.raw)["output"] == "x"


def test_columns_of_a_wrong_type_are_named(tmp_path: Path) -> None:
    pl.DataFrame({"instruction": [1, 2]}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="row 0, field `instruction`: is a number, not text"):
        read_examples(tmp_path / "in.parquet")
    pl.DataFrame({"instruction": [b"x"]}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(InputError, match="is a value of type bytes, not text"):
        read_examples(tmp_path / "in.parquet")


def test_taken_names_become_original(tmp_path: Path) -> None:
    row = {"instruction": "i", "source_file": "x", "id": 1, "original_id": 2, "golden_score": 0.5, "source_row": "z"}
    found = read(tmp_path, row)
    assert found.table.columns[8:] == [
        "original_source_file",
        "original_original_id",
        "original_id",
        "original_golden_score",
        "original_source_row",
    ]
    assert found.table["original_id"].to_list() == [2]
    assert found.table["id"].to_list() == [example_id("i", None, None, None, None)]


@pytest.mark.parametrize("table_format", ["parquet", "jsonl", "csv"])
def test_our_own_tables_keep_their_rows_and_lose_old_scores(
    tmp_path: Path, table_format: TableFormat, caplog: pytest.LogCaptureFixture
) -> None:
    first = read(tmp_path, "{bad", *ROWS, {"instruction": "i", "instances": [{"input": "a"}, {"input": "b"}]})
    scored = first.table.with_columns(pl.lit(0.5).alias("golden_score"), pl.lit([1.0]).alias("one_shot_nats"))
    path = tmp_path / f"scored.{table_format}"
    write_table(scored[[3, 0, 4]], path, format=table_format, steps=[{"command": "score"}])
    with caplog.at_level(logging.INFO):
        again = read_examples(path)
    assert again.table.select(CANONICAL_COLUMNS).equals(first.table[[3, 0, 4]].select(CANONICAL_COLUMNS))
    assert not set(again.table.columns) & set(SCORE_COLUMNS)
    assert "the columns of an earlier run are left out: `golden_score`, `one_shot_nats`" in caplog.text
    assert again.table.columns == first.table.columns
    assert again.shapes == {"pyllm": 3}
    assert again.provenance == (({"command": "score"},) if table_format == "parquet" else ())


def test_a_changed_table_is_no_longer_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = read(tmp_path, *ROWS).table.with_columns(pl.lit("new").alias("output"), pl.lit(1.0).alias("golden_score"))
    write_table(table, tmp_path / "changed.parquet", format="parquet")
    found = read_examples(tmp_path / "changed.parquet")
    assert found.table["source_file"].to_list() == ["changed.parquet"] * 4
    assert found.table["original_source_file"].to_list() == ["in.jsonl"] * 4
    assert found.table["original_golden_score"].to_list() == [1.0] * 4
    assert found.table["original_original_id"].to_list() == table["id"].to_list()
    assert "its ids are not the digests of its content" in caplog.text


def test_a_torn_line_does_not_cost_our_table_its_ids(tmp_path: Path) -> None:
    table = read(tmp_path, *ROWS).table
    path = tmp_path / "own.jsonl"
    write_table(table, path, format="jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    found = read_examples(path)
    assert found.table["id"].to_list() == table["id"].to_list()[:3]
    assert found.table["source_file"].to_list() == ["in.jsonl"] * 3
    assert [(row.row, row.line) for row in found.bad_rows] == [(3, 4)]
    with pytest.raises(InputError):
        read_examples(path, strict=True)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    found = read_examples("-")
    assert (found.source, set(found.table["source_file"])) == ("-", {"-"})
    assert found.table.height == 4


def test_csv_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text('question,answer,grade\nWhat?,"a ""word""\nor two",3\nWhy?,,\n')
    found = read_examples(path)
    assert found.table.select("instruction", "output", "grade").rows() == [
        ("What?", 'a "word"\nor two', "3"),
        ("Why?", None, None),
    ]


def test_examples_need_the_canonical_schema(tmp_path: Path) -> None:
    table = read(tmp_path, *ROWS).table
    with pytest.raises(InputError, match="column `tools` is missing"):
        examples_from_table(table.drop("tools"))
    with pytest.raises(InputError, match="column `source_row` has type Int32, not UInt64"):
        examples_from_table(table.with_columns(pl.col("source_row").cast(pl.Int32)))
    with pytest.raises(InputError, match="row 2 has neither `instruction` nor `messages`"):
        examples_from_table(table.with_columns(messages=pl.lit(None, dtype=CANONICAL_SCHEMA["messages"])))


def test_reading_loads_neither_torch_nor_transformers(repository_root: Path) -> None:
    import subprocess

    code = "import sys, pyllm.data.reading; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repository_root)
    assert done.stdout == "[]\n"


def test_read_table_keeps_a_table_as_it_is(tmp_path: Path) -> None:
    table, steps = read_table(jsonl(tmp_path, {"id": 1, "x": [1]}, {"y": None}))
    assert table.to_dict(as_series=False) == {"id": [1, None], "x": [[1], None], "y": [None, None]}
    assert steps == ()
    with pytest.raises(InputError, match=r"in\.jsonl: row 1 \(line 2\): is not valid JSON"):
        read_table(jsonl(tmp_path, {"id": 1}, "{"))
