"""The one schema of instruction data, and the example it stands for.

Invariants: text is stored exactly as it was read; `id` is a digest of that unmodified content, so equal content has
an equal id wherever it comes from, and duplicates share theirs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pyllm.errors import InputError
from pyllm.provenance import canonical_json

if TYPE_CHECKING:
    DataType = pl.DataType | type[pl.DataType]
else:
    DataType = object  # their names at run time are not those that the checks of shapes in tests expect

MESSAGE_DTYPE = pl.Struct({"role": pl.String, "content": pl.String, "trained": pl.Boolean})
"""One turn of a conversation."""

_CANONICAL: dict[str, DataType] = {
    "id": pl.String,
    "source_file": pl.String,
    "source_row": pl.UInt64,
    "instruction": pl.String,
    "input": pl.String,
    "output": pl.String,
    "messages": pl.List(MESSAGE_DTYPE),
    "tools": pl.String,
}
CANONICAL_SCHEMA = pl.Schema(_CANONICAL)
"""Columns that every table of examples begins with, in this order."""

CANONICAL_COLUMNS = tuple(CANONICAL_SCHEMA.names())

CONTENT_COLUMNS = ("instruction", "input", "output", "messages", "tools")
"""The columns that `id` is a digest of."""

_SCORES: dict[str, DataType] = {
    "golden_score": pl.Float64,
    "wins": pl.UInt32,
    "anchors_scored": pl.UInt32,
    "mean_gain_nats": pl.Float64,
    "demo_tokens": pl.UInt32,
    "answer_tokens": pl.UInt32,
    "anchor_wins": pl.List(pl.Boolean),
    "one_shot_nats": pl.List(pl.Float64),
}
SCORE_SCHEMA = pl.Schema(_SCORES)
"""Columns that scoring adds."""

SCORE_COLUMNS = tuple(SCORE_SCHEMA.names())

NO_INPUT_SENTINELS = frozenset(
    {"no input", "noinput", "<no input>", "<noinput>", "no input.", "no input required"},
)
"""Inputs that only say that there is none, stripped and lower-cased; stored unchanged, blanked when rendered."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Args:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text, unchanged.
        trained: Whether training would take its loss on this turn.
    """

    role: str
    content: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One row of instruction data: an instruction with its fields, or a conversation.

    Args:
        id: Digest of the content, 32 hex digits.
        source_file: Name of the file it came from, without its folder.
        source_row: Its 0-based place among the records of that file, bad ones counted.
        instruction: What is asked; None for a conversation.
        input: What it is asked about, or None.
        output: The answer, or None.
        messages: The conversation; None for an instruction.
        tools: Tool descriptions as JSON text, or None.
    """

    id: str
    source_file: str
    source_row: int
    instruction: str | None
    input: str | None
    output: str | None
    messages: tuple[Message, ...] | None
    tools: str | None

    def __post_init__(self) -> None:
        """Check that there is content at all."""
        if self.instruction is None and self.messages is None:
            message = f"{self.source_file}: row {self.source_row} has neither `instruction` nor `messages`"
            raise InputError(message)


def example_id(
    instruction: str | None,
    input: str | None,  # noqa: A002  (the field's name in every data set)
    output: str | None,
    messages: Iterable[Message] | None,
    tools: str | None,
) -> str:
    """Digest of an example's unmodified content: 32 hex digits of SHA-256 over its canonical JSON.

    Null and empty text differ, as do messages that differ in `trained` only.

    Raises:
        InputError: The text holds half of a surrogate pair, which no file can store.

    Example:
        >>> example_id("Name a fruit.", "", "Apple", None, None) == example_id("Name a fruit.", "", "Pear", None, None)
        False
    """
    turns = None if messages is None else [[message.role, message.content, message.trained] for message in messages]
    return content_id(instruction, input, output, turns, tools)


def content_id(
    instruction: str | None,
    input: str | None,  # noqa: A002  (the field's name in every data set)
    output: str | None,
    turns: Sequence[Sequence[Any]] | None,
    tools: str | None,
) -> str:
    """The same digest from turns as plain (role, content, trained) triples, for loops over many rows."""
    content = {"input": input, "instruction": instruction, "messages": turns, "output": output, "tools": tools}
    try:
        return hashlib.sha256(canonical_json(content).encode("utf-8")).hexdigest()[:32]
    except UnicodeEncodeError as error:
        message = "the text holds half of a surrogate pair"
        raise InputError(message) from error


def examples_from_table(table: pl.DataFrame) -> list[Example]:
    """The examples of a table in the canonical schema, in row order.

    Args:
        table: Has at least the canonical columns; others are passed over.

    Returns:
        One example a row.

    Raises:
        InputError: A canonical column is missing or has another type, or a row has no content.
    """
    for name, dtype in CANONICAL_SCHEMA.items():
        if name not in table.columns:
            message = f"column `{name}` is missing (found {quoted(table.columns)})"
            raise InputError(message, hint="read instruction files with `read_examples`")
        if table.schema[name] != dtype:
            message = f"column `{name}` has type {table.schema[name]}, not {dtype}"
            raise InputError(message)
    return [
        Example(digest, file, row, instruction, given, output, _messages(turns), tools)
        for digest, file, row, instruction, given, output, turns, tools in table.select(CANONICAL_COLUMNS).iter_rows()
    ]


def _messages(turns: list[dict[str, Any]] | None) -> tuple[Message, ...] | None:
    if turns is None:
        return None
    return tuple(Message(turn["role"], turn["content"], turn["trained"]) for turn in turns)


def quoted(names: Iterable[str], *, most: int = 12) -> str:
    """Column names as a message shows them: in backticks, the first few."""
    shown = [f"`{name}`" for name in names]
    if not shown:
        return "nothing"
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
