"""Rows of flat data sets: read from JSON lines, then filtered, taken apart, grouped and joined as a spec says."""

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from pyllm.data.files import read_file
from pyllm.errors import InputError
from pyllm.mti.compose.spec import Action, Spec
from pyllm.mti.expressions import kind_of

Row = dict[str, Any]

LINE: Final = "line"
"""The field that every row gets: its 1-based line in the file, unless the file has such a field."""


class RowFiles:
    """Files of rows below one folder, each read once.

    Args:
        folder: What the files of specs are relative to; the folder of the spec if None.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[Path, list[Row]] = {}

    def rows(self, spec: Spec, file: str) -> list[Row]:
        """The rows of a file that a spec names.

        Raises:
            InputError: The file cannot be read, or a line is no JSON object.
        """
        path = (Path(spec.place.file).parent if self._folder is None else self._folder) / file
        if path not in self._known:
            if not path.exists():
                message = f"cannot read {path}: no such file"
                raise InputError(message, hint="say with --data where the files that specs name are")
            self._known[path] = _read(path)
        return self._known[path]


def data_sets(spec: Spec, files: RowFiles) -> dict[str, list[Row]]:
    """The data sets of a spec by name.

    Raises:
        InputError: A file cannot be read, an expression fails, or a data set ends up empty.
    """
    done: dict[str, list[Row]] = {}
    for name, data in spec.data.items():
        rows = files.rows(spec, data.file)
        for action in data.actions:
            rows = _ACTIONS[action.name](action, rows, spec.constants, done)
            if not rows:
                action.place.refuse(f"no row of `{data.file}` is left")
        done[name] = rows
    return done


def _read(path: Path) -> list[Row]:
    file = read_file(path)
    rows = []
    for number, line in enumerate(file.data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            message = f"{path}, line {number}: it is not valid JSON: {error}"
            raise InputError(message, hint="each line has to be one JSON object") from error
        if not isinstance(row, dict):
            message = f"{path}, line {number}: it is not a JSON object"
            raise InputError(message)
        rows.append({LINE: number, **row})
    return rows


def _no_constant(name: str) -> NoReturn:
    message = f"`{name}` is no number of JSON"
    raise ValueError(message)


def key_of(value: Any) -> Hashable:
    """A value as a key: lists and rows by what they hold."""
    return json.dumps(value, sort_keys=True, default=str) if isinstance(value, list | dict) else value


def _names(row: Row, constants: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**constants, **row}


def _where(action: Action, rows: list[Row], constants: Mapping[str, Any], _: Mapping[str, list[Row]]) -> list[Row]:
    kept = []
    for row in rows:
        verdict = action.expressions["by"](_names(row, constants))
        if not isinstance(verdict, bool):
            action.place.refuse(f"line {row[LINE]}: {kind_of(verdict)} is neither true nor false")
        if verdict:
            kept.append(row)
    return kept


def _match(action: Action, rows: list[Row], *_: Any) -> list[Row]:
    kept = []
    for row in rows:
        taken: dict[str, str] | None = {}
        for field, pattern in action.patterns.items():
            if not isinstance(row.get(field), str):
                action.place.refuse(f"line {row[LINE]}: the row has no text `{field}`")
            found = pattern.match(row[field])
            taken = None if found is None or taken is None else taken | found
        if taken is not None:
            kept.append(row | taken)
    return kept


def _let(action: Action, rows: list[Row], constants: Mapping[str, Any], _: Mapping[str, list[Row]]) -> list[Row]:
    changed = []
    for before in rows:
        row = dict(before)
        for name, value in action.expressions.items():
            row[name] = value(_names(row, constants))
        changed.append(row)
    return changed


def _unique(action: Action, rows: list[Row], constants: Mapping[str, Any], _: Mapping[str, list[Row]]) -> list[Row]:
    first: dict[Hashable, Row] = {}
    for row in rows:
        first.setdefault(key_of(action.expressions["by"](_names(row, constants))), row)
    return list(first.values())


def _group(action: Action, rows: list[Row], constants: Mapping[str, Any], _: Mapping[str, list[Row]]) -> list[Row]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key_of(action.expressions["by"](_names(row, constants))), []).append(row)
    return [members[0] | {action.into: members} for members in groups.values()]


def _join(action: Action, rows: list[Row], constants: Mapping[str, Any], known: Mapping[str, list[Row]]) -> list[Row]:
    others: dict[Hashable, Row] = {}
    for other in known[action.other]:
        others.setdefault(key_of(action.expressions["with_key"](_names(other, constants))), other)
    joined = []
    for row in rows:
        partner = others.get(key_of(action.expressions["key"](_names(row, constants))))
        if partner is not None:
            joined.append(row | {action.into: partner})
    return joined


_ACTIONS: Final[Mapping[str, Callable[..., list[Row]]]] = {
    "group": _group,
    "join": _join,
    "let": _let,
    "match": _match,
    "unique": _unique,
    "where": _where,
}
