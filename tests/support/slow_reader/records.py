"""Records out of text: JSON arrays, JSON lines and CSV, with the bad ones named instead of fatal.

A record is bad when it is damaged (not JSON, not UTF-8, ragged) or cannot be stored (half of a surrogate pair,
nesting without end). Damage to a JSON array's own frame leaves nothing to go on from, so that is refused whole.
"""

import json
import re
from collections.abc import Iterator
from json import JSONDecodeError
from typing import Any, NamedTuple, NoReturn

from pyllm.data.files import FileBytes
from pyllm.errors import InputError

MAX_NESTING = 64
"""A record nested deeper than this is bad."""

_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)
_JSON_BLANKS = re.compile(r"[ \t\r\n]*")
_JSON_SCALAR = re.compile(r"[^,\]}\s]*")
_CSV_FIELD = re.compile(r'(?:"([^"]*(?:""[^"]*)*)"|([^",\r\n][^,\r\n]*)?)(,|\r\n|\n|\r|\Z)')
_LINE_END = re.compile(r"\r\n|\n|\r|\Z")


class Record(NamedTuple):
    """One record of a file.

    Args:
        row: Its 0-based place among the file's records, bad ones counted.
        line: The 1-based line it begins on, in formats of lines.
        value: Its fields, or None when it is bad.
        reason: What is wrong with it, or None.
        raw: Its text as it stood in the file, where that is at hand.
    """

    row: int
    line: int | None
    value: dict[str, Any] | None
    reason: str | None
    raw: bytes | str | None


def text_records(file: FileBytes) -> list[Record]:
    """All records of a text file, in order.

    Args:
        file: JSON array, JSON lines or CSV.

    Returns:
        Good and bad records; blank lines are none.

    Raises:
        InputError: The file as a whole cannot be read.
    """
    if file.format == "json_lines":
        return list(_json_lines(file.data))
    text = _decoded(file)
    if file.format == "json_array":
        return _json_array(file.source, text)
    return list(_csv_rows(file.source, text))


def _decoded(file: FileBytes) -> str:
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = file.data.count(b"\n", 0, error.start) + 1
        message = f"{file.source} is not UTF-8 text: line {line} holds byte 0x{file.data[error.start]:02x}"
        raise InputError(message) from error


def _refuse_constant(name: str) -> NoReturn:
    message = f"holds {name}, which is not JSON"
    raise ValueError(message)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _json_lines(data: bytes) -> Iterator[Record]:
    row = 0
    for line, stored in enumerate(data.split(b"\n"), 1):
        raw = stored.removesuffix(b"\r")
        if not raw or raw.isspace():
            continue
        value, reason = _json_line(raw)
        yield Record(row, line, value, reason, raw)
        row += 1


def _json_line(raw: bytes) -> tuple[dict[str, Any] | None, str | None]:
    try:
        text = raw.decode("utf-8")
        value = _DECODER.decode(text)
    except UnicodeDecodeError as error:
        return None, f"is not UTF-8 text: byte 0x{raw[error.start]:02x} at position {error.start}"
    except JSONDecodeError as error:
        return None, f"is not valid JSON: {_lowered(error.msg)} (column {error.colno})"
    except RecursionError:
        return None, f"is nested deeper than {MAX_NESTING} levels"
    except ValueError as error:
        return None, _lowered(str(error))
    return _checked(value, may_hold_surrogates=_SURROGATE_ESCAPE.search(text) is not None)


def _json_array(source: str, text: str) -> list[Record]:
    return list(_walk_array(source, text))


def _walk_array(source: str, text: str) -> Iterator[Record]:
    place = _after_blanks(text, text.index("[") + 1)
    row = 0
    if text[place : place + 1] == "]" and _after_blanks(text, place + 1) != len(text):
        _refuse_array(source, text, row, place + 1, "text follows the end of the array")
    while text[place : place + 1] != "]":
        value, reason, end = _array_element(source, text, row, place)
        if reason is None:
            value, reason = _checked(value, may_hold_surrogates=True)
        yield Record(row, None, value, reason, text[place:end])
        row += 1
        place = _after_blanks(text, end)
        if text[place : place + 1] == ",":
            place = _after_blanks(text, place + 1)
            if text[place : place + 1] == "]":
                _refuse_array(source, text, row, place, "expecting value")
        elif text[place : place + 1] != "]":
            _refuse_array(source, text, row - 1, place, "expecting ',' or ']' after it")
    if _after_blanks(text, place + 1) != len(text):
        _refuse_array(source, text, row - 1, place + 1, "text follows the end of the array")


