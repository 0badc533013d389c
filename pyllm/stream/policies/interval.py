"""`interval`: sinks, tokens at even distances, and the newest rest. The paper names it and publishes no code."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates
from pyllm.stream.selection import within_budget


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many tokens of the cached history without sinks.

    The paper keeps every floor(history / cache)-th token. Taken literally that is every token, counted from the
    oldest, until the history is twice the cache: nothing new would enter. So the choice is spread evenly instead.

    Args:
        literal: Take the paper's rule literally all the same.
    """

    literal: bool = False

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The i-th of T among h tokens is the one at floor(i * h / T), or literally at i * floor(h / C)."""
        others = np.flatnonzero(~tokens.held)
        spread = min(tokens.scored, len(others))
        if self.literal:
            step = max(1, len(others) // tokens.budget.tokens)
            return within_budget(others[::step][:spread], tokens.held, tokens.room)
        # The newest tokens that fill the rest of the room stand apart from the stretch that is spread over.
        newest = max(0, tokens.room - int(np.count_nonzero(tokens.held)) - spread)
        history = others[: max(spread, len(others) - newest)]
        chosen = history[np.arange(spread) * len(history) // max(1, spread)]
        return within_budget(chosen, tokens.held, tokens.room)
