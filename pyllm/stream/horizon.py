"""A decay ratio that follows from how many turns back a dialogue is to be remembered, and from what was read so far.

Let S(x) be the share of the tokens read so far that score at least x; k the score that one in a thousand reaches; n the
mean number of tokens a turn; K how many tokens stay for their score beside a coming turn; H the horizon in turns. Under
a ratio r, a token that was read a turns ago counts r^a of its score. If a token of score k is to be let go after H
turns, the cut is at k r^H then, and the turn read a turns ago keeps the share S(k r^(H-a)) of its tokens. The ratio is
the largest under which the turns of the horizon fill what there is to fill:

    S(k r) + S(k r^2) + ... + S(k r^H)  >=  min(K / n, H / 2)

A small K asks for little: the ratio comes near 1, and only the most surprising tokens of the horizon stay. A large K
asks for much, down to half of all tokens of the horizon, where with H = 1 the ratio is the median over k: after a turn,
a key token is worth a middling new one. Where more room is left, older tokens have it.

A longer horizon never makes the ratio smaller: each further turn adds to the left at least what it adds to the right.

Cost: a count of levels for each token read, and a hundred microseconds a turn. Scores are counted by their logarithm in
steps of a sixteenth, and fade from the counts by half within about 2,800 tokens, so that the ratio follows a dialogue
that changes. Nothing that comes later has a part in it.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from pyllm.stream.settings import Budget

STEPS = 16
"""Levels in one unit of the logarithm of a score."""
KEY_SHARE = 1e-3
"""Share of tokens that reach the score that counts as key."""
MEMORY_TOKENS = 4096
"""How many tokens back the counts reach: a token's weight falls by a factor e over so many."""
LARGEST_SHARE = 0.5
"""Most of the horizon's tokens that the ratio is made to keep."""

_SPAN = round(STEPS * math.log(1e4))
"""Levels go from that of 1e-4 nats to that of 1e4; what is beyond counts as the last."""
_PARTS, _ROUNDS = 16, 10
"""A step is looked for in a sixteenth of a sixteenth of ...: exact in binary, so that equal steps are equal numbers."""


def levels(nats: Float[ndarray, " new"]) -> Int[ndarray, " new"]:
    """Level of each score, from 0 on."""
    floor, ceiling = math.exp(-_SPAN / STEPS), math.exp(_SPAN / STEPS)
    rounded: Int[ndarray, " new"] = np.rint(STEPS * np.log(np.clip(nats, floor, ceiling))).astype(np.int64) + _SPAN
    return rounded


class ScoreHistory:
    """How large the scores of a dialogue were so far, and how long its turns."""

    def __init__(self) -> None:
        self._counts: Float[ndarray, " levels"] = np.zeros(2 * _SPAN + 1)
        self._uncounted: list[Float[ndarray, " new"]] = []
        self.turns = 0.0
        """Turns read, faded alike."""
        self.turn_tokens = 0
        """Tokens of the present turn so far."""

    @property
    def counts(self) -> Float[ndarray, " levels"]:
        """Tokens read at each level, faded."""
        if self._uncounted:
            self._counts += np.bincount(levels(np.concatenate(self._uncounted)), minlength=len(self._counts))
            self._uncounted.clear()
        return self._counts

    def add(self, nats: Float[ndarray, " new"]) -> None:
        """Take in the scores of tokens that were read; they are counted when somebody looks."""
        self._uncounted.append(nats.copy())
        self.turn_tokens += len(nats)

    def correct(self, before: float, after: float) -> None:
        """Count a token of the present turn at another score than it came with."""
        old, new = levels(np.array([before, after]))
        counts = self.counts
        counts[old] -= 1.0
        counts[new] += 1.0

    def end_turn(self) -> None:
        """What was read since the last call was a turn; it begins to fade."""
        fade = (1.0 - 1.0 / MEMORY_TOKENS) ** self.turn_tokens
        self._counts = self.counts * fade
        self.turns = (self.turns + 1.0) * fade
        self.turn_tokens = 0

    def ratio(self, horizon_turns: int, budget: Budget) -> float:
        """The ratio for the turn that comes now: above 0, at most 1. See the module docstring.

        Args:
            horizon_turns: How many turns back to remember.
            budget: Of the cache.
        """
        counts = self.counts
        total = float(counts.sum())
        if total <= 0.0 or self.turns <= 0.0:
            return 1.0
        at_least = np.cumsum(counts[::-1])[::-1]
        key = int(np.flatnonzero(at_least >= KEY_SHARE * total)[-1])
        there = np.flatnonzero(counts > 0.0)
        weights, below = counts[there], np.maximum(key - there, 0).astype(np.float64)
        a_turn = total / self.turns
        wanted = total * min(kept_for_score(budget, a_turn) / a_turn, LARGEST_SHARE * horizon_turns)
        # Sums that are equal but for rounding are equal.
        wanted *= 1.0 - 1e-9

        if horizon_turns * float(weights[below == 0.0].sum()) >= wanted:
            return 1.0
        # The least number of levels a turn that fills as much; at the whole range it does.
        low, width = 0.0, float(below.max())
        for _ in range(_ROUNDS):
            width /= _PARTS
            steps = low + width * np.arange(1, _PARTS)
            # Over all tokens, how many turns of the horizon would keep them at each of these steps.
            turns = horizon_turns + 1.0 - np.maximum(np.ceil(below / steps[:, None]), 1.0)
            low += width * int(np.count_nonzero((weights * np.maximum(turns, 0.0)).sum(1) < wanted))
        return math.exp(-(low + width) / STEPS)

    def state(self) -> dict[str, ndarray]:
        """Everything to go on from, as arrays by name."""
        return {"history_counts": self.counts, "history_turns": np.array([self.turns, float(self.turn_tokens)])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; a state of a version without it begins anew."""
        if "history_counts" in state:
            self._counts, self._uncounted = state["history_counts"], []
            self.turns, self.turn_tokens = float(state["history_turns"][0]), int(state["history_turns"][1])


def kept_for_score(budget: Budget, turn_tokens: float) -> int:
    """How many tokens stay for their score when room is made for such a turn: at least 1."""
    return max(1, budget.entropy - budget.pieces(max(1, round(turn_tokens)))[0])
