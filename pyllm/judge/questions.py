"""What is asked: prompts of one turn or two, with references where there are any, from the files that exist.

Known shapes, by their columns: `turns` (MT-Bench), `prompt`, `instruction` with `input` (Alpaca-Eval, self-instruct),
`text` (Vicuna), `question`, `messages` (the user's are asked), and `conversations` as plain text (LIMA). Names are
compared without regard to case. A prompt is known by `prompt_id`, `question_id`, `id` or `idx`; where there is none, by
a digest of its text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pyllm.data.tables import Row, rows_of
from pyllm.errors import InputError
from pyllm.provenance import canonical_json, sha256_hex

_IDS = ("prompt_id", "question_id", "id", "idx")
_CATEGORIES = ("category", "skill", "dataset")
_TEXTS = ("prompt", "instruction", "text", "question", "conversations")
MOST_TURNS = 2


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt.

    Args:
        prompt_id: Its name, unique in a file.
        turns: What the user says, one after the other, each behind the answer to the one before.
        category: What it is about; None where the file does not say.
        references: Right answers of its first turns, as far as the file has any.
    """

    prompt_id: str
    turns: tuple[str, ...]
    category: str | None = None
    references: tuple[str, ...] = ()


def read_questions(table: pl.DataFrame, source: str) -> list[Question]:
    """The prompts of a table, in its order.

    Args:
        table: As it was read.
        source: What messages call it.

    Raises:
        InputError: No column holds prompts, or a row is wrong; the message names the row and the field.
    """
    rows = rows_of(table, source, lower_names=True)
    asked = [name for name in ("turns", "messages", *_TEXTS) if name in rows[0].values]
    if not asked:
        found = ", ".join(f"`{name}`" for name in table.columns)
        wanted = ", ".join(f"`{name}`" for name in ("turns", "messages", *_TEXTS))
        raise InputError(f"{source} has no column with prompts: one of {wanted} is wanted (found {found})")
    questions: list[Question] = []
    first: dict[str, int] = {}
    for row in rows:
        turns = _turns(row, asked[0])
        name = id_of(row) or digest_of(turns)
        if first.setdefault(name, row.number) != row.number:
            raise row.wrong(_id_column(row), f"`{name}` stood in row {first[name]}")
        questions.append(Question(name, turns, category_of(row), _references(row, len(turns))))
    return questions


def id_of(row: Row) -> str | None:
    """What the row's prompt is called; None where the row does not say.

    Raises:
        InputError: It is neither text nor a whole number.
    """
    found = row.first_of(_IDS)
    if found is None:
        return None
    column, value = found
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise row.wrong(column, "it is neither text nor a whole number")
    return str(value)


def _id_column(row: Row) -> str:
    found = row.first_of(_IDS)
    return "prompt" if found is None else found[0]


def digest_of(turns: Sequence[str]) -> str:
    """A name for a prompt that has none: a digest of what it asks."""
    return sha256_hex(canonical_json(list(turns)))[:16]


def category_of(row: Row) -> str | None:
    """What the row's prompt is about."""
    found = row.first_of(_CATEGORIES)
    return None if found is None else str(found[1])


def prompt_text(row: Row) -> str | None:
    """The text of a prompt of one turn, its input behind it; None where the row has none.

    Raises:
        InputError: It is no text.
    """
    found = row.first_of(_TEXTS)
    if found is None:
        return None
    column, text = found
    if not isinstance(text, str):
        raise row.wrong(column, "it is no text")
    given = row.values.get("input") if column == "instruction" else None
    return f"{text}\n\n{given}" if isinstance(given, str) and given.strip() else text


def _turns(row: Row, column: str) -> tuple[str, ...]:
    value = row.values[column]
    if column not in ("turns", "messages"):
        text = prompt_text(row)
        if text is None or not text.strip():
            raise row.wrong(column, "the prompt is empty")
        return (text,)
    value = _parsed(value)
    if not isinstance(value, list) or not value:
        raise row.wrong(column, "it is no list of turns, or an empty one")
    if column == "messages":
        value = [_said(row, message) for message in value]
        value = [content for role, content in value if role == "user"]
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, str) or not turn.strip():
            raise row.wrong(column, f"turn {number} is {'empty' if isinstance(turn, str) else 'no text'}")
    if not 1 <= len(value) <= MOST_TURNS:
        raise row.wrong(column, f"it has {len(value)} turns of the user: 1 or {MOST_TURNS} can be judged")
    return tuple(value)


def _said(row: Row, message: Any) -> tuple[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise row.wrong("messages", "a message is no object with `role` and `content`")
    if message["role"] == "system":
        raise row.wrong("messages", "a system message cannot be judged: put it into the first turn")
    return message["role"], message.get("content")


def _parsed(value: Any) -> Any:
    """A list, which CSV holds as JSON text."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _references(row: Row, turns: int) -> tuple[str, ...]:
    found = row.first_of(("reference", "references"))
    if found is None:
        return ()
    column, value = found
    return reference_texts(row, column, _parsed(value), turns)


def reference_texts(row: Row, column: str, value: Any, turns: int) -> tuple[str, ...]:
    """Right answers of a prompt's first turns: a text is that of the first.

    Raises:
        InputError: There are more than turns, or one is no text.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise row.wrong(column, "it is neither a text nor a list of texts")
    if len(texts) > turns:
        raise row.wrong(column, f"it holds {len(texts)} right answers of {turns} turns")
    return tuple(texts)


def read_references(table: pl.DataFrame, source: str) -> dict[str, tuple[str, ...]]:
    """Right answers by prompt, from a file of their own.

    Args:
        table: MT-Bench's (`question_id`, `choices` with `turns`), or `prompt_id` with `reference` (a text or a list),
            or an answer table (`prompt_id`, `turn`, `answer`).
        source: What messages call it.

    Raises:
        InputError: No column holds answers, or a row is wrong.
    """
    made: dict[str, dict[int, str]] = {}
    for row in rows_of(table, source, lower_names=True):
        name = id_of(row)
        if name is None:
            raise row.wrong("prompt_id", "it is missing")
        for turn, text in enumerate(_right_answers(row), _first_turn(row)):
            if made.setdefault(name, {}).setdefault(turn, text) != text:
                raise row.wrong("prompt_id", f"turn {turn} of `{name}` has another right answer in an earlier row")
    for name, texts in made.items():
        if sorted(texts) != list(range(1, len(texts) + 1)):
            raise InputError(f"{source}: prompt `{name}` has a right answer of turn {max(texts)} and none before it")
    return {name: tuple(texts[turn] for turn in sorted(texts)) for name, texts in made.items()}


def _first_turn(row: Row) -> int:
    turn = row.values.get("turn", 1)
    if isinstance(turn, bool) or not isinstance(turn, int) or not 1 <= turn <= MOST_TURNS:
        raise row.wrong("turn", f"it is no turn from 1 to {MOST_TURNS}")
    return turn


def _right_answers(row: Row) -> tuple[str, ...]:
    choices = _parsed(row.values.get("choices"))
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return reference_texts(row, "choices", choices[0].get("turns"), MOST_TURNS)
    found = row.first_of(("reference", "references", "answer", "output"))
    if found is None:
        raise row.wrong("reference", "no column holds a right answer")
    return reference_texts(row, found[0], _parsed(found[1]) if found[0] == "references" else found[1], MOST_TURNS)
