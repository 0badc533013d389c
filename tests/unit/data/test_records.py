"""Records of text files: what is bad is named by row, line and reason, and the rest is read."""

import json
import sys
from pathlib import Path

import pytest

from pyllm.data.files import read_file
from pyllm.errors import InputError
from tests.support.slow_reader.records import MAX_NESTING, Record, text_records


def records_of(tmp_path: Path, data: bytes | str, name: str = "in.jsonl") -> list[Record]:
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return text_records(read_file(path))


def problems(records: list[Record]) -> list[tuple[int, int | None, str | None]]:
    return [(record.row, record.line, record.reason) for record in records if record.reason is not None]


def test_lines_blanks_and_carriage_returns(tmp_path: Path) -> None:
    records = records_of(tmp_path, b'{"a": "1\xe2\x80\xa82"}\r\n\r\n  \n{"a": "\\u0000"}')
    assert [(record.row, record.line, record.value) for record in records] == [
        (0, 1, {"a": "1\u20282"}),
        (1, 4, {"a": "\0"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (rb'{"a": "\d"}', r"is not valid JSON: invalid \escape (column 8)"),
        (b'{"a": "\xff"}', "is not UTF-8 text: byte 0xff at position 7"),
        (b'{"a": NaN}', "holds NaN, which is not JSON"),
        (b'{"a": [-Infinity]}', "holds -Infinity, which is not JSON"),
        (b'{"a": "\x00"}', "is not valid JSON: invalid control character at (column 8)"),
        (b'["a"]', "is a list, not an object"),
        (b"3", "is a number, not an object"),
        (rb'{"a": "\ud800"}', "holds half of a surrogate pair, which is no text"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", f"is nested deeper than {MAX_NESTING} levels"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", f"is nested deeper than {MAX_NESTING} levels"),
    ],
)
def test_bad_lines_are_named_and_the_next_is_read(tmp_path: Path, line: bytes, reason: str) -> None:
    records = records_of(tmp_path, b'{"b": 1}\n' + line + b'\n{"b": 2}\n')
    assert problems(records) == [(1, 2, reason)]
    assert [record.value for record in records] == [{"b": 1}, None, {"b": 2}]
    assert records[1].raw == line


def test_a_record_torn_by_a_raw_newline_is_two_bad_records(tmp_path: Path) -> None:
    records = records_of(tmp_path, '{"a": "x"}\n{"a": "one\ntwo"}\n{"a": "y"}\n')
    assert [(row, line) for row, line, _ in problems(records)] == [(1, 2), (2, 3)]
    assert [record.row for record in records if record.value] == [0, 3]


def test_numbers_and_rows_may_be_long(tmp_path: Path) -> None:
    text = "ab" * 1_000_000
    records = records_of(tmp_path, json.dumps({"n": 10**100, "t": text}) + "\n" + '{"n": ' + "9" * 10_000 + "}\n")
    assert records[0].value == {"n": 10**100, "t": text}
    limit = sys.get_int_max_str_digits()
    assert problems(records) == [(1, 2, records[1].reason)]
    assert str(limit) in str(records[1].reason)


def test_pairs_of_surrogates_are_characters(tmp_path: Path) -> None:
    assert records_of(tmp_path, r'{"a": "\ud83d\ude00"}')[0].value == {"a": "😀"}


def test_an_array_is_read_around_what_is_sound_and_cannot_be_kept(tmp_path: Path) -> None:
    deep = "[" * 100_000 + '"]"' + "]" * 100_000
    text = '[{"a": 1}, {"a": NaN}, 7, {"d": %s}, {"a": "\\ud800"}, NaN , {"a": 2}]' % deep  # noqa: UP031  (braces)
    records = records_of(tmp_path, text, "in.json")
    assert [record.value for record in records] == [{"a": 1}, None, None, None, None, None, {"a": 2}]
    assert [reason for _, _, reason in problems(records)] == [
        "holds NaN, which is not JSON",
        "is a number, not an object",
        f"is nested deeper than {MAX_NESTING} levels",
        "holds half of a surrogate pair, which is no text",
        "holds NaN, which is not JSON",
    ]
    assert records[1].raw == '{"a": NaN}'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1},\n {"a": 2', "row 1, line 2, column 9: expecting ',' delimiter"),
        ('[{"a": 1}\n', "row 0, line 2, column 1: expecting ',' or ']' after it"),
        ('[{"a": 1},]', "row 1, line 1, column 11: expecting value"),
        ('[{"a": 1}] x', "row 0, line 1, column 11: text follows the end of the array"),
        ('[{"a": "x\ny"}]', "row 0, line 1, column 10: invalid control character at"),
        ("[", "row 0, line 1, column 2: expecting value"),
    ],
)
def test_a_broken_array_is_refused_with_its_row_and_place(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        records_of(tmp_path, text, "in.json")
    assert caught.value.message == f"{tmp_path / 'in.json'} is not a valid JSON array: {reason}"


def test_csv_tells_nulls_from_empty_text_and_keeps_newlines(tmp_path: Path) -> None:
    records = records_of(tmp_path, 'instruction,input,n\r\n"a ""b"", c\nd","",\r\n\r\n5" nail,x,"y"\n', "in.csv")
    assert [(record.line, record.value) for record in records] == [
        (2, {"instruction": 'a "b", c\nd', "input": "", "n": None}),
        (5, {"instruction": '5" nail', "input": "x", "n": "y"}),
    ]


def test_ragged_and_torn_csv_rows_are_bad(tmp_path: Path) -> None:
    records = records_of(tmp_path, 'a,b\n1,2,3\n"x"y,2\n4\n5,6\n"torn,7\n8,9\n', "in.csv")
    quotes = "has a quotation mark in field 1 that is stray or never closed"
    assert problems(records) == [
        (0, 2, "has 3 fields, the header has 2"),
        (1, 3, quotes),
        (2, 4, "has 1 fields, the header has 2"),
        (4, 6, quotes),
    ]
    assert [record.value for record in records if record.value] == [{"a": "5", "b": "6"}, {"a": "8", "b": "9"}]
    assert records[1].raw == '"x"y,2'


def test_csv_headers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has column `a` twice"):
        records_of(tmp_path, "a,b,a\n1,2,3\n", "in.csv")
    with pytest.raises(InputError, match="has no CSV header: line 1 has a quotation mark"):
        records_of(tmp_path, '"a\n1\n', "in.csv")
    assert records_of(tmp_path, "a,b\n", "in.csv") == []
