"""`h2o`: the tokens that were looked at most, in all. Source: H2O, arXiv 2306.14048."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class H2O:
    """Accumulated attention.

    The paper chooses for each head by itself. One set for all layers is what positions and a history to show need, so
    the mean over heads and layers decides here.
    """

    watches = "attention"

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The highest sums of attention within the budget."""
        total = np.zeros(len(tokens.positions)) if tokens.attention is None else tokens.attention.total
        return tokens.keep_highest(total)
