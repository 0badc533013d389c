"""Dialogues as rows to turns of token ids: given ids, plain texts, or whole conversations.

Templates: `vicuna` writes `USER: ...`, a blank line and `ASSISTANT:` with no special tokens, as the paper's code does
for models without a chat format; `chat` is the tokenizer's own template; `none` takes texts as they are. A turn is
what the user said and, where it is known, what was answered. Turns are tokenized such that earlier ones never change.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from pyllm.data.framing import ChatFraming, Refused, Tokenizer
from pyllm.data.prompts import Prompt
from pyllm.data.tables import Row, rows_of
from pyllm.errors import InputError

TurnTemplate = Literal["auto", "chat", "vicuna", "none"]
"""How texts become turns; `auto` is `chat` where the tokenizer has a template, else `vicuna`."""

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn to feed.

    Args:
        dialogue_id: The dialogue it belongs to, as the table names it.
        number: Its place in the dialogue: turns are fed in ascending order.
        token_ids: Its tokens.
    """

    dialogue_id: str | int
    number: int
    token_ids: tuple[int, ...]


def read_turns(
    table: pl.DataFrame,
    source: str,
    *,
    vocabulary: int,
    tokenizer: Callable[[], Tokenizer],
    template: TurnTemplate = "auto",
) -> list[Turn]:
    """Turns of a table, in its order.

    Args:
        table: `dialogue_id` and either `turn` and `token_ids`, or `turn` and `text`, or `messages` (a dialogue a row:
            objects with `role` and `content`); the first of these that is there counts.
        source: What messages call the table.
        vocabulary: How many tokens the model knows.
        tokenizer: Gives the model's tokenizer; called for texts only.
        template: How texts become turns.

    Raises:
        InputError: A column is missing, or a row is wrong; the message names the row and the field.
        PrerequisiteError: The template `chat` was asked for, and the tokenizer has none.
    """
    columns = [name for name in ("token_ids", "text", "messages") if name in table.columns]
    wanted = ["dialogue_id", *(["turn"] if columns[:1] in (["token_ids"], ["text"]) else [])]
    missing = [name for name in wanted if name not in table.columns]
    if missing or not columns:
        found = ", ".join(f"`{name}`" for name in table.columns)
        named = f"column `{missing[0]}`" if missing else "a column `token_ids`, `text` or `messages`"
        raise InputError(f"{named} is missing from {source} (found {found})")
    rows = rows_of(table, source)
    if columns[0] == "token_ids":
        turns = [Turn(_dialogue(row), _number(row), _ids(row, vocabulary)) for row in rows]
    else:
        writer = _Writer(tokenizer(), template, vocabulary)
        turns = writer.texts(rows) if columns[0] == "text" else [turn for row in rows for turn in writer.messages(row)]
    _check_distinct(turns, rows, has_numbers=columns[0] != "messages")
    return turns


def _check_distinct(turns: Sequence[Turn], rows: Sequence[Row], *, has_numbers: bool) -> None:
    seen: dict[tuple[str | int, int], int] = {}
    for place, turn in enumerate(turns):
        before = seen.setdefault((turn.dialogue_id, turn.number), place)
        if before == place:
            continue
        if has_numbers:
            raise rows[place].wrong("turn", f"{turn.number} of dialogue `{turn.dialogue_id}` stood in row {before}")
        raise InputError(f"{rows[0].source}: dialogue `{turn.dialogue_id}` stands in two rows")


def _dialogue(row: Row) -> str | int:
    value = row.values["dialogue_id"]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise row.wrong("dialogue_id", f"{_short(value)} is neither text nor a whole number")
    return value


def _number(row: Row) -> int:
    value = row.values["turn"]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.removeprefix("-").isdecimal():  # CSV has no types
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise row.wrong("turn", f"{_short(value)} is no whole number")
    return value


def _ids(row: Row, vocabulary: int) -> tuple[int, ...]:
    value = _parsed(row, "token_ids")
    if not isinstance(value, list) or not value:
        raise row.wrong("token_ids", "a turn needs at least one token" if value == [] else "it is no list of token ids")
    for place, token in enumerate(value):
        # One fraction makes all numbers of a JSON column fractions: those that are whole are not to blame.
        whole = token.is_integer() if isinstance(token, float) else isinstance(token, int)
        if isinstance(token, bool) or not whole:
            raise row.wrong("token_ids", f"{_short(token)} at place {place} is no whole number")
        if not 0 <= token < vocabulary:
            raise row.wrong("token_ids", f"{token} at place {place} is no token of the model, which has {vocabulary:,}")
    return tuple(int(token) for token in value)


def _parsed(row: Row, column: str) -> Any:
    """A list, which CSV holds as JSON text."""
    value = row.values[column]
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as error:
            raise row.wrong(column, "it is neither a list nor JSON text of one") from error
    return value


def _short(value: Any) -> str:
    text = "null" if value is None else f"`{value}`"
    return text if len(text) <= 42 else text[:40] + "...`"


