"""`full`: everything stays, the cache grows without end."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class Full:
    """Nothing is ever evicted."""

    evicts = False

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """All of them."""
        return np.arange(len(tokens.positions))
