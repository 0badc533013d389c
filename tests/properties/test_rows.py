"""Rows read in Rust are the rows that plain Python reads: the same table, bad rows and counts, from any bytes."""

import io
import json
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pyllm._core import ReadRows, read_rows
from pyllm.data.examples import example_id
from pyllm.data.files import FileBytes, Format
from pyllm.data.rows import BadRow
from pyllm.errors import InputError
from tests.support.slow_reader import SlowRows, frame_of_records, read_slowly
from tests.support.slow_reader.records import text_records

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["<image>", "[]", "a\n", "\0"])
NUMBERS = (
    st.integers(-9, 9)
    | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(10**30)])
    | st.floats(allow_nan=False)
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)
ROLES = st.sampled_from(["user", "human", "GPT", "assistant", "observation", "developer", "poet", 3, None])
PARTS = TEXTS | st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_call", "image_url", 1])},
    optional={"text": TEXTS, "value": VALUES, "content": TEXTS},
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": ROLES,
            "from": ROLES,
            "content": TEXTS | st.lists(PARTS, max_size=2) | VALUES,
            "value": TEXTS,
            "loss_weight": st.sampled_from([0, 1, 0.5, True, "1", None, 2**70]),
            "trained": st.booleans() | st.just("yes"),
            "tool_calls": st.lists(VALUES, max_size=2),
        },
    ),
    max_size=3,
)
SAID = TEXTS | MESSAGES | MESSAGES.map(json.dumps) | st.lists(TEXTS, max_size=2) | VALUES
ROWS = st.one_of(
    st.fixed_dictionaries(
        {},
        optional={
            "instruction": TEXTS | SCALARS,
            "Instruction": TEXTS,
            "input": TEXTS | st.none(),
            "output": TEXTS | SCALARS,
            "response": TEXTS,
            "answer": TEXTS,
            "question": TEXTS,
            "prompt": TEXTS,
            "text": TEXTS,
            "images": st.sampled_from([[], ["x.png"], None]),
            "image": TEXTS,
            "note": VALUES,
            "id": SCALARS,
            "wins": NUMBERS,
        },
    ),
    st.fixed_dictionaries({"messages": SAID}, optional={"tools": VALUES, "instruction": TEXTS, "note": VALUES}),
    st.fixed_dictionaries({"conversations": SAID}, optional={"prompt": TEXTS, "input": TEXTS, "output": VALUES}),
    st.fixed_dictionaries({"turns": SAID}, optional={"question_id": NUMBERS}),
    st.fixed_dictionaries(
        {"instruction": TEXTS, "instances": SAID | st.lists(st.fixed_dictionaries({"input": TEXTS}), max_size=2)}
    ),
    st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"turns": SAID}), max_size=2)}),
    st.fixed_dictionaries({"chosen": SAID, "rejected": SAID}, optional={"prompt": TEXTS}),
    VALUES,
)
SHAPES = st.sampled_from(["auto", "alpaca", "nested", "qa", "prompt", "text", "messages", "sharegpt", "turns"])


def file_of(data: bytes, file_format: Format) -> FileBytes:
    return FileBytes("the/source", "source", file_format, data, "")


def read_fast(file: FileBytes, shape: str = "auto", mode: str = "examples") -> ReadRows:
    return read_rows(file.data, file.format, source=file.source, file_name=file.file_name, shape=shape, mode=mode)


def agree(file: FileBytes, shape: str = "auto") -> ReadRows | None:
    """Reads a file both ways; None where both refuse it."""
    slow: SlowRows | str
    fast: ReadRows | str
    try:
        slow = read_slowly(file, shape)
    except InputError as error:
        slow = error.message
    try:
        fast = read_fast(file, shape)
    except InputError as error:
        fast = error.message
    if isinstance(slow, str) or isinstance(fast, str):
        assert fast == slow
        return None
    assert fast.records == slow.records
    assert [BadRow(file.file_name, *row) for row in fast.bad] == slow.bad
    assert list(dict(fast.shapes).items()) == list(slow.shapes.items())
    if slow.table is not None:
        table = pl.read_ipc_stream(fast.ipc)
        assert table.schema == slow.table.schema
        assert table.equals(slow.table)
    return fast


def spelled(row: Any, *, ascii_only: bool, spaces: bool) -> str:
    return json.dumps(row, ensure_ascii=ascii_only, separators=None if spaces else (",", ":"))


@given(st.lists(ROWS, min_size=1, max_size=6), SHAPES, st.booleans(), st.booleans())
def test_rows_of_every_shape(rows: list[Any], shape: str, ascii_only: bool, spaces: bool) -> None:
    lines = [spelled(row, ascii_only=ascii_only, spaces=spaces) for row in rows]
    agree(file_of("\r\n".join(lines).encode(), "json_lines"), shape)
    agree(file_of(f" [{' , '.join(lines)} ]\n".encode(), "json_array"), shape)


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_tables_as_they_are(rows: list[Any]) -> None:
    file = file_of("\n".join(json.dumps(row) for row in rows).encode(), "json_lines")
    records = text_records(file)
    fast = read_fast(file, mode="table")
    assert len(fast.bad) == sum(record.value is None for record in records)
    assert fast.records == len(records)
    slow = frame_of_records(file, records)
    if slow.width:
        table = pl.read_ipc_stream(fast.ipc)
        assert table.schema == slow.schema
        assert table.equals(slow)


