"""Shards hold the rows of the reader, for any rows, formats and divisions."""

import io
import json
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from pyllm.data.reading import read_examples
from pyllm.data.sharding import shard_files
from pyllm.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
FEW = st.sampled_from(["", "a", "b", "no input"])
OTHER = st.none() | st.integers(-3, 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.booleans()
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXT}), min_size=1)
ROW = st.one_of(
    st.fixed_dictionaries({"instruction": FEW, "output": FEW}, optional={"input": FEW | st.none(), "n": OTHER}),
    st.fixed_dictionaries({"question": TEXT, "answer": TEXT}, optional={"n": OTHER, "tags": st.lists(TEXT)}),
    st.fixed_dictionaries({"messages": TURNS}, optional={"meta": st.dictionaries(FEW, OTHER)}),
    st.fixed_dictionaries({"instruction": OTHER}),
)
ROWS = st.lists(ROW, min_size=1, max_size=12)


def stored(rows, form):
    if form == "json":
        return json.dumps(rows).encode()
    if form == "parquet":
        buffer = io.BytesIO()
        names = dict.fromkeys(name for row in rows for name in row)
        texts = {name: [None if row.get(name) is None else str(row[name]) for row in rows] for name in names}
        pl.DataFrame(texts, schema=dict.fromkeys(texts, pl.String)).write_parquet(buffer)
        return buffer.getvalue()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def bad_rows(path, form):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    # An element of an array is given as it stands in the file, or as its value is spelled canonically.
    return [{**row, "raw": json.loads(row["raw"]) if form == "json" else row["raw"]} for row in rows]


def read(path, **options):
    try:
        return read_examples(path, **options), None
    except InputError as refused:
        return None, refused


def sharded(folder):
    return pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))])


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, form=st.sampled_from(["jsonl", "json", "parquet"]), shards=st.integers(1, 5), dedup=st.booleans())
def test_shards_are_what_the_reader_reads(rows, form, shards, dedup):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / f"rows.{form}"
        path.write_bytes(stored(rows, form))
        wanted, refused = read(path, dedup=dedup, bad_rows_path=folder / "wanted.jsonl")
        if wanted is None:
            with pytest.raises(InputError) as caught:
                shard_files([path], folder / "out", shards=shards, dedup=dedup)
            assert (caught.value.message, caught.value.hint) == (refused.message, refused.hint)
            return
        report = shard_files(
            [path], folder / "out", shards=shards, dedup=dedup, bad_rows_path=folder / "bad.jsonl", threads=2
        )
        assert_frame_equal(sharded(folder / "out"), wanted.table)
        assert (report.rows_read, report.shapes) == (wanted.rows_read, wanted.shapes)
        assert bad_rows(folder / "bad.jsonl", form) == bad_rows(folder / "wanted.jsonl", form)
        assert len(report.parts) == min(shards, wanted.table.height)


@settings(max_examples=20, deadline=None)
@given(files=st.lists(ROWS, min_size=2, max_size=4), size=st.integers(1, 9), dedup=st.booleans())
def test_several_files_are_their_rows_one_after_the_other(files, size, dedup):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = []
        paths = []
        for place, rows in enumerate(files):
            path = folder / f"{place}.jsonl"
            path.write_bytes(stored(rows, "jsonl"))
            found, _ = read(path)
            if found is not None:
                tables.append(found.table)
                paths.append(path)
        if not paths:
            return
        whole = pl.concat([table[:, :8] for table in tables])
        wanted = whole.unique("id", keep="first", maintain_order=True) if dedup else whole
        report = shard_files(paths, folder / "out", rows_per_shard=size, dedup=dedup)
        table = sharded(folder / "out")
        assert_frame_equal(table[:, :8], wanted)
        kept = [column for each in tables for column in each.columns]
        assert list(table.columns) == list(dict.fromkeys(kept))
        assert [part.rows for part in report.parts[:-1]] == [size] * (len(report.parts) - 1)
        again = shard_files(paths, folder / "again", rows_per_shard=size, dedup=dedup, threads=3)
        assert again.manifest == report.manifest
