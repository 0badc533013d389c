"""Choosing which tokens stay: the budget rule of SirLLM over any scores, and spans around the tokens that score high.

Cost: a partition and a few passes over the cached tokens, no sort; tens of microseconds at a thousand tokens.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray


def highest(
    scores: Float[ndarray, " cached"], count: int, *, newer_first: bool, own: Float[ndarray, " cached"] | None = None
) -> Int[ndarray, " chosen"]:
    """Places of the `count` highest scores, in no order.

    Args:
        scores: What decides; minus infinity is allowed, NaN is not.
        count: How many; less than 1 chooses none, more than there are all.
        newer_first: Whether the later of two equal tokens is chosen.
        own: What decides among equal scores before their age does.
    """
    if count < 1:
        return np.empty(0, np.int64)
    if count >= len(scores):
        return np.arange(len(scores))
    cut = np.partition(scores, len(scores) - count)[len(scores) - count]
    above = np.flatnonzero(scores > cut)
    equal = np.flatnonzero(scores == cut)
    missing = count - len(above)
    if len(equal) > missing:
        if own is None:
            equal = equal[len(equal) - missing :] if newer_first else equal[:missing]
        else:
            equal = equal[np.lexsort((-equal if newer_first else equal, -own[equal]))[:missing]]
    return np.concatenate([above, equal])


def within_budget(chosen: Int[ndarray, " chosen"], held: Bool[ndarray, " cached"], room: int) -> Int[ndarray, " kept"]:
    """Ascending places of the tokens that stay: those held, those chosen, and the newest rest until `room` are kept.

    Args:
        chosen: Places chosen for their score.
        held: Tokens that must stay: sinks and pinned ones.
        room: How many stay.
    """
    stays = held.copy()
    stays[chosen] = True
    missing = room - int(np.count_nonzero(stays))
    if missing > 0:
        rest = np.flatnonzero(~stays)
        stays[rest[max(0, len(rest) - missing) :]] = True
    return np.flatnonzero(stays)


class SpanSources:
    """The tokens whose scores reach the cached ones: those in the cache, and evicted ones near enough to count.

    Every token is a source for the `after` tokens behind it and the `before` tokens in front of it, by original
    position, with the score of its own that it had last. Sources that reach nothing any more are dropped, so there are
    at most `cached * (after + before + 1) + after` of them.

    Args:
        after: How many tokens a source takes along behind it.
        before: How many in front of it, as far as they were read.
    """

    def __init__(self, after: int, before: int) -> None:
        self.after = after
        self.before = before
        self.values: Float[ndarray, " sources"] = np.empty(0)
        self._cached: Int[ndarray, " cached"] = np.empty(0, np.int64)
        """Place among the sources of each cached token."""

    @classmethod
    def around(cls, positions: Int[ndarray, " cached"], seen: int, after: int, before: int) -> "SpanSources":
        """Sources of a dialogue that is under way: what is gone already has no score.

        Args:
            positions: Original positions of the cached tokens, ascending.
            seen: Tokens ever read.
            after: How many tokens a source takes along behind it.
            before: How many in front of it.
        """
        made = cls(after, before)
        if made.widens:
            windows = (positions[:, None] + np.arange(-after, before + 1)).ravel()
            # The last ones are in reach of what comes next.
            reached = np.unique(np.concatenate([windows, np.arange(seen - after, seen)]))
            reached = reached[(reached >= 0) & (reached < seen)]
            made.values = np.full(len(reached), -np.inf)
            made._cached = np.searchsorted(reached, positions)
        return made

    @property
    def widens(self) -> bool:
        """Whether a source reaches anything but itself."""
        return self.after > 0 or self.before > 0

    def append(self, count: int) -> None:
        """Take in tokens that were read."""
        if self.widens:
            self._cached = np.concatenate([self._cached, np.arange(count) + len(self.values)])
            self.values = np.concatenate([self.values, np.full(count, -np.inf)])

    def spread(self, own: Float[ndarray, " cached"]) -> Float[ndarray, " cached"]:
        """The largest score in the window of each cached token.

        Args:
            own: Score of each cached token by itself.
        """
        if not self.widens:
            return own
        self.values[self._cached] = own
        # Every token of a cached token's window is among the sources, so windows are runs of equal length; beyond both
        # ends of the dialogue stands nothing.
        beyond = (np.full(side, -np.inf) for side in (self.after, self.before))
        runs = np.concatenate([next(beyond), self.values, next(beyond)])
        wanted, length = self.after + self.before + 1, 1
        while 2 * length <= wanted:
            runs = np.maximum(runs[:-length], runs[length:])
            length *= 2
        largest: Float[ndarray, " cached"] = np.maximum(runs[self._cached], runs[self._cached + (wanted - length)])
        return largest

    def fade(self, ratio: float) -> None:
        """Multiply every score; those that are not known yet stay so."""
        known = np.isfinite(self.values)
        self.values[known] *= ratio

    def keep(self, kept: Int[ndarray, " kept"], positions: Int[ndarray, " kept"], seen: int) -> None:
        """Drop what reaches none of the tokens that stay.

        Args:
            kept: Places in the cache of the tokens that stay.
            positions: Their original positions.
            seen: Tokens ever read.
        """
        if not self.widens:
            return
        self._cached = self._cached[kept]
        first = self._cached - np.minimum(self.after, positions)
        end = self._cached + np.minimum(self.before, seen - 1 - positions) + 1
        size = len(self.values) + 1
        reaching = np.cumsum(np.bincount(first, minlength=size) - np.bincount(end, minlength=size))[:-1] > 0
        # Tokens that come next are in reach of these.
        reaching[max(0, len(reaching) - self.after) :] = True
        places = np.cumsum(reaching) - 1
        self._cached = places[self._cached]
        self.values = self.values[reaching]

    def state(self) -> dict[str, ndarray]:
        """Everything to go on from, as arrays by name."""
        return {"source_values": self.values, "source_places": self._cached}

    def restore(self, state: Mapping[str, ndarray]) -> None:
        """Take over what `state` gave."""
        self.values, self._cached = state["source_values"], state["source_places"]