def _array_element(source: str, text: str, row: int, place: int) -> tuple[Any, str | None, int]:
    try:
        value, end = _DECODER.raw_decode(text, place)
    except JSONDecodeError as error:
        _refuse_array(source, text, row, error.pos, _lowered(error.msg))
    except RecursionError:
        return None, f"is nested deeper than {MAX_NESTING} levels", _value_end(text, place)
    except ValueError as error:
        return None, _lowered(str(error)), _value_end(text, place)
    return value, None, end


def _value_end(text: str, place: int) -> int:
    """Where a JSON value ends, by its brackets alone: for values that the parser gives up on."""
    if text[place] not in "[{":
        scalar = _JSON_SCALAR.match(text, place)
        return scalar.end() if scalar else place + 1
    depth = 0
    for token in _JSON_TOKEN.finditer(text, place):
        if token.group() in "[{":
            depth += 1
        elif token.group() in "]}":
            depth -= 1
            if depth == 0:
                return token.end()
    return len(text)


def _refuse_array(source: str, text: str, row: int, place: int, reason: str) -> NoReturn:
    line = text.count("\n", 0, place) + 1
    column = place - (text.rfind("\n", 0, place) + 1) + 1
    message = f"{source} is not a valid JSON array: row {row}, line {line}, column {column}: {reason}"
    raise InputError(message, hint="the file may be torn; one object a line (JSONL) can be read around bad rows")


def _after_blanks(text: str, place: int) -> int:
    blanks = _JSON_BLANKS.match(text, place)
    return blanks.end() if blanks else place


def _checked(value: Any, *, may_hold_surrogates: bool) -> tuple[dict[str, Any] | None, str | None]:
    if not isinstance(value, dict):
        return None, f"is {described(value)}, not an object"
    if any(type(field) in (dict, list) for field in value.values()) and _nesting(value) > MAX_NESTING:
        return None, f"is nested deeper than {MAX_NESTING} levels"
    if may_hold_surrogates:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            return None, "holds half of a surrogate pair, which is no text"
    return value, None


def _nesting(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= MAX_NESTING:
        depth += 1
        inner: list[Any] = []
        for item in level:
            members = item.values() if isinstance(item, dict) else item
            inner.extend(member for member in members if type(member) in (dict, list))
        level = inner
    return depth


def described(value: Any) -> str:
    """What kind of JSON value this is, with its article, for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"a value of type {type(value).__name__}"


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _csv_rows(source: str, text: str) -> Iterator[Record]:
    rows = _csv_records(text)
    _, fields, reason, _ = next(rows)
    header = ["" if name is None else name for name in fields]
    if reason is not None:
        message = f"{source} has no CSV header: line 1 {reason}"
        raise InputError(message)
    twice = next((name for place, name in enumerate(header) if name in header[:place]), None)
    if twice is not None:
        message = f"{source} has column `{twice}` twice in its CSV header"
        raise InputError(message)
    row = 0
    for line, fields, damage, raw in rows:
        if damage is None and fields == [None]:
            continue  # a blank line
        if damage is None and len(fields) == len(header):
            yield Record(row, line, dict(zip(header, fields, strict=True)), None, raw)
        else:
            ragged = f"has {len(fields)} fields, the header has {len(header)}"
            yield Record(row, line, None, damage or ragged, raw)
        row += 1


def _csv_records(text: str) -> Iterator[tuple[int, list[str | None], str | None, str]]:
    """Line, fields, reason and text of each CSV record. An empty field is null, a quoted empty one is empty text.

    Written out because the readers at hand either lose that difference or fill short rows up without a word.
    """
    place, line, counted = 0, 1, 0
    while place < len(text):
        line += text.count("\n", counted, place)
        start = counted = place
        fields: list[str | None] = []
        reason = None
        while True:
            field = _CSV_FIELD.match(text, place)
            if field is None:
                reason = f"has a quotation mark in field {len(fields) + 1} that is stray or never closed"
                end = _LINE_END.search(text, start)
                place = end.end() if end else len(text)
                break
            quoted, plain, separator = field.groups()
            fields.append(plain if quoted is None else quoted.replace('""', '"'))
            place = field.end()
            if separator != ",":
                break
        yield line, fields, reason, text[start:place].rstrip("\r\n")
