"""A conversation over a bounded cache: questions in, answers out, and what is remembered of all that was said.

A `Chat` knows every token that was ever read, with its score and the turn it left in, beside the dialogue that holds
only some of them. With a session it saves itself after every turn, and whenever something was pinned, forgotten or
switched.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.errors import InputError, SettingError
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, TextDecoder, Voice, generating, generator_of
from pyllm.stream.memory import Departure
from pyllm.stream.model import StreamModel
from pyllm.stream.past import Past
from pyllm.stream.reading import Reads, read_alone
from pyllm.stream.session import Session
from pyllm.stream.settings import StreamSettings

Ended = Literal["end", "length", "stopped", "told"]
"""Why an answer ended: the model ended it, it had its most tokens, someone stopped it, or it was given from outside."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer.

    Args:
        text: Its text.
        token_ids: Its tokens, the one that ended it included.
        ended: Why it ended.
        cache_tokens: Tokens in the cache now.
    """

    text: str
    token_ids: tuple[int, ...]
    ended: Ended
    cache_tokens: int


class Chat:
    """A conversation.

    Args:
        model: The model.
        settings: What decides who stays.
        voice: How texts become tokens.
        sampling: How answers are chosen.
        seed: Of all chance in answers.
        block: When the cache is full, an answer makes room for this many tokens at once.
        system: A text that stands before everything and is pinned.
        session: Where it is saved; one that was saved before is gone on with.

    Raises:
        SettingError: The system text is not that of the session, or leaves no room.
        InputError: The session is not what was written.
    """

    def __init__(
        self,
        model: StreamModel,
        settings: StreamSettings,
        voice: Voice,
        sampling: Sampling,
        *,
        seed: int = 0,
        block: int = 32,
        system: str | None = None,
        session: Session | None = None,
    ) -> None:
        self.dialogue = Dialogue(model, _settings_now(settings, session))
        self.voice = voice
        self.session = session
        self._sampling, self._seed, self._block = sampling, seed, block
        self._system = system
        self.past = Past(self.dialogue.memory, voice)
        self._unsaved: list[dict[str, Any]] = []
        self._opening: list[int] = []
        if session is not None and not session.is_new:
            session.restore(self.dialogue)
            for record in session.records:
                self.past.take_in(record)
            if system is not None and self.past.ends and system != self.past.system:
                raise SettingError(
                    f"session `{session.folder}` was begun with another system text", hint="leave out --system"
                )
        if not self.past.ends:
            self._opening = voice.opening(system)
            room = settings.budget.room if self.dialogue.memory.evicts else len(self._opening) + 1
            if system is not None and len(self._opening) >= room:
                raise SettingError(
                    f"a system text of {len(self._opening):,} tokens leaves no room in a cache of"
                    f" {settings.budget.tokens:,}",
                    hint="give a shorter one, or a larger cache",
                )

    @property
    def system(self) -> str | None:
        """The text that stands before everything."""
        return self.past.system if self.past.ends else self._system

    @property
    def turns(self) -> int:
        """Turns so far."""
        return len(self.past.ends)

    @property
    def cache_tokens(self) -> int:
        """Tokens in the cache."""
        return self.dialogue.cache.tokens

    @property
    def seen_tokens(self) -> int:
        """Tokens read so far."""
        return len(self.past.ids)

    def ask(
        self, text: str, *, show: Callable[[str], object] = lambda _: None, stopped: Callable[[], bool] = lambda: False
    ) -> Answer:
        """Ask a question and have it answered.

        Args:
            text: The question.
            show: Called with every part of the answer's text as it comes.
            stopped: Asked before every token of the answer; True ends it. What was said so far stays said.

        Raises:
            InputError: The chat template refuses the question.
            PrerequisiteError: The model gives no number for a token, or the session cannot be written.
        """
        return read_alone(self.asking(text, show=show, stopped=stopped), self.dialogue.read)

    def asking(
        self,
        text: str,
        *,
        sampling: Sampling | None = None,
        seed: int | None = None,
        show: Callable[[str], object] = lambda _: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Reads[Answer]:
        """`ask` as a piece of work whose forward passes are run by someone else; nothing happens before it begins.

        Args:
            text: See `ask`.
            sampling: How this answer is chosen; None is the chat's own way.
            seed: Of the chance in this answer; None is the chat's own.
            show: See `ask`.
            stopped: See `ask`.
        """
        how = self._sampling if sampling is None else sampling
        chance = self._seed if seed is None else seed
        return self._turning(text, lambda: self._answering(how, chance, show, stopped))

    def telling(self, text: str, answer: str) -> Reads[Answer]:
        """Take in a question and its answer as if they had been said here; work as `asking` is.

        It is saved with the turn that comes next.

        Args:
            text: The question.
            answer: What was answered to it.

        Raises:
            InputError: The chat template refuses the question.
        """
        return self._turning(text, lambda: self._hearing(text, answer), is_saved=False)

    def prompt_tokens(self, told: Iterable[tuple[str, str]], question: str) -> int:
        """How many tokens will be read before an answer begins.

        Args:
            told: Questions and answers that are to be told.
            question: What is to be asked behind them.

        Raises:
            InputError: The chat template refuses a question.
        """
        voice = self.voice
        count = len(voice.question(question)) + (0 if self.past.ends else len(self._opening))
        for asked, answer in told:
            count += len(voice.question(asked)) + len(voice.answer(asked, answer)) + len(voice.closing)
        return count

    def _turning(
        self, text: str, answering: Callable[[], Reads[tuple[list[int], list[str], Ended]]], *, is_saved: bool = True
    ) -> Reads[Answer]:
        question = self.voice.question(text)
        dialogue, memory = self.dialogue, self.dialogue.memory
        before, start = memory.positions.copy(), memory.seen
        opening = [] if self.past.ends else self._opening
        dialogue.begin_turn()
        pinned = range(start, start + len(opening)) if opening and self._system is not None else range(0)
        if pinned:
            yield from dialogue.feeding(opening)
            dialogue.pin(pinned)
            yield from dialogue.feeding(question)
        else:
            yield from dialogue.feeding([*opening, *question])
        said, pieces, ended = yield from answering()
        closing = self.voice.ending(said[-1]) if said else self.voice.closing
        yield from dialogue.feeding(closing, block=self._block)
        read = np.arange(start, memory.seen)
        ids = [*opening, *question, *said, *closing]
        self._happened(
            {
                "kind": "turn",
                "system": self._system if not start else None,
                "question": text,
                "answer": "".join(pieces),
                "ended": ended,
                "token_ids": ids,
                "texts": self.voice.texts(ids),
                "answer_tokens": [len(opening) + len(question), len(opening) + len(question) + len(said)],
                "nats": dialogue.trace().nats.tolist(),
                "gone": _missing(np.concatenate([before, read]), memory.positions).tolist(),
                "evictions": [_eviction(each) for each in memory.departures],
                "pinned": list(pinned),
                "cache_tokens": self.cache_tokens,
            },
            is_saved=is_saved,
        )
        return Answer("".join(pieces), tuple(said), ended, self.cache_tokens)

    def _hearing(self, text: str, answer: str) -> Reads[tuple[list[int], list[str], Ended]]:
        ids = self.voice.answer(text, answer)
        yield from self.dialogue.feeding(ids, block=self._block)
        return ids, [answer], "told"

    def _answering(
        self, sampling: Sampling, seed: int, show: Callable[[str], object], stopped: Callable[[], bool]
    ) -> Reads[tuple[list[int], list[str], Ended]]:
        said: list[int] = []
        pieces: list[str] = []
        decoder = TextDecoder(self.voice.decode)

        def take_text(text: str) -> None:
            # The space behind `ASSISTANT:` belongs to the answer's tokens and not to its text.
            text = text.lstrip(" ") if self.voice.template == "vicuna" and not pieces else text
            if text:
                pieces.append(text)
                show(text)

        def take(token: int) -> None:
            said.append(token)
            take_text(decoder.add(token))

        yield from generating(
            self.dialogue,
            sampling,
            generator_of(seed, self.dialogue.memory.turn),
            take,
            end_ids=self.voice.end_ids,
            block=self._block,
            stopped=stopped,
        )
        take_text(decoder.rest())
        if said and said[-1] in self.voice.end_ids:
            return said, pieces, "end"
        return said, pieces, "length" if len(said) == sampling.max_new_tokens else "stopped"

    def pin(self, positions: Sequence[int]) -> int:
        """Keep tokens whatever comes; how many of them are held. See `Dialogue.pin`."""
        self.dialogue.pin(positions)
        held = np.intersect1d(self.dialogue.memory.positions, np.asarray(positions, np.int64))
        self._happened({"kind": "pin", "positions": held.tolist()})
        return len(held)

    def unpin(self) -> None:
        """Let every pinned token leave again."""
        self.dialogue.unpin()
        self._happened({"kind": "unpin"})

    def forget(self, positions: Sequence[int]) -> int:
        """Take tokens out at once; how many were there."""
        held = np.intersect1d(self.dialogue.memory.positions, np.asarray(positions, np.int64))
        memory = self.dialogue.memory
        there = len(memory.departures)
        self.dialogue.forget(held.tolist())
        went = [_eviction(each) for each in memory.departures[there:]]
        self._happened({"kind": "forget", "gone": held.tolist(), "evictions": went})
        return len(held)

    def switch(self, settings: StreamSettings) -> None:
        """Let another rule decide from the next eviction on; see `Dialogue.switch`. A session goes on with it."""
        self.dialogue.switch(settings)
        self._happened({"kind": "policy", "settings": settings.as_dict()})

    def save_to(self, session: Session) -> None:
        """Save everything so far to a new session, and go on there.

        Raises:
            InputError: It holds a dialogue already.
            SettingError: Nothing was said yet.
        """
        if not self.past.ends:
            raise SettingError("nothing was said yet that could be saved")
        if not session.is_new:
            raise InputError(f"session `{session.folder}` holds a dialogue already")
        session.save(self.dialogue, self.past.records)
        self._unsaved = []
        if self.session is not None:
            self.session.close()
        self.session = session

    def _happened(self, record: dict[str, Any], *, is_saved: bool = True) -> None:
        self.past.take_in(record)
        self._unsaved.append(record)
        if not is_saved:
            return
        if self.session is not None:
            self.session.save(self.dialogue, self._unsaved)
        self._unsaved = []


def _settings_now(settings: StreamSettings, session: Session | None) -> StreamSettings:
    """The settings that a session was switched to last, or those it was begun with."""
    switched = [record["settings"] for record in session.records if record["kind"] == "policy"] if session else []
    return StreamSettings.from_dict(switched[-1]) if switched else settings


def _eviction(departure: Departure) -> dict[str, Any]:
    scores, cut = departure.scores, departure.cut
    return {
        "gone": departure.positions.tolist(),
        "scores": None if scores is None else [_short(score) for score in scores.tolist()],
        "cut": None if cut is None else _short(cut),
        "in_nats": departure.in_nats,
        "coming": departure.coming,
    }


def _short(score: float) -> float | None:
    """As much of a score as a person reads; None where it is none (minus infinity)."""
    return float(f"{score:.5g}") if np.isfinite(score) else None


def _missing(before: Int[ndarray, " cached"], now: Int[ndarray, " kept"]) -> Int[ndarray, " removed"]:
    return before[~np.isin(before, now)]
