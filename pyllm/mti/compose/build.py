"""Instances out of a spec: names are drawn, conditions checked, texts filled in, golds computed.

One stream of random numbers a task, made from the seed and the task's id: the same spec, data and seed give the same
bytes, and fewer instances are the first of more. The demonstration is drawn first, like any instance.
"""

import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final, NoReturn

from pyllm.errors import InputError
from pyllm.mti.compose.functions import FUNCTIONS, random_functions
from pyllm.mti.compose.rows import Row, RowFiles, data_sets, key_of
from pyllm.mti.compose.spec import Draw, Formula, Place, Spec, Step, formula
from pyllm.mti.expressions import cut, kind_of
from pyllm.mti.tasks import Gold, Instance, Task, TaskMeta
from pyllm.provenance import sha256_hex

_TRIES: Final = 200
_ORDER: Final = re.compile(r"\([0-9]+\)(?:-\([0-9]+\))*")
_FRACTION: Final = re.compile(r"-?[0-9]+/[1-9][0-9]*")
_DECIMAL: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def compose(spec: Spec, files: RowFiles, *, seed: int, instances: int | None = None) -> Task:
    """Make the task of a spec.

    Args:
        spec: The spec.
        files: Where its data is.
        seed: Decides every draw.
        instances: How many; as the spec says if None.

    Raises:
        InputError: The data or the spec is wrong, or the data gives too few instances.
    """
    builder = _Builder(spec, data_sets(spec, files), random.Random(int(sha256_hex(f"{seed}:{spec.id}"), 16)))
    demonstration = builder.next(demonstration=True)
    built = [builder.next().instance for _ in range(instances or spec.instances)]
    meta = TaskMeta(
        name=spec.name,
        subset=spec.subset,
        answer_types=tuple(step.answer_type for step in spec.steps),
        sources=tuple(dict.fromkeys(data.file for data in spec.data.values())),
        gold=spec.gold,
        demo_steps=tuple(_demonstrated_steps(demonstration)),
    )
    return Task(spec.id, tuple(built), _demonstration(demonstration), meta)


def task_file(tasks: Sequence[Task]) -> bytes:
    """Tasks in the published schema, with `meta`, as JSON.

    Raises:
        InputError: A text cannot be written as UTF-8.
    """
    document = {task.id: _task_object(task) for task in tasks}
    try:
        return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()
    except UnicodeEncodeError as error:
        around = error.object[max(error.start - 30, 0) : error.start]
        message = f"a text holds half a surrogate pair, which cannot be written as UTF-8, behind `{cut(around)}`"
        raise InputError(message) from error


def _task_object(task: Task) -> dict[str, Any]:
    body: dict[str, Any] = {"instance": {each.uid: _instance_object(each) for each in task.instances}}
    body["sample"] = task.sample
    if task.meta is not None:
        meta = task.meta
        body["meta"] = {
            "name": meta.name,
            "subset": meta.subset,
            "answer_types": list(meta.answer_types),
            "sources": list(meta.sources),
            "gold": meta.gold,
            "demo_steps": list(meta.demo_steps),
        }
    return body


def _instance_object(instance: Instance) -> dict[str, Any]:
    return {
        "query": instance.query,
        "instruction": {str(step): text for step, text in enumerate(instance.instructions, start=1)},
        "context": {
            f"{step}_{number}": text
            for step, texts in enumerate(instance.contexts, start=1)
            for number, text in enumerate(texts)
        },
        "answers": list(instance.answers),
    }


@dataclass(frozen=True, slots=True)
class _Built:
    instance: Instance
    reasonings: tuple[str, ...]


# Rows that one try drew: by data set and by how they may be used again.
_Drawn = dict[str, dict[str, set[int]]]


class _NotBuiltError(Exception):
    """The draws of one try led nowhere: another may not."""


