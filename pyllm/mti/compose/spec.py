"""Reads a task spec: a YAML file that says how a task is made from flat data sets.

Every key is known or refused, every expression and template is read before any data is. Messages name the file, the
key with its path, and the value.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, TypeVar, get_args

import yaml

from pyllm.data.examples import quoted
from pyllm.errors import InputError, reason_of
from pyllm.mti.compose.functions import FUNCTIONS
from pyllm.mti.compose.patterns import Pattern, read_pattern
from pyllm.mti.compose.templates import Template, read_template
from pyllm.mti.expressions import ExpressionError, Function, read_expression
from pyllm.mti.tasks import SUBSETS, AnswerType

DEFAULT_QUERY: Final = "Read the following passage, and follow the given steps."
DEFAULT_INSTANCES: Final = 200

_Value = TypeVar("_Value")

# Which functions a draw may call is known before a generator is.
_DRAWING: Final[Mapping[str, Function]] = dict(FUNCTIONS) | dict.fromkeys(("choice", "sample", "shuffle"), len)


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a spec, for messages."""

    file: str
    path: str = ""

    def at(self, key: str | int) -> "Place":
        """A key below this one."""
        part = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Place(self.file, self.path + part)

    def refuse(self, reason: str, *, hint: str | None = None) -> NoReturn:
        """Raise what is wrong here.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.file}: " + (f"`{self.path}`: " if self.path else "") + reason, hint=hint)


Reuse = Literal["never", "instances", "always"]

Formula = Callable[[Mapping[str, Any]], Any]
"""An expression whose failures say where in the spec it stands."""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that is done to the rows of a data set.

    Args:
        place: Its key.
        name: `where`, `match`, `let`, `unique`, `group` or `join`.
        expressions: By name; `where`, `unique` and `group` have one, called `by`; `join` has `key` and `with_key`.
        patterns: Of `match`, by field.
        other: The data set that is joined.
        into: The new field of `group` and `join`.
    """

    place: Place
    name: str
    expressions: Mapping[str, Formula]
    patterns: Mapping[str, Pattern]
    other: str = ""
    into: str = ""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Rows of a file and what is done to them, in order."""

    place: Place
    file: str
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """A name of an instance: the value of an expression, or rows of a data set.

    Args:
        place: Its key.
        name: The name.
        text: The expression, where it is one.
        source: The data set, where it is rows.
        count: How many rows, as an expression; None for one row that is no list.
        where: What a row, called `it`, must be, beside the rows `chosen` so far.
        distinct: What must differ among the chosen rows.
        reuse: Where a row may serve again: `never`, in other `instances` but not if the demonstration shows it, or
            `always`.
    """

    place: Place
    name: str
    text: str | None = None
    source: str | None = None
    count: Formula | None = None
    where: Formula | None = None
    distinct: Formula | None = None
    reuse: Reuse = "instances"


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction with its contexts and its gold."""

    place: Place
    instruction: Template
    contexts: tuple[Template, ...]
    answer_type: str
    answer: Formula
    reasoning: Template


@dataclass(frozen=True, slots=True)
class Spec:
    """How one task is made."""

    place: Place
    id: str
    name: str
    subset: str
    gold: str
    query: str
    instances: int
    uid: Template
    constants: Mapping[str, Any]
    data: Mapping[str, DataSet]
    draws: tuple[Draw, ...]
    require: tuple[Formula, ...]
    steps: tuple[Step, ...]


