"""What is known of every token in a dialogue's cache, and who stays when room is made. Plain numbers, no model.

Idea: policies see the cached tokens in a `Candidates` and name those that stay; the budget rule, spans and ties are
applied by the same code for all of them. Decay is lazy: a score is kept as its logarithm less the logarithm of all
decay until it was read, so that time changes no stored number and old scores never underflow. A ratio of 0 has no
logarithm and sinks every older score to minus infinity instead. `reference` multiplies turn by turn as the published
code does; both keep the same tokens.

Invariants: positions are original ones, counted from the dialogue's first token, ascending; after room was made for
`count` tokens there are at most `budget - count` (but for what `streaming` does under `reference`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from pyllm.errors import SettingError
from pyllm.stream.horizon import ScoreHistory
from pyllm.stream.selection import SpanSources, highest, within_budget
from pyllm.stream.settings import Budget, StreamSettings

WINDOW_QUERIES = 32
"""How many of the last queries are remembered for policies that watch attention."""

_STEPS = 2.0**32
"""Steps of the logarithm of a score in one unit."""

Watches = Literal["nothing", "attention", "keys"]
"""What a policy must be shown beside the tokens themselves."""


@runtime_checkable
class Policy(Protocol):
    """Who stays. A policy of your own needs this one method.

    It may have two attributes more: `watches` (see `Watches`; without it, nothing), and `evicts`, False for a cache
    that grows without end.
    """

    def keep(self, tokens: "Candidates") -> Int[ndarray, " kept"]:
        """Ascending places in the cache of the tokens that stay: at most `tokens.room`."""


@dataclass(frozen=True, slots=True)
class Attention:
    """How much the queries so far looked at each cached token: means over heads and layers.

    Args:
        total: Sum over all queries since the token was read.
        window: The last queries, oldest first, one row each.
    """

    total: Float[ndarray, " cached"]
    window: Float[ndarray, "queries cached"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The cached tokens, shown to a policy when room must be made.

    Args:
        positions: Original position of each.
        turns: The turn that each was read in.
        nats: Score of each as it was read, before any decay.
        decayed: What orders them now: any order-preserving form of the decayed scores.
        held: Tokens that must stay: sinks, and those pinned.
        budget: The whole budget.
        coming: Tokens that room is made for.
        evictions: How many evictions there were before in this dialogue.
        attention: For policies that watch attention.
        key_similarity: For policies that watch keys: cosine of each key and the mean key, mean over heads and layers.
        choose: The budget rule, see `keep_highest`.
    """

    positions: Int[ndarray, " cached"]
    turns: Int[ndarray, " cached"]
    nats: Float[ndarray, " cached"]
    decayed: Float[ndarray, " cached"]
    held: Bool[ndarray, " cached"]
    budget: Budget
    coming: int
    evictions: int
    attention: Attention | None
    key_similarity: Callable[[], Float[ndarray, " cached"]]
    choose: Callable[[Float[ndarray, " cached"]], Int[ndarray, " chosen"]]

    @property
    def room(self) -> int:
        """How many tokens may stay."""
        return self.budget.tokens - self.coming

    @property
    def scored(self) -> int:
        """How many stay for their score: the entropy tokens, less those coming and those pinned beside the sinks."""
        extra = int(np.count_nonzero(self.held)) - min(self.budget.sinks, len(self.positions))
        return max(0, self.budget.entropy - self.coming - max(0, extra))

    def keep_highest(self, scores: Float[ndarray, " cached"]) -> Int[ndarray, " kept"]:
        """Keep sinks, the highest scores, and the newest rest: SirLLM's rule, for any score.

        Spans and ties are those of the dialogue's settings.

        Args:
            scores: Higher stays; minus infinity is allowed, NaN is not.
        """
        return within_budget(self.choose(scores), self.held, self.room)


