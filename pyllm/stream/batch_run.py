"""Many conversations answered in one go: what people said in, an answer for each of it out.

Every row is a conversation of its own. Its user messages are asked one after another, each behind the model's own
answers to those before; assistant messages of the row are left out, because this model did not say them. A system
message in front stands before everything and never leaves. Answers depend on the row and the settings alone: not on
other rows, nor on their order.

Each conversation is written down when its last answer is there (`pyllm.data.lines`), under a digest of what it
holds. A run that was stopped, or one on a longer table, takes up what is there.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.lines import open_lines
from pyllm.data.tables import rows_of
from pyllm.errors import InputError, SettingError
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex
from pyllm.stream.chat import Chat
from pyllm.stream.dialogue import limit_warning
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.many import Job, Many
from pyllm.stream.model import StreamModel
from pyllm.stream.reading import Reads
from pyllm.stream.settings import StreamSettings
from pyllm.stream.turns import messages_of

_log = logging.getLogger(__name__)

ANSWER_COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "turn": pl.Int64,
    "content": pl.String,
    "ended": pl.String,
    "answer_tokens": pl.UInt32,
    "cache_tokens": pl.UInt32,
    "kept": pl.List(pl.UInt32),
    "evicted": pl.UInt32,
    "surprisal_mean_nats": pl.Float64,
    "surprisal_max_nats": pl.Float64,
    "tokens_per_second": pl.Float64,
}
"""Columns behind `dialogue_id`, and their types."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A row.

    Args:
        dialogue_id: As the table has it.
        system: What stands before everything.
        questions: What the user says, in order.
    """

    dialogue_id: str | int
    system: str | None
    questions: tuple[str, ...]

    @property
    def digest(self) -> str:
        """What the row is known by when a run goes on."""
        return sha256_hex(canonical_json([self.dialogue_id, self.system, list(self.questions)]))


@dataclass(frozen=True, slots=True)
class Answering:
    """How rows are answered.

    Args:
        settings: What decides who stays.
        sampling: How answers are chosen.
        seed: Of all chance in answers; every conversation has its own chance.
        block: When the cache is full, an answer makes room for this many tokens at once.
    """

    settings: StreamSettings
    sampling: Sampling
    seed: int = 0
    block: int = 32

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "settings": self.settings.as_dict(),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "block": self.block,
        }


@dataclass(frozen=True, slots=True)
class Answers:
    """What came of it.

    Args:
        table: One row a question, in the order of the input.
        report: Its numbers.
    """

    table: pl.DataFrame
    report: dict[str, Any]


def read_conversations(table: pl.DataFrame, source: str) -> list[Conversation]:
    """Conversations of a table, in its order.

    Args:
        table: `dialogue_id` and `messages`: objects with `role` and `content`.
        source: What messages call the table.

    Raises:
        InputError: A column is missing, or a row is wrong; the message names the row and the field.
    """
    for name in ("dialogue_id", "messages"):
        if name not in table.columns:
            found = ", ".join(f"`{each}`" for each in table.columns)
            raise InputError(f"column `{name}` is missing from {source} (found {found})")
    made: list[Conversation] = []
    first: dict[str | int, int] = {}
    left_out = 0
    for row in rows_of(table.select("dialogue_id", "messages"), source):
        name = row.values["dialogue_id"]
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise row.wrong("dialogue_id", "it is neither text nor a whole number")
        if first.setdefault(name, row.number) != row.number:
            raise row.wrong("dialogue_id", f"`{name}` stood in row {first[name]}")
        said = messages_of(row, empty_questions=False)
        left_out += sum(role == "assistant" for role, _ in said)
        system = said[0][1] if said[0][0] == "system" else None
        if any(role == "system" for role, _ in said[1:]):
            raise row.wrong("messages", "a system message stands behind another message")
        questions = tuple(text for role, text in said if role == "user")
        if not questions:
            raise row.wrong("messages", "nothing is asked: it has no message of the user")
        made.append(Conversation(name, system, questions))
    if left_out:
        _log.info("assistant messages are left out (%d): the model answers for itself", left_out)
    return made


def answer_conversations(
    model: StreamModel,
    voice: Voice,
    conversations: Sequence[Conversation],
    answering: Answering,
    path: Path,
    *,
    identity: Mapping[str, Any],
    source: str,
    batch: int = 1,
    progress: Progress = no_progress,
    check: Callable[[], None] | None = None,
) -> Answers:
    """Answer every conversation, going on from what `path` holds.

    Args:
        model: The model.
        voice: How texts become tokens.
        conversations: What is asked.
        answering: How it is answered.
        path: Answers, a line for each conversation, as they come; see `pyllm.data.lines`.
        identity: What decides the answers beside the settings: digests of weights and tokenizer, the type.
        source: What messages call the table.
        batch: Most conversations at work at the same time. Their answers are those of one after another, but for
            rounding, which may decide between two tokens that are as good as equal.
        progress: Listens; the unit is turns.
        check: Called after every turn; whatever it raises ends the work.

    Raises:
        InputError: The chat template refuses a message, or a system message does not fit; the message names the row.
        SettingError: The settings do not fit the model, or `path` belongs to other work.
        PrerequisiteError: `path` cannot be written, or the model gives no number for a token.
    """
    warning = limit_warning(model, answering.settings)
    if warning is not None:
        _log.warning("%s", warning)
    key = {"command": "stream run", **answering.as_dict(), "template": voice.template, **identity}
    with open_lines(path, key) as lines:
        units = [conversation.digest for conversation in conversations]
        there = [len(each.questions) for each, unit in zip(conversations, units, strict=True) if unit in lines.done]
        progress.start("answering", sum(len(each.questions) for each in conversations), done=sum(there), unit="turns")

        def turned(tokens: int) -> None:
            progress.advance(1, tokens=tokens)
            if check is not None:
                check()

        left = [number for number, unit in enumerate(units) if unit not in lines.done]
        work = _Work(model, voice, conversations, answering, turned, batch)
        for number, found in work.results(left, source):
            lines.add(units[number], found)
        rows = [
            {"dialogue_id": conversation.dialogue_id, **row}
            for conversation, unit in zip(conversations, units, strict=True)
            for row in lines.done[unit]
        ]
        progress.finish()
    named = pl.Series("dialogue_id", [row["dialogue_id"] for row in rows])
    typed = [pl.Series(name, [row[name] for row in rows], dtype=kind) for name, kind in ANSWER_COLUMNS.items()]
    report = {
        "dialogues": len(conversations),
        "taken_up": len(there),
        "turns": len(rows),
        "answer_tokens": sum(row["answer_tokens"] for row in rows),
        "evicted": sum(row["evicted"] for row in rows),
        "most_cache_tokens": max(row["cache_tokens"] for row in rows),
        "cut_short": sum(row["ended"] == "length" for row in rows),
    }
    return Answers(pl.DataFrame([named, *typed]), report)


@dataclass(frozen=True, slots=True)
class _Work:
    """Conversations to answer.

    Args:
        model: The model.
        voice: How texts become tokens.
        conversations: All of them.
        answering: How they are answered.
        turned: Called after every turn with its tokens.
        batch: Most at work at the same time.
    """

    model: StreamModel
    voice: Voice
    conversations: Sequence[Conversation]
    answering: Answering
    turned: Callable[[int], None]
    batch: int

    def results(self, numbers: Sequence[int], source: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The answers of the conversations of these numbers, a row each, as they are done.

        Args:
            numbers: Which ones.
            source: What messages call the table.
        """
        many = Many(self.model, rows=min(self.batch, max(1, len(numbers))))
        waiting = iter(numbers)
        at_work: dict[int, Job[list[dict[str, Any]]]] = {}
        with closing(many):
            while True:
                for number in islice(waiting, self.batch - len(at_work)):
                    with _named(source, number):
                        chat = self._chat(self.conversations[number])
                    at_work[number] = many.submit(chat.dialogue, self._conversing(chat, self.conversations[number]))
                if not at_work:
                    return
                many.step()
                for number in [number for number, job in at_work.items() if job.is_done]:
                    with _named(source, number):
                        found = at_work.pop(number).result()
                    yield number, found

    def _chat(self, conversation: Conversation) -> Chat:
        # Conversations that drew the same numbers would resemble each other.
        own = int(sha256_hex(f"{self.answering.seed} {conversation.digest}")[:15], 16)
        return Chat(
            self.model,
            self.answering.settings,
            self.voice,
            self.answering.sampling,
            seed=own,
            block=self.answering.block,
            system=conversation.system,
        )

    def _conversing(self, chat: Chat, conversation: Conversation) -> Reads[list[dict[str, Any]]]:
        """All turns of a conversation, a row each."""
        rows = []
        for turn, question in enumerate(conversation.questions):
            started = time.perf_counter()
            answer = yield from chat.asking(question)
            seconds = time.perf_counter() - started
            trace = chat.dialogue.trace()
            rows.append(
                {
                    "turn": turn,
                    "content": answer.text,
                    "ended": answer.ended,
                    "answer_tokens": len(answer.token_ids),
                    "cache_tokens": answer.cache_tokens,
                    "kept": None if trace.kept is None else trace.kept.tolist(),
                    "evicted": trace.cache_tokens_before + len(trace.nats) - trace.cache_tokens_after,
                    "surprisal_mean_nats": float(trace.nats.mean()),
                    "surprisal_max_nats": float(trace.nats.max()),
                    "tokens_per_second": len(answer.token_ids) / seconds,
                }
            )
            self.turned(len(trace.nats))
        return rows


@contextmanager
def _named(source: str, number: int) -> Iterator[None]:
    """Say in which row something is wrong."""
    try:
        yield
    except (InputError, SettingError) as error:
        raise InputError(f"{source}: row {number}: {error.message}", hint=error.hint) from error
