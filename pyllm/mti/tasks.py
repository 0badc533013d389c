"""Tasks of several instructions, in the published schema of MTI-Bench.

A file is one JSON object: task id -> `{"instance": {uid: {query, instruction, context, answers}}, "sample": text}`,
with a `meta` object where the task was composed by us. Instructions are keyed by their step (`"1"`, `"2"`, ...), and
contexts by step and place (`"1_0"`, `"1_1"`, `"2_0"`, ...); a step may have no context. Everything keeps its order.
"""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn, get_args

from pyllm.data.examples import quoted
from pyllm.data.files import read_file
from pyllm.errors import InputError

Gold = int | float | str | list[int] | list[str]
"""A right answer, with the type it has in the file."""

AnswerType = Literal["int", "number", "fraction", "decimal", "set", "list", "order", "letter", "span", "text"]
ANSWER_TYPES: Final = frozenset(get_args(AnswerType))
"""How an answer can be compared: what `meta.answer_types` may hold."""

SUBSETS: Final = ("multi-step", "multi-part", "free-form")

_CONTEXT_KEY = re.compile(r"([1-9][0-9]*)_[0-9]+", re.ASCII)
_STEP_KEY = re.compile(r"[1-9][0-9]*", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Instance:
    """One question of a task.

    Args:
        uid: Its name, unique in the file.
        task: Id of its task.
        query: What stands before all instructions.
        instructions: One a step.
        contexts: Of each step, in the order of the file; a step may have none.
        answers: The gold of each step.
    """

    uid: str
    task: str
    query: str
    instructions: tuple[str, ...]
    contexts: tuple[tuple[str, ...], ...]
    answers: tuple[Gold, ...]

    @property
    def steps(self) -> int:
        """How many instructions it has."""
        return len(self.instructions)


@dataclass(frozen=True, slots=True)
class TaskMeta:
    """What a composed task says of itself.

    Args:
        name: A few words.
        subset: `multi-step`, `multi-part` or `free-form`; empty where the file does not say.
        answer_types: How the answer of each step is compared; empty where the file does not say.
        sources: The data sets it was made from.
        gold: How its golds were derived, in words.
        demo_steps: The demonstration of each step: instruction, contexts, `### Answer:`, reasoning and tag.
    """

    name: str = ""
    subset: str = ""
    answer_types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    gold: str = ""
    demo_steps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """Instances that share instructions and a demonstration.

    Args:
        id: Its key in the file.
        instances: In the order of the file; at least one.
        sample: The demonstration of all steps in one prompt; empty where the file has none.
        meta: What a composed task says of itself; None in the published files.
    """

    id: str
    instances: tuple[Instance, ...]
    sample: str
    meta: TaskMeta | None

    @property
    def steps(self) -> int:
        """How many instructions its instances have."""
        return self.instances[0].steps


def read_tasks(path: Path) -> tuple[Task, ...]:
    """Read a task file, published or composed.

    Args:
        path: The file, plain or packed with gzip or zstd; `-` is standard input.

    Returns:
        The tasks in the order of the file.

    Raises:
        InputError: The file cannot be read or breaks the schema; the message names task, uid and field.
    """
    file = read_file(path)
    try:
        value = json.loads(file.data, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        message = f"{file.source} is not valid JSON: {reason[:1].lower()}{reason[1:]}"
        raise InputError(message) from error
    return tuple(_tasks(_Place(file.source), value))


class _Repeating(dict[str, Any]):
    """An object of which one key stands twice: kept apart until its place in the file is known."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    repeating = _Repeating(value)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            repeating.key = key
        seen.add(key)
    return repeating


def _no_constant(name: str) -> NoReturn:
    message = f"`{name}` is no number of JSON"
    raise ValueError(message)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, for messages."""

    file: str
    task: str | None = None
    uid: str | None = None
    field: str | None = None

    def at(self, field: str) -> "_Place":
        return _Place(self.file, self.task, self.uid, field if self.field is None else f"{self.field}.{field}")

    def refuse(self, reason: str, *, hint: str | None = None) -> NoReturn:
        parts = [self.file]
        parts += [f"{name} `{value}`" for name, value in (("task", self.task), ("uid", self.uid)) if value is not None]
        parts += [f"field `{self.field}`"] if self.field is not None else []
        raise InputError(f"{', '.join(parts)}: {reason}", hint=hint)

    def object(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(f"{_shown(value)} is not an object")
        if isinstance(value, _Repeating):
            self.refuse(f"the key `{value.key}` stands twice")
        return value

    def text(self, value: Any) -> str:
        if not isinstance(value, str):
            self.refuse(f"{_shown(value)} is not a text")
        if _SURROGATE.search(value):
            self.refuse("the text holds half a surrogate pair, which cannot be written as UTF-8")
        return value

    def texts(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            self.refuse(f"{_shown(value)} is not a list of texts")
        return tuple(self.at(str(index)).text(item) for index, item in enumerate(value))

    def need(self, value: dict[str, Any], name: str) -> Any:
        if name not in value:
            self.refuse(f"`{name}` is missing; it has {quoted(value)}")
        return value[name]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _tasks(file: _Place, value: Any) -> Iterator[Task]:
    tasks = file.object(value)
    if not tasks:
        file.refuse("it holds no tasks")
    owner: dict[str, str] = {}
    for name, body in tasks.items():
        task = _task(_Place(file.file, name), name, body)
        for instance in task.instances:
            if instance.uid in owner:
                _Place(file.file, name, instance.uid).refuse(f"task `{owner[instance.uid]}` has this uid too")
            owner[instance.uid] = name
        yield task


def _task(place: _Place, name: str, value: Any) -> Task:
    place.text(name)
    body = place.object(value)
    instances = place.at("instance").object(place.need(body, "instance"))
    if not instances:
        place.at("instance").refuse("it holds no instances")
    read = tuple(_instance(_Place(place.file, name, uid), item) for uid, item in instances.items())
    for before, after in itertools.pairwise(read):
        if before.steps != after.steps:
            _Place(place.file, name, after.uid).refuse(
                f"it has {after.steps} instructions, but `{before.uid}` of the same task has {before.steps}"
            )
    sample = place.at("sample").text(body.get("sample", ""))
    meta = None if body.get("meta") is None else _meta(place.at("meta"), body["meta"], read[0].steps)
    return Task(name, read, sample, meta)


def _instance(place: _Place, value: Any) -> Instance:
    if not place.text(place.uid):
        place.refuse("the uid is empty")
    body = place.object(value)
    query = place.at("query").text(place.need(body, "query"))
    instructions = _instructions(place.at("instruction"), place.need(body, "instruction"))
    contexts = _contexts(place.at("context"), place.need(body, "context"), len(instructions))
    answers = _answers(place.at("answers"), place.need(body, "answers"), len(instructions))
    return Instance(place.uid or "", place.task or "", query, instructions, contexts, answers)


def _instructions(place: _Place, value: Any) -> tuple[str, ...]:
    given = place.object(value)
    if not given:
        place.refuse("it holds no instructions")
    for key in given:
        if not _STEP_KEY.fullmatch(key):
            place.refuse(f"the key `{key}` is not the number of a step")
    texts = []
    for step in map(str, range(1, len(given) + 1)):
        if step not in given:
            place.refuse(f"step {step} is missing; it has {quoted(given)}")
        texts.append(place.at(step).text(given[step]))
    return tuple(texts)


def _contexts(place: _Place, value: Any, steps: int) -> tuple[tuple[str, ...], ...]:
    of_step: list[list[str]] = [[] for _ in range(steps)]
    for key, item in place.object(value).items():
        match = _CONTEXT_KEY.fullmatch(key)
        if match is None:
            place.refuse(f"the key `{key}` is not `<step>_<number>`")
        if len(match[1]) > 9 or int(match[1]) > steps:
            place.refuse(f"the key `{key}` belongs to step {match[1]}, but there are {steps} instructions")
        of_step[int(match[1]) - 1].append(place.at(key).text(item))
    return tuple(map(tuple, of_step))


def _answers(place: _Place, value: Any, steps: int) -> tuple[Gold, ...]:
    if not isinstance(value, list):
        place.refuse(f"{_shown(value)} is not a list")
    if len(value) != steps:
        place.refuse(f"it holds {len(value)} answers for {steps} instructions")
    return tuple(_gold(place.at(str(index)), item) for index, item in enumerate(value))


def _gold(place: _Place, value: Any) -> Gold:
    if isinstance(value, bool) or not isinstance(value, int | float | str | list):
        place.refuse(f"{_shown(value)} is neither a number nor a text nor a list of one of these")
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        place.refuse("the number is too large for a float")
    if isinstance(value, str):
        return place.text(value)
    if isinstance(value, list):
        return _gold_list(place, value)
    return value


def _gold_list(place: _Place, value: list[Any]) -> list[int] | list[str]:
    if all(isinstance(item, str) for item in value):
        return [place.at(str(index)).text(item) for index, item in enumerate(value)]
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        place.refuse(f"{_shown(value)} is not a list of whole numbers or of texts")
    return value


def _meta(place: _Place, value: Any, steps: int) -> TaskMeta:
    body = place.object(value)
    meta = TaskMeta(
        name=place.at("name").text(body.get("name", "")),
        subset=place.at("subset").text(body.get("subset", "")),
        answer_types=place.at("answer_types").texts(body.get("answer_types", [])),
        sources=place.at("sources").texts(body.get("sources", [])),
        gold=place.at("gold").text(body.get("gold", "")),
        demo_steps=place.at("demo_steps").texts(body.get("demo_steps", [])),
    )
    if meta.subset and meta.subset not in SUBSETS:
        place.at("subset").refuse(f"there is no `{meta.subset}`", hint=f"subsets are {quoted(SUBSETS)}")
    _check_of_each_step(place.at("answer_types"), meta.answer_types, steps)
    _check_of_each_step(place.at("demo_steps"), meta.demo_steps, steps)
    for index, kind in enumerate(meta.answer_types):
        if kind not in ANSWER_TYPES:
            place.at("answer_types").at(str(index)).refuse(
                f"there is no `{kind}`", hint=f"answer types are {quoted(get_args(AnswerType))}"
            )
    return meta


def _check_of_each_step(place: _Place, values: Sequence[str], steps: int) -> None:
    if values and len(values) != steps:
        place.refuse(f"it has {len(values)} entries for {steps} instructions")
