"""Answers to be judged: the tables of `toolkit generate`, and files of others.

A file of others is matched by its prompts: Alpaca-Eval's hold `instruction`, `output` and `generator`. What is missing,
twice there or empty is named by row before a single call is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from pyllm.data.tables import Row, rows_of
from pyllm.errors import InputError
from pyllm.judge.questions import MOST_TURNS, category_of, digest_of, id_of, prompt_text

ANSWER_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "prompt_id": pl.String,
    "category": pl.String,
    "turn": pl.UInt32,
    "repeat": pl.UInt32,
    "prompt": pl.String,
    "answer": pl.String,
    "answer_tokens": pl.UInt32,
    "model": pl.String,
}
"""Columns of an answer table, and their types."""


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Which answer: prompts sort as text."""

    prompt_id: str
    repeat: int
    turn: int

    def __str__(self) -> str:
        repeat = f", repeat {self.repeat}" if self.repeat else ""
        return f"prompt `{self.prompt_id}`, turn {self.turn}{repeat}"


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer and what it answers.

    Args:
        place: Which one.
        row: Its row in the file.
        prompt: What the user said in this turn.
        answer: The answer.
        category: What the prompt is about.
    """

    place: Place
    row: int
    prompt: str
    answer: str
    category: str | None


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """The answers of one model.

    Args:
        source: The file, as messages call it.
        label: What tables call it.
        answers: In the order of the file.
        by_text: Its prompts have no names of their own, so they are known by their texts.
    """

    source: str
    label: str
    answers: Mapping[Place, Answered]
    by_text: bool = False

    def said_before(self, answered: Answered) -> tuple[tuple[str, str], ...]:
        """Turns before an answer, as what the user said and what was answered."""
        place = answered.place
        before = (self.answers[Place(place.prompt_id, place.repeat, turn)] for turn in range(1, place.turn))
        return tuple((each.prompt, each.answer) for each in before)


def read_answers(table: pl.DataFrame, source: str, *, label: str, allow_empty: bool = False) -> AnswerFile:
    """The answers of a table.

    Args:
        table: As it was read: `prompt_id`, `turn`, `repeat`, `prompt` and `answer`, of which `turn` and `repeat` may be
            missing; or a file of others with a prompt and `output`.
        source: What messages call it.
        label: What it is called where the table names no model.
        allow_empty: Let empty answers be judged as they are.

    Raises:
        InputError: A column is missing, or a row is wrong, empty or twice there; the message names the row.
    """
    found = rows_of(table, source, lower_names=True)
    column = "answer" if "answer" in found[0].values else "output"
    if column not in found[0].values:
        have = ", ".join(f"`{name}`" for name in table.columns)
        raise InputError(f"column `answer` is missing from {source} (found {have})")
    by_text = all(id_of(row) is None for row in found)
    answers: dict[Place, Answered] = {}
    for row in found:
        answered = _answered(row, column, allow_empty=allow_empty)
        before = answers.setdefault(answered.place, answered)
        if before is not answered:
            raise row.wrong("prompt_id", f"{answered.place} stood in row {before.row}")
    for answered in answers.values():
        place = answered.place
        if place.turn > 1 and Place(place.prompt_id, place.repeat, place.turn - 1) not in answers:
            raise InputError(f"{source}: row {answered.row}, field `turn`: {place} has no turn {place.turn - 1}")
    models = {str(row.values[name]) for row in found for name in ("model", "generator") if row.values.get(name)}
    return AnswerFile(source, models.pop() if len(models) == 1 else label, answers, by_text)


def _answered(row: Row, column: str, *, allow_empty: bool) -> Answered:
    prompt = prompt_text(row)
    if prompt is None:
        raise row.wrong("prompt", "it is missing")
    turn = _count(row, "turn", 1)
    if not 1 <= turn <= MOST_TURNS:
        raise row.wrong("turn", f"{turn} is no turn from 1 to {MOST_TURNS}")
    name = id_of(row)
    if name is None:
        if turn > 1:
            raise row.wrong("prompt_id", "a second turn needs it")
        name = digest_of([prompt])
    answer = row.values[column]
    if not isinstance(answer, str):
        raise row.wrong(column, "it is missing" if answer is None else "it is no text")
    if not answer.strip() and not allow_empty:
        raise InputError(
            f"{row.source}: row {row.number}, field `{column}`: the answer is empty",
            hint="leave the row out of all files, or judge it as it is with --allow-empty",
        )
    return Answered(Place(name, _count(row, "repeat", 0), turn), row.number, prompt, answer, category_of(row))


def _count(row: Row, column: str, default: int) -> int:
    value = row.values.get(column, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdecimal():  # CSV has no types
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise row.wrong(column, "it is no whole number at or above 0")
    return value


def matched(files: Sequence[AnswerFile]) -> list[AnswerFile]:
    """Files whose answers can be compared place by place, in the order of the first one.

    Where one of them knows its prompts by text alone, all of them do.

    Raises:
        InputError: An answer of one file is missing from another, or the same prompt reads otherwise there.
    """
    if any(each.by_text for each in files) and not all(each.by_text for each in files):
        files = [_by_text(each) for each in files]
    first = files[0]
    for other in files[1:]:
        for have, lack in ((first, other), (other, first)):
            missing = [answered for place, answered in have.answers.items() if place not in lack.answers]
            if missing:
                more = f", nor do {len(missing) - 1:,} more" if len(missing) > 1 else ""
                raise InputError(
                    f"{have.source}: row {missing[0].row}: {missing[0].place} does not stand in {lack.source}{more}"
                )
        for place, answered in first.answers.items():
            if other.answers[place].prompt != answered.prompt:
                raise InputError(
                    f"{other.source}: row {other.answers[place].row}, field `prompt`: {place} reads otherwise in"
                    f" {first.source}, row {answered.row}"
                )
    return list(files)


def _by_text(file: AnswerFile) -> AnswerFile:
    answers: dict[Place, Answered] = {}
    for place, answered in file.answers.items():
        if place.turn > 1:
            raise InputError(
                f"{file.source}: row {answered.row}: {place} cannot be compared with a file that does not name its"
                " prompts"
            )
        named = Place(digest_of([answered.prompt]), place.repeat, 1)
        before = answers.setdefault(named, Answered(named, answered.row, answered.prompt, answered.answer,
                                                    answered.category))  # fmt: skip
        if before.row != answered.row:
            raise InputError(f"{file.source}: row {answered.row}, field `prompt`: it stood in row {before.row}")
    return AnswerFile(file.source, file.label, answers, by_text=True)


def distinct_labels(files: Sequence[AnswerFile], names: Sequence[str]) -> list[AnswerFile]:
    """Files under labels that tell them apart: their models where those differ, else the names of the files.

    Args:
        files: The files.
        names: What to call each where models do not tell them apart.
    """
    labels = [each.label for each in files]
    if len(set(labels)) < len(labels):
        labels = list(names)
    if len(set(labels)) < len(labels):
        labels = [f"{name}#{place}" for place, name in enumerate(labels, 1)]
    return [
        AnswerFile(each.source, label, each.answers, each.by_text) for each, label in zip(files, labels, strict=True)
    ]


def first_prompts(files: Sequence[AnswerFile], limit: int) -> list[AnswerFile]:
    """The same files, with the answers to the first prompts of the first one alone."""
    names = list(dict.fromkeys(place.prompt_id for place in files[0].answers))[:limit]
    kept = set(names)
    return [
        AnswerFile(
            each.source,
            each.label,
            {place: answered for place, answered in each.answers.items() if place.prompt_id in kept},
            each.by_text,
        )
        for each in files
    ]
