"""`tova`: the tokens that the last query looked at. Source: TOVA, arXiv 2401.06104."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class TOVA:
    """Attention of the newest query, the mean over heads and layers (the paper takes each layer by itself)."""

    watches = "attention"

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The highest weights within the budget."""
        seen = tokens.attention is not None and len(tokens.attention.window)
        last = tokens.attention.window[-1] if seen and tokens.attention else np.zeros(len(tokens.positions))
        return tokens.keep_highest(last)
