"""Bytes are recognised by what they hold, and torn or unreadable sources are refused with the reason."""

import gzip
import io
import os
import sys
from pathlib import Path

import polars as pl
import pytest
import zstandard

from pyllm.data.files import read_file
from pyllm.data.tables import read_table
from pyllm.errors import InputError

LINE = b'{"instruction": "Name a fruit.", "output": "An apple."}\n'


def frame_bytes(method: str) -> bytes:
    buffer = io.BytesIO()
    getattr(pl.DataFrame({"instruction": ["a", "b"], "output": ["c", "d"]}), method)(buffer)
    return buffer.getvalue()


CONTENTS = {
    "json_lines": LINE,
    "json_array": b" \n[" + LINE + b"]",
    "csv": b"instruction,output\na,b\n",
    "parquet": frame_bytes("write_parquet"),
    "arrow_file": frame_bytes("write_ipc"),
    "arrow_stream": frame_bytes("write_ipc_stream"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("expected", CONTENTS)
def test_format_is_recognised_by_content(tmp_path: Path, expected: str, pack: type) -> None:
    path = tmp_path / "misleading.txt"
    path.write_bytes(pack(CONTENTS[expected]))
    file = read_file(str(path))
    assert (file.format, file.data, file.file_name) == (expected, CONTENTS[expected], "misleading.txt")


def test_standard_input_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LINE * 3))))
    file = read_file("-")
    assert (file.format, file.data, file.file_name, file.source) == ("json_lines", LINE * 3, "-", "standard input")


def test_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE)
    assert read_file(path).data == LINE
    path.write_bytes("instruction,output\na,b\n".encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16 text, not UTF-8"):
        read_file(path)


def test_digest_is_of_the_stored_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(LINE)
    (tmp_path / "b").write_bytes(gzip.compress(LINE, mtime=0))
    assert read_file(tmp_path / "a").sha256 != read_file(tmp_path / "b").sha256


def test_several_compressed_frames_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard.compress(LINE) + zstandard.compress(LINE))
    (tmp_path / "a.gz").write_bytes(gzip.compress(LINE) + gzip.compress(LINE))
    assert read_file(tmp_path / "a.zst").data == read_file(tmp_path / "a.gz").data == LINE * 2


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


TORN = {
    "torn or damaged gzip": cut(gzip.compress(os.urandom(3_000))),
    "torn zstd": cut(zstandard.compress(os.urandom(3_000))),
    "damaged zstd": zstandard.compress(LINE)[:4] + b"\xff" * 40,
    "truncated Parquet": cut(CONTENTS["parquet"]),
    "truncated Arrow file": cut(CONTENTS["arrow_file"]),
    "truncated Arrow stream": cut(CONTENTS["arrow_stream"]),
    "is damaged and cannot be read as parquet": CONTENTS["parquet"][:40] + CONTENTS["parquet"][80:],
    "is empty": b"",
    "in is empty": b" \r\n\t",
    "n is empty": gzip.compress(b""),
    "not UTF-8 text: line 2 holds byte 0xff": b"instruction\na\xff\n",
}


@pytest.mark.parametrize("reason", TORN)
def test_torn_files_are_refused(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "in"
    path.write_bytes(TORN[reason])
    with pytest.raises(InputError, match=reason) as caught:
        read_table(path)
    assert str(path) in caught.value.message


def test_unreadable_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.jsonl: no such file"):
        read_file(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"cannot read .*: is a directory"):
        read_file(tmp_path)
    with pytest.raises(InputError, match=r"cannot read a.*null"):
        read_file("a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.jsonl"
    path.write_bytes(LINE)
    path.chmod(0)
    with pytest.raises(InputError, match="permission denied"):
        read_file(path)


def test_damaged_beginnings_are_known_by_their_name(tmp_path: Path) -> None:
    lines = tmp_path / "a.b.jsonl.gz"
    lines.write_bytes(gzip.compress(b'"output": "x"}\n' + LINE))
    assert read_file(lines).format == "json_lines"
    array = tmp_path / "a.json"
    array.write_bytes(b'"output": "x"}]')
    with pytest.raises(InputError, match="is not valid JSON: it begins with"):
        read_file(array)
    table = tmp_path / "a.json.csv"
    table.write_bytes(b"instruction\nx\n")
    assert read_file(table).format == "csv"
