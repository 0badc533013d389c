"""Flaws of task files that a program can see, each with the instance and the step that has it.

Nothing here judges whether a gold is right. A finding says what is wrong with the text or the gold as it stands, or
that answers can be had without reading (`pyllm.mti.shortcuts`).
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, cast

from pyllm.mti.comparison import read_gold
from pyllm.mti.options import option_lists, plain
from pyllm.mti.parsing import find_published
from pyllm.mti.shortcuts import shortcuts
from pyllm.mti.strict import is_published_match
from pyllm.mti.tasks import AnswerType, Gold, Instance, Task

if TYPE_CHECKING:
    import polars as pl

KINDS: Final = {
    "placeholder": "a name in braces that was never filled in",
    "tag_number": "asks for the tag of another step",
    "tag_missing": "asks for no tag, though its gold is no text",
    "duplicate_option": "two options with the same text",
    "unsorted_gold": "a list gold that is not in ascending order",
    "repeated_gold": "a list gold that names an item twice",
    "gold_not_listed": "a gold that names no label of the lists",
    "self_failing": "a gold that the strict scorer does not accept as its own answer",
    "gold_type": "a gold that is no value of the type its task states",
    "long_decimal": "a gold with more digits than anyone would write",
    "empty_text": "an instruction, a context or a gold with nothing in it",
    "duplicate_instance": "the same texts as another instance",
    "demonstration_instance": "the demonstration shows this very instance",
    "demonstration_tag": "the demonstration does not show the tag of a step",
    "majority": "always giving one answer beats guessing",
    "joint_majority": "always giving one answer at every step beats guessing",
    "odd_phrase": "the option that no other instance has is the right one",
    "double_space": "a double space marks the right option",
}
"""Every kind of finding, in the order of reports."""

LONG_DIGITS: Final = 12

_PLACEHOLDER = re.compile(r"(?<![\w\\{}^$])\{{1,2}\s*[A-Za-z_]\w*\s*\}{1,2}")
_LONE_PLACEHOLDER = re.compile(r"\{{1,2}\s*[A-Za-z_]\w*\s*\}{1,2}")
_TAG = re.compile(r"<\s*+(/?)\s*+task\s*+([0-9]{1,9})\s*+(/?)\s*+>", re.IGNORECASE)
_HEADER = re.compile(r"\A\s*#+[^\n]*(?:\n|\Z)")
_ORDER = re.compile(r"\(\w+\)(?:\s*-\s*\(\w+\))+")
_LONG_ENOUGH: Final = 40  # characters of a context that do not stand in a demonstration by accident


@dataclass(frozen=True, slots=True)
class Finding:
    """One flaw.

    Args:
        task: Id of the task.
        uid: The instance; None where it is the task as a whole.
        step: The 1-based step; None where it is all of them.
        kind: One of `KINDS`.
        share: For a shortcut, the share of instances that it solves; else None.
        message: What is wrong, with the value.
    """

    task: str
    uid: str | None
    step: int | None
    kind: str
    share: float | None
    message: str


def validate(tasks: Sequence[Task]) -> tuple[Finding, ...]:
    """Find the flaws of tasks: instances in the order of the file, then what concerns the task as a whole."""
    return tuple(finding for task in tasks for finding in _findings(task))


def findings_table(findings: Sequence[Finding]) -> "pl.DataFrame":
    """One row a finding, with the columns of `Finding`."""
    import polars as pl

    schema = {
        "task": pl.String,
        "uid": pl.String,
        "step": pl.Int32,
        "kind": pl.String,
        "share": pl.Float64,
        "message": pl.String,
    }
    return pl.DataFrame([astuple(each) for each in findings], schema=schema, orient="row")


def _findings(task: Task) -> Iterator[Finding]:
    first_with: dict[object, str] = {}
    for instance in task.instances:
        for step, kind, message in _of_instance(task, instance):
            yield Finding(task.id, instance.uid, step, kind, None, message)
        content = (instance.query, instance.instructions, instance.contexts)
        if content in first_with:
            message = f"its texts are those of `{first_with[content]}`"
            yield Finding(task.id, instance.uid, None, "duplicate_instance", None, message)
        first_with.setdefault(content, instance.uid)
    for step in _steps_without_tag(task):
        message = f"no demonstration shows <task{step}>...<task{step}/>"
        yield Finding(task.id, None, step, "demonstration_tag", None, message)
    yield from _shortcut_findings(task)


_Flaw = tuple[int | None, str, str]


def _of_instance(task: Task, instance: Instance) -> Iterator[_Flaw]:
    if match := _PLACEHOLDER.search(instance.query):
        yield None, "placeholder", f"the query holds `{match[0]}`"
    for step in range(instance.steps):
        kind = task.meta.answer_types[step] if task.meta and task.meta.answer_types else None
        flaws = (
            *_text_flaws(instance, step),
            *_tag_flaws(instance.instructions[step], step + 1, instance.answers[step], kind),
            *_duplicates(instance, step),
            *_gold_flaws(instance, step, kind),
            *_self_failing(instance.answers[step], step + 1),
        )
        for name, message in flaws:
            yield step + 1, name, message
    if task.sample and _shown_in(task.sample, instance):
        yield None, "demonstration_instance", "all its contexts stand in the demonstration"


def _text_flaws(instance: Instance, step: int) -> Iterator[tuple[str, str]]:
    names = [match[0] for match in _PLACEHOLDER.finditer(instance.instructions[step])]
    if names:
        yield "placeholder", f"the instruction holds {', '.join(f'`{name}`' for name in names)}"
    if not instance.instructions[step].strip():
        yield "empty_text", "the instruction is empty"
    for place, context in enumerate(instance.contexts[step]):
        # A header with its text in the same line (`###Question: why?`) leaves nothing for the lines after it.
        header = _HEADER.match(context)
        body = context[header.end() :] if header else context
        if not body.strip() and not (header and re.search(r":\s*\S", header[0])):
            yield "empty_text", f"context {place} is empty"
        if _LONE_PLACEHOLDER.fullmatch(body.strip()):
            yield "placeholder", f"context {place} is nothing but `{body.strip()}`"


def _tag_flaws(instruction: str, step: int, gold: Gold, kind: str | None) -> Iterator[tuple[str, str]]:
    tags = [(int(match[2]), bool(match[1] or match[3])) for match in _TAG.finditer(instruction)]
    asked = [(number, closing) for number, closing in tags if number == step]
    if not tags:
        if kind != "text" and not isinstance(gold, str):
            yield "tag_missing", f"the instruction asks for no tag, but its gold is {gold}"
    elif (step, False) not in asked or (step, True) not in asked:
        shown = ", ".join(match[0] for match in _TAG.finditer(instruction))
        yield "tag_number", f"the instruction of step {step} asks for {shown}"


def _duplicates(instance: Instance, step: int) -> Iterator[tuple[str, str]]:
    for text in (instance.instructions[step], *instance.contexts[step]):
        for options in option_lists(text):
            count = Counter(phrase for each in options.texts if (phrase := plain(each)))
            for phrase, times in count.items():
                if times > 1:
                    labels = [
                        f"({a})" for a, b in zip(options.labels, options.texts, strict=True) if plain(b) == phrase
                    ]
                    gold = " and one of them is the gold" if f"({instance.answers[step]})" in labels else ""
                    yield "duplicate_option", f"options {', '.join(labels)} are the same{gold}: {_cut(phrase)}"


def _gold_flaws(instance: Instance, step: int, kind: str | None) -> Iterator[tuple[str, str]]:
    gold = instance.answers[step]
    if isinstance(gold, list) and kind != "list":
        if len(set(gold)) < len(gold):
            yield "repeated_gold", f"the gold {gold} names an item twice"
        if gold != sorted(gold):
            yield "unsorted_gold", f"the gold {gold} is not in ascending order"
    if isinstance(gold, str) and not gold.strip():
        yield "empty_text", "the gold is empty"
    if kind not in (None, "text", "span") and read_gold(gold, cast("AnswerType", kind)).value is None:
        yield "gold_type", f"the gold {_cut(str(gold))} is no value of the type `{kind}`"
    if (digits := _digits(gold)) > LONG_DIGITS:
        yield "long_decimal", f"the gold {gold} has {digits} digits"
    yield from _unlisted(instance, step, gold)


def _digits(gold: Gold) -> int:
    """Significant digits of a gold with a decimal point; 0 for any other."""
    if isinstance(gold, float):
        return len(Decimal(repr(gold)).normalize().as_tuple().digits)
    if isinstance(gold, str) and "." in gold and len(gold) < 1000:
        try:
            return len(Decimal(gold.strip()).normalize().as_tuple().digits)
        except ArithmeticError:
            return 0
    return 0


def _unlisted(instance: Instance, step: int, gold: Gold) -> Iterator[tuple[str, str]]:
    """Numbers of a list gold and items of an order gold that no list up to this step has."""
    if isinstance(gold, list):
        named = [str(item) for item in gold if isinstance(item, int)]
    elif isinstance(gold, str) and _ORDER.fullmatch(gold.strip()):
        named = re.findall(r"\w+", gold)
    else:
        return
    texts = [text for each in range(step + 1) for text in (instance.instructions[each], *instance.contexts[each])]
    labels = {label for text in texts for options in option_lists(text) for label in options.labels}
    numbered = {number for text in texts for number in re.findall(r"\bSent(?:ence)? ?([0-9]+):", text)}
    missing = [item for item in named if item not in labels | numbered]
    if missing and labels:
        yield "gold_not_listed", f"the gold {gold} names {', '.join(missing)}, which no list has"


def _self_failing(gold: Gold, step: int) -> Iterator[tuple[str, str]]:
    answer = find_published(f"<task{step}>{gold}<task{step}/>", step)
    if not is_published_match(answer.text, str(gold)):
        yield "self_failing", f"the strict scorer does not accept the gold {_cut(str(gold))} as an answer"


def _shown_in(sample: str, instance: Instance) -> bool:
    contexts = [text.strip() for texts in instance.contexts for text in texts]
    return sum(map(len, contexts)) >= _LONG_ENOUGH and all(text in sample for text in contexts)


def _steps_without_tag(task: Task) -> list[int]:
    """Steps whose instructions ask for a tag that the demonstration, where there is one, never shows."""
    first = task.instances[0]
    asked = [step for step in range(1, task.steps + 1) if _TAG.search(first.instructions[step - 1])]
    shown = task.sample
    steps = task.meta.demo_steps if task.meta else ()
    missing = []
    for step in asked:
        texts = ([shown] if shown else []) + ([steps[step - 1]] if steps else [])
        if any(not any(int(match[2]) == step for match in _TAG.finditer(text)) for text in texts):
            missing.append(step)
    return missing


def _shortcut_findings(task: Task) -> Iterator[Finding]:
    for found in shortcuts(task):
        gain = f"right in {found.share:.1%}, where guessing is in {found.guessing:.1%}"
        rule = f"always answering {_cut(found.example)} is" if "majority" in found.kind else f"{KINDS[found.kind]}:"
        yield Finding(task.id, None, found.step, found.kind, found.share, f"{rule} {gain}")
        if "majority" not in found.kind:
            for uid in found.solved:
                yield Finding(task.id, uid, found.step, found.kind, None, "the cue points at its gold")


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return f"`{line}`" if len(line) <= 60 else f"`{line[:57]}...`"
