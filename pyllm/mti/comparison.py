"""Whether an answer has the value of the gold, by the type of the answer rather than by its spelling.

A type decides which spellings are values at all and when two values are equal. The whole text must be the value: no
number is picked out of a sentence, nothing is added up, and only ASCII digits are digits. Reading is linear in the
text; a number that is compared by size is read up to 1,000 characters.
"""

import functools
import re
import string
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

from pyllm.mti.tasks import AnswerType

RELATIVE_TOLERANCE = Decimal("1e-3")

_LONGEST_NUMBER = 1_000
_CACHED_LENGTH = 64
# Wide enough for every double; a number too large or too small for it becomes no value instead of an exception.
_ARITHMETIC = Context(prec=400, Emax=MAX_EMAX, Emin=MIN_EMIN, rounding=ROUND_HALF_UP, traps=[])

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})++|[0-9]++)"
_INTEGER = re.compile(rf"([+-]?)({_DIGITS})(?:\.0*+)?")
_NUMBER = re.compile(rf"[+-]?(?:{_DIGITS}(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]{{1,6}})?")
_FRACTION = re.compile(rf"([+-]?{_DIGITS})\s*+/\s*+([+-]?{_DIGITS})")
_LETTER = re.compile(r"\(?\s*+([^\W\d_])\s*+[.)]?\.?")
_ORDER_ITEM = r"\(?\s*+(?:[0-9]{1,9}|[A-Za-z])\s*+\)?"
_ORDER = re.compile(rf"\[?\s*+{_ORDER_ITEM}(?:\s*+(?:->|[-,>\u2013\u2192])\s*+{_ORDER_ITEM})*+\s*+\]?")
_ORDER_NAMES = re.compile(r"[0-9]+|[A-Za-z]")
_ORDER_GOLD = re.compile(r"\([0-9A-Za-z]+\)(?:-\([0-9A-Za-z]+\))+")

