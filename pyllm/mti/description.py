"""What task files hold, task by task and step by step: kinds of work, lengths, answer types, and floors."""

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pyllm.mti.options import option_lists
from pyllm.mti.scoring import answer_types, subset_of
from pyllm.mti.shortcuts import hashable, majority
from pyllm.mti.tasks import Gold, Instance, Task


@dataclass(frozen=True, slots=True)
class StepDescription:
    """One step of a task.

    Args:
        task: Id of the task.
        name: Its name; empty where the file gives none.
        subset: `multi-step`, `multi-part`, `free-form`, or None where it is not known.
        instances: How many.
        steps: How many instructions an instance has.
        step: The 1-based step.
        kind: What is asked for: `choose one`, `choose all`, `order`, `compute`, `answer` or `write`.
        answer_types: How answers are compared, the commonest first.
        options: The usual length of the list that the gold belongs to; None without one.
        instruction_characters: Mean length of the instruction.
        context_characters: Mean length of the contexts, all together.
        distinct_golds: How many different golds.
        majority: The commonest gold.
        majority_share: Step accuracy of always giving it.
        joint_majority_share: Final accuracy of always giving the commonest golds of all steps together.
    """

    task: str
    name: str
    subset: str | None
    instances: int
    steps: int
    step: int
    kind: str
    answer_types: list[str]
    options: int | None
    instruction_characters: float
    context_characters: float
    distinct_golds: int
    majority: str
    majority_share: float
    joint_majority_share: float


def describe(tasks: Sequence[Task]) -> tuple[StepDescription, ...]:
    """Describe tasks, in their order."""
    return tuple(step for task in tasks for step in _of_task(task))


def _of_task(task: Task) -> list[StepDescription]:
    types = [answer_types(task, instance) for instance in task.instances]
    golds: list[list[Hashable]] = [[hashable(gold) for gold in instance.answers] for instance in task.instances]
    _, joint = majority([tuple(each) for each in golds])
    described = []
    for step in range(task.steps):
        of_step = [each[step] for each in golds]
        commonest, share = majority(of_step)
        counted = Counter(each[step] for each in types)
        sizes = [_list_size(instance, step) for instance in task.instances]
        # A number that is not always the label of an option was computed, not chosen.
        options = None if None in sizes else statistics.mode(sizes)
        described.append(
            StepDescription(
                task=task.id,
                name=task.meta.name if task.meta else "",
                subset=subset_of(task),
                instances=len(task.instances),
                steps=task.steps,
                step=step + 1,
                kind=_kind(counted.most_common(1)[0][0], options),
                answer_types=[kind for kind, _ in counted.most_common()],
                options=options,
                instruction_characters=statistics.fmean(len(each.instructions[step]) for each in task.instances),
                context_characters=statistics.fmean(sum(map(len, each.contexts[step])) for each in task.instances),
                distinct_golds=len(set(of_step)),
                majority=str(task.instances[of_step.index(commonest)].answers[step]),
                majority_share=share,
                joint_majority_share=joint,
            )
        )
    return described


def _list_size(instance: Instance, step: int) -> int | None:
    """The length of the list that holds all labels of the gold, looked for in this step and then in those before."""
    labels = _labels(instance.answers[step])
    for earlier in range(step, -1, -1):
        for text in (*instance.contexts[earlier], instance.instructions[earlier]):
            for options in option_lists(text):
                if labels and labels <= set(options.labels):
                    return len(options)
    return None


def _labels(gold: Gold) -> set[str]:
    if isinstance(gold, list):
        return {str(item) for item in gold}
    return set() if isinstance(gold, float) else {part.strip("() ") for part in str(gold).split("-")}


def _kind(answer_type: str, options: int | None) -> str:
    fixed = {"set": "choose all", "list": "choose all", "order": "order", "text": "write", "span": "answer"}
    if answer_type in fixed:
        return fixed[answer_type]
    if answer_type in {"int", "letter"} and options is not None:
        return "choose one"
    return "answer" if answer_type == "letter" else "compute"
