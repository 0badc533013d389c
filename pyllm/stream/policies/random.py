"""`random`: sinks, a random choice of the others, and the newest rest. The paper names it and publishes no code."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


@dataclass(frozen=True, slots=True)
class Random:
    """A uniform choice, drawn anew at each eviction.

    Sinks are not drawn, so that with no recent tokens exactly the room is filled at random: the definition that
    predicts the paper's numbers (`docs/methods/sirllm.md`).

    Args:
        seed: Equal seeds give equal choices at the n-th eviction of any dialogue, resumed or not.
    """

    seed: int = 0

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The highest of scores drawn at random; with spans, random stretches."""
        scores = np.random.default_rng([self.seed, tokens.evictions]).random(len(tokens.positions))
        scores[tokens.held] = -np.inf
        return tokens.keep_highest(scores)
