"""What was said in a conversation, token by token, and what is still held of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.errors import SettingError
from pyllm.stream.generation import Voice
from pyllm.stream.memory import Memory

_GAP = " … "


@dataclass(frozen=True, slots=True)
class HeldTurn:
    """What is held of a turn.

    Args:
        turn: Its number, from 1 on.
        tokens: Tokens that it had.
        held: Tokens of it that are held.
        pinned: How many of those are pinned.
        text: The text of those, a sign in place of what is gone.
    """

    turn: int
    tokens: int
    held: int
    pinned: int
    text: str


@dataclass(frozen=True, slots=True)
class SeenToken:
    """A token that was read.

    Args:
        position: Its original position.
        turn: Its turn, from 1 on.
        nats: Its score as it was read.
        text: Its text.
    """

    position: int
    turn: int
    nats: float
    text: str


class Past:
    """All that was read in a conversation.

    Args:
        memory: What is held of it.
        voice: How tokens become texts.
    """

    def __init__(self, memory: Memory, voice: Voice) -> None:
        self._memory, self._voice = memory, voice
        self.records: list[dict[str, Any]] = []
        """What happened, as a session keeps it."""
        self.ids: list[int] = []
        self.nats: list[float] = []
        self.ends: list[int] = []
        """Position behind each turn."""
        self.gone: Sequence[int] = ()
        """Positions that went in the last turn in which any did."""
        self.system: str | None = None

    def take_in(self, record: Mapping[str, Any]) -> None:
        """Take in what happened: a record as a session keeps it."""
        self.records.append(dict(record))
        if record["kind"] == "turn":
            self.system = record["system"] if not self.ends else self.system
            self.ids += record["token_ids"]
            self.nats += record["nats"]
            self.ends.append(len(self.ids))
        if record.get("gone"):
            self.gone = record["gone"]

    def positions_of(self, turn: int) -> range:
        """Original positions of a turn's tokens.

        Args:
            turn: Its number, from 1 on.

        Raises:
            SettingError: There was no such turn.
        """
        if not 1 <= turn <= len(self.ends):
            raise SettingError(f"there is no turn {turn}: there were {len(self.ends):,}")
        return range(self.ends[turn - 2] if turn > 1 else 0, self.ends[turn - 1])

    def held_turns(self) -> list[HeldTurn]:
        """What is held, by turn; turns of which nothing is held are left out."""
        memory = self._memory
        turns = []
        for turn in np.unique(memory.turns).tolist():
            here = memory.turns == turn
            positions = memory.positions[here]
            pinned = int(np.count_nonzero(memory.pinned[here]))
            tokens = len(self.positions_of(turn + 1))
            turns.append(HeldTurn(turn + 1, tokens, len(positions), pinned, self._text(positions)))
        return turns

    def most_surprising(self, count: int) -> list[SeenToken]:
        """The held tokens of the highest scores now, highest first."""
        memory = self._memory
        order = np.argsort(-memory.decayed, kind="stable")[:count]
        return self._tokens(memory.positions[order].tolist())

    def last_gone(self, count: int) -> list[SeenToken]:
        """Of the tokens that went in the last turn in which any did, those of the highest scores, highest first."""
        return self._tokens(sorted(self.gone, key=lambda position: -self.nats[position])[:count])

    def _tokens(self, positions: Iterable[int]) -> list[SeenToken]:
        places = list(positions)
        turns = np.searchsorted(self.ends, places, side="right") + 1
        texts = self._voice.names([self.ids[place] for place in places])
        return [
            SeenToken(place, int(turn), self.nats[place], text)
            for place, turn, text in zip(places, turns, texts, strict=True)
        ]

    def _text(self, positions: Int[ndarray, " kept"]) -> str:
        runs = np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1)
        return _GAP.join(self._voice.decode([self.ids[place] for place in run.tolist()]) for run in runs)