class _Writer:
    """Turns texts into token ids."""

    def __init__(self, tokenizer: Tokenizer, template: TurnTemplate, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._template = template
        if template == "auto":
            self._template = "chat" if tokenizer.chat_template else "vicuna"
        self._framing = ChatFraming(tokenizer) if self._template == "chat" else None

    def texts(self, rows: Sequence[Row]) -> list[Turn]:
        """A user's text a row; the turn that comes first in a dialogue opens it."""
        named = [(_dialogue(row), _number(row)) for row in rows]
        first: dict[str | int, int] = {}
        for dialogue_id, number in named:
            first[dialogue_id] = min(number, first.get(dialogue_id, number))
        turns = []
        for row, (dialogue_id, number) in zip(rows, named, strict=True):
            text = row.values["text"]
            if not isinstance(text, str) or not text:
                raise row.wrong("text", "a turn needs a text")
            ids = self._said(row, "text", [("user", text)], opens=first[dialogue_id] == number)
            turns.append(self._turn(row, "text", dialogue_id, number, ids))
        return turns

    def messages(self, row: Row) -> list[Turn]:
        """The turns of a conversation: a user's message, what stands before it, and the answer if there is one."""
        said = messages_of(row)
        turns: list[list[tuple[str, str]]] = [[]]
        for role, content in said:
            roles = [before for before, _ in turns[-1]]
            if "assistant" in roles or (role != "assistant" and "user" in roles):
                turns.append([])
            turns[-1].append((role, content))
        dialogue_id = _dialogue(row)
        answered = any(role == "assistant" for role, _ in said)
        if self._template == "chat" and answered:
            parts = self._rendered(row, turns)
        else:
            parts = [self._said(row, "messages", turn, opens=not number) for number, turn in enumerate(turns)]
        return [self._turn(row, "messages", dialogue_id, number, ids) for number, ids in enumerate(parts)]

    def _turn(self, row: Row, column: str, dialogue_id: str | int, number: int, ids: list[int]) -> Turn:
        if not ids:
            raise row.wrong(column, "a turn needs at least one token")
        if max(ids) >= self._vocabulary:
            raise row.wrong(column, f"the tokenizer gives token {max(ids)}, and the model has {self._vocabulary:,}")
        return Turn(dialogue_id, number, tuple(ids))

    def _said(self, row: Row, column: str, turn: list[tuple[str, str]], *, opens: bool) -> list[int]:
        """One turn, tokenized by itself."""
        answer = "".join(content for role, content in turn if role == "assistant")
        asked = [(role, content) for role, content in turn if role != "assistant"]
        if self._framing is not None:
            made = self._framing.anchors([Prompt("", "", tuple(asked))])[0]
            if isinstance(made, Refused):
                raise row.wrong(column, f"the chat template refuses it: {made.reason}")
            return [*(self._framing.zero_shot_prefix() if opens else []), *made.ids]
        query = "\n\n".join(content for _, content in asked)
        if self._template == "vicuna":
            context = f"USER: {query}\n\nASSISTANT:"
            ids = self._plain(context)
            # The space belongs to the answer, and the answer's tokens begin where those of the context end.
            return ids + self._plain(f"{context} {answer}")[len(ids) :] if answer else ids
        return self._plain(query + answer)

    def _rendered(self, row: Row, turns: Sequence[list[tuple[str, str]]]) -> list[list[int]]:
        """Every turn as what the chat template writes behind the turns before it."""
        from jinja2 import TemplateError  # what chat templates are written in; only they need it

        said: list[dict[str, str]] = []
        before: list[int] = []
        parts: list[list[int]] = []
        for turn in turns:
            said += [{"role": role, "content": content} for role, content in turn]
            try:
                rendered = self._tokenizer.apply_chat_template(
                    said, tokenize=True, add_generation_prompt=said[-1]["role"] != "assistant", return_dict=True
                )
            except (TemplateError, TypeError, ValueError) as error:
                raise row.wrong("messages", f"the chat template refuses it: {error}") from error
            ids = list(rendered["input_ids"])
            if ids[: len(before)] != before:
                raise row.wrong("messages", f"the chat template writes earlier turns anew in turn {len(parts)}")
            parts.append(ids[len(before) :])
            before = ids
        return parts

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer([text], add_special_tokens=False)["input_ids"][0])


def messages_of(row: Row, *, empty_questions: bool = True) -> list[tuple[str, str]]:
    """The messages of a conversation: who said it, and what.

    Args:
        row: It has `messages`: objects with `role` and `content`, or JSON text of a list of them.
        empty_questions: Whether a user may say nothing.

    Raises:
        InputError: They are something else, or there are none.
    """
    value = _parsed(row, "messages")
    if not isinstance(value, list) or not value:
        raise row.wrong("messages", "it is no list of messages" if value != [] else "a dialogue needs a message")
    said = []
    for place, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in _ROLES:
            raise row.wrong("messages", f"message {place} has no role among {', '.join(_ROLES)}")
        if not isinstance(content, str) or (role == "user" and not (content or empty_questions)):
            raise row.wrong("messages", f"message {place} has no text as its `content`")
        said.append((str(role), content))
    return said