@dataclass(frozen=True, slots=True)
class Departure:
    """Tokens that went at once, and what they were worth to who decided it.

    Args:
        positions: Their original positions, ascending.
        scores: What ranked each of them then, spans included; None where the policy ranks by no score.
        cut: The lowest score that stayed for its score; None where none did.
        in_nats: Whether the scores are decayed nats, and not a policy's own measure.
        coming: Tokens that room was made for; 0 where these were forgotten on command.
    """

    positions: Int[ndarray, " removed"]
    scores: Float[ndarray, " removed"] | None
    cut: float | None
    in_nats: bool
    coming: int


@dataclass
class Memory:
    """The bookkeeping of one dialogue.

    Args:
        settings: What decides who stays.
        policy: Who decides it.
    """

    settings: StreamSettings
    policy: Policy
    positions: Int[ndarray, " cached"] = field(default_factory=lambda: np.empty(0, np.int64))
    turns: Int[ndarray, " cached"] = field(default_factory=lambda: np.empty(0, np.int64))
    nats: Float[ndarray, " cached"] = field(default_factory=lambda: np.empty(0))
    decayed: Float[ndarray, " cached"] = field(default_factory=lambda: np.empty(0))
    pinned: Bool[ndarray, " cached"] = field(default_factory=lambda: np.empty(0, bool))
    attention: Attention = field(default_factory=lambda: Attention(np.empty(0), np.empty((0, 0))))
    history: ScoreHistory = field(default_factory=ScoreHistory)
    sources: SpanSources = field(init=False)
    seen: int = 0
    turn: int = -1
    evictions: int = 0
    log_decay: float = 0.0
    ratio: float = 1.0
    """The factor on every score when it last faded."""
    departures: list[Departure] = field(default_factory=list)
    """Who went since the present turn began, in order."""
    _sources_fade: bool = False
    _ranking: tuple[Float[ndarray, " cached"], Int[ndarray, " chosen"], bool] | None = None
    """What the last choice went by, what it chose, and whether by decayed scores."""

    def __post_init__(self) -> None:
        self.sources = SpanSources(self.settings.span_after, self.settings.span_before)

    @property
    def watches(self) -> Watches:
        """What the policy must be shown."""
        return getattr(self.policy, "watches", "nothing")

    @property
    def evicts(self) -> bool:
        """Whether the cache is bounded at all."""
        return bool(getattr(self.policy, "evicts", True))

    @property
    def overflows(self) -> bool:
        """Whether the policy may exceed the budget, as published code does."""
        return bool(getattr(self.policy, "overflows", False))

    @property
    def held(self) -> Bool[ndarray, " cached"]:
        """Tokens that must stay: sinks and pinned ones."""
        return self.pinned | (self.positions < self.settings.budget.sinks)

    def begin_turn(self) -> None:
        """Count a turn. Its decay is applied by `decay`, when room for its first tokens has been made."""
        if self.turn >= 0:
            self.history.end_turn()
        self.turn += 1
        self.departures.clear()

    def share_beyond(self, turns: int) -> float:
        """Share of the cached tokens that were read more than so many turns ago, sinks left out; 0 of none."""
        others = self.positions >= self.settings.budget.sinks
        beyond = others & (self.turn - self.turns > turns)
        return int(np.count_nonzero(beyond)) / max(1, int(np.count_nonzero(others)))

    def decay(self) -> None:
        """Let every score fade by one turn."""
        horizon = self.settings.horizon_turns
        ratio = self.settings.decay if horizon is None else self.history.ratio(horizon, self.settings.budget)
        self.ratio = ratio
        if ratio == 1.0:
            return
        if self.settings.reference:
            self.decayed = self.decayed * ratio
            if self._sources_fade:
                self.sources.fade(ratio)
        elif ratio == 0.0:
            self.decayed = np.full_like(self.decayed, -np.inf)
            if self._sources_fade:
                self.sources.values = np.full_like(self.sources.values, -np.inf)
        else:
            self.log_decay += float(np.log(ratio))

    def pieces(self, count: int) -> list[int]:
        """Lengths of the parts in which a turn's tokens are read.

        Raises:
            SettingError: The pinned tokens leave no room.
        """
        if not self.evicts or self.overflows:
            return [count]
        budget = self.settings.budget
        pinned = int(np.count_nonzero(self.pinned & (self.positions >= budget.sinks)))
        if pinned >= budget.room:
            raise SettingError(
                f"{pinned:,} pinned tokens leave no room in a cache of {budget.tokens:,}",
                hint="pin less, or give a larger cache",
            )
        return budget.pieces(count, pinned=pinned)

    def make_room(
        self, count: int, key_similarity: Callable[[], Float[ndarray, " cached"]]
    ) -> Int[ndarray, " kept"] | None:
        """Choose who stays when `count` tokens come, and forget the others.

        Args:
            count: Tokens to come: at most the budget's room.
            key_similarity: See `Candidates`.

        Returns:
            Ascending places in the cache of those that stay; None when there is room already.

        Raises:
            SettingError: The user's policy named places that make no sense.
        """
        budget = self.settings.budget
        if not self.evicts or len(self.positions) + count <= budget.tokens:
            return None
        self._ranking = None
        kept = np.asarray(self.policy.keep(self._candidates(count, key_similarity)))
        self._check(kept, budget.tokens - count)
        self._forget(kept, count)
        return kept

    def forget(self, kept: Int[ndarray, " kept"]) -> None:
        """Forget all tokens but these, given by their places in the cache, ascending."""
        self._ranking = self.decayed, np.empty(0, np.int64), True
        self._forget(kept, 0)

    def _candidates(self, count: int, key_similarity: Callable[[], Float[ndarray, " cached"]]) -> Candidates:
        tokens = Candidates(
            positions=self.positions,
            turns=self.turns,
            nats=self.nats,
            decayed=self.decayed,
            held=self.held,
            budget=self.settings.budget,
            coming=count,
            evictions=self.evictions,
            attention=self.attention if self.watches == "attention" else None,
            key_similarity=key_similarity,
            choose=lambda scores: self._choose(scores, tokens.scored),
        )
        return tokens

    def _choose(self, scores: Float[ndarray, " cached"], count: int) -> Int[ndarray, " chosen"]:
        # What a policy made of something else has no part in decay, evicted or not.
        self._sources_fade = scores is self.decayed
        spread = self.sources.spread(scores)
        own = scores if self.sources.widens else None
        chosen = highest(spread, count, newer_first=self.settings.newer_first, own=own)
        self._ranking = spread, chosen, self._sources_fade
        return chosen

    def _check(self, kept: ndarray, room: int) -> None:
        name = self.settings.policy
        if kept.ndim != 1 or not np.issubdtype(kept.dtype, np.integer):
            raise SettingError(f"policy `{name}` gave no list of places: {kept.dtype} of shape {kept.shape}")
        if len(kept) and (kept[0] < 0 or kept[-1] >= len(self.positions) or (np.diff(kept) <= 0).any()):
            raise SettingError(f"policy `{name}` gave places that are not ascending from 0 to {len(self.positions)}")
        if len(kept) > room and not self.overflows:
            raise SettingError(f"policy `{name}` keeps {len(kept):,} tokens where {room:,} may stay")

    def _forget(self, kept: Int[ndarray, " kept"], coming: int) -> None:
        self.departures.append(self._departure(kept, coming))
        self.positions, self.turns = self.positions[kept], self.turns[kept]
        self.nats, self.decayed, self.pinned = self.nats[kept], self.decayed[kept], self.pinned[kept]
        if self.watches == "attention":
            self.attention = Attention(self.attention.total[kept], self.attention.window[:, kept])
        self.sources.keep(kept, self.positions, self.seen)
        self.evictions += 1

    def _departure(self, kept: Int[ndarray, " kept"], coming: int) -> Departure:
        goes = np.ones(len(self.positions), bool)
        goes[kept] = False
        if self._ranking is None:
            return Departure(self.positions[goes], None, None, False, coming)
        by, chosen, in_nats = self._ranking
        scores, cut = by[goes], by[chosen].min(initial=np.inf)
        if in_nats and not self.settings.reference:
            scores, cut = np.exp(scores + self.log_decay), np.exp(cut + self.log_decay)
        return Departure(self.positions[goes], scores, float(cut) if len(chosen) else None, in_nats, coming)

    def switch(self, settings: StreamSettings, policy: Policy) -> None:
        """Let another rule decide from now on. What is held stays, with the scores it has.

        Raises:
            SettingError: The pinned tokens would leave no room, or scores would have to be kept in another form.
        """
        if settings.reference != self.settings.reference:
            raise SettingError("`--compat reference` is for a whole dialogue", hint="begin another one")
        before = self.settings, self.policy
        self.settings, self.policy = settings, policy
        try:
            self.pieces(1)
        except SettingError:
            self.settings, self.policy = before
            raise
        if (settings.span_after, settings.span_before) != (self.sources.after, self.sources.before):
            self.sources = SpanSources.around(self.positions, self.seen, settings.span_after, settings.span_before)
        watched = len(self.positions) if self.watches == "attention" else 0
        if watched != len(self.attention.total):
            # What was not watched from the beginning counts from here on.
            self.attention = Attention(np.zeros(watched), np.zeros((0, watched)))

    def append(self, nats: Float[ndarray, " new"]) -> None:
        """Take in tokens that were read, with their scores."""
        count = len(nats)
        self.positions = np.concatenate([self.positions, np.arange(self.seen, self.seen + count)])
        self.turns = np.concatenate([self.turns, np.full(count, self.turn)])
        self.nats = np.concatenate([self.nats, nats])
        self.decayed = np.concatenate([self.decayed, self._fresh(nats)])
        self.pinned = np.concatenate([self.pinned, np.zeros(count, bool)])
        self.sources.append(count)
        self.history.add(nats)
        self.seen += count

    def rescore(self, position: int, nats: float) -> None:
        """Correct the score of a token of the present turn, if it is still there."""
        place = int(np.searchsorted(self.positions, position))
        if place < len(self.positions) and self.positions[place] == position:
            self.history.correct(self.nats[place], nats)
            self.nats[place] = nats
            self.decayed[place] = self._fresh(np.array([nats]))[0]

    def _fresh(self, nats: Float[ndarray, " new"]) -> Float[ndarray, " new"]:
        if self.settings.reference:
            return nats.astype(np.float64)
        with np.errstate(divide="ignore"):
            logs = np.log(nats) - self.log_decay
        # What faded to the same score on two ways must tie; float32 scores that differ are 250 steps apart.
        rounded: Float[ndarray, " new"] = np.rint(logs * _STEPS) / _STEPS
        return rounded

    def observe(self, rows: Float[ndarray, "queries cached"]) -> None:
        """Take in how much each query of a forward pass looked at each cached token, the new ones included."""
        old = rows.shape[1] - len(self.attention.total)
        total = np.pad(self.attention.total, (0, old)) + rows.sum(0)
        before = np.pad(self.attention.window, ((0, 0), (0, rows.shape[1] - self.attention.window.shape[1])))
        self.attention = Attention(total, np.concatenate([before, rows])[-WINDOW_QUERIES:])

    def state(self) -> dict[str, ndarray]:
        """Everything to go on from, as arrays by name."""
        numbers = np.array([self.seen, self.turn, self.evictions, self._sources_fade], np.int64)
        return {
            "positions": self.positions,
            "turns": self.turns,
            "nats": self.nats,
            "decayed": self.decayed,
            "pinned": self.pinned,
            "attention_total": self.attention.total,
            "attention_window": self.attention.window,
            "counters": numbers,
            "log_decay": np.array([self.log_decay]),
            **self.sources.state(),
            **self.history.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave, in a memory made with the same settings."""
        self.positions, self.turns = state["positions"], state["turns"]
        self.nats, self.decayed, self.pinned = state["nats"], state["decayed"], state["pinned"]
        self.attention = Attention(state["attention_total"], state["attention_window"])
        self.seen, self.turn, self.evictions, fade = (int(number) for number in state["counters"])
        self._sources_fade = bool(fade)
        self.log_decay = float(state["log_decay"][0])
        self.sources.restore(state)
        self.history.restore(state)
