"""How a row of any known shape becomes one example: which fields it takes, and what makes it a bad row.

A row is recognised by its own keys (whatever their case; a null counts as absent), so one file may hold several
shapes. Text is passed on exactly as it stands.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyllm.data.examples import quoted
from pyllm.data.shapes import check_shape
from tests.support.slow_reader.conversations import Turn, assistant_turns, conversation, user_turns
from tests.support.slow_reader.records import described
from tests.support.slow_reader.rows import BadFieldError, text_of

_ANSWERS = ("output", "response", "completion", "answer")
_LEADS = {"alpaca": "instruction", "qa": "question", "prompt": "prompt", "text": "text"}
_COLUMNS = {
    "messages": "messages",
    "sharegpt": "conversations",
    "nested": "instances",
    "turns": "turns",
    "choices": "choices",
    **_LEADS,
}
# In this order: a conversation says more than the prompt that often stands beside it, and `text` names anything.
_RECOGNISED = ("messages", "sharegpt", "nested", "alpaca", "prompt", "qa", "turns", "choices", "text")
_PREFERENCES = (("chosen", "rejected"), ("chosen_messages", "rejected_messages"))
_MEDIA = ("image", "video", "audio")

KNOWN_KEYS = frozenset(
    {"input", "tools", *_ANSWERS, *_COLUMNS.values(), *itertools.chain(*_PREFERENCES)}
    | {name for medium in _MEDIA for name in (medium, f"{medium}s")}
)
"""Lower-case keys that decide how a row is read; all others are only passed on."""


class Content(NamedTuple):
    """What a row says.

    Args:
        shape: The shape it was read as.
        instruction: What is asked, or None for a conversation.
        input: What it is asked about, or None.
        output: The answer, or None.
        turns: The conversation as (role, content, trained), or None.
        tools: Tool descriptions as JSON text, or None.
        used: The row's keys that are used up by the above; all others are kept as columns.
    """

    shape: str
    instruction: str | None
    input: str | None
    output: str | None
    turns: list[Turn] | None
    tools: str | None
    used: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How rows with one set of keys are read: worked out once, used for every such row."""

    shape: str
    keys: dict[str, str]
    used: frozenset[str]
    error: BadFieldError | None


class ShapeReader:
    """Reads rows of one file.

    Args:
        shape: One of `SHAPES`.

        beside: Names of columns that the rows have and do not show, for error messages.

    Raises:
        SettingError: No such shape.
    """

    __slots__ = ("_beside", "_plans", "_shape")

    _MOST_PLANS = 4096

    def __init__(self, shape: str = "auto", *, beside: Sequence[str] = ()) -> None:
        check_shape(shape)
        self._shape = shape
        self._beside = tuple(beside)
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def read(self, row: Mapping[str, Any]) -> Content:
        """The content of one row.

        Raises:
            BadFieldError: The row fits no shape, is of another kind of data, or a field has a wrong type.
        """
        present = tuple(key for key, value in row.items() if value is not None)
        plan = self._plans.get(present)
        if plan is None:
            if len(self._plans) >= self._MOST_PLANS:
                self._plans.clear()
            plan = self._plans[present] = _plan(present, self._shape, self._beside)
        if plan.error is not None:
            raise plan.error
        content = _READERS[plan.shape](row, plan)
        _refuse_media(row, plan, content)
        return content


def _plan(present: tuple[str, ...], shape: str, beside: tuple[str, ...] = ()) -> _Plan:
    keys: dict[str, str] = {}
    for key in present:
        if key.lower() not in keys or key == key.lower():
            keys[key.lower()] = key
    for chosen, rejected in _PREFERENCES:
        if chosen in keys and rejected in keys:
            reason = f"is one side of a preference pair (with `{keys[rejected]}`), which is not instruction data"
            return _Plan(shape, keys, frozenset(), BadFieldError(keys[chosen], reason, wrong_kind=True))
    if shape == "auto":
        found = next((known for known in _RECOGNISED if _fits(known, keys)), None)
    else:
        found = shape if _fits(shape, keys) else None
    if found is None:
        return _Plan(shape, keys, frozenset(), _no_shape(shape, (*present, *beside)))
    wanted = {_COLUMNS[found], "tools"}
    if found in _LEADS:
        wanted |= {"input", *_answer_key(found, keys)}
        if found == "prompt" and "prompt" not in keys:
            wanted.add("conversations")
    if found == "nested":
        wanted.add("instruction")
    return _Plan(found, keys, frozenset(keys[name] for name in wanted if name in keys), None)


def _fits(shape: str, keys: Mapping[str, str]) -> bool:
    if shape == "nested":
        return "instances" in keys and "instruction" in keys
    if shape == "prompt":
        return "prompt" in keys or "conversations" in keys
    return _COLUMNS[shape] in keys


