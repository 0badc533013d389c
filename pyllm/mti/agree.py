"""Human labels of the quality of instances: how far the people who gave them agree.

Labels come side by side, two columns of one row an item, or in long form, one row for each label with the columns
`item`, `rater` and `label`; then every two people who share items are compared. A criterion column splits the labels,
because agreement on different questions is not one number.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import polars as pl

from pyllm.data.examples import quoted
from pyllm.errors import InputError, SettingError
from pyllm.stats.agreement import cohen_kappa

LONG_FORM = ("item", "rater", "label")
_IDENTIFIERS = frozenset({"item", "uid", "id", "row", "task", "note", "notes", "comment"})

AGREEMENT_SCHEMA: dict[str, Any] = {
    "criterion": pl.String,
    "first": pl.String,
    "second": pl.String,
    "items": pl.Int64,
    "unlabelled": pl.Int64,
    "observed": pl.Float64,
    "expected": pl.Float64,
    "kappa": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}


def agreement(
    labels: pl.DataFrame,
    *,
    columns: tuple[str, str] | None = None,
    by: str | None = None,
    seed: int = 0,
    name: str = "labels",
) -> pl.DataFrame:
    """Cohen's kappa of each two people, with a bootstrap interval over items.

    Args:
        labels: Side by side or in long form.
        columns: The two label columns; None takes the long form if its columns are there, else the only two columns
            that are no identifiers.
        by: A column of criteria, each compared by itself.
        seed: Of the bootstrap.
        name: What messages call the labels.

    Returns:
        One row for each criterion and pair of people: items both labelled, items that lack a label, observed and
        expected agreement, `kappa` and its 95 % interval, null where kappa is no number.

    Raises:
        InputError: A column is missing, one person labelled an item twice, or two people share no item.
        SettingError: The two columns are one.
    """
    for column in [*(columns or ()), *([by] if by else [])]:
        if column not in labels.columns:
            raise InputError(f"{name}: column `{column}` is missing (found {quoted(labels.columns)})")
    if columns is not None and columns[0] == columns[1]:
        raise SettingError(f"the label columns are both `{columns[0]}`")
    long_form = columns is None and all(column in labels.columns for column in LONG_FORM)
    criteria = labels.with_columns(
        (pl.col(by).cast(pl.String).fill_null("") if by else pl.lit("all")).alias("_criterion"),
        pl.int_range(1, pl.len() + 1).alias("_row"),
    )
    pairs = (
        _long_pairs(criteria, name) if long_form else _wide_pairs(criteria, columns or _label_columns(labels, by, name))
    )
    rows = [
        {"criterion": criterion, "first": first, "second": second}
        | _agreed(table, f"{name}: `{first}` and `{second}`", seed)
        for criterion, first, second, table in pairs
    ]
    return pl.DataFrame(rows, schema=AGREEMENT_SCHEMA)


def _label_columns(labels: pl.DataFrame, by: str | None, name: str) -> tuple[str, str]:
    candidates = [column for column in labels.columns if column.lower() not in _IDENTIFIERS and column != by]
    if len(candidates) != 2:
        raise InputError(
            f"{name}: it is not clear which two columns hold labels (found {quoted(labels.columns)})",
            hint="name them, as in --columns first_person,second_person, or give the columns item, rater and label",
        )
    return candidates[0], candidates[1]


def _wide_pairs(labels: pl.DataFrame, columns: tuple[str, str]) -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    for (criterion,), part in labels.group_by("_criterion", maintain_order=True):
        table = part.select(_label(columns[0]).alias("first"), _label(columns[1]).alias("second"))
        yield str(criterion), *columns, table


def _long_pairs(labels: pl.DataFrame, name: str) -> Iterator[tuple[str, str, str, pl.DataFrame]]:
    given = labels.select("_criterion", "_row", *(_label(column) for column in LONG_FORM))
    for column in ("item", "rater"):
        lacking = given.filter(pl.col(column).is_null())
        if lacking.height:
            raise InputError(f"{name}, row {lacking['_row'][0]}: `{column}` is empty")
    again = given.filter(~pl.struct("_criterion", "item", "rater").is_first_distinct())
    if again.height:
        row = again.row(0, named=True)
        raise InputError(f"{name}, row {row['_row']}: `{row['rater']}` has labelled item `{row['item']}` before")
    raters = given["rater"].unique(maintain_order=True).to_list()
    if len(raters) < 2:
        raise InputError(f"{name}: all labels are of one person, `{raters[0] if raters else ''}`")
    for (criterion,), part in given.group_by("_criterion", maintain_order=True):
        for first, second in itertools.combinations(raters, 2):
            sides = [part.filter(pl.col("rater") == rater).select("item", "label") for rater in (first, second)]
            shared = sides[0].join(sides[1], on="item", how="inner", maintain_order="left", suffix="_second")
            if shared.height:
                yield str(criterion), first, second, shared.select(first="label", second="label_second")


def _agreed(table: pl.DataFrame, people: str, seed: int) -> dict[str, Any]:
    both = table.drop_nulls()
    if not both.height:
        raise InputError(f"{people} have labelled no item both")
    result = cohen_kappa(both["first"].to_list(), both["second"].to_list(), seed=seed)
    return {
        "items": result.items,
        "unlabelled": table.height - both.height,
        "observed": result.observed,
        "expected": result.expected,
        "kappa": result.kappa if result.interval else None,
        "low": result.interval.low if result.interval else None,
        "high": result.interval.high if result.interval else None,
    }


def _label(column: str) -> pl.Expr:
    """A label as text without the spaces around it; an empty one is none."""
    text = pl.col(column).cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text).alias(column)
