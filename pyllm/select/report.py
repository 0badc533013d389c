"""The numbers of one selection: what was kept, how sharp the cut is, what it did to the mixture."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from pyllm.select.composition import Composition, composition
from pyllm.select.rules import Rules, Selection, scores_of
from pyllm.stats.intervals import binomial_standard_error

CUTS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9)
"""The thresholds whose row counts the paper's tables give."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a selection ends.

    Args:
        golden_score: Score of the row at the cut.
        tied_rows_kept: Chosen rows with that very score.
        tied_rows: All rows of the table with that score. More than were kept means that wins, mean gain, id or input
            order decided between equals.
        anchors_scored: Anchors behind the score; None if the table does not say.
        standard_error: Of the score, `sqrt(s(1-s)/anchors)`; None if the anchors are unknown.
    """

    golden_score: float
    tied_rows_kept: int
    tied_rows: int
    anchors_scored: int | None
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class SelectionReport:
    """The numbers of one selection.

    Args:
        rules: The rules that asked something.
        rows_in: Rows of the table.
        rows_selected: Rows chosen.
        null_scores: Rows without a score; never chosen.
        rows_above: For each threshold of the paper, the rows of the table strictly above it.
        cut: Where the selection ends; None if it is empty.
        mix: Lengths and sources before and after.
    """

    rules: dict[str, float | int | str]
    rows_in: int
    rows_selected: int
    null_scores: int
    rows_above: dict[float, int]
    cut: Cut | None
    mix: Composition

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        mix = self.mix
        return {
            "rules": self.rules,
            "rows_in": self.rows_in,
            "rows_selected": self.rows_selected,
            "null_scores": self.null_scores,
            "rows_above": {f"{limit:g}": rows for limit, rows in self.rows_above.items()},
            "cut": None if self.cut is None else asdict(self.cut),
            "length_unit": mix.length_unit,
            "median_length_before": mix.median_before,
            "median_length_after": mix.median_after,
            "median_length_ratio": mix.median_ratio,
            "length_bands": [asdict(band) for band in mix.bands],
            "sources": [asdict(source) for source in mix.sources],
        }


def selection_report(table: pl.DataFrame, rules: Rules, selection: Selection) -> SelectionReport:
    """Count what a selection did.

    The cut is the last row kept, best first; when `at_most` alone chose the rows it is the first, because there the
    selection ends at its best row.

    Args:
        table: The whole score table.
        rules: The rules that were applied.
        selection: What `select_rows` chose.
    """
    scores = scores_of(table)
    return SelectionReport(
        rules=rules.as_dict(),
        rows_in=table.height,
        rows_selected=selection.rows.size,
        null_scores=table.height - selection.scored_rows,
        rows_above={limit: int((scores > limit).sum()) for limit in CUTS},
        cut=_cut(table, scores, rules, selection),
        mix=composition(table, selection.rows),
    )


def _cut(table: pl.DataFrame, scores: pl.Series, rules: Rules, selection: Selection) -> Cut | None:
    if not selection.rows.size:
        return None
    capped_only = rules == Rules(at_most=rules.at_most) and rules.at_most is not None
    row = int(selection.best_first[0 if capped_only else -1])
    values = scores.to_numpy()
    score = float(values[row])
    anchors = _anchors_of(table, row)
    return Cut(
        golden_score=score,
        tied_rows_kept=int(np.count_nonzero(values[selection.rows] == score)),
        tied_rows=int(np.count_nonzero(values == score)),
        anchors_scored=anchors,
        standard_error=binomial_standard_error(score, anchors) if anchors and 0 <= score <= 1 else None,
    )


def _anchors_of(table: pl.DataFrame, row: int) -> int | None:
    if "anchors_scored" not in table.columns or not table["anchors_scored"].dtype.is_integer():
        return None
    anchors = table["anchors_scored"][row]
    return None if anchors is None else int(anchors)