def read_spec(path: Path) -> Spec:
    """Read one spec.

    Raises:
        InputError: The file cannot be read, is no YAML, or a key or value of it is wrong.
    """
    place = Place(str(path))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read {path}: {reason_of(error)}"
        raise InputError(message) from error
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        place.refuse(f"it is no valid YAML: {' '.join(str(error).split())}")
    return _spec(place, value)


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses a key that stands twice and aliases, which can make small files huge."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(problem="aliases (`*name`) are not read")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                message = f"the key `{key.value}` stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class Keys:
    """A mapping of a spec, of which every key has to be asked for."""

    def __init__(self, place: Place, value: Any, known: tuple[str, ...], needed: tuple[str, ...] = ()) -> None:
        self.place = place
        self.value = _mapping(place, value)
        for key in self.value:
            if key not in known:
                place.refuse(f"there is no key `{key}`", hint=f"there is {quoted(known)}")
        for key in needed:
            if key not in self.value:
                place.refuse(f"the key `{key}` is missing")

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def text(self, key: str, default: str = "") -> str:
        """The text of a key."""
        value = self.value.get(key, default)
        if not isinstance(value, str):
            self.place.at(key).refuse(f"`{value}` is not a text", hint="put it in quotes")
        return value

    def expression(self, key: str) -> Formula | None:
        """The expression of a key; None without the key."""
        return formula(self.place.at(key), self.value[key]) if key in self.value else None

    def template(self, key: str, default: str = "") -> Template:
        """The template of a key."""
        return _template(self.place.at(key), self.text(key, default))

    def items(self, key: str) -> list[Any]:
        """The list of a key; empty without it."""
        value = self.value.get(key, [])
        if not isinstance(value, list):
            self.place.at(key).refuse(f"`{value}` is not a list")
        return value


def _mapping(place: Place, value: Any) -> dict[str, Any]:
    """A mapping whose keys are texts."""
    if not isinstance(value, dict):
        place.refuse("it is not a mapping of keys to values")
    for key in value:
        if not isinstance(key, str):
            place.refuse(f"the key `{key}` is not a text", hint="put it in quotes")
    return value


def formula(place: Place, value: Any, functions: Mapping[str, Function] = FUNCTIONS) -> Formula:
    """Read an expression of a spec; a plain number counts as one."""
    if not isinstance(value, str | int | float):
        place.refuse("it is not an expression")
    read = _at(place, lambda: read_expression(str(value), functions))
    return lambda names: _at(place, lambda: read(names))


def _template(place: Place, text: str) -> Template:
    read = _at(place, lambda: read_template(text, FUNCTIONS))
    return lambda names: _at(place, lambda: read(names))


def _at(place: Place, work: Callable[[], _Value]) -> _Value:
    try:
        return work()
    except ExpressionError as error:
        place.refuse(error.message, hint=error.hint)


_SPEC_KEYS: Final = (
    "id",
    "name",
    "subset",
    "gold",
    "query",
    "instances",
    "uid",
    "constants",
    "data",
    "draw",
    "require",
    "steps",
)


def _spec(place: Place, value: Any) -> Spec:
    keys = Keys(place, value, _SPEC_KEYS, ("id", "subset", "draw", "steps"))
    subset = keys.text("subset")
    if subset not in SUBSETS:
        place.at("subset").refuse(f"there is no `{subset}`", hint=f"there is {quoted(SUBSETS)}")
    instances = keys.value.get("instances", DEFAULT_INSTANCES)
    if isinstance(instances, bool) or not isinstance(instances, int) or instances < 1:
        place.at("instances").refuse(f"`{instances}` is not a whole number above 0")
    task = keys.text("id")
    if not task:
        place.at("id").refuse("it is empty")
    return Spec(
        place=place,
        id=task,
        name=keys.text("name"),
        subset=subset,
        gold=keys.text("gold"),
        query=keys.text("query", DEFAULT_QUERY),
        instances=instances,
        uid=keys.template("uid", "{number}"),
        constants=_mapping(place.at("constants"), keys.value.get("constants", {})),
        data=_data(place.at("data"), keys.value.get("data", {})),
        draws=_draws(place.at("draw"), keys.value["draw"], keys.value.get("data", {})),
        require=tuple(formula(place.at("require").at(k), each) for k, each in enumerate(keys.items("require"))),
        steps=_steps(place.at("steps"), keys.items("steps")),
    )


