"""`shard_files` and what it takes for inputs."""

import os

import polars as pl
import pytest

from pyllm.data.sharding import ROWS_PER_SHARD, find_inputs, shard_files
from pyllm.errors import InputError, PrerequisiteError, SettingError

LINE = '{"instruction": "a", "output": "b"}\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ["b.jsonl", "a.jsonl", "c[1].jsonl", "d.JSON.GZ", "e.txt", "f.gz", ".hidden.jsonl", "manifest.json"]:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(LINE)
    (tmp_path / "data" / "sub.jsonl").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["data/b.jsonl", "data/a.jsonl"], ["data/b.jsonl", "data/a.jsonl"]),
        (["data/*.jsonl"], ["data/a.jsonl", "data/b.jsonl", "data/c[1].jsonl"]),
        (["data/c[1].jsonl"], ["data/c[1].jsonl"]),
        (["./data/?.txt", "-"], ["./data/e.txt", "-"]),
        (["data"], ["data/a.jsonl", "data/b.jsonl", "data/c[1].jsonl", "data/d.JSON.GZ"]),
        (["data/none"], ["data/none"]),
    ],
)
def test_inputs_are_found_in_order(folder, given, found):
    assert find_inputs(given) == found


def test_inputs_that_cannot_be(folder):
    with pytest.raises(InputError, match=r"no file matches `data/\*.csv`"):
        find_inputs(["data/*.csv"])
    with pytest.raises(InputError, match=r"the folder data/sub\.jsonl holds no data file"):
        find_inputs(["data/sub.jsonl"])
    with pytest.raises(SettingError, match="standard input is named twice"):
        find_inputs(["-", "-"])


def test_the_report_says_what_was_done(folder):
    report = shard_files(["data/a.jsonl", "data/b.jsonl"], "out", dedup=True)
    assert (report.rows_read, report.rows, report.bad_rows, report.duplicate_rows) == (2, 1, 0, 1)
    assert report.shapes == {"alpaca": 2}
    assert report.bytes_read == 2 * len(LINE)
    assert report.manifest["settings"]["rows_per_shard"] == ROWS_PER_SHARD
    (part,) = report.parts
    assert part.size_bytes == (folder / "out" / part.name).stat().st_size == report.bytes_written
    assert report.as_dict()["parts"] == [{"name": part.name, "rows": 1, "bytes": part.size_bytes}]
    assert shard_files(["data/a.jsonl", "data/b.jsonl"], "out", dedup=True).finished_before


def test_provenance_names_files_without_their_folders(folder):
    report = shard_files([os.fspath(folder / "data" / "a.jsonl")], folder / "deep" / "out", shards=1)
    (step,) = report.manifest["provenance"]
    assert step["inputs"] == ["a.jsonl"]
    assert str(folder) not in (folder / "deep" / "out" / "manifest.json").read_text()
    assert pl.read_parquet(folder / "deep" / "out" / "part-00000.parquet")["source_file"].to_list() == ["a.jsonl"]


def test_settings_are_checked(folder):
    with pytest.raises(SettingError, match="contradict"):
        shard_files(["data/a.jsonl"], "out", rows_per_shard=1, shards=1)
    with pytest.raises(SettingError, match="`shards` is 0"):
        shard_files(["data/a.jsonl"], "out", shards=0)
    with pytest.raises(SettingError, match="compression `gzip` is none of zstd:1"):
        shard_files(["data/a.jsonl"], "out", compression="gzip")
    with pytest.raises(SettingError, match="`prose` is no known shape"):
        shard_files(["data/a.jsonl"], "out", shape="prose")
    with pytest.raises(PrerequisiteError, match="it is no folder"):
        shard_files(["data/a.jsonl"], "data/b.jsonl")
    assert not (folder / "out").exists()


def test_errors_carry_their_hints(folder):
    (folder / "data" / "a.jsonl").write_text(LINE + "{\n")
    with pytest.raises(InputError, match=r"row 1 \(line 2\): is not valid JSON") as caught:
        shard_files(["data/a.jsonl"], "out", strict=True)
    assert caught.value.hint == "without `--strict`, bad rows are left out and named"
