"""`streaming`: sinks and the newest tokens stay. Source: StreamingLLM, arXiv 2309.17453."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates
from pyllm.stream.selection import within_budget


@dataclass(frozen=True, slots=True)
class Streaming:
    """The baseline of the paper.

    Args:
        overflows: Do as the published code does when a turn is longer than the recent tokens: keep the sinks alone,
            and let the turn exceed the budget. Otherwise such a turn is read in pieces.
    """

    overflows: bool = False

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """Sinks and the newest, as many as there is room for."""
        return within_budget(np.empty(0, np.int64), tokens.held, tokens.room)
