"""Tables are written whole or not at all, and come back as they went."""

import io
import json
import os
import stat
from pathlib import Path

import polars as pl
import pytest

from pyllm.data.examples import CANONICAL_SCHEMA, SCORE_SCHEMA
from pyllm.data.tables import TableFormat, read_table, write_bytes_atomically, write_json_atomically, write_table
from pyllm.errors import PrerequisiteError

TABLE = pl.DataFrame(
    {
        "id": ["a", "b", "c"],
        "source_file": ["x", "x", "y"],
        "source_row": [0, 1, 2**40],
        "instruction": ["", None, 'é "q",\n'],
        "messages": [None, [{"role": "user", "content": "h, \n", "trained": False}], []],
        "golden_score": [0.5, None, 1.0],
        "wins": [1, None, 2],
        "one_shot_nats": [[-1.5, None], [], None],
        "note": ["1", "", None],
    },
    schema_overrides={**{name: CANONICAL_SCHEMA[name] for name in ("source_row", "messages")}, "wins": pl.UInt32},
)
STEPS = [{"command": "score", "seed": 1, "who": "é"}, {"command": "select"}]


@pytest.mark.parametrize("table_format", ["parquet", "jsonl", "csv"])
def test_tables_come_back_as_they_went(tmp_path: Path, table_format: TableFormat) -> None:
    path = tmp_path / "table"
    write_table(TABLE, path, format=table_format, steps=STEPS)
    table, steps = read_table(path)
    assert table.equals(TABLE)
    assert table.schema == TABLE.schema
    assert steps == (tuple(STEPS) if table_format == "parquet" else ())
    stream = io.BytesIO()
    write_table(TABLE, stream, format=table_format, steps=STEPS)
    assert stream.getvalue() == path.read_bytes()


@pytest.mark.parametrize("table_format", ["parquet", "jsonl", "csv"])
def test_a_table_without_rows_keeps_what_its_format_can_hold(tmp_path: Path, table_format: TableFormat) -> None:
    path = tmp_path / "table"
    write_table(TABLE[:0], path, format=table_format)
    if table_format == "parquet":
        assert read_table(path)[0].schema == TABLE.schema
    else:
        assert path.read_text() == ("" if table_format == "jsonl" else ",".join(TABLE.columns) + "\n")


def test_equal_work_gives_equal_bytes() -> None:
    parts = pl.concat([TABLE[:1], TABLE[1:]], rechunk=False)
    streams = [io.BytesIO(), io.BytesIO()]
    for table, stream in zip((TABLE, parts), streams, strict=True):
        write_table(table, stream, format="parquet", steps=STEPS)
    assert streams[0].getvalue() == streams[1].getvalue()
    metadata = pl.read_parquet_metadata(io.BytesIO(streams[0].getvalue()))
    assert metadata["pyllm"] == '{"steps":[{"command":"score","seed":1,"who":"é"},{"command":"select"}]}'


def test_numbers_that_json_cannot_hold_are_null() -> None:
    table = pl.DataFrame({"a": [float("nan"), float("inf")], "b": [[float("-inf")], [1.0]], "c": [b"\xff", None]})
    stream = io.BytesIO()
    write_table(table, stream, format="jsonl")
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"a": None, "b": [None], "c": "/w=="},
        {"a": None, "b": [1.0], "c": None},
    ]
    stream = io.BytesIO()
    write_table(table, stream, format="csv")
    assert stream.getvalue() == b"a,b,c\n,[null],/w==\n,[1.0],\n"


def test_metadata_of_others_is_no_provenance(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for text in ("no json", '{"steps": 3}', "[1]", '{"steps": [3]}'):
        TABLE.write_parquet(tmp_path / "t", metadata={"pyllm": text})
        assert read_table(tmp_path / "t")[1] == ()
        assert "its provenance metadata cannot be read" in caplog.text
        caplog.clear()
    TABLE.write_parquet(tmp_path / "t")
    assert read_table(tmp_path / "t")[1] == ()
    assert caplog.text == ""


def test_csv_and_json_columns_of_ours_get_their_types_back(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,source_file,source_row,wins,golden_score,other\na,f,3,many,0.25,7\n")
    table = read_table(path)[0]
    assert table.schema == pl.Schema(
        {
            "id": pl.String,
            "source_file": pl.String,
            "source_row": pl.UInt64,
            "wins": pl.String,
            "golden_score": SCORE_SCHEMA["golden_score"],
            "other": pl.String,
        }
    )


def test_writing_replaces_a_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write_bytes_atomically(path, b"old")
    write_json_atomically(path, {"b": "é", "a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ],\n  "b": "é"\n}\n'
    assert os.listdir(tmp_path) == ["out.json"]  # noqa: PTH208  (hidden files count)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_links_are_followed_and_pipes_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bytes_atomically(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"
    write_bytes_atomically(Path(os.devnull), b"x")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_unwritable_destinations_are_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none" / "t", "no such file or directory"),
        (tmp_path, "it is a directory"),
        (tmp_path / ("x" * 300), "file name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(PrerequisiteError, match=reason) as caught:
            write_table(TABLE, path, format="parquet")
        assert str(path) in caught.value.message


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PrerequisiteError, match="no space left on device"):
        write_bytes_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["t"]  # noqa: PTH208  (hidden files count)
