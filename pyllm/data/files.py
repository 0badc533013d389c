"""Bytes out of a file or a pipe: read whole, unpacked, and recognised by what they hold rather than by their name.

Cost: the file is in memory once as it is and once unpacked. A Parquet file has its index at its end, so a pipe has to
be read to its end in any case.
"""

import gzip
import hashlib
import os
import signal
import sys
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import zstandard

from pyllm.errors import InputError, reason_of

Format = Literal["parquet", "arrow_file", "arrow_stream", "json_array", "json_lines", "csv"]

TEXT_FORMATS = frozenset({"json_array", "json_lines", "csv"})
"""Formats whose records are text."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_ARROW_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BLANKS = b" \t\r\n"
_PACKED_SUFFIXES = (".gz", ".zst")
_ZSTD_WINDOW = 1 << 31  # archives made with `zstd --long` need more than the default window


@dataclass(frozen=True, slots=True)
class FileBytes:
    """What a source holds.

    Args:
        source: The source as it was named, for messages.
        file_name: Its name without folder, for tables; `-` for standard input.
        format: What the bytes are.
        data: The bytes, unpacked, without a byte-order mark.
        sha256: Digest of the bytes as they were stored.
    """

    source: str
    file_name: str
    format: Format
    data: bytes
    sha256: str


def read_file(source: str | os.PathLike[str]) -> FileBytes:
    """Read a source whole, unpack it and say what it is.

    Args:
        source: A path, or `-` for standard input.

    Returns:
        The unpacked bytes and their format.

    Raises:
        InputError: The source is missing, unreadable, empty, torn, or in no format that is known.
    """
    name = os.fspath(source)
    if threading.current_thread() is threading.main_thread():
        # polars installs a SIGINT handler that restarts system calls, so Ctrl-C would wait for the end of a pipe,
        # be it standard input or one with a name. Python lets only the main thread change signals.
        signal.siginterrupt(signal.SIGINT, True)
    stored = _read_stdin() if name == "-" else _read_path(name)
    shown = "standard input" if name == "-" else name
    if not stored:
        message = f"{shown} is empty"
        raise InputError(message, hint="the command before it may have failed" if name == "-" else None)
    data = _unpack(shown, stored)
    if data.startswith(_UTF8_MARK):
        data = data[len(_UTF8_MARK) :]
    if not data.strip(_BLANKS):
        message = f"{shown} is empty"
        raise InputError(message)
    file_name = name if name == "-" else PurePath(name).name
    return FileBytes(shown, file_name, _recognise(shown, data), data, hashlib.sha256(stored).hexdigest())


def _read_stdin() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        message = "standard input is closed"
        raise InputError(message)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        message = f"cannot read standard input: {reason_of(error)}"
        raise InputError(message) from error


def _read_path(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        message = f"cannot read {path}: {reason_of(error)}"
        raise InputError(message) from error


def _unpack(shown: str, stored: bytes) -> bytes:
    if stored.startswith(_GZIP):
        try:
            return gzip.decompress(stored)
        except (EOFError, OSError, zlib.error) as error:
            message = f"{shown} is a torn or damaged gzip file: {reason_of(error)}"
            raise InputError(message) from error
    if stored.startswith(_ZSTD):
        return _unpack_zstd(shown, stored)
    return stored


def _unpack_zstd(shown: str, stored: bytes) -> bytes:
    parts: list[bytes] = []
    rest = stored
    while rest:
        # One object a frame: the stream reader of this library takes a torn frame for the end of the file.
        frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        try:
            parts.append(frame.decompress(rest))
        except zstandard.ZstdError as error:
            message = f"{shown} is a damaged zstd file: {error}"
            raise InputError(message) from error
        if not frame.eof:
            message = f"{shown} is a torn zstd file: its last frame has no end"
            raise InputError(message)
        rest = frame.unused_data
    return b"".join(parts)


def _recognise(shown: str, data: bytes) -> Format:
    if data.startswith(b"PAR1"):
        if len(data) < 12 or not data.endswith(b"PAR1"):
            message = f"{shown} is a truncated Parquet file: its end is missing"
            raise InputError(message, hint="write it again; a failed command may have left it behind")
        return "parquet"
    if data.startswith(b"ARROW1"):
        if not data.endswith(b"ARROW1"):
            message = f"{shown} is a truncated Arrow file: its end is missing"
            raise InputError(message)
        return "arrow_file"
    if data.startswith(b"\xff\xff\xff\xff"):
        if not data.endswith(_ARROW_END):
            message = f"{shown} is a truncated Arrow stream: its end mark is missing"
            raise InputError(message)
        return "arrow_stream"
    if data.startswith(_UTF16_MARKS):
        message = f"{shown} is UTF-16 text, not UTF-8"
        raise InputError(message, hint=f"convert it: iconv -f UTF-16 -t UTF-8 {shown}")
    return _recognise_text(shown, data)


def _recognise_text(shown: str, data: bytes) -> Format:
    first = data.lstrip(_BLANKS)[:1]
    if first == b"[":
        return "json_array"
    if first == b"{":
        return "json_lines"
    # A JSON file whose beginning is damaged looks like text with commas; there the name decides.
    suffixes = [suffix.lower() for suffix in PurePath(shown).suffixes if suffix.lower() not in _PACKED_SUFFIXES]
    named = suffixes[-1] if suffixes else ""
    if named in (".jsonl", ".ndjson"):
        return "json_lines"
    if named == ".json":
        message = f"{shown} is not valid JSON: it begins with {first!r}, not with `[` or `{{`"
        raise InputError(message)
    return "csv"
