"""Long text for the benches that only read: dialogues out of a file, as plain lines, and as one run of token ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.framing import Tokenizer
from pyllm.data.tables import read_table
from pyllm.errors import InputError, reason_of
from pyllm.stream.bench.tasks import read_task


def read_texts(path: Path) -> list[str]:
    """The texts of a file.

    Args:
        path: A data file of DailyDialog as the paper has it (each dialogue is its utterances and right answers, a line
            each); a table with a column `messages` or `text`; or a plain text, parted at empty lines.

    Raises:
        InputError: The file cannot be read, or holds no text.
    """
    if path.suffix in (".txt", ".md"):
        try:
            parts = path.read_text(encoding="utf-8").split("\n\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError(f"{path} cannot be read: {reason}") from error
        texts = [part.strip() for part in parts]
    else:
        table, _ = read_table(path)
        texts = list(_told(path) if "question" in table.columns else _column(table, path))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InputError(f"{path} holds no text")
    return texts


def _told(path: Path) -> Iterator[str]:
    for conversation in read_task("dailydialog", [path], lines=None):
        said: list[str] = []
        for item in conversation.items:
            stem = item.text.removeprefix("Choose the best response for the input: ").rpartition(" Choices: ")[0]
            for utterance in (stem, item.texts[item.gold]):
                line = " ".join(utterance.split())
                if said[-1:] != [line]:
                    said.append(line)
        yield "\n".join(said)


def _column(table: pl.DataFrame, path: Path) -> Iterator[str]:
    if "text" in table.columns and table.schema["text"] == pl.String:
        yield from (text or "" for text in table["text"].to_list())
    elif "messages" in table.columns:
        for row in table["messages"].to_list():
            yield "\n".join(str(message["content"]) for message in row or [])
    else:
        found = ", ".join(f"`{name}`" for name in table.columns)
        raise InputError(f"a column `question`, `text` or `messages` is missing from {path} (found {found})")


def token_stream(texts: list[str], tokenizer: Tokenizer, count: int, *, vocabulary: int, source: Path) -> list[int]:
    """The first tokens of all texts behind each other, an empty line between them.

    Args:
        texts: The texts.
        tokenizer: The model's; its start token, where it has one, stands in front.
        count: How many tokens; fewer where the texts end before.
        vocabulary: How many tokens the model knows.
        source: What messages call the texts.

    Raises:
        InputError: The tokenizer gives a token that the model does not have, or there are fewer than two.
    """
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for text in texts:
        ids += tokenizer([f"{text}\n\n"], add_special_tokens=False)["input_ids"][0]
        if len(ids) >= count:
            break
    ids = ids[:count]
    if len(ids) < 2:
        raise InputError(f"{source} holds {len(ids)} tokens, and at least 2 are wanted")
    if max(ids) >= vocabulary:
        raise InputError(f"{source}: the tokenizer gives token {max(ids)}, and the model has {vocabulary:,}")
    return ids


def first_tokens(texts: list[str], tokenizer: Tokenizer, *, sentences: int, tokens: int) -> list[list[int]]:
    """The first tokens of so many texts; texts with fewer are left out."""
    made: list[list[int]] = []
    for text in texts:
        ids: Any = tokenizer([text], add_special_tokens=False)["input_ids"][0]
        if len(ids) >= tokens:
            made.append(list(ids[:tokens]))
        if len(made) == sentences:
            break
    return made
