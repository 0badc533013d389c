"""`pyllm.data.packing`: settings, reports, and the two ways to the same files."""

import json

import numpy as np
import polars as pl
import pytest

from pyllm import _core
from pyllm.data import packing
from pyllm.data.packing import PackSettings, best_fit, left_out, pack_examples
from pyllm.data.reading import read_examples
from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.lm.tokenizing import find_tokenizer
from tests.support.slow_packer import byte_level_bpe, packed_rows
from tests.support.tiny_models import write_jsonl

ROWS = [
    {"instruction": "Name a fruit.", "input": "", "output": "Apple"},
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Say nothing.", "input": "", "output": ""},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, 世界"}]},
    {"instruction": "Go on.", "input": None, "output": "and on " * 40},
]


@pytest.fixture
def rows(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture
def tokenizer(tmp_path):
    path = tmp_path / "tokenizer.json"
    byte_level_bpe([row.get("output") or "Hello" for row in ROWS], 300).save(str(path))
    return find_tokenizer(str(path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 1}, "`length` is 1: between 2 and 65536 is wanted"),
        ({"length": 65_537}, "`length` is 65537"),
        ({"length": 8, "window_rows": -1}, "`window_rows` is -1"),
        ({"length": 8, "open_bins": -1}, "`open_bins` is -1"),
        ({"length": 8, "rows_per_shard": 0}, "`rows_per_shard` is 0"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        PackSettings(**wrong)


def test_best_fit_takes_any_integers():
    assert best_fit(np.array([3, 7, 4, 6]), 10).sequences.tolist() == [1, 0, 3, 2]


def test_a_row_is_found_again_in_the_files(tmp_path, rows, tokenizer):
    report = pack_examples([rows], tmp_path / "out", tokenizer, PackSettings(64))
    manifest = report.manifest
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    table = pl.read_parquet(tmp_path / "out" / "part-00000.parquet")
    assert table.schema == pl.Schema(
        {
            "input_ids": pl.List(pl.UInt16),
            "labels": pl.List(pl.Int32),
            "seq_lengths": pl.List(pl.UInt32),
            "row_ids": pl.List(pl.String),
        }
    )
    ids = read_examples(rows).table["id"].to_list()
    assert sorted(name for name, _, _ in packed_rows(tmp_path / "out")) == sorted([*ids[:2], *ids[3:]])
    assert manifest["rows"]["without_answer"] == {"first": ["rows.jsonl: row 2"], "rows": 1}
    assert manifest["rows"]["truncated"] == {"first": ["rows.jsonl: row 4"], "rows": 1}
    assert left_out(manifest) == [
        "1 cut at the length: rows.jsonl: row 4",
        "1 left out, without an answer: rows.jsonl: row 2",
    ]
    lengths = table["seq_lengths"].list.sum()
    assert (manifest["tokens"], manifest["packed_rows"]) == (lengths.sum(), table.height)
    assert manifest["fill_rate"] == lengths.sum() / (64 * table.height)
    steps = json.loads(pl.read_parquet_metadata(tmp_path / "out" / "part-00000.parquet")["pyllm"])["steps"]
    assert steps == manifest["provenance"]
    assert steps[-1]["command"] == "pack"


@pytest.mark.parametrize("way", [("nuggets", "differs"), ("alpaca", "refuses")])
def test_the_plain_way_gives_the_same_files(rows, tokenizer, monkeypatch, caplog, way):
    template, fault = way
    tmp_path = rows.parent
    pack_examples([rows], tmp_path / "fast", tokenizer, PackSettings(300, template))

    class Other:
        def __init__(self, json, *, start, end):
            if fault == "refuses":
                raise PrerequisiteError("the tokenizer cannot be used: it is odd")

        def encode(self, texts):
            return np.arange(len(texts), dtype=np.uint32), np.arange(1, len(texts) + 1, dtype=np.uint64)

    monkeypatch.setattr(_core, "RowTokenizer", Other)
    pack_examples([rows], tmp_path / "plain", tokenizer, PackSettings(300, template))
    assert "the plain way is taken" in caplog.text
    for path in (tmp_path / "fast").iterdir():
        assert (tmp_path / "plain" / path.name).read_bytes() == path.read_bytes()


def test_more_ids_than_16_bits_hold_are_stored_in_32(tmp_path, rows, tokenizer):
    large = packing.TrainingTokenizer("t", tmp_path, tokenizer.json, "0" * 64, 0, 1, 70_000)
    pack_examples([rows], tmp_path / "out", large, PackSettings(64))
    table = pl.read_parquet(tmp_path / "out" / "part-00000.parquet")
    assert table.schema["input_ids"] == pl.List(pl.UInt32)


def test_too_long_is_an_error_on_request(tmp_path, rows, tokenizer):
    with pytest.raises(InputError, match=r"rows\.jsonl: row 4 has \d+ tokens, more than the length 64"):
        pack_examples([rows], tmp_path / "out", tokenizer, PackSettings(64, too_long="error"))
    assert not (tmp_path / "out").exists()


def test_a_fault_in_the_middle_leaves_nothing(tmp_path, rows, tokenizer, monkeypatch):
    def fails(*_):
        raise PrerequisiteError("the disk is full")

    monkeypatch.setattr(packing, "write_json_atomically", fails)
    (tmp_path / "out").mkdir()
    with pytest.raises(PrerequisiteError, match="the disk is full"):
        pack_examples([rows], tmp_path / "out", tokenizer, PackSettings(64))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("compression", ["zstd:1", "zstd:3", "lz4", "snappy", "none"])
def test_every_compression_holds_the_same_rows_whatever_the_threads(tmp_path, rows, tokenizer, compression):
    pack_examples([rows], tmp_path / "plain", tokenizer, PackSettings(300))
    for threads in (1, 2):
        how = PackSettings(300, compression=compression, rows_per_shard=2, window_rows=2, threads=threads)
        pack_examples([rows], tmp_path / str(threads), tokenizer, how)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / each).iterdir()} for each in "12")
    assert one == two
    assert sorted(packed_rows(tmp_path / "1")) == sorted(packed_rows(tmp_path / "plain"))