_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer, read once.

    Args:
        answer_type: How answers are compared with it.
        text: `str` of the gold.
        value: Its value under that type; for `text` the text itself.
    """

    answer_type: AnswerType
    text: str
    value: Any

    def accepts(self, answer: str) -> bool:
        """Whether an answer has this value. Always False for free text, which is measured and not matched."""
        if self.answer_type == "text":
            return False
        if answer.strip() == self.text.strip():
            return True
        if self.answer_type == "span":
            return bool(self.value) and _span(answer) == self.value
        value: Any = value_of(answer, self.answer_type)
        if value is None or self.value is None:
            return False
        if self.answer_type == "number":
            return _is_near(value, self.value)
        if self.answer_type == "decimal":
            return _has_digits(value, self.value)
        return bool(value == self.value)

    def reads(self, answer: str) -> Hashable:
        """What two answers must agree in to be the same answer: the value, or the words if there is none."""
        value = value_of(answer, self.answer_type)
        return " ".join(answer.split()) if value is None else value


def read_gold(gold: Any, answer_type: AnswerType | None = None) -> Gold:
    """A gold answer of the tasks file, its type as stated or else as the gold itself shows it.

    Args:
        gold: Text, a number, or a list of either.
        answer_type: The type its task states.

    Example:
        >>> [read_gold(gold).answer_type for gold in ([1, 2], 4, "1,234", 2.0, "3/7", "(2)-(1)", "b", "Cole")]
        ['set', 'int', 'int', 'number', 'fraction', 'order', 'letter', 'span']
    """
    text = str(gold)
    read = ", ".join(str(item) for item in gold) if isinstance(gold, list | tuple) and gold else text
    chosen = type_of(gold) if answer_type is None else answer_type
    if chosen == "decimal" and not isinstance(gold, str):
        chosen = "number"  # a number of JSON does not say how many digits were wanted
    return Gold(chosen, text, value_of(read, chosen))


def type_of(gold: Any) -> AnswerType:
    """The type of a gold answer that no task states."""
    if isinstance(gold, list | tuple):
        return "set"
    if isinstance(gold, bool) or not isinstance(gold, int | float | str):
        return "span"
    if not isinstance(gold, str):
        return "int" if isinstance(gold, int) else "number" if value_of(str(gold), "number") is not None else "span"
    text = gold.strip()
    if _INTEGER.fullmatch(_without_parentheses(text)) and "." not in text:
        return "int"
    if "." not in text and value_of(text, "letter") is not None:
        return "letter"
    if _NUMBER.fullmatch(_without_parentheses(text)):
        return "number"
    if _FRACTION.fullmatch(text):
        return "fraction"
    return "order" if _ORDER_GOLD.fullmatch(text) else "span"


def value_of(text: str, answer_type: AnswerType) -> Hashable:
    """The value of a text under a type, or None if the text is no such value."""
    return _cached_value(text, answer_type) if len(text) <= _CACHED_LENGTH else _READERS[answer_type](text.strip())


@functools.lru_cache(maxsize=1 << 16)
def _cached_value(text: str, answer_type: AnswerType) -> Hashable:
    return _READERS[answer_type](text.strip())


def _integer(text: str) -> str | None:
    """The one spelling of a whole number. Text, because Python converts long numbers slowly or not at all."""
    match = _INTEGER.fullmatch(_without_parentheses(text))
    if match is None:
        return None
    digits = match[2].replace(",", "").lstrip("0")
    return "0" if not digits else f"-{digits}" if match[1] == "-" else digits


def _number(text: str) -> Decimal | None:
    bare = _without_parentheses(text)
    if len(bare) > _LONGEST_NUMBER or _NUMBER.fullmatch(bare) is None:
        return None
    number = _ARITHMETIC.create_decimal(bare.replace(",", ""))
    return number if number.is_finite() else None


def _fraction(text: str) -> Fraction | None:
    bare = _without_parentheses(text)
    if len(bare) > _LONGEST_NUMBER:
        return None
    match = _FRACTION.fullmatch(bare)
    if match is None:
        # 8/8 may be written 1, and 1/2 as 0.5; with an exponent it would be as long as the exponent says.
        number = None if "e" in bare.lower() else _number(bare)
        return None if number is None else Fraction(number)
    above, below = (int(part.replace(",", "")) for part in match.groups())
    return None if below == 0 else Fraction(above, below)


def _letter(text: str) -> str | None:
    match = _LETTER.fullmatch(text)
    return match[1].casefold() if match is not None and match[1].isalpha() else None


def _order(text: str) -> tuple[str, ...] | None:
    if _ORDER.fullmatch(text) is None:
        return None
    return tuple(name.lstrip("0") or "0" if name.isdigit() else name.casefold() for name in _ORDER_NAMES.findall(text))


def _list(text: str) -> tuple[Hashable, ...] | None:
    inside = text
    if len(text) >= 2 and _BRACKETS.get(text[0]) == text[-1] and not (text[0] == "(" and ")" in text[:-1]):
        inside = text[1:-1]
        if not inside.strip():
            return ()
    parts = [part.strip() for part in inside.split(",")]
    return None if not all(parts) else tuple(_item(part) for part in parts)


def _set(text: str) -> frozenset[Hashable] | None:
    items = _list(text)
    return None if items is None else frozenset(items)


def _item(text: str) -> Hashable:
    """One item of a list: a whole number, a number, or words without their quotes."""
    bare = _without_parentheses(text).strip("'\" ")
    integer = _integer(bare)
    if integer is not None:
        return integer
    number = _number(bare)
    return number if number is not None else bare.casefold()


def _span(text: str) -> str:
    """Lower case, without punctuation and articles, one space between words.

    Source: P. Rajpurkar et al., "SQuAD", 2016, the official evaluation script's normalisation.
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _text(text: str) -> str:
    return text


_READERS: dict[AnswerType, Callable[[str], Hashable]] = {
    "int": _integer,
    "number": _number,
    "fraction": _fraction,
    "decimal": _number,
    "set": _set,
    "list": _list,
    "order": _order,
    "letter": _letter,
    "span": _span,
    "text": _text,
}


def _is_near(value: Any, gold: Any) -> bool:
    distance = _ARITHMETIC.abs(_ARITHMETIC.subtract(value, gold))
    return bool(distance <= _ARITHMETIC.multiply(_ARITHMETIC.abs(gold), RELATIVE_TOLERANCE))


def _has_digits(value: Decimal, gold: Decimal) -> bool:
    """Equal at as many digits after the point as the gold shows."""
    rounded = _ARITHMETIC.quantize(value, gold)
    return bool(rounded == gold)


def _without_parentheses(text: str) -> str:
    return text[1:-1].strip() if len(text) >= 2 and text[0] == "(" and text[-1] == ")" else text
