"""`sirllm`: sinks, the tokens that surprised most, and the newest rest. Source: SirLLM, arXiv 2405.12528."""

from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class SirLLM:
    """The decayed score of each token decides; which score that is stands in the dialogue's settings."""

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The highest decayed scores within the budget."""
        return tokens.keep_highest(tokens.decayed)
