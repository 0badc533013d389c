"""Patterns that take a text apart: literal text with named holes, as in `Passage: {passage} Question: {question}`.

A hole holds what stands before the next literal, at its first place; the last hole holds the rest. That takes time in
the length of the text, whatever the pattern is, which regular expressions do not promise.
"""

import re
from dataclasses import dataclass
from typing import Final

from pyllm.mti.expressions import ExpressionError, cut

_HOLE: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read.

    Args:
        names: The holes.
        literals: What stands before, between and behind the holes: one more than there are holes.
    """

    names: tuple[str, ...]
    literals: tuple[str, ...]

    def match(self, text: str) -> dict[str, str] | None:
        """What the holes hold, or None where the text does not fit.

        Example:
            >>> read_pattern("Q: {question} A: {answer}.").match("Q: Why? A: So.")
            {'question': 'Why?', 'answer': 'So'}
        """
        first, *between, last = self.literals
        if not (text.startswith(first) and text.endswith(last) and len(first) + len(last) <= len(text)):
            return None
        place, limit = len(first), len(text) - len(last)
        held = {}
        for name, literal in zip(self.names, between, strict=False):
            end = text.find(literal, place, limit)
            if end < 0:
                return None
            held[name] = text[place:end]
            place = end + len(literal)
        held[self.names[-1]] = text[place:limit]
        return held


def read_pattern(text: str) -> Pattern:
    """Read a pattern.

    Raises:
        ExpressionError: It has no holes, two of one name, or two that nothing keeps apart.
    """
    parts = _HOLE.split(text)
    names, literals = tuple(parts[1::2]), tuple(parts[::2])
    if not names:
        raise ExpressionError(f"`{cut(text)}` has no holes", hint="a hole is a name in braces")
    if len(set(names)) < len(names):
        raise ExpressionError(f"`{cut(text)}` has two holes of one name")
    if not all(literals[1:-1]):
        raise ExpressionError(f"nothing keeps two holes of `{cut(text)}` apart")
    return Pattern(names, literals)