def _data(place: Place, value: Any) -> dict[str, DataSet]:
    found: dict[str, DataSet] = {}
    for name, body in _mapping(place, value).items():
        keys = Keys(place.at(name), body, ("file", "rows"), ("file",))
        actions = [
            _action(keys.place.at("rows").at(index), item, tuple(found))
            for index, item in enumerate(keys.items("rows"))
        ]
        found[name] = DataSet(keys.place, keys.text("file"), tuple(actions))
    return found


def _action(place: Place, value: Any, known: Sequence[str]) -> Action:
    body = Keys(place, value, ("where", "match", "let", "unique", "group", "join")).value
    if len(body) != 1:
        place.refuse("an action has one key", hint="start each with `- `")
    (name,) = body
    here = place.at(name)
    if name in {"where", "unique"}:
        return Action(here, name, {"by": formula(here, body[name])}, {})
    if name == "let":
        return Action(here, name, {k: formula(here.at(k), v) for k, v in _mapping(here, body[name]).items()}, {})
    if name == "match":
        fields = {k: _pattern(here.at(k), v) for k, v in _mapping(here, body[name]).items()}
        return Action(here, name, {}, fields)
    needed = ("by", "as") if name == "group" else ("with", "key", "with_key", "as")
    keys = Keys(here, body[name], needed, needed)
    if name == "join" and keys.text("with") not in known:
        here.at("with").refuse(f"no data set above is called `{keys.text('with')}`", hint=f"there is {quoted(known)}")
    expressions = {key: formula(here.at(key), keys.value[key]) for key in ("by", "key", "with_key") if key in keys}
    return Action(here, name, expressions, {}, keys.text("with"), keys.text("as"))


def _pattern(place: Place, value: Any) -> Pattern:
    if not isinstance(value, str):
        place.refuse("it is not a text")
    return _at(place, lambda: read_pattern(value))


def _draws(place: Place, value: Any, data: Any) -> tuple[Draw, ...]:
    draws = []
    for name, body in _mapping(place, value).items():
        here = place.at(name)
        if not name.isidentifier():
            here.refuse(f"`{name}` is not a name", hint="letters, digits and underscores")
        if not isinstance(body, dict):
            formula(here, body, _DRAWING)
            draws.append(Draw(here, name, text=str(body)))
            continue
        keys = Keys(here, body, ("from", "count", "where", "distinct", "reuse"), ("from",))
        source = keys.text("from")
        if source not in data:
            here.at("from").refuse(f"there is no data set `{source}`", hint=f"there is {quoted(data)}")
        reuse: Any = keys.text("reuse", "instances")
        if reuse not in get_args(Reuse):
            here.at("reuse").refuse(f"there is no `{reuse}`", hint=f"there is {quoted(get_args(Reuse))}")
        draws.append(
            Draw(
                here,
                name,
                source=source,
                count=keys.expression("count"),
                where=keys.expression("where"),
                distinct=keys.expression("distinct"),
                reuse=reuse,
            )
        )
    return tuple(draws)


def _steps(place: Place, values: list[Any]) -> tuple[Step, ...]:
    if not values:
        place.refuse("it holds no steps")
    steps = []
    for index, value in enumerate(values):
        here = place.at(index)
        names = ("instruction", "context", "type", "answer", "reasoning")
        keys = Keys(here, value, names, ("instruction", "type", "answer"))
        kind = keys.text("type")
        if kind not in get_args(AnswerType):
            here.at("type").refuse(f"there is no `{kind}`", hint=f"there is {quoted(get_args(AnswerType))}")
        contexts = keys.items("context")
        for number, text in enumerate(contexts):
            if not isinstance(text, str):
                here.at("context").at(number).refuse(f"`{text}` is not a text", hint="put it in quotes")
        steps.append(
            Step(
                here,
                keys.template("instruction"),
                tuple(_template(here.at("context").at(number), text) for number, text in enumerate(contexts)),
                kind,
                formula(here.at("answer"), keys.value["answer"]),
                keys.template("reasoning"),
            )
        )
    return tuple(steps)
