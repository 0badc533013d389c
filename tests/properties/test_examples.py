"""Ids follow content and nothing else, and tables keep ids, sources and other columns through every format."""

import tempfile
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pyllm.data.examples import CANONICAL_COLUMNS, CANONICAL_SCHEMA, Example, Message, example_id, examples_from_table
from pyllm.data.reading import read_examples
from pyllm.data.tables import write_table
from pyllm.errors import InputError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
MAYBE = st.none() | TEXTS
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS, st.booleans()),
    min_size=1,
    max_size=3,
)
CONTENTS = st.one_of(
    st.tuples(TEXTS, MAYBE, MAYBE, st.none(), MAYBE), st.tuples(st.none(), st.none(), st.none(), MESSAGES, MAYBE)
)
Content = tuple[str | None, str | None, str | None, list[Message] | None, str | None]


@given(CONTENTS, CONTENTS)
def test_ids_are_equal_exactly_where_content_is(first: Content, second: Content) -> None:
    assert (example_id(*first) == example_id(*second)) == (first == second)
    assert len(example_id(*first)) == 32


@given(CONTENTS, st.integers(0, 4))
def test_every_field_counts(content: Content, place: int) -> None:
    changed: list[Any] = list(content)
    changed[place] = [Message("user", "changed", trained=False)] * 4 if place == 3 else (changed[place] or "") + "x"
    assert example_id(*changed) != example_id(*content)


def table_of(contents: list[Content], others: list[str | None]) -> pl.DataFrame:
    rows = [
        {
            "id": example_id(*content),
            "source_file": f"file_{place % 2}",
            "source_row": 3 * place,
            "instruction": content[0],
            "input": content[1],
            "output": content[2],
            "messages": None
            if content[3] is None
            else [{"role": m.role, "content": m.content, "trained": m.trained} for m in content[3]],
            "tools": content[4],
        }
        for place, content in enumerate(contents)
    ]
    return pl.DataFrame(rows, schema=CANONICAL_SCHEMA).with_columns(
        pl.Series("note", others, dtype=pl.String),
        pl.Series("response", others[::-1], dtype=pl.String),
    )


@given(st.lists(st.tuples(CONTENTS, MAYBE), min_size=1, max_size=6), st.sampled_from(["parquet", "jsonl", "csv"]))
def test_our_tables_come_back_from_every_format(rows: list[tuple[Content, str | None]], table_format: Any) -> None:
    table = table_of([content for content, _ in rows], [other for _, other in rows])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        write_table(table, path, format=table_format)
        found = read_examples(path)
    assert found.shapes == {"pyllm": len(rows)}
    assert found.table.equals(table)
    examples = examples_from_table(found.table)
    assert [
        example_id(example.instruction, example.input, example.output, example.messages, example.tools)
        for example in examples
    ] == table["id"].to_list()
    assert all(isinstance(example, Example) for example in examples)


@given(st.lists(CONTENTS, min_size=1, max_size=6))
def test_reading_a_foreign_file_and_reading_it_again_agree(contents: list[Content]) -> None:
    foreign = table_of(contents, [None] * len(contents)).drop("id", "source_file", "source_row")
    with tempfile.TemporaryDirectory() as folder:
        for name, method in (("a.jsonl", "write_ndjson"), ("a.parquet", "write_parquet")):
            getattr(foreign, method)(Path(folder) / name)
            first = read_examples(Path(folder) / name)
            write_table(first.table, Path(folder) / "again", format="parquet")
            again = read_examples(Path(folder) / "again")
            assert first.table["id"].to_list() == [example_id(*content) for content in contents]
            assert again.table.equals(first.table)
            assert set(CANONICAL_COLUMNS) <= set(again.table.columns)


SOUND = (
    b'{"instruction": "Name a fruit.", "input": "", "output": "\\u00e9"}\n'
    b'{"messages": [{"role": "user", "content": "x"}]}\n',
    b'[\n {"instruction": "a", "n": [1, 2.5]},\n {"instruction": "b", "n": null}\n]',
    b'instruction,input,output\n"a ""b"", c","",d\r\ne,f,g\n',
)
DAMAGE = st.sampled_from(
    [b"", b"{", b"}", b"[", b"]", b'"', b",", b"\\", b"\n", b"\r", b"\0", b"\xff", b"NaN", b"\\ud800"]
)


@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), DAMAGE), max_size=3))
def test_damaged_files_are_read_around_or_refused(data: bytes, damage: list[tuple[int, int, bytes]]) -> None:
    for place, cut, put in damage:
        data = data[:place] + put + data[place + cut :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        path.write_bytes(data)
        try:
            found = read_examples(path)
        except InputError:
            return
    assert 1 <= found.table.height == found.rows_read - len(found.bad_rows)
    assert set(found.table["source_row"]) | {bad.row for bad in found.bad_rows} == set(range(found.rows_read))
    for example in examples_from_table(found.table):
        content = (example.instruction, example.input, example.output, example.messages, example.tools)
        assert example_id(*content) == example.id