@dataclass(slots=True)
class _Builder:
    spec: Spec
    data: Mapping[str, list[Row]]
    generator: random.Random
    spent: dict[str, set[int]] = field(default_factory=dict)
    demonstrated: dict[str, set[int]] = field(default_factory=dict)
    texts: set[object] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    count: int = 0
    formulas: dict[str, Formula] = field(default_factory=dict)

    def __post_init__(self) -> None:
        functions = {**FUNCTIONS, **random_functions(self.generator)}
        for draw in self.spec.draws:
            if draw.text is not None:
                self.formulas[draw.name] = formula(draw.place, draw.text, functions)

    def next(self, *, demonstration: bool = False) -> _Built:
        """The next instance.

        Raises:
            InputError: None could be had in many tries.
        """
        reasons: Counter[str] = Counter()
        while True:
            try:
                return self._try(demonstration=demonstration)
            except _NotBuiltError as failure:
                reasons[str(failure)] += 1
            if reasons.total() == _TRIES:
                self._give_up(reasons)

    def _give_up(self, reasons: Counter[str]) -> NoReturn:
        (reason, times), *_ = reasons.most_common(1)
        built = f"only {self.count} instances and a demonstration" if self.demonstrated else "nothing"
        self.spec.place.refuse(
            f"{built} could be built: in {times} of {_TRIES} tries {reason}",
            hint="ask for fewer with --instances, or loosen the conditions",
        )

    def _try(self, *, demonstration: bool) -> _Built:
        names: dict[str, Any] = {**self.spec.constants, "number": self.count + 1}
        drawn: _Drawn = {}
        for draw in self.spec.draws:
            names[draw.name] = self._draw(draw, names, drawn)
        for index, condition in enumerate(self.spec.require):
            if not _verdict(self.spec.place.at("require").at(index), condition(names)):
                raise _NotBuiltError(f"`require[{index}]` was false")
        built = _fill(self.spec, names)
        content = (built.instance.instructions, built.instance.contexts)
        shown = built.instance.contexts if any(built.instance.contexts) else content
        if shown in self.texts:
            raise _NotBuiltError("it had the texts of another instance")
        if not demonstration and built.instance.uid in self.uids:
            self.spec.place.at("uid").refuse(f"`{built.instance.uid}` names two instances")
        self.texts.add(shown)
        if not demonstration:
            self.uids.add(built.instance.uid)
            self.count += 1
        if demonstration:
            self.demonstrated = {name: set().union(*rows.values()) for name, rows in drawn.items()}
        for source, rows in drawn.items():
            self.spent.setdefault(source, set()).update(rows.get("never", ()))
        return built

    def _draw(self, draw: Draw, names: Mapping[str, Any], drawn: _Drawn) -> Any:
        if draw.source is None:
            return self.formulas[draw.name](names)
        rows = self.data[draw.source]
        wanted = 1 if draw.count is None else draw.count(names)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 0:
            draw.place.at("count").refuse(f"{kind_of(wanted)} is no count")
        here_before = drawn.setdefault(draw.source, {}).setdefault(draw.reuse, set())
        taken: set[int] = set()
        if draw.reuse != "always":
            taken |= self.demonstrated.get(draw.source, set())
        if draw.reuse == "never":
            taken |= self.spent.get(draw.source, set()) | here_before
        chosen: list[Row] = []
        keys: set[Any] = set()
        for index in _in_random_order(len(rows), self.generator):
            if len(chosen) == wanted:
                break
            if index in taken:
                continue
            here = {**names, "it": rows[index], "chosen": chosen}
            key = key_of(draw.distinct(here)) if draw.distinct else index
            if key in keys or (draw.where and not _verdict(draw.place.at("where"), draw.where(here))):
                continue
            keys.add(key)
            chosen.append(rows[index])
            here_before.add(index)
        if len(chosen) < wanted:
            raise _NotBuiltError(f"`{draw.place.path}` found {len(chosen)} of {wanted} rows")
        return chosen[0] if draw.count is None else chosen


