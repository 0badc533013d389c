"""`window`: the newest tokens stay, sinks or not."""

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class Window:
    """A sliding window over the dialogue, with positions of the cache: the baseline that loses its sinks."""

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The newest; pinned tokens that are no sinks are let go as well."""
        cached = len(tokens.positions)
        return np.arange(cached - tokens.room, cached)
