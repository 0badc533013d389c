"""Worked examples that stand before a question: of all steps in one text, and of each step alone."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyllm.data.files import read_file
from pyllm.errors import InputError, SettingError
from pyllm.mti.tasks import Gold, Instance, Task

_ANSWER = "### Answer:"
_TAG = re.compile(r"<\s*task\s*([0-9]+)\s*(/?)\s*>", re.IGNORECASE | re.ASCII)
_PAIR = re.compile(r"<task[0-9]+>(?:(?!<task).)*<task[0-9]+/>", re.DOTALL | re.ASCII)


@dataclass(frozen=True, slots=True)
class Worked:
    """A demonstration cut where its answer begins.

    Args:
        question: Instruction and contexts.
        answer: Reasoning and tag.
    """

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """The worked examples of a task.

    Args:
        whole: All steps in one text; None where there is none.
        steps: The text of each step; empty where there are none.
    """

    whole: str | None
    steps: tuple[str, ...]


def demonstrations_of(task: Task, given: Mapping[str, Sequence[str]]) -> Demonstrations:
    """What a task demonstrates: of its own file, or of a file of demonstrations, which goes first for steps.

    Raises:
        SettingError: The file has another number of steps than the task.
    """
    own = task.meta.demo_steps if task.meta is not None else ()
    steps = tuple(given.get(task.id, own))
    if steps and len(steps) != task.steps:
        raise SettingError(
            f"the demonstration of task `{task.id}` has {len(steps)} steps, and the task {task.steps}",
            hint="give demonstrations of these tasks, or use --shots 0",
        )
    return Demonstrations(task.sample or ("\n\n".join(steps) or None), steps)


def read_demonstrations(path: Path) -> dict[str, tuple[str, ...]]:
    """Demonstrations by task and step: a JSON object of lists, or the published workbook.

    A workbook (`.xlsx`) has the columns `tuid`, `step#1`, `step#2`, ...; it needs a package that reads such files.

    Raises:
        InputError: The file cannot be read or has another form; the message names the task.
        SettingError: It is a workbook, and no package that reads one is installed.
    """
    if path.suffix.lower() == ".xlsx":
        return _of_workbook(path)
    file = read_file(path)
    try:
        value = json.loads(file.data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.source} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file.source} is not an object of demonstrations by task")
    for task, steps in value.items():
        if not isinstance(steps, list) or not steps or not all(isinstance(step, str) for step in steps):
            raise InputError(f"{file.source}, task `{task}`: it is not a list of texts, one a step")
    return {task: tuple(steps) for task, steps in value.items()}


def _of_workbook(path: Path) -> dict[str, tuple[str, ...]]:
    import polars as pl

    try:
        table = pl.read_excel(path, infer_schema_length=0)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"reading the workbook `{path}` needs a package that is not installed",
            hint="pip install fastexcel, or give the demonstrations as JSON: {task: [text of step 1, ...]}",
        ) from error
    except Exception as error:  # the readers of workbooks have no errors in common
        raise InputError(f"{path} cannot be read as a workbook: {error}") from error
    columns = [name for name in table.columns if name.startswith("step#")]
    if "tuid" not in table.columns or not columns:
        raise InputError(f"{path} has no columns `tuid` and `step#1`")
    made: dict[str, tuple[str, ...]] = {}
    for row in table.iter_rows(named=True):
        steps: list[Any] = [row[name] for name in columns]
        made[f"{int(float(row['tuid'])):03d}"] = tuple(str(step) for step in steps if step)
    return made


def worked(text: str) -> Worked:
    """A demonstration cut at its answer; without the usual mark, its last tag pair counts as the answer."""
    question, mark, answer = text.partition(_ANSWER)
    if mark:
        return Worked(question.rstrip("\n"), answer.strip("\n"))
    pairs = _PAIR.findall(text)
    return Worked(text, pairs[-1] if pairs else "")


def gold_text(gold: Gold) -> str:
    """A gold as a model would write it between tags."""
    return str(gold)


def gold_answer(instruction: str, gold: Gold, tag: int) -> str:
    """The answer to an instruction: in a tag where it asks for one, else alone."""
    return f"<task{tag}>{gold_text(gold)}<task{tag}/>" if _TAG.search(instruction) else gold_text(gold)


def retagged(text: str, step: int, tags: Mapping[int, int]) -> str:
    """A text of one step with its tags renumbered.

    Args:
        text: Instruction, demonstration or answer.
        step: Its step.
        tags: The new number of each step. A text that never names its own step is taken to mean it by whatever
            number it uses.
    """
    own = any(int(match[1]) == step for match in _TAG.finditer(text))

    def renumber(match: re.Match[str]) -> str:
        number = int(match[1]) if own else step
        return f"<task{tags.get(number, number)}{match[2]}>"

    return _TAG.sub(renumber, text)


def other_instances(task: Task, group: Sequence[Instance], count: int, seed: int) -> list[Instance]:
    """Instances to show with their golds: by chance of the seed, mostly the same ones, never one that is asked.

    Returns:
        `count` of them, or as many as there are.
    """
    asked = {instance.uid for instance in group}
    order = list(task.instances)
    random.Random(f"{seed} {task.id}").shuffle(order)
    return [instance for instance in order if instance.uid not in asked][:count]
