"""How many of the best rows: `1000`, or `1%` of them, as a person writes it. Imports nothing heavy."""

import re
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from pyllm.errors import SettingError

_PERCENT = re.compile(r"(\d+\.?\d*|\.\d+)\s*%")
_COUNT = re.compile(r"\d+")
_TOP_HINT = "give a number of rows such as 1000, or a share such as 1%"


@dataclass(frozen=True, slots=True)
class Top:
    """The best rows, as a number or as a share of all rows of the table.

    Args:
        rows: A number of rows, at least 1; None if a share is given.
        percent: A share in percent, above 0 and at most 100, held exactly; None if a number is given.

    Raises:
        SettingError: Neither or both are given, or the one given is out of range.
    """

    rows: int | None = None
    percent: Fraction | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.percent is None):
            raise SettingError("`top` is either a number of rows or a percentage", hint=_TOP_HINT)
        if self.rows is not None and self.rows < 1:
            raise SettingError(f"`top` of {self.rows} rows is below 1", hint=_TOP_HINT)
        if self.percent is not None and not 0 < self.percent <= 100:
            raise SettingError(f"`top` of {float(self.percent):g}% is not above 0% and at most 100%", hint=_TOP_HINT)

    def rows_of(self, table_rows: int) -> int:
        """How many of `table_rows` rows this is: a share rounds up, and nothing is more than the table has."""
        if self.rows is not None:
            return min(self.rows, table_rows)
        return ceil((self.percent or 0) * table_rows / 100)

    def __str__(self) -> str:
        return str(self.rows) if self.percent is None else f"{float(self.percent):.12g}%"


def parse_top(text: str) -> Top:
    """Read `1000` or `1%` as a person writes it.

    Raises:
        SettingError: The text is neither, or out of range.

    Example:
        >>> parse_top("0.1%").rows_of(52_002)
        53
    """
    cleaned = text.strip()
    if _COUNT.fullmatch(cleaned):
        return Top(rows=int(cleaned))
    share = _PERCENT.fullmatch(cleaned)
    if share is None:
        raise SettingError(f"`top` is `{text}`, neither a number of rows nor a percentage", hint=_TOP_HINT)
    return Top(percent=Fraction(share[1]))
