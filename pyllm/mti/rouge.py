"""ROUGE-L: how much of two texts is the same words in the same order.

Words are runs of letters, digits and marks of any script, in lower case and without stemming; a character of a script
that sets no spaces between words (Han, kana, Thai and their like) is a word by itself.

The longest common subsequence is found for all words of the gold at once, as bits of one integer: one step a word of
the answer. Source: H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
"""

import functools
import re
import unicodedata
from collections.abc import Sequence

# Thai, Lao, Tibetan, Myanmar, Khmer, kana, bopomofo, Han and its extensions.
_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_LAST_MARK = 0x1EFFF  # what comes later only selects the shape of a character
_ASCII_WORDS = re.compile(r"[a-z0-9]+")


def rouge_l(answer: str, gold: str) -> float:
    """F1 of the longest common subsequence of words; 0 if either text has no word.

    Example:
        >>> round(rouge_l("the cat sat on a mat", "The cat is on the mat."), 3)
        0.667

    Source: C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries", 2004, equations 2 to 4 with beta 1.
    """
    ours, theirs = words(answer), _gold_words(gold)
    if not ours or not theirs:
        return 0.0
    return 2 * common_subsequence_length(ours, theirs) / (len(ours) + len(theirs))


def words(text: str) -> list[str]:
    """The words of a text."""
    lower = text.lower()
    return _ASCII_WORDS.findall(lower) if lower.isascii() else _word_pattern().findall(_composed(lower))


def common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest sequence of words that both have in this order.

    Example:
        >>> common_subsequence_length("a b c d".split(), "b x a c d".split())
        3
    """
    places: dict[str, int] = {}
    for place, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(second)) - 1
    row = everywhere
    for word in first:
        matches = places.get(word)
        if matches is not None:
            met = row & matches
            row = (row + met | row - met) & everywhere
    return len(second) - row.bit_count()


@functools.lru_cache(maxsize=1 << 12)
def _gold_words(gold: str) -> list[str]:
    return words(gold)


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Words of any script. Python's own class of word characters leaves out the marks that Indic scripts spell with."""
    marks = [code for code in range(0x300, _LAST_MARK + 1) if unicodedata.category(chr(code)).startswith("M")]
    ranges: list[list[int]] = []
    for code in marks:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    spelled = "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in ranges)
    letter = rf"(?![{_UNSPACED}])[^\W_]"
    return re.compile(rf"(?:{letter})(?:{letter}|(?![{_UNSPACED}])[{spelled}])*|(?=[{_UNSPACED}])[^\W_][{spelled}]*")
