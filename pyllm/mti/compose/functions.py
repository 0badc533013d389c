"""What expressions in task specs may call. Positions are counted from 1 wherever an answer shows them."""

import functools
import random
import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any, Final

from pyllm.mti.compose.templates import as_text
from pyllm.mti.expressions import MOST_ITEMS, NUMBER_BITS, Function

_LONGEST_TEXT: Final = 1_000_000
_MOST_DIGITS: Final = 50

_WORD: Final = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“(]?[A-Z0-9])")
_FUNCTION_WORD_LIST: Final = """
    a about after again all also am an and any are as at be because been before being but by can could did do does
    doing down during each either else even ever every few for from further get got had has have having he her here
    hers him his how i if in into is it its just let like may me might more most much must my neither no nor not now of
    off on once one only or other our ours out over own quite rather same shall she should since so some such than that
    the their theirs them then there these they this those through thus to too under until up upon us very was we were
    what when where which while who whom whose why will with without would yes yet you your yours n't s t re ve ll d m
    don't didn't doesn't isn't aren't wasn't weren't won't can't couldn't wouldn't shouldn't it's i'm he's she's
    """
_FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORD_LIST.split())


def content_words(text: str) -> list[str]:
    """The different words of a text but for those that only hold sentences together, in lower case, sorted."""
    return sorted(_content_words(text))


@functools.lru_cache(maxsize=1 << 15)
def _content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in _WORD.findall(text.lower().replace("’", "'")) if word not in _FUNCTION_WORDS)


def overlap(left: str, right: str) -> int:
    """How many content words two texts share."""
    return len(_content_words(_text(left)) & _content_words(_text(right)))


def sentences(text: str) -> list[str]:
    """A text cut behind full stops, question and exclamation marks that a capital or a digit follows."""
    return [part.strip() for part in _SENTENCE_END.split(_text(text)) if part.strip()]


def numbered(items: list[Any]) -> str:
    """`(1) first`, `(2) second`, ... a line each."""
    return "\n".join(f"({place}) {as_text(item)}" for place, item in enumerate(_items(items), start=1))


def lettered(items: list[Any]) -> str:
    """`(A)first (B)second ...` in one line."""
    return " ".join(f"({letter(place)}){as_text(item)}" for place, item in enumerate(_items(items), start=1))


def letter(place: int) -> str:
    """`A` for 1, `B` for 2, ..."""
    if not 1 <= place <= 26:
        message = f"there is no letter {place}"
        raise ValueError(message)
    return chr(ord("A") + place - 1)


def order(places: list[int]) -> str:
    """Places as an order: `(2)-(1)-(3)`."""
    return "-".join(f"({place})" for place in _whole_numbers(places))


def inverse(places: list[int]) -> list[int]:
    """Where each of 1, 2, ... stands in a permutation of them."""
    given = _whole_numbers(places)
    if sorted(given) != list(range(1, len(given) + 1)):
        message = "the places are no permutation of 1, 2, ..."
        raise ValueError(message)
    return [given.index(place) + 1 for place in range(1, len(given) + 1)]


def inversions(items: list[Any]) -> int:
    """How many pairs stand in the wrong order: the fewest swaps of neighbours that sort the list."""
    given = _items(items)
    if len(given) > 1_000:
        message = f"{len(given):,} items are too many"
        raise ValueError(message)
    return sum(given[i] > given[j] for i in range(len(given)) for j in range(i + 1, len(given)))


def after_swaps(items: list[Any], pairs: list[list[int]]) -> list[Any]:
    """A list after its items at two places (from 0) changed sides, pair after pair."""
    held = list(_items(items))
    for pair in _items(pairs):
        one, other = pair
        held[one], held[other] = held[other], held[one]
    return held


def place(item: Any, items: list[Any]) -> int:
    """Where an item stands in a list, from 1."""
    return _items(items).index(item) + 1


def places(items: list[Any], wanted: Any) -> list[int]:
    """Where the items that equal a value stand, from 1, ascending."""
    return [index for index, item in enumerate(_items(items), start=1) if item == wanted]


def insert(items: list[Any], where: int, item: Any) -> list[Any]:
    """A list with one more item, which stands at place `where` (from 1)."""
    given = _items(items)
    if not 1 <= where <= len(given) + 1:
        message = f"there is no place {where} among {len(given)} items"
        raise ValueError(message)
    return [*given[: where - 1], item, *given[where - 1 :]]


def decimal(value: int | float | Fraction, digits: int) -> str:
    """A number with exactly so many digits after the point, ties to even."""
    if not 0 <= digits <= _MOST_DIGITS:
        message = f"{digits} digits are not between 0 and {_MOST_DIGITS}"
        raise ValueError(message)
    # Rounded as a whole number, so that nothing is rounded twice.
    shifted = round(Fraction(value) * 10**digits)
    with localcontext() as context:
        context.prec = NUMBER_BITS
        return format(Decimal(shifted).scaleb(-digits), "f")