def _in_random_order(count: int, generator: random.Random) -> Iterator[int]:
    """The numbers below `count` in random order, each drawn when it is asked for."""
    moved: dict[int, int] = {}
    for last in range(count - 1, -1, -1):
        pick = generator.randrange(last + 1)
        yield moved.get(pick, pick)
        moved[pick] = moved.get(last, last)


def _verdict(place: Place, value: Any) -> bool:
    if not isinstance(value, bool):
        place.refuse(f"{kind_of(value)} is neither true nor false")
    return value


def _fill(spec: Spec, names: dict[str, Any]) -> _Built:
    """Texts and golds of an instance; the gold of step k is called `answer<k>` from then on."""
    instructions, contexts, answers, reasonings = [], [], [], []
    for number, step in enumerate(spec.steps, start=1):
        instructions.append(step.instruction(names))
        contexts.append(tuple(text(names) for text in step.contexts))
        value = step.answer(names)
        names[f"answer{number}"] = value
        answers.append(_gold(step, value))
        reasonings.append(step.reasoning(names))
        _check_tag(step, number, instructions[-1])
    uid = f"{spec.id}_{spec.uid(names)}"
    instance = Instance(uid, spec.id, spec.query, tuple(instructions), tuple(contexts), tuple(answers))
    return _Built(instance, tuple(reasonings))


def _check_tag(step: Step, number: int, instruction: str) -> None:
    if step.answer_type != "text" and not re.search(rf"<task{number}>.*<task{number}/>", instruction, re.DOTALL):
        step.place.at("instruction").refuse(
            f"it does not say `<task{number}>...<task{number}/>`, the tags of step {number}"
        )


def _gold(step: Step, value: Any) -> Gold:
    if isinstance(value, Fraction):
        value = value.numerator if value.denominator == 1 else float(value)
    fits = _FITS[step.answer_type]
    if isinstance(value, bool) or not isinstance(value, int | float | str | list) or not fits(value):
        shown = f"`{value}`" if isinstance(value, int | float | str | list) else kind_of(value)
        step.place.at("answer").refuse(f"{shown} is no gold of the type `{step.answer_type}`")
    return value


def _is_list(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(type(item) is int for item in value) or all(isinstance(item, str) for item in value)


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


_FITS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "int": lambda value: isinstance(value, int),
    "number": lambda value: isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)),
    "fraction": _matches(_FRACTION),
    "decimal": _matches(_DECIMAL),
    "set": lambda value: _is_list(value) and all(a < b for a, b in itertools.pairwise(value)),
    "list": _is_list,
    "order": _matches(_ORDER),
    "letter": _matches(re.compile(r"[A-Za-z]")),
    "span": lambda value: isinstance(value, str) and bool(value.strip()),
    "text": lambda value: isinstance(value, str) and bool(value.strip()),
}


def _demonstration(built: _Built) -> str:
    """All steps in one prompt, then all answers."""
    instance = built.instance
    head = [f"#{step}: {text}" for step, text in enumerate(instance.instructions, start=1)]
    contexts = [text for texts in instance.contexts for text in texts]
    parts = ["\n".join([instance.query, *head])]
    parts += ["\n".join(contexts)] if contexts else []
    parts.append("### Answer:")
    parts += [f"Task #{step}: {text}" for step, text in enumerate(_tagged(built), start=1)]
    return "\n\n".join(parts)


def _demonstrated_steps(built: _Built) -> Iterator[str]:
    """Each step as a prompt of its own, with its answer."""
    instance = built.instance
    for instruction, contexts, answer in zip(instance.instructions, instance.contexts, _tagged(built), strict=True):
        parts = [instruction, *(["\n".join(contexts)] if contexts else []), "### Answer:", answer]
        yield "\n\n".join(parts)


def _tagged(built: _Built) -> Iterator[str]:
    for number, (reasoning, gold) in enumerate(zip(built.reasonings, built.instance.answers, strict=True), start=1):
        yield f"{reasoning} <task{number}>{gold}<task{number}/>".lstrip()
