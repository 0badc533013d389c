"""`keydiff`: the tokens whose keys are least like the mean key. Source: KeyDiff, arXiv 2504.15364."""

from jaxtyping import Int
from numpy import ndarray

from pyllm.stream.memory import Candidates


class KeyDiff:
    """Dissimilarity of keys, the mean over heads and layers (the paper takes each head by itself)."""

    watches = "keys"

    def keep(self, tokens: Candidates) -> Int[ndarray, " kept"]:
        """The lowest cosine to the mean key within the budget."""
        return tokens.keep_highest(-tokens.key_similarity())
