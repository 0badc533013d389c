"""Packed rows, ours and those of other programs, taken apart into examples."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data.examples import examples_from_table
from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.reading import read_examples
from pyllm.data.tokens import MASKED, plain_encoder, text_rows
from pyllm.errors import InputError
from pyllm.finetune.sequences import Sequences, is_packs, read_packs
from pyllm.lm.tokenizing import find_tokenizer
from tests.support.tiny_models import tiny_tokenizer, write_jsonl
from tests.support.tiny_runs import made_rows


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_packs_of_the_pack_command_come_back_as_examples(tmp_path: Path, tokenizer_folder: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", made_rows(30))
    tokenizer = find_tokenizer(str(tokenizer_folder))
    pack_examples([rows], tmp_path / "packs", tokenizer, PackSettings(400, template="alpaca", rows_per_shard=3))
    parts = sorted((tmp_path / "packs").glob("part-*.parquet"))
    assert len(parts) > 1
    assert all(map(is_packs, parts))
    sequences = read_packs(parts)
    examples = examples_from_table(read_examples(str(rows)).table)
    expected = text_rows(
        examples, "alpaca", plain_encoder(tokenizer), start_id=tokenizer.start_id, end_id=tokenizer.end_id
    )
    in_order = sequences.in_order_of([example.id for example in examples])
    assert in_order.row_ids == tuple(example.id for example in examples)
    for place, row in enumerate(expected):
        assert row is not None
        ids, labels = in_order.example(place)
        assert (ids.tolist(), labels.tolist()) == (row.ids, row.labels)
    assert sequences.tokens == sum(len(row.ids) for row in expected if row is not None)
    per_pack = np.diff(sequences.starts[sequences.packs])
    assert per_pack.max() <= 400
    assert len(per_pack) == sum(pl.read_parquet(part).height for part in parts)


def write(path: Path, **columns: object) -> Path:
    pl.DataFrame(columns, strict=False).write_parquet(path)
    return path


def test_packs_of_other_programs(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.parquet", input_ids=[[5, 6, 7], [8]], labels=[[-100, 6, 7], [-100]])
    typed = pl.DataFrame(
        {
            "input_ids": pl.Series([[1, 2, 3, 4]], dtype=pl.List(pl.Int32)),
            "labels": pl.Series([[MASKED, 2, MASKED, 4]], dtype=pl.Array(pl.Int16, 4)),
            "seq_lengths": pl.Series([[3, 1]], dtype=pl.List(pl.UInt8)),
        }
    )
    typed.write_parquet(tmp_path / "typed.parquet")
    sequences = read_packs([plain, tmp_path / "typed.parquet"])
    assert pl.read_parquet_schema(plain)["input_ids"] == pl.List(pl.Int64)
    assert sequences.lengths.tolist() == [3, 1, 3, 1]
    assert sequences.packs.tolist() == [0, 1, 2, 4]
    assert sequences.ids.tolist() == [5, 6, 7, 8, 1, 2, 3, 4]
    assert sequences.labels.tolist() == [-100, 6, 7, -100, -100, 2, -100, 4]
    assert sequences.trained_tokens.tolist() == [2, 0, 1, 1]
    assert sequences.row_ids == ("plain.parquet:0", "plain.parquet:1", "typed.parquet:0", "typed.parquet:1")


REFUSED = {
    "no ids": ({"labels": [[1]]}, "column `input_ids` is missing from `.*packs.parquet`"),
    "no labels": ({"input_ids": [[1]]}, "column `labels` is missing"),
    "text": ({"input_ids": ["1 2"], "labels": [[1, 2]]}, "column `input_ids` has type String, not a list"),
    "real numbers": ({"input_ids": [[1.0]], "labels": [[1]]}, r"column `input_ids` has type List\(Float64\)"),
    "lists of text": ({"input_ids": [[1]], "labels": [["1"]]}, r"column `labels` has type List\(String\)"),
    "a null row": ({"input_ids": [[1], None], "labels": [[1], [2]]}, "column `input_ids` has nulls"),
    "a null label": ({"input_ids": [[1, 2]], "labels": [[1, None]]}, "column `labels` has nulls"),
    "fewer labels": (
        {"input_ids": [[1], [1, 2]], "labels": [[1], [1]]},
        "row 1: `labels` stand for 1 tokens and `input_ids` holds 2",
    ),
    "lengths beyond the row": (
        {"input_ids": [[1, 2]], "labels": [[1, 2]], "seq_lengths": [[2, 1]]},
        "row 0: `seq_lengths` stand for 3 tokens and `input_ids` holds 2",
    ),
    "an empty sequence": (
        {"input_ids": [[1, 2]], "labels": [[1, 2]], "seq_lengths": [[2, 0]]},
        "holds an empty sequence",
    ),
    "a row of nothing": ({"input_ids": [[1], []], "labels": [[1], []]}, "holds an empty sequence"),
    "lengths that are no numbers": (
        {"input_ids": [[1]], "labels": [[1]], "seq_lengths": [["1"]]},
        "column `seq_lengths` has type",
    ),
    "too few names": (
        {"input_ids": [[1, 2]], "labels": [[1, 2]], "seq_lengths": [[1, 1]], "row_ids": [["a"]]},
        "`row_ids` names 1 examples and there are 2",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_are_no_packs_is_refused(tmp_path: Path, kind: str) -> None:
    columns, message = REFUSED[kind]
    path = write(tmp_path / "packs.parquet", **columns)
    with pytest.raises(InputError, match=message):
        read_packs([path])


def test_ids_and_labels_outside_their_range_are_refused(tmp_path: Path) -> None:
    for ids, labels in (([-1, 2], [1, 2]), ([2**32, 2], [1, 2]), ([1, 2], [1, 2**31]), ([1, 2], [1, -5])):
        path = write(tmp_path / "packs.parquet", input_ids=[ids], labels=[labels])
        with pytest.raises(InputError, match=r"column `(input_ids|labels)` holds -?\d+, which is no token"):
            read_packs([path])


def test_no_rows_and_no_file(tmp_path: Path) -> None:
    typed = {"input_ids": pl.List(pl.Int64), "labels": pl.List(pl.Int64)}
    pl.DataFrame(schema=typed).write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match=r"empty\.parquet holds no rows"):
        read_packs([tmp_path / "empty.parquet"])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    for name in ("torn.parquet", "nowhere.parquet"):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_packs([tmp_path / name])


def test_packs_are_known_by_their_columns(tmp_path: Path) -> None:
    assert is_packs(write(tmp_path / "a.parquet", input_ids=[[1]], labels=[[1]], more=["x"]))
    assert not is_packs(write(tmp_path / "b.parquet", instruction=["x"], output=["y"]))
    (tmp_path / "c.jsonl").write_text('{"input_ids": [1], "labels": [1]}\n')
    (tmp_path / "d.parquet").write_bytes(b"PAR1")
    for name in ("c.jsonl", "d.parquet", "nowhere", "."):
        assert not is_packs(tmp_path / name)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=8), data=st.data())
def test_taking_examples_keeps_their_tokens(lengths: list[int], data: st.DataObject) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(starts[-1], dtype=np.uint32)
    labels = np.where(ids % 3, ids, MASKED).astype(np.int32)
    names = tuple(f"row {place}" for place in range(len(lengths)))
    whole = Sequences(ids, labels, starts, np.arange(len(starts)), names)
    places = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=9))
    taken = whole.take(places)
    assert len(taken) == len(places)
    assert taken.row_ids == tuple(names[place] for place in places)
    for number, place in enumerate(places):
        assert [each.tolist() for each in taken.example(number)] == [each.tolist() for each in whole.example(place)]
    assert taken.trained_tokens.tolist() == [
        sum(label != MASKED for label in taken.example(number)[1].tolist()) for number in range(len(taken))
    ]


def test_the_order_of_rows_is_that_of_the_table() -> None:
    ids = np.arange(4, dtype=np.uint32)
    whole = Sequences(ids, ids.astype(np.int32), np.arange(5), np.array([0, 4]), ("b", "a", "b", "c"))
    ordered = whole.in_order_of(["a", "c", "b", "b", "not packed"])
    assert ordered.row_ids == ("a", "c", "b", "b")
    assert ordered.ids.tolist() == [1, 3, 0, 2]
    assert ordered.packs.tolist() == [0, 1, 2, 3, 4]
