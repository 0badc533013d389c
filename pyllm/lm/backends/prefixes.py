"""Which prompts begin alike, and what the model remembers of their beginnings.

Any beginning of a stored prefix can be used, because a token's keys and values depend on what stands before it alone:
no tree of shared parts is kept, only the longest prefixes, the least recently used of which leave first.
"""

import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from pyllm.lm.backends.slots import Prefix

Ids = Int[np.ndarray, " _"]

LEAST_GAIN_TOKENS = 16
"""A prefix is worth computing for itself when it saves at least this many tokens to another prompt."""
_REMEMBERED_PROMPTS = 256
_LIKE_SHARE = 0.75
_LIKE_TOKENS = 32
"""Prompts are read together when the least to read is this share of the most, or this close to it."""


def common_tokens(left: Ids, right: Ids) -> int:
    """How many tokens both begin with."""
    most = min(len(left), len(right))
    unlike = np.flatnonzero(left[:most] != right[:most])
    return int(unlike[0]) if len(unlike) else most


def prefix_order(prompts: Sequence[Ids]) -> list[int]:
    """Prompt numbers such that those which begin alike stand together."""
    return sorted(range(len(prompts)), key=lambda number: (prompts[number].astype(">i8").tobytes(), number))


def shared_tokens(prompts: Sequence[Ids]) -> list[int]:
    """Of each prompt, how many tokens at its beginning it shares with the other prompt that is most like it."""
    order = prefix_order(prompts)
    shared = [0] * len(prompts)
    for left, right in itertools.pairwise(order):
        common = common_tokens(prompts[left], prompts[right])
        shared[left], shared[right] = max(shared[left], common), max(shared[right], common)
    return shared


def distinct_tokens(prompts: Sequence[Ids]) -> int:
    """How many tokens must be computed when no beginning is computed twice: the size of the prompts' trie."""
    order = prefix_order(prompts)
    total = sum(len(prompt) for prompt in prompts)
    return total - sum(common_tokens(prompts[left], prompts[right]) for left, right in itertools.pairwise(order))


def batches(
    prompts: Sequence[Ids], shared: Sequence[int], *, rows: int, tokens: int, new_tokens: int
) -> list[list[int]]:
    """Prompt numbers in batches, those with most to read first, those that begin alike side by side.

    All rows of a batch are read as far as the one with most to read, so a batch holds prompts with about as much.

    Args:
        prompts: Token ids.
        shared: Tokens at the beginning of each that will be there already.
        rows: Most prompts of a batch.
        tokens: Most tokens of a batch, answers included, every row as long as its longest.
        new_tokens: Most tokens of an answer.
    """
    place_of = {number: place for place, number in enumerate(prefix_order(prompts))}
    fresh = [len(prompt) - common for prompt, common in zip(prompts, shared, strict=True)]
    levels: list[list[int]] = []
    for number in sorted(range(len(prompts)), key=lambda number: (-fresh[number], place_of[number])):
        most = fresh[levels[-1][0]] if levels else 0
        if levels and fresh[number] >= min(_LIKE_SHARE * most, most - _LIKE_TOKENS):
            levels[-1].append(number)
        else:
            levels.append([number])
    made: list[list[int]] = []
    for level in levels:
        longest = 0
        batch: list[int] = []
        for number in sorted(level, key=place_of.__getitem__):
            longest = max(longest, len(prompts[number]))
            if batch and (len(batch) == rows or (longest + new_tokens) * (len(batch) + 1) > tokens):
                made.append(batch)
                batch, longest = [], len(prompts[number])
            batch.append(number)
        made.append(batch)
    return made


class PrefixStore:
    """Prefixes that were computed, and the prompts seen of late.

    Args:
        most_bytes: What keys and values may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: list[Prefix] = []
        self._seen: deque[Ids] = deque(maxlen=_REMEMBERED_PROMPTS)

    def longest(self, ids: Ids) -> tuple[Prefix | None, int]:
        """The prefix that agrees longest with a prompt, and for how many tokens."""
        best, most = None, 0
        for prefix in self._kept:
            common = common_tokens(prefix.ids.numpy(), ids)
            if common > most:
                best, most = prefix, common
        if best is not None:
            self._kept.sort(key=lambda prefix: prefix is best)  # the end is what was used last
        return best, most

    def keep(self, prefix: Prefix) -> None:
        """Keep a prefix, in place of those that it goes on from."""
        ids = prefix.ids.numpy()
        self._kept = [each for each in self._kept if common_tokens(each.ids.numpy(), ids) < each.tokens]
        self._kept.append(prefix)
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept) > self._most_bytes:
            self._kept.pop(0)

    def clear(self) -> None:
        """Forget all prefixes."""
        self._kept.clear()

    def seen(self, ids: Ids) -> int:
        """How many tokens a prompt shares with one of those before it; it is remembered."""
        most = max((common_tokens(each, ids) for each in self._seen), default=0)
        self._seen.append(ids)
        return most


def as_ids(ids: Sequence[int]) -> Ids:
    """Token ids as an array."""
    return np.asarray(ids, dtype=np.int64)
