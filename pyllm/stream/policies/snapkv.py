"""`snapkv`: the tokens that the last queries looked at, smoothed. Source: SnapKV, arXiv 2404.14469."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates

_POOLED_TOKENS = 5


class SnapKV:
    """Mean attention of the last queries, averaged over neighbours so that a choice takes its surroundings along.

    The paper chooses for each head by itself; the mean over heads and layers decides here.
    """

    watches = "attention"

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The highest pooled weights within the budget."""
        if tokens.attention is None or not len(tokens.attention.window):
            return tokens.keep_highest(np.zeros(len(tokens.positions)))
        seen = tokens.attention.window.mean(0)
        around = np.pad(seen, _POOLED_TOKENS // 2)
        pooled = np.lib.stride_tricks.sliding_window_view(around, _POOLED_TOKENS).mean(1)
        return tokens.keep_highest(pooled)
