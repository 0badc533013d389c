"""Texts with expressions in braces."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from pyllm.mti.expressions import ExpressionError, Function, cut, kind_of, read_expression

Template = Callable[[Mapping[str, Any]], str]


def read_template(text: str, functions: Mapping[str, Function]) -> Template:
    """Read a text with expressions in braces; `{{` and `}}` stand for braces.

    Returns:
        A function from names to the text with every expression's value in its place.

    Raises:
        ExpressionError: A brace is open, or an expression cannot be read.

    Example:
        >>> read_template("(1) {a} {{b}}", {})({"a": 2})
        '(1) 2 {b}'
    """
    parts = [part if isinstance(part, str) else read_expression(part[0], functions) for part in _template_parts(text)]

    def fill(names: Mapping[str, Any]) -> str:
        return "".join(part if isinstance(part, str) else as_text(part(names)) for part in parts)

    return fill


def as_text(value: Any) -> str:
    """A value as templates and golds show it: lists as `[1, 2]`, whole fractions without a denominator."""
    if isinstance(value, Fraction):
        return str(value.numerator) if value.denominator == 1 else str(float(value))
    if isinstance(value, bool) or value is None or isinstance(value, dict):
        raise ExpressionError(f"{kind_of(value)} cannot stand in a text")
    return str(value)


def _template_parts(text: str) -> Iterator[str | tuple[str]]:
    place = 0
    literal = ""
    while place < len(text):
        letter = text[place]
        if text.startswith(("{{", "}}"), place):
            literal += letter
            place += 2
        elif letter == "}":
            raise ExpressionError(f"`{cut(text)}` closes a brace that was never opened", hint="write `}}` for a brace")
        elif letter == "{":
            end = _closing(text, place)
            yield literal
            yield (text[place + 1 : end],)
            literal = ""
            place = end + 1
        else:
            literal += letter
            place += 1
    yield literal


def _closing(text: str, start: int) -> int:
    """Where the brace at `start` closes; braces in quotes do not count."""
    quote = ""
    for place in range(start + 1, len(text)):
        letter = text[place]
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "}":
            return place
    raise ExpressionError(f"`{cut(text)}` opens a brace that is never closed", hint="write `{{` for a brace")
