"""The rules that choose rows of a score table, and the one order in which rows are better or worse.

Every rule is judged on the whole table and a row must pass them all; only the token budget looks at what the others
left over. A row without a score (null or NaN) ranks last and is never chosen. Cost: one sort of the score columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Int

from pyllm.data.top import Top
from pyllm.errors import InputError, SettingError

SCORE = "golden_score"
TOKENS = "demo_tokens"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a row must satisfy to be chosen. A rule that is None asks nothing.

    Args:
        threshold: The golden score must be above this (strictly, as in the paper).
        at_most: The golden score must be this or less (the paper's low subset is 0.5).
        top: The row must be among the best of the whole table.
        max_tokens: Budget over `demo_tokens`: the rows that pass the other rules are taken best first, up to the
            first that does not fit.

    Raises:
        SettingError: A limit lies outside the range of the score, or the rules contradict each other.
    """

    threshold: float | None = None
    at_most: float | None = None
    top: Top | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, limit in (("threshold", self.threshold), ("at-most", self.at_most)):
            if limit is not None and not 0 <= limit <= 1:
                raise SettingError(f"`{name}` is {limit:g}, but golden scores lie between 0 and 1")
        if self.threshold is not None and self.at_most is not None and self.threshold >= self.at_most:
            raise SettingError(f"no golden score is above {self.threshold:g} and at most {self.at_most:g}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise SettingError(f"`max-tokens` is {self.max_tokens}, below 1")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return self.threshold is None and self.at_most is None and self.top is None and self.max_tokens is None

    def as_dict(self) -> dict[str, float | int | str]:
        """The rules that ask something, as plain values for provenance and reports."""
        values = {
            "threshold": self.threshold,
            "at_most": self.at_most,
            "top": None if self.top is None else str(self.top),
            "max_tokens": self.max_tokens,
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that were chosen.

    Args:
        rows: Their indices in input order.
        best_first: The same indices, best first.
        ranking: Every row of the table, best first, those without a score last.
        scored_rows: How many rows have a score.
    """

    rows: Int[np.ndarray, " kept"]
    best_first: Int[np.ndarray, " kept"]
    ranking: Int[np.ndarray, " rows"]
    scored_rows: int


def scores_of(table: pl.DataFrame, *, name: str = "the table") -> pl.Series:
    """The golden scores as floats, null where there is none.

    Raises:
        InputError: The column is missing or does not hold numbers.
    """
    return _numbers(table, SCORE, name).fill_nan(None)


def ranked_rows(table: pl.DataFrame, *, name: str = "the table") -> Int[np.ndarray, " rows"]:
    """Row indices, best first: by golden score, wins, mean gain (all falling), id (rising), then input order.

    Columns other than the score are optional. Nulls and NaN rank last wherever they stand.

    Args:
        table: A table with `golden_score`.
        name: What messages call the table.

    Raises:
        InputError: A score column is missing or does not hold numbers.
    """
    optional = [column for column in ("wins", "mean_gain_nats") if column in table.columns]
    keys = [scores_of(table, name=name), *(_numbers(table, column, name).fill_nan(None) for column in optional)]
    falling = [True] * len(keys)
    if "id" in table.columns:
        keys.append(table["id"])
        falling.append(False)
    frame = pl.DataFrame([key.alias(f"key{place}") for place, key in enumerate(keys)])
    order = frame.with_row_index("row").sort(
        [f"key{place}" for place in range(len(keys))], descending=falling, nulls_last=True, maintain_order=True
    )
    return order["row"].to_numpy().astype(np.int64)


def select_rows(table: pl.DataFrame, rules: Rules, *, name: str = "the table") -> Selection:
    """Apply the rules to a score table.

    Args:
        table: A table with `golden_score`; with `demo_tokens` too if there is a token budget.
        rules: What to choose.
        name: What messages call the table.

    Returns:
        The chosen rows; all scored rows if the rules are empty.

    Raises:
        InputError: A column is missing, or does not hold what it should.
    """
    scores = scores_of(table, name=name)
    ranking = ranked_rows(table, name=name)
    passing = scores.is_not_null()
    if rules.threshold is not None:
        passing &= (scores > rules.threshold).fill_null(value=False)
    if rules.at_most is not None:
        passing &= (scores <= rules.at_most).fill_null(value=False)
    keep: Bool[np.ndarray, " rows"] = passing.to_numpy()[ranking].astype(bool)
    if rules.top is not None:
        keep[rules.top.rows_of(table.height) :] = False
    best_first = ranking[keep]
    if rules.max_tokens is not None:
        best_first = best_first[: _rows_within(_tokens_of(table, best_first, name), rules.max_tokens)]
    return Selection(
        rows=np.sort(best_first), best_first=best_first, ranking=ranking, scored_rows=table.height - scores.null_count()
    )


def _rows_within(tokens: Sequence[int], budget: int) -> int:
    spent = 0
    for place, row_tokens in enumerate(tokens):
        spent += row_tokens
        if spent > budget:
            return place
    return len(tokens)


def _tokens_of(table: pl.DataFrame, rows: Int[np.ndarray, " kept"], name: str) -> list[int]:
    require_column(table, TOKENS, name, hint="`max-tokens` needs the token counts that `toolkit score` writes")
    column = table[TOKENS]
    if not column.dtype.is_integer():
        raise InputError(f"column `{TOKENS}` of `{name}` holds {column.dtype}, not whole numbers")
    tokens: list[int | None] = column.gather(rows).to_list()
    counts: list[int] = []
    for row, count in zip(rows.tolist(), tokens, strict=True):
        if count is None or count < 0:
            raise InputError(
                f"`{TOKENS}` of row {row} of `{name}` is {'null' if count is None else count}, not a token count"
            )
        counts.append(count)
    return counts


def require_column(table: pl.DataFrame, column: str, name: str, *, hint: str | None = None) -> None:
    """Refuse a table that lacks a column, and say what it has.

    Raises:
        InputError: The column is missing.
    """
    if column not in table.columns:
        found = ", ".join(f"`{each}`" for each in table.columns) or "no columns"
        raise InputError(f"column `{column}` is missing from `{name}` (found {found})", hint=hint)


def _numbers(table: pl.DataFrame, column: str, name: str) -> pl.Series:
    require_column(table, column, name, hint="`toolkit score` makes it" if column == SCORE else None)
    values = table[column]
    if not (values.dtype.is_numeric() or values.dtype == pl.Null):
        raise InputError(f"column `{column}` of `{name}` holds {values.dtype}, not numbers")
    return values.cast(pl.Float64)
