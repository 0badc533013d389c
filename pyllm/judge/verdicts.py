"""What a judge said, read strictly: a verdict in double brackets, one and no other. Nothing is guessed."""

import re
from dataclasses import dataclass
from typing import Literal

Parse = Literal["ok", "missing", "ambiguous", "invalid"]
"""`missing`: no verdict; `ambiguous`: several that differ; `invalid`: one that cannot be, such as a grade of 11."""

_BRACKETED = re.compile(r"\[\[([^\[\]\n]{0,20})\]\]")
_NUMBER = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,2})?")

LEAST_GRADE, BEST_GRADE = 1.0, 10.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict.

    Args:
        parse: Whether there is one.
        value: A grade as a number, or the letter that won and `C` for a tie; None where there is none.
    """

    parse: Parse
    value: float | str | None = None


def read_grade(text: str) -> Verdict:
    """The grade in `[[...]]`, from 1 to 10.

    Example:
        >>> read_grade("Short but right. Rating: [[7]]")
        Verdict(parse='ok', value=7.0)
    """
    found = {each.strip() for each in _BRACKETED.findall(text)}
    if not found:
        return Verdict("missing")
    numbers = {float(each) if _NUMBER.fullmatch(each) else None for each in found}
    if len(numbers) > 1:
        return Verdict("ambiguous")
    number = numbers.pop()
    if number is None or not LEAST_GRADE <= number <= BEST_GRADE:
        return Verdict("invalid")
    return Verdict("ok", number)


def read_choice(text: str) -> Verdict:
    """The letter in `[[...]]`: `A`, `B`, or `C` for a tie.

    Example:
        >>> read_choice("Both are right, B is clearer: [[B]]")
        Verdict(parse='ok', value='B')
    """
    found = {each.strip() for each in _BRACKETED.findall(text)}
    if not found:
        return Verdict("missing")
    if len(found) > 1:
        return Verdict("ambiguous")
    letter = found.pop()
    return Verdict("ok", letter) if letter in ("A", "B", "C") else Verdict("invalid")
