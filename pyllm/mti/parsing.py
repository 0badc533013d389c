"""Finding answers in what a model wrote: tags, not meaning.

An answer to step n stands between an opening `<taskn>` and the next closing tag of that number, written `<taskn/>` as
the published prompts teach or `</taskn>` as most models have learnt; letters of any case, spaces allowed inside a tag.
A second opening before a closing starts the answer again. Tags of other numbers are part of the text.

Nothing is computed here and nothing of the text is ever run. Cost: one pass over the text, whatever it holds.
"""

import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ParseState = Literal["ok", "missing", "unclosed", "ambiguous"]

# Every repetition keeps what it took, so no character is looked at twice. Only ASCII: digits of other scripts are text.
_TAG = re.compile(
    r"<\s*+(?P<before>/?)\s*+task\s*+0*+(?P<number>[0-9]++)\s*+(?P<after>/?)\s*+>", re.IGNORECASE | re.ASCII
)
# What instructions write where the answer goes: N, n/N, n/8, [N, N, ..], (N)-(N).
_PLACEHOLDER = re.compile(
    r"[\[({]?\s*+(?:N|n|n\s*+/\s*+(?:N|n|[0-9]++))\s*+[\])}]?"
    r"(?:\s*+[,-]\s*+[\[({]?(?:N|n)[\])}]?)*+\s*+[,-]?\s*+(?:\.{2,}+|\u2026)?\s*+[\])}]?"
)
_LONGEST_PLACEHOLDER = 100
_LONGEST_STEP = 9


@dataclass(frozen=True, slots=True)
class Tags:
    """The complete pairs of one text and the openings that nothing closed.

    Args:
        text: What was read.
        spans: For each number, start and end of what stands inside each complete pair, in the order of the text.
        unclosed: Numbers with an opening tag that no closing tag belongs to.
    """

    text: str
    spans: Mapping[int, Sequence[tuple[int, int]]]
    unclosed: frozenset[int]

    def contents(self, number: int) -> list[str]:
        """What stands inside each complete pair of a number, without the white space around it."""
        # Cut out only when asked for: in hostile texts pairs of many numbers lie inside each other.
        return [self.text[start:end].strip() for start, end in self.spans.get(number, ())]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What was found of one answer.

    Args:
        state: `ok`; `missing`, if there is no pair but a placeholder at most; `unclosed`, if there is only an opening;
            `ambiguous`, if there are pairs of different value.
        text: What the scored pair holds; None without one.
    """

    state: ParseState
    text: str | None


_MISSING = Parsed("missing", None)
_UNCLOSED = Parsed("unclosed", None)


def read_tags(text: str) -> Tags:
    """All tags of a text.

    Example:
        >>> tags = read_tags("<task1>4<task1/> and < Task2 >[1, 2]</TASK2> and <task3>5")
        >>> tags.contents(1), tags.contents(2), sorted(tags.unclosed)
        (['4'], ['[1, 2]'], [3])
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    opened: dict[int, int] = {}
    unclosed: set[int] = set()
    for tag in _TAG.finditer(text):
        before, digits, after = tag.groups()
        if len(digits) > _LONGEST_STEP:
            continue  # no step has such a number
        number = int(digits)
        if not before and not after:
            if number in opened:
                unclosed.add(number)
            opened[number] = tag.end()
        elif number in opened:
            spans.setdefault(number, []).append((opened.pop(number), tag.start()))
    return Tags(text, spans, frozenset(unclosed.union(opened)))


def instruction_examples(instructions: Sequence[str], step: int) -> frozenset[str]:
    """What a step's instruction shows between tags as the form of its answer: an echo of it is no answer.

    Tags that other instructions show under the number of this step count too: the published data has such slips, and
    their echo lands in this step's answer.

    Args:
        instructions: Of all steps, in order.
        step: From 1.
    """
    own = read_tags(instructions[step - 1])
    examples = {content for number in own.spans for content in own.contents(number)}
    for instruction in instructions:
        examples.update(read_tags(instruction).contents(step))
    return frozenset(examples)


def is_placeholder(content: str) -> bool:
    """Whether a text is nothing but a stand-in for an answer, such as `N`, `n/N` or `[N, N, ..]`."""
    # Most answers have neither letter, which is seen at once.
    if "N" not in content and "n" not in content:
        return False
    return len(content) <= _LONGEST_PLACEHOLDER and _PLACEHOLDER.fullmatch(content) is not None


def find_answer(
    tags: Tags,
    number: int,
    *,
    examples: Collection[str] = (),
    value: Callable[[str], Hashable] = str,
    words: bool = False,
) -> Parsed:
    """The answer that stands under a number: of the pairs that are no echo the last.

    A pair equal to one of the examples is left out if another pair is not; a pair with a placeholder never counts.

    Args:
        tags: What was found in the output.
        number: The number of the tags to read.
        examples: What the instruction itself shows between its tags.
        value: What two pairs must agree in not to be ambiguous.
        words: The answer may be a letter or words, so that `N` is a placeholder only if the instruction shows it.
    """
    contents = tags.contents(number)
    if not contents:
        return _UNCLOSED if number in tags.unclosed else _MISSING

    def is_answer(content: str) -> bool:
        return not is_placeholder(content) or (words and len(content) == 1 and content not in examples)

    if len(contents) == 1:  # as nearly always
        return Parsed("ok", contents[0]) if is_answer(contents[0]) else _MISSING
    different = set(contents)
    answers = set(filter(is_answer, different.difference(examples) or different))
    last = next((content for content in reversed(contents) if content in answers), None)
    if last is None:
        return _MISSING
    if len(answers) > 1:
        wanted = value(last)
        if any(content != last and value(content) != wanted for content in answers):
            return Parsed("ambiguous", last)
    return Parsed("ok", last)


def find_published(text: str, number: int) -> Parsed:
    """The answer that the published scorer reads: the first `<taskn>...<taskn/>`, written just so.

    Args:
        text: The output.
        number: The number of the tags to read.

    Source: `parse_answer` of the published code. What it does not tell apart is told here from the same tags: an
    opening without a closing, and further pairs that hold something else.
    """
    opening, closing = f"<task{number}>", f"<task{number}/>"
    contents: list[str] = []
    place = text.find(opening)
    if place < 0:
        return _MISSING
    while place >= 0:
        start = place + len(opening)
        end = text.find(closing, start)
        if end < 0:
            break
        contents.append(text[start:end].strip())
        place = text.find(opening, end + len(closing))
    if not contents:
        return _UNCLOSED
    return Parsed("ok" if len(set(contents)) == 1 else "ambiguous", contents[0])