OWN_TEXTS = st.none() | TEXTS


@given(
    st.lists(st.tuples(TEXTS, OWN_TEXTS, OWN_TEXTS, NUMBERS), min_size=1, max_size=5), st.integers(0, 4), st.booleans()
)
def test_tables_of_ours_keep_ids_and_sources_unless_changed(
    contents: list[tuple[str, str | None, str | None, Any]], changed: int, change: bool
) -> None:
    rows = [
        {
            "id": example_id(instruction, given_input, output, None, None),
            "source_file": "first.jsonl",
            "source_row": 3 * place,
            "instruction": instruction,
            "input": given_input,
            "output": output,
            "note": note,
            "wins": 1,
        }
        for place, (instruction, given_input, output, note) in enumerate(contents)
    ]
    if change:
        rows[changed % len(rows)]["output"] = "changed"
    fast = agree(file_of("\n".join(json.dumps(row) for row in rows).encode(), "json_lines"))
    assert fast is not None
    assert fast.marked
    assert fast.own == (not change or contents[changed % len(rows)][2] == "changed")
    notes = pl.Series("note", [str(row["note"]) for row in rows])
    frame = pl.DataFrame([{**row, "note": note} for row, note in zip(rows, notes, strict=True)])
    for file_format, method in (("parquet", "write_parquet"), ("arrow_file", "write_ipc"), ("csv", "write_csv")):
        stream = io.BytesIO()
        getattr(frame, method)(stream)
        agree(file_of(stream.getvalue(), file_format))  # type: ignore[arg-type]


COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "instruction": OWN_TEXTS,
    "Output": OWN_TEXTS,
    "response": OWN_TEXTS,
    "messages": st.none()
    | st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "gpt", "poet"]), "content": OWN_TEXTS}), max_size=2
    ),
    "images": st.none() | st.lists(TEXTS, max_size=1),
    "note": OWN_TEXTS,
    "when": st.none() | st.datetimes().map(lambda when: when.replace(microsecond=0)),
    "day": st.none() | st.dates(),
    "raw": st.none() | st.binary(max_size=3),
    "n": st.none() | st.integers(-5, 5),
    "vector": st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
}
DTYPES: dict[str, Any] = {
    "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
    "images": pl.List(pl.String),
    "when": pl.Datetime("us"),
    "day": pl.Date,
    "raw": pl.Binary,
    "n": pl.Int16,
    "vector": pl.Array(pl.Float32, 2),
}


@given(
    st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=5),
    st.lists(st.sampled_from(sorted(COLUMNS)), min_size=1, unique=True),
)
def test_columnar_files(rows: list[dict[str, Any]], names: list[str]) -> None:
    frame = pl.DataFrame(
        {name: pl.Series([row[name] for row in rows], dtype=DTYPES.get(name, pl.String)) for name in names}
    )
    for file_format, method in (
        ("parquet", "write_parquet"),
        ("arrow_file", "write_ipc"),
        ("arrow_stream", "write_ipc_stream"),
    ):
        stream = io.BytesIO()
        getattr(frame, method)(stream)
        agree(file_of(stream.getvalue(), file_format))  # type: ignore[arg-type]


FIELDS = st.sampled_from(["a", "", '""', '"b ""c"""', '"d,\ne"', 'f"g', '"', '"h"i', "é", " "])


@given(st.lists(st.lists(FIELDS, min_size=1, max_size=4), max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_csv_records(records: list[list[str]], line_end: str) -> None:
    text = line_end.join(["instruction,output,note", *(",".join(fields) for fields in records)])
    agree(file_of(text.encode(), "csv"))


SOUND: tuple[tuple[Format, bytes], ...] = (
    (
        "json_lines",
        b'{"instruction": "Name a fruit.", "input": "", "output": "\\u00e9", "n": -1.5e-7}\n'
        b'{"messages": [{"role": "user", "content": "x"}], "o": {"a": [1, null]}}\n',
    ),
    ("json_array", b'[\n {"instruction": "a", "n": [1, 2.5]},\n {"instruction": "b\\n", "n": null}\n]'),
    ("csv", b'instruction,input,output\n"a ""b"", c","",d\r\ne,f,g\n'),
)
DAMAGE = st.sampled_from(
    [b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\u00", b"\n", b"\r", b"\t", b"\0", b"\xff", b"\xc3",
     b"NaN", b"-Infinity", b"-", b"1", b"0", b".5", b"e9", b"\\ud800", b"\\udc00", b"\xc3\xa9", b"null", b" ", b"tru"]
)  # fmt: skip


@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 150), st.integers(0, 3), DAMAGE), max_size=3))
def test_damaged_files(sound: tuple[Format, bytes], damage: list[tuple[int, int, bytes]]) -> None:
    file_format, data = sound
    for place, cut, put in damage:
        data = data[:place] + put + data[place + cut :]
    if file_format == "json_array" and not data.lstrip(b" \t\r\n").startswith(b"["):
        return  # not recognised as an array
    if data.strip(b" \t\r\n"):
        agree(file_of(data, file_format))
