"""Packing equals its slow, obvious twins: the bins, the ids of `tokenizers`, and the rows of a whole run."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pyllm import _core
from pyllm.data.examples import CANONICAL_SCHEMA, Message, example_id, examples_from_table
from pyllm.data.packing import PROBES, PackSettings, pack_examples
from pyllm.data.tables import write_table
from pyllm.data.tokens import TrainingTokenizer, text_rows
from pyllm.errors import InputError, SettingError
from tests.support import slow_packer

_TRAINED_ON = [*slow_packer.ODD_TEXTS, *PROBES, "the quick brown fox jumps over the lazy dog. " * 20]
_MESS = st.one_of(
    st.text(max_size=60),
    st.sampled_from([*slow_packer.ODD_TEXTS, *PROBES]),
    st.lists(
        st.sampled_from(
            ["the", " The", "'ll", "'S", "\n", "\r\n", "  ", "\t", "12", "3456", "é", "e\u0301", "中", "</s>", "<s>"]
        )
    ).map("".join),
)


@pytest.fixture(scope="module", params=sorted(slow_packer.TOKENIZERS))
def library(request):
    # As read from a file: scores just trained differ from those in the last digit, and ties fall another way.
    return Tokenizer.from_str(slow_packer.TOKENIZERS[request.param](_TRAINED_ON).to_str())


@given(st.data())
def test_bins_are_those_of_best_fit_decreasing(data):
    capacity = data.draw(st.sampled_from([1, 5, 64, 65, 2048, 65_536]))
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=120))
    packing = _core.pack_best_fit(np.array(lengths, np.uint32), capacity)
    assert slow_packer.bins_of(packing) == slow_packer.best_fit_decreasing(lengths, capacity)
    assert len(packing) == slow_packer.number_of_bins(lengths, capacity)


@given(st.data(), st.integers(1, 5))
def test_online_bins_are_those_of_a_search_among_the_open(data, open_bins):
    capacity = data.draw(st.sampled_from([1, 5, 64, 2048]))
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=120))
    packing = _core.pack_best_fit(np.array(lengths, np.uint32), capacity, open_bins=open_bins)
    assert slow_packer.bins_of(packing) == slow_packer.online_best_fit(lengths, capacity, open_bins)


def test_many_sequences_are_packed_as_by_best_fit_decreasing():
    lengths = np.clip(np.rint(np.random.default_rng(3).lognormal(4.79, 0.9, 30_000)), 1, 2048).astype(np.uint32)
    packing = _core.pack_best_fit(lengths, 2048)
    assert len(packing) == slow_packer.number_of_bins(lengths.tolist(), 2048)
    assert sorted(packing.sequences.tolist()) == list(range(30_000))
    filled = np.add.reduceat(lengths[packing.sequences], packing.offsets[:-1].astype(np.int64))
    assert filled.max() <= 2048
    online = _core.pack_best_fit(lengths, 2048, open_bins=64)
    assert lengths.sum() / (2048 * len(online)) > 0.99


@pytest.mark.parametrize("bad", [0, 11])
def test_a_length_that_fits_no_bin_is_refused(bad):
    with pytest.raises(InputError, match=f"sequence 1 has {bad} tokens, not between 1 and 10"):
        _core.pack_best_fit(np.array([3, bad], np.uint32), 10)


@pytest.mark.parametrize("capacity", [0, 65_537])
def test_a_capacity_out_of_range_is_refused(capacity):
    with pytest.raises(SettingError, match=f"`length` is {capacity}"):
        _core.pack_best_fit(np.array([1], np.uint32), capacity)


def test_gathered_ids_follow_the_bins():
    lengths = np.array([3, 7, 4, 6], np.uint32)
    packing = _core.pack_best_fit(lengths, 10)
    ids = np.repeat(np.arange(4, dtype=np.uint32), lengths)
    moved = packing.gather(ids, np.cumsum(lengths, dtype=np.uint64))
    assert moved.tolist() == np.repeat([1, 0, 3, 2], [7, 3, 6, 4]).tolist()
    with pytest.raises(InputError, match="do not fit"):
        packing.gather(ids[1:], np.cumsum(lengths, dtype=np.uint64))


@settings(max_examples=80)
@given(texts=st.lists(_MESS, min_size=1, max_size=6))
def test_ids_are_those_of_tokenizers(library, texts):
    ids, ends = _core.RowTokenizer(library.to_str()).encode(texts)
    found = [each.tolist() for each in np.split(ids, ends[:-1].astype(np.int64))]
    assert found == [each.ids for each in library.encode_batch_fast(texts, add_special_tokens=False)]


_FIELD = st.none() | _MESS
_TURN = st.builds(Message, st.sampled_from(["system", "user", "assistant", "assistant", "tool"]), _MESS, st.booleans())


_ROW = st.fixed_dictionaries(
    {"instruction": _MESS, "input": _FIELD, "output": _FIELD, "messages": st.none()}
) | st.fixed_dictionaries(
    {"instruction": _FIELD, "input": _FIELD, "output": _FIELD, "messages": st.lists(_TURN, min_size=1, max_size=5)}
)


def _table(rows):
    """Rows in the canonical schema."""
    made = []
    for place, row in enumerate(rows):
        turns = row["messages"]
        plain = (
            None
            if turns is None
            else [{"role": turn.role, "content": turn.content, "trained": turn.trained} for turn in turns]
        )
        digest = example_id(row["instruction"], row["input"], row["output"], turns, None)
        made.append({"id": digest, "source_file": "a", "source_row": place, **row, "messages": plain, "tools": None})
    return pl.DataFrame(made, schema=CANONICAL_SCHEMA)


@settings(max_examples=25)
@given(
    rows=st.lists(_ROW, min_size=1, max_size=8),
    how=st.builds(
        PackSettings,
        length=st.sampled_from([8, 100, 3000]),
        template=st.sampled_from(["nuggets", "alpaca"]),
        open_bins=st.sampled_from([0, 0, 2]),
        window_rows=st.sampled_from([0, 1, 3]),
        rows_per_shard=st.just(2),
    ),
)
def test_a_run_packs_each_row_as_the_plain_way_tokenizes_it(tmp_path_factory, library, rows, how):
    folder = tmp_path_factory.mktemp("pack")
    try:
        _check_run(folder, library, _table(rows), how)
    finally:
        shutil.rmtree(folder)


def _check_run(folder: Path, library, table, how):
    path = folder / "rows.parquet"
    write_table(table, path, format="parquet", steps=[])
    tokenizer = TrainingTokenizer("t", folder, library.to_str(), "0" * 64, 1, 2, library.get_vocab_size())

    def encode(texts):
        return [each.ids for each in library.encode_batch(texts, add_special_tokens=False)]

    made = text_rows(examples_from_table(table), how.template, encode, start_id=1, end_id=2)
    wanted = [
        (name, *slow_packer.expected_row(row.ids, row.trained, how.length))
        for name, row in zip(table["id"], made, strict=True)
        if row is not None
    ]
    kept = sorted(each for each in wanted if any(label != -100 for label in each[2]))
    parts = []
    for threads in (1, 2):
        out = folder / str(threads)
        on_threads = dataclasses.replace(how, threads=threads)
        if not kept:
            with pytest.raises(InputError, match="no row can be packed"):
                pack_examples([path], out, tokenizer, on_threads)
            assert not out.exists()
            continue
        report = pack_examples([path], out, tokenizer, on_threads)
        assert sorted(slow_packer.packed_rows(out)) == kept
        assert report.manifest["rows"]["in"] == table.height
        assert report.manifest["rows"]["without_answer"]["rows"] == made.count(None)
        assert report.manifest["rows"]["fully_masked"]["rows"] == len(wanted) - len(kept)
        parts.append({each.name: each.read_bytes() for each in out.iterdir()})
    assert not parts or parts[0] == parts[1]
