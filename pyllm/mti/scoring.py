"""From what models wrote to marks: one row for each answer of each instance, right or wrong, and how it was found.

An output is a row with `uid`, `mode` and `output`, and where they are known `repeat`, `step` and `tag`. Where `step` is
null one output answers every step of its instance. A null output is a call that failed: it gets no mark, because a
failure is not a wrong answer, and neither does an instance that no row names.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import polars as pl

from pyllm.data.examples import quoted
from pyllm.errors import InputError
from pyllm.mti.comparison import Gold, read_gold
from pyllm.mti.parsing import Parsed, Tags, find_answer, find_published, instruction_examples, read_tags
from pyllm.mti.rouge import rouge_l
from pyllm.mti.strict import is_published_match
from pyllm.mti.tasks import AnswerType, Instance, Task

Scoring = Literal["strict", "typed"]
Mode = Literal["mti", "sti", "batch", "mti-batch"]
MODES: tuple[Mode, ...] = get_args(Mode)

MARKS_SCHEMA: dict[str, Any] = {
    "uid": pl.String,
    "mode": pl.String,
    "repeat": pl.Int64,
    "step": pl.Int64,
    "correct": pl.Boolean,
    "score": pl.Float64,
    "parse": pl.String,
    "parsed": pl.String,
    "gold": pl.String,
    "task": pl.String,
    "subset": pl.String,
    "steps": pl.Int64,
    "answer_type": pl.String,
}
KEY = ("uid", "mode", "repeat", "step")
_FOUND = ("correct", "score", "parse", "parsed")
_ASKED = ("step", "task", "subset", "steps")

# The ids of the published free-form file, which has no `meta` to say what its texts are.
_PUBLISHED_FREE_FORM = frozenset(f"{number:03}" for number in range(30, 42))
# `### Instruction 1:`, `**Step 2**` or `#2:`: how models set answers apart where no tag was asked for.
_HEADING = re.compile(
    r"^[ \t]*+(?:\#{1,6}+[ \t]*+|\*\*[ \t]*+)(?:(?:instruction|task|step|answer)[ \t]*+\#?)?"
    r"([1-9][0-9]?)(?![0-9])[ \t]*+[:.)*]*+",
    re.MULTILINE | re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class _Step:
    """What is needed to mark one step of one instance."""

    gold: Gold
    examples: frozenset[str]
    tagged: bool
    words: bool


@dataclass(slots=True)
class _Sheet:
    """The steps of one instance, numbered through over all tasks; golds are read when its first output comes."""

    task: Task
    instance: Instance
    first: int
    read: tuple[_Step, ...] | None = None

    @property
    def steps(self) -> tuple[_Step, ...]:
        if self.read is None:
            self.read = _read_steps(self.task, self.instance)
        return self.read


def score_outputs(
    tasks: Sequence[Task], outputs: pl.DataFrame, scoring: Scoring, *, name: str = "outputs"
) -> pl.DataFrame:
    """Mark every answer.

    Args:
        tasks: The tasks that were asked.
        outputs: Rows of `uid`, `mode`, `output` and optional `repeat`, `step`, `tag`; other columns are left alone.
        scoring: `typed` compares values; `strict` gives the published scorer's verdicts.
        name: What messages call the outputs.

    Returns:
        One row for each (uid, mode, repeat, step) with an output, in the order of `outputs`: `correct`, null for free
        text, whose `score` is ROUGE-L; `parse`; `parsed`, what the scored tag holds; `gold`; and the task, its subset,
        the number of its steps and the type of the answer.

    Raises:
        InputError: A column is missing or of a wrong type, a uid is unknown, a step does not exist, or one answer is
            given twice; the message names the row.
    """
    rows = checked_outputs(outputs, name=name)
    sheets = _sheets(tasks)
    _refuse_unknown(rows, sheets, name)
    marks: list[tuple[int, int, bool | None, float | None, str | None, str | None]] = []
    given = zip(*(rows[column].to_list() for column in ("uid", "step", "tag", "output")), strict=True)
    for row, (uid, step, tag, text) in enumerate(given):
        sheet = sheets[uid]
        steps = sheet.steps
        tags = read_tags(text) if text is not None and scoring == "typed" else None
        for number in range(1, len(steps) + 1) if step is None else (step,):
            place = sheet.first + number - 1
            if text is None:
                marks.append((row, place, None, None, None, None))
                continue
            asked = steps[number - 1]
            found = _found(asked, number if tag is None else tag, text, tags)
            if found.state == "missing" and not asked.tagged and asked.gold.answer_type == "text":
                found = _untagged(text, number, one_step=step is not None)
            marks.append((row, place, *_verdict(asked.gold, found, scoring), found.state, found.text))
    return _table(rows, sheets, marks, name)


def answer_types(task: Task, instance: Instance) -> tuple[AnswerType, ...]:
    """How each answer of an instance is compared: as its task states, else as the gold alone shows."""
    return tuple(step.gold.answer_type for step in _read_steps(task, instance))


def subset_of(task: Task) -> str | None:
    """The subset a task belongs to, if it is known; the published files state none but by their ids."""
    if task.meta is not None and task.meta.subset:
        return task.meta.subset
    return "free-form" if task.meta is None and task.id in _PUBLISHED_FREE_FORM else None


def checked_outputs(outputs: pl.DataFrame, *, name: str = "outputs") -> pl.DataFrame:
    """The columns of an outputs table that scoring reads, each of its type and each row sound by itself.

    Returns:
        `uid`, `mode`, `repeat` (0 where none was given), `step`, `tag` and `output`.

    Raises:
        InputError: A column is missing or a value is not what it must be.
    """
    missing = [column for column in ("uid", "mode", "output") if column not in outputs.columns]
    if missing:
        raise InputError(f"{name}: column `{missing[0]}` is missing (found {quoted(outputs.columns)})")
    texts = [_texts(outputs[column], name) for column in ("uid", "mode", "output")]
    numbers = [_whole_numbers(outputs, column, name) for column in ("repeat", "step", "tag")]
    rows = pl.DataFrame([*texts, *numbers]).with_columns(pl.col("repeat").fill_null(0))
    _refuse(rows, pl.col("uid").is_null(), name, "`uid` is null")
    unknown = ~pl.col("mode").is_in(MODES).fill_null(value=False)
    _refuse(rows, unknown, name, "there is no mode `{mode}`", hint=f"modes are {quoted(MODES)}")
    _refuse(rows, pl.col("repeat") < 0, name, "`repeat` is {repeat}, but it counts from 0")
    _refuse(rows, pl.col("tag") < 1, name, "`tag` is {tag}, but tags count from 1")
    lonely = pl.col("tag").is_not_null() & pl.col("step").is_null()
    _refuse(rows, lonely, name, "`tag` is {tag} and `step` is null, but a tag belongs to one step")
    return rows.select("uid", "mode", "repeat", "step", "tag", "output")


def _refuse(rows: pl.DataFrame, wrong: pl.Expr, name: str, reason: str, *, hint: str | None = None) -> None:
    """Name the first row that is wrong."""
    found = rows.with_row_index("row", offset=1).filter(wrong).head(1).to_dicts()
    if found:
        raise InputError(f"{name}, row {found[0]['row']}: {reason.format(**found[0])}", hint=hint)


def _texts(column: pl.Series, name: str) -> pl.Series:
    if column.dtype in (pl.Null, pl.Categorical, pl.Enum):
        return column.cast(pl.String)
    if column.dtype != pl.String:
        raise InputError(f"{name}: column `{column.name}` is {column.dtype}, not text")
    return column


def _whole_numbers(outputs: pl.DataFrame, column: str, name: str) -> pl.Series:
    if column not in outputs.columns:
        return pl.Series(column, [None] * outputs.height, dtype=pl.Int64)
    given = outputs[column]
    if given.dtype.is_nested() or given.dtype in (pl.Boolean, pl.Binary) or given.dtype.is_temporal():
        raise InputError(f"{name}: column `{column}` is {given.dtype}, not whole numbers")
    if given.dtype == pl.String:  # of a CSV file
        given = given.replace("", None)
    numbers = given.cast(pl.Int64, strict=False)
    wrong = given.is_not_null() & numbers.is_null()
    if given.dtype.is_float():
        wrong |= given.is_not_null() & (numbers.cast(pl.Float64) != given).fill_null(value=True)
    row = wrong.arg_max() if wrong.any() else None
    if row is not None:
        raise InputError(f"{name}, row {row + 1}: `{column}` is `{given[row]}`, not a whole number")
    return numbers


def _sheets(tasks: Sequence[Task]) -> dict[str, _Sheet]:
    sheets: dict[str, _Sheet] = {}
    first = 0
    for task in tasks:
        for instance in task.instances:
            sheets[instance.uid] = _Sheet(task, instance, first)
            first += instance.steps
    return sheets


def _read_steps(task: Task, instance: Instance) -> tuple[_Step, ...]:
    stated: Sequence[Any] = task.meta.answer_types if task.meta is not None else ()
    steps = []
    for index, answer in enumerate(instance.answers):
        gold = read_gold(answer, stated[index] if stated else None)
        if not stated and gold.answer_type == "span" and subset_of(task) == "free-form":
            gold = read_gold(answer, "text")
        words = gold.answer_type in ("letter", "span", "text", "set", "list")
        steps.append(_Step(gold, *_asked(instance.instructions, index + 1), words))
    return tuple(steps)


@functools.lru_cache(maxsize=1 << 12)
def _asked(instructions: tuple[str, ...], step: int) -> tuple[frozenset[str], bool]:
    """The examples of a step and whether it asks for a tag; instances of a task mostly share their instructions."""
    own = read_tags(instructions[step - 1])
    return instruction_examples(instructions, step), bool(own.spans or own.unclosed)


def _refuse_unknown(rows: pl.DataFrame, sheets: Mapping[str, _Sheet], name: str) -> None:
    known = pl.DataFrame(
        {"uid": list(sheets), "steps": [sheet.instance.steps for sheet in sheets.values()]},
        schema={"uid": pl.String, "steps": pl.Int64},
    )
    joined = rows.join(known, on="uid", how="left", maintain_order="left")
    _refuse(joined, pl.col("steps").is_null(), name, "there is no instance `{uid}` in the tasks")
    outside = ~pl.col("step").is_between(1, pl.col("steps"))
    _refuse(joined, outside, name, "`step` is {step}, but `{uid}` has the steps 1 to {steps}")


def _found(step: _Step, tag: int, text: str, tags: Tags | None) -> Parsed:
    if tags is None:
        return find_published(text, tag)
    return find_answer(tags, tag, examples=step.examples, value=step.gold.reads, words=step.words)


def _table(
    rows: pl.DataFrame, sheets: Mapping[str, _Sheet], marks: Sequence[tuple[Any, ...]], name: str
) -> pl.DataFrame:
    """Marks beside what is known of their rows and their steps."""
    schema = {"row": pl.UInt32, "place": pl.UInt32, **{column: MARKS_SCHEMA[column] for column in _FOUND}}
    found = pl.DataFrame(marks, schema=schema, orient="row")
    facts = [
        (number, sheet.instance.task, subset_of(sheet.task), sheet.instance.steps)
        for sheet in sheets.values()
        for number in range(1, sheet.instance.steps + 1)
    ]
    asked = pl.DataFrame(facts, schema={column: MARKS_SCHEMA[column] for column in _ASKED}, orient="row")
    table = pl.concat(
        [found, rows.select("uid", "mode", "repeat")[found["row"]], asked[found["place"]]], how="horizontal"
    )
    _refuse_twice(table, name)
    table = table.filter(pl.col("parse").is_not_null())
    read = [
        (sheet.first + place, step.gold) for sheet in sheets.values() for place, step in enumerate(sheet.read or ())
    ]
    golds = pl.DataFrame(
        [(place, gold.text, gold.answer_type) for place, gold in read],
        schema={"place": pl.UInt32, "gold": pl.String, "answer_type": pl.String},
        orient="row",
    )
    return table.join(golds, on="place", how="left", maintain_order="left").select(list(MARKS_SCHEMA))


def _refuse_twice(table: pl.DataFrame, name: str) -> None:
    key = ("place", "mode", "repeat")
    again = table.filter(~pl.struct(key).is_first_distinct()).head(1)
    if again.height:
        first = table.join(again.select(key), on=key, how="semi")["row"][0]
        facts = again.row(0, named=True)
        raise InputError(
            f"{name}, row {facts['row'] + 1}: row {first + 1} has an output for uid `{facts['uid']}`, mode"
            f" `{facts['mode']}`, repeat {facts['repeat']}, step {facts['step']} too"
        )


def _untagged(text: str, number: int, *, one_step: bool) -> Parsed:
    """The answer of a step whose instruction asks for no tag: the whole output, or what stands under its heading."""
    headings = list(_HEADING.finditer(text))
    for place, heading in enumerate(headings):
        if int(heading[1]) == number:
            end = headings[place + 1].start() if place + 1 < len(headings) else len(text)
            return Parsed("ok", text[heading.end() : end].strip())
    return Parsed("ok", text.strip()) if one_step and text.strip() else Parsed("missing", None)


def _verdict(gold: Gold, found: Parsed, scoring: Scoring) -> tuple[bool | None, float | None]:
    if gold.answer_type == "text":
        return None, 0.0 if found.text is None else rouge_l(found.text, gold.text)
    if scoring == "strict":
        return is_published_match(found.text, gold.text), None
    return found.text is not None and gold.accepts(found.text), None