def unique(items: list[Any]) -> list[Any]:
    """A list without what it already had."""
    kept: list[Any] = []
    for item in _items(items):
        if item not in kept:
            kept.append(item)
    return kept


def join(items: list[Any], between: str) -> str:
    """Items as one text."""
    parts = [as_text(item) for item in _items(items)]
    _fits(sum(map(len, parts)) + len(_text(between)) * len(parts))
    return between.join(parts)


def lines(items: list[Any]) -> str:
    """Items a line each."""
    return join(items, "\n")


def split(text: str, between: str) -> list[str]:
    """A text cut at every `between`."""
    return _text(text).split(_text(between))


def replace(text: str, old: str, new: str) -> str:
    """A text with `new` for every `old`."""
    count = _text(text).count(_text(old)) if old else len(text) + 1
    _fits(len(text) + count * (len(_text(new)) - len(old)))
    return text.replace(old, new)


def before(text: str, mark: str) -> str:
    """What stands before the first `mark`; all, where there is none."""
    return _text(text).partition(_text(mark))[0]


def after(text: str, mark: str) -> str:
    """What stands behind the first `mark`; nothing, where there is none."""
    return _text(text).partition(_text(mark))[2]


def is_whole(text: str) -> bool:
    """Whether a text is a whole number, thousands set apart by commas or not."""
    return re.fullmatch(r"[-+]?(?:[0-9]{1,100}|[0-9]{1,3}(?:,[0-9]{3}){1,30})", _text(text).strip()) is not None


def whole(value: str | int | float | Fraction) -> int:
    """The whole number that a text shows or a number is."""
    if isinstance(value, str):
        if not is_whole(value):
            message = f"`{value[:40]}` is no whole number"
            raise ValueError(message)
        return int(value.strip().replace(",", ""))
    if value != int(value):
        message = f"{value} is no whole number"
        raise ValueError(message)
    return int(value)


def number_range(*ends: int) -> list[int]:
    """`range(n)` is 0 to n - 1, `range(a, b)` is a to b - 1."""
    whole_range = range(*_whole_numbers(list(ends)))
    if not 1 <= len(ends) <= 2 or len(whole_range) > MOST_ITEMS:
        message = f"it takes one or two ends, and makes at most {MOST_ITEMS:,} numbers"
        raise ValueError(message)
    return list(whole_range)


FUNCTIONS: Final[Mapping[str, Function]] = {
    "abs": abs,
    "after": after,
    "after_swaps": after_swaps,
    "all": lambda items: all(_truths(items)),
    "any": lambda items: any(_truths(items)),
    "before": before,
    "content_words": content_words,
    "count": lambda whole_, item: whole_.count(item),
    "decimal": decimal,
    "ends_with": lambda text, end: _text(text).endswith(_text(end)),
    "insert": insert,
    "inverse": inverse,
    "inversions": inversions,
    "is_whole": is_whole,
    "join": join,
    "len": len,
    "letter": letter,
    "lettered": lettered,
    "lines": lines,
    "lower": lambda text: _text(text).lower(),
    "max": lambda items: max(_items(items)),
    "min": lambda items: min(_items(items)),
    "numbered": numbered,
    "order": order,
    "overlap": overlap,
    "place": place,
    "places": places,
    "range": number_range,
    "replace": replace,
    "sentences": sentences,
    "sorted": lambda items: sorted(_items(items)),
    "split": split,
    "starts_with": lambda text, start: _text(text).startswith(_text(start)),
    "strip": lambda text: _text(text).strip(),
    "sum": lambda items: sum(_items(items)),
    "text": as_text,
    "unique": unique,
    "upper": lambda text: _text(text).upper(),
    "whole": whole,
}
"""Functions of every expression."""


def random_functions(generator: random.Random) -> dict[str, Function]:
    """Functions that draw, for the `draw` part of a spec only: `choice`, `sample`, `shuffle`."""
    return {
        "choice": lambda items: generator.choice(_items(items)),
        "sample": lambda items, count: generator.sample(_items(items), count),
        "shuffle": lambda items: generator.sample(_items(items), len(items)),
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        message = f"{value!r:.40} is not a text"
        raise TypeError(message)
    return value


def _items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        message = f"{value!r:.40} is not a list"
        raise TypeError(message)
    return value


def _truths(value: Any) -> list[bool]:
    if not all(isinstance(item, bool) for item in _items(value)):
        message = "an item is neither true nor false"
        raise TypeError(message)
    return list(value)


def _whole_numbers(value: Any) -> list[int]:
    if not all(isinstance(item, int) and not isinstance(item, bool) for item in _items(value)):
        message = "an item is not a whole number"
        raise TypeError(message)
    return list(value)


def _fits(length: int) -> None:
    if length > _LONGEST_TEXT:
        message = f"a text would have more than {_LONGEST_TEXT:,} characters"
        raise ValueError(message)
