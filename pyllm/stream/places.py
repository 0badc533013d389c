"""Where the tokens of a cache stand: bookkeeping of one dialogue, without keys and values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

Positions = Literal["cache", "rebase", "native-sliding"]
"""Which positions the tokens that stay have.

`cache`: their place in the cache, from 0 on (the paper's). `rebase`: those they were read at, until the model's limit
is near; then all move to their place in the cache at once. `native-sliding`: as `cache`, but layers that look back on
a window keep the last tokens as they came, whatever is evicted elsewhere.
"""


@dataclass(frozen=True, slots=True)
class Move:
    """What layers must do when tokens leave.

    Args:
        first: Everything before this place stays as it is.
        moved: Where the tokens stand that come to the places from there on.
        shifts: How far their positions are then from those they were written at; None where positions stay.
    """

    first: int
    moved: Int[Tensor, " moved"]
    shifts: Int[Tensor, " moved"] | None


class Places:
    """Positions of the tokens of one dialogue's cache, present ones and those they were written at.

    Args:
        positions: Which positions the tokens that stay have.
        limit_tokens: Most positions of the model, for `rebase`; None never rebases.
    """

    def __init__(self, positions: Positions, limit_tokens: int | None) -> None:
        self._limit = limit_tokens if positions == "rebase" else None
        self._renumbered = positions != "rebase"
        self._at: Int[Tensor, " settled"] = torch.empty(0, dtype=torch.int64)
        self._written_at: Int[Tensor, " settled"] = torch.empty(0, dtype=torch.int64)
        self._newest = 0
        """Tokens behind the settled ones: they came one after another up to `next`, and were written where they are."""
        self.next = 0
        """Position of the token that comes next."""

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self._at.shape[0] + self._newest

    @property
    def at(self) -> Int[Tensor, " cached"]:
        """Present position of each token held."""
        self._settle()
        return self._at

    @property
    def written_at(self) -> Int[Tensor, " cached"]:
        """Position it was written at."""
        self._settle()
        return self._written_at

    def _settle(self) -> None:
        """Write the newest down; token by token, that would cost more than all else that is kept of a token."""
        if self._newest:
            newest = torch.arange(self.next - self._newest, self.next)
            self._at = torch.cat([self._at, newest])
            self._written_at = torch.cat([self._written_at, newest])
            self._newest = 0

    def rebase(self, count: int) -> Int[Tensor, " cached"] | None:
        """Move all tokens to their place in the cache, if `count` more would pass the limit.

        Returns:
            How far each moves; None where none does.
        """
        if self._limit is None or self.next + count <= self._limit:
            return None
        now = torch.arange(self.tokens)
        shifts = now - self.at
        self._at, self._written_at, self.next = now, now.clone(), len(now)
        return shifts

    def add(self, count: int) -> Int[Tensor, " new"]:
        """Take in new tokens; their positions."""
        self._newest += count
        self.next += count
        return torch.arange(self.next - count, self.next)

    def keep(self, kept: Int[Tensor, " kept"]) -> Move | None:
        """Take every other token out; None where all stay.

        Args:
            kept: Places in the cache of the tokens that stay, ascending.
        """
        kept = kept.to("cpu", torch.int64)
        if len(kept) == self.tokens:
            return None
        self._settle()
        gaps = (kept != torch.arange(len(kept))).nonzero()
        first = int(gaps[0]) if len(gaps) else len(kept)
        self._at = torch.arange(len(kept)) if self._renumbered else self._at[kept]
        self._written_at = self._written_at[kept]
        if not self._renumbered:
            return Move(first, kept[first:], None)
        self.next = len(kept)
        return Move(first, kept[first:], (self._at - self._written_at)[first:])

    def crop(self, tokens_to_remove: int) -> None:
        """Take the newest tokens out again, as if they had never come; how many, with either sign."""
        count = min(abs(tokens_to_remove), self.tokens)
        if count:
            self._settle()
            self.next = int(self._at[-count])
            self._at, self._written_at = self._at[:-count], self._written_at[:-count]

    def reset(self) -> None:
        """Forget everything."""
        self._at, self._written_at, self._newest, self.next = self._at[:0], self._written_at[:0], 0, 0

    def state(self) -> dict[str, Tensor]:
        """Everything to go on from, by name."""
        return {"at": self.at.clone(), "written_at": self.written_at.clone(), "next": torch.tensor([self.next])}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self._at, self._written_at = state["at"].clone(), state["written_at"].clone()
        self._newest, self.next = 0, int(state["next"])
