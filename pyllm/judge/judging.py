"""A judge at work: answers to calls, calls to grades and verdicts. Prompts are in `wording`, reading in `verdicts`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pyllm.judge.answers import Answered, AnswerFile, Place
from pyllm.judge.calls import Call, Caller, Reply
from pyllm.judge.pairs import pairings
from pyllm.judge.verdicts import Verdict, read_choice, read_grade
from pyllm.judge.wording import VERSION, grade_prompt, pair_prompt
from pyllm.lm.backends.contract import Message

References = Mapping[str, tuple[str, ...]]
"""Right answers by prompt, from the first turn on."""

GRADE_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String,
    "category": pl.String,
    "turn": pl.UInt32,
    "repeat": pl.UInt32,
    "model": pl.String,
    "grade": pl.Float64,
    "parse": pl.String,
}
PAIR_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String,
    "category": pl.String,
    "turn": pl.UInt32,
    "repeat": pl.UInt32,
    "a": pl.String,
    "b": pl.String,
    "order": pl.String,
    "verdict": pl.String,
    "parse": pl.String,
    "a_characters": pl.UInt32,
    "b_characters": pl.UInt32,
}
_SPENT: dict[str, pl.DataType | type[pl.DataType]] = {
    "judge": pl.String,
    "prompt_version": pl.UInt32,
    "judge_repeat": pl.UInt32,
    "judge_prompt": pl.String,
    "judge_output": pl.String,
    "prompt_tokens": pl.UInt32,
    "generated_tokens": pl.UInt32,
    "error": pl.String,
}
"""Columns behind those of grades and verdicts: what was asked, what the judge said, and what it took."""


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to be judged.

    Args:
        prompt: What the judge reads.
        row: Columns of the table that are known before it is judged.
        repeat: Which of several judgements of the same.
    """

    prompt: str
    row: Mapping[str, Any]
    repeat: int = 0


def grade_tasks(files: Sequence[AnswerFile], references: References, *, judge_repeats: int = 1) -> list[Task]:
    """What must be judged to grade every answer of some files."""
    return [
        Task(_grade_prompt(file, answered, references), {**_place(answered), "model": file.label}, repeat)
        for file in files
        for answered in file.answers.values()
        for repeat in range(judge_repeats)
    ]


def pair_tasks(files: Sequence[AnswerFile], references: References, *, judge_repeats: int = 1) -> list[Task]:
    """What must be judged to compare the answers of every two files, each pair in both orders.

    Args:
        files: At least two, matched (`pyllm.judge.answers.matched`).
        references: Right answers.
        judge_repeats: Judgements of each pair and order.
    """
    tasks = []
    for first, second in pairings([file.label for file in files]):
        for place in files[first].answers:
            for order in ("ab", "ba"):
                task = pair_task(files[first], files[second], place, order, references)
                tasks += [Task(task.prompt, task.row, repeat) for repeat in range(judge_repeats)]
    return tasks


def pair_task(first: AnswerFile, second: AnswerFile, place: Place, order: str, references: References) -> Task:
    """What must be judged to compare two answers once.

    Args:
        first: The side `a`.
        second: The side `b`.
        place: Which answer.
        order: `ab` shows the first side's answer first.
        references: Right answers.
    """
    sides = [(file, file.answers[place]) for file in (first, second)]
    texts = [[text for _, text in file.said_before(each)] + [each.answer] for file, each in sides]
    questions = [question for question, _ in first.said_before(sides[0][1])] + [sides[0][1].prompt]
    shown = texts if order == "ab" else texts[::-1]
    row = {
        **_place(sides[0][1]),
        "category": sides[0][1].category or sides[1][1].category,
        "a": first.label,
        "b": second.label,
        "order": order,
        "a_characters": len(sides[0][1].answer),
        "b_characters": len(sides[1][1].answer),
    }
    right = references.get(place.prompt_id, ())[: place.turn]
    return Task(pair_prompt(questions, shown[0], shown[1], references=right), row)


def _grade_prompt(file: AnswerFile, answered: Answered, references: References) -> str:
    right = references.get(answered.place.prompt_id, ())[: answered.place.turn]
    return grade_prompt(answered.prompt, answered.answer, before=file.said_before(answered), references=right)


def _place(answered: Answered) -> dict[str, Any]:
    place = answered.place
    return {
        "prompt_id": place.prompt_id,
        "category": answered.category,
        "turn": place.turn,
        "repeat": place.repeat,
    }


def grade(caller: Caller, tasks: Sequence[Task], judge: str) -> pl.DataFrame:
    """Have answers graded: one row a task, in their order, with what the judge read and said."""
    rows = []
    for task, reply in zip(tasks, _judged(caller, tasks, "grading"), strict=True):
        verdict = None if reply.text is None else read_grade(reply.text)
        rows.append(
            {**task.row, "grade": None if verdict is None else verdict.value, **_said(task, reply, verdict, judge)}
        )
    return pl.DataFrame(rows, schema={**GRADE_COLUMNS, **_SPENT})


def compare(caller: Caller, tasks: Sequence[Task], judge: str) -> pl.DataFrame:
    """Have pairs compared: one row a task, in their order, with what the judge read and said."""
    rows = []
    for task, reply in zip(tasks, _judged(caller, tasks, "comparing"), strict=True):
        verdict = None if reply.text is None else read_choice(reply.text)
        side = None if verdict is None else _side(verdict, str(task.row["order"]))
        rows.append({**task.row, "verdict": side, **_said(task, reply, verdict, judge)})
    return pl.DataFrame(rows, schema={**PAIR_COLUMNS, **_SPENT})


def _side(verdict: Verdict, order: str) -> str | None:
    """Who won: the letter names a place, and the order says who stood there."""
    if verdict.parse != "ok":
        return None
    return "tie" if verdict.value == "C" else order["AB".index(str(verdict.value))]


def _said(task: Task, reply: Reply, verdict: Verdict | None, judge: str) -> dict[str, Any]:
    return {
        "parse": None if verdict is None else verdict.parse,
        "judge": judge,
        "prompt_version": VERSION,
        "judge_repeat": task.repeat,
        "judge_prompt": task.prompt,
        "judge_output": reply.text,
        "prompt_tokens": reply.prompt_tokens,
        "generated_tokens": reply.generated_tokens,
        "error": reply.error,
    }


def _judged(caller: Caller, tasks: Sequence[Task], stage: str) -> list[Reply]:
    replies: dict[int, Reply] = {}

    def follow(reply: Reply) -> Iterable[Call]:
        replies[int(reply.name)] = reply
        return ()

    calls = [Call(str(place), (Message("user", task.prompt),), task.repeat) for place, task in enumerate(tasks)]
    caller.run(calls, follow, total=len(calls), stage=stage)
    return [replies[place] for place in range(len(tasks))]