def _no_shape(shape: str, present: tuple[str, ...]) -> BadFieldError:
    found = f"(found {quoted(present)})"
    if shape == "auto":
        return BadFieldError(None, f"fits no known shape {found}")
    return BadFieldError(_COLUMNS[shape], f"is missing, which the shape `{shape}` needs {found}")


def _answer_key(shape: str, keys: Mapping[str, str]) -> tuple[str, ...]:
    order = ("answer", *_ANSWERS) if shape == "qa" else _ANSWERS
    return next(((name,) for name in order if name in keys), ())


def _optional_text(row: Mapping[str, Any], plan: _Plan, name: str) -> str | None:
    key = plan.keys.get(name)
    return None if key is None else text_of(row[key], key)


def _tools(row: Mapping[str, Any], plan: _Plan) -> str | None:
    key = plan.keys.get("tools")
    if key is None:
        return None
    value = row[key]
    return text_of(value, key, encode_lists=True)


def _read_fields(row: Mapping[str, Any], plan: _Plan) -> Content:
    lead = plan.keys[_LEADS[plan.shape]]
    output = next((_optional_text(row, plan, name) for name in _answer_key(plan.shape, plan.keys)), None)
    given = _optional_text(row, plan, "input")
    return Content(plan.shape, text_of(row[lead], lead), given, output, None, _tools(row, plan), plan.used)


def _read_prompt(row: Mapping[str, Any], plan: _Plan) -> Content:
    if "prompt" in plan.keys:
        return _read_fields(row, plan)
    return _read_fields(row, _Plan(plan.shape, {**plan.keys, "prompt": plan.keys["conversations"]}, plan.used, None))


def _read_nested(row: Mapping[str, Any], plan: _Plan) -> Content:
    key = plan.keys["instances"]
    first, more = _first_of(row[key], key)
    given, output = (
        None if first.get(name) is None else text_of(first[name], f"{key}[0].{name}") for name in ("input", "output")
    )
    used = plan.used - {key} if more else plan.used
    return Content("nested", _optional_text(row, plan, "instruction"), given, output, None, _tools(row, plan), used)


def _read_messages(row: Mapping[str, Any], plan: _Plan) -> Content:
    key = plan.keys["messages"]
    return _of_turns(row, plan, conversation(row[key], key))


def _read_sharegpt(row: Mapping[str, Any], plan: _Plan) -> Content:
    key = plan.keys["conversations"]
    if isinstance(row[key], str):  # evaluation sets keep a single prompt under this name
        return _read_prompt(row, _plan((key, *(other for other in plan.keys.values() if other != key)), "prompt"))
    return _of_turns(row, plan, conversation(row[key], key))


def _read_turns(row: Mapping[str, Any], plan: _Plan) -> Content:
    key = plan.keys["turns"]
    return _of_turns(row, plan, user_turns(row[key], key))


def _read_choices(row: Mapping[str, Any], plan: _Plan) -> Content:
    key = plan.keys["choices"]
    first, more = _first_of(row[key], key)
    turns = assistant_turns(first.get("turns"), f"{key}[0].turns")
    return Content("choices", None, None, None, turns, _tools(row, plan), plan.used - {key} if more else plan.used)


def _of_turns(row: Mapping[str, Any], plan: _Plan, turns: list[Turn]) -> Content:
    return Content(plan.shape, None, None, None, turns, _tools(row, plan), plan.used)


def _first_of(value: Any, key: str) -> tuple[Mapping[str, Any], bool]:
    if not isinstance(value, list):
        raise BadFieldError(key, f"is {described(value)}, not a list")
    if not value:
        raise BadFieldError(key, "is an empty list")
    if not isinstance(value[0], dict):
        raise BadFieldError(f"{key}[0]", f"is {described(value[0])}, not an object")
    return value[0], len(value) > 1


def _refuse_media(row: Mapping[str, Any], plan: _Plan, content: Content) -> None:
    for medium in _MEDIA:
        plural = plan.keys.get(f"{medium}s")
        if plural is not None and row[plural]:
            raise BadFieldError(plural, "makes this a multimodal row, which is not text", wrong_kind=True)
        beside = plural or plan.keys.get(medium)
        if beside is not None and any(f"<{medium}>" in text for text in _texts(content)):
            raise BadFieldError(beside, f"stands beside a literal <{medium}>: a multimodal row", wrong_kind=True)


def _texts(content: Content) -> Iterator[str]:
    yield from (text for text in (content.instruction, content.input) if text is not None)
    yield from (text for _, text, _ in content.turns or ())


_READERS = {
    **dict.fromkeys(_LEADS, _read_fields),
    "prompt": _read_prompt,
    "nested": _read_nested,
    "messages": _read_messages,
    "sharegpt": _read_sharegpt,
    "turns": _read_turns,
    "choices": _read_choices,
}
