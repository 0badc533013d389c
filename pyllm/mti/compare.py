"""Two ways of asking on the same instances, paired: how much they differ, and on which instances.

A side is a table of marks of one mode: two modes of one run, or one mode of two runs. Only instances that both sides
answered in full count. With repeats an instance has the mean of its repeats, and is solved where more than half are.
"""

import itertools
from typing import Any

import polars as pl

from pyllm.errors import SettingError
from pyllm.mti.metrics import CELLS, modes_of, observations, scoped
from pyllm.stats.contingency import TwoByTwo, mcnemar
from pyllm.stats.resampling import bootstrap_mean

COMPARED = ("final_accuracy", "step_accuracy", "rouge_l")
"""The measures that are compared: of whole instances, of each step, and of free text."""

DIFFERENCES_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("first", "second", "scope", "name", "metric"), pl.String),
    "step": pl.Int64,
    **dict.fromkeys(("difference", "low", "high", "macro", "macro_low", "macro_high"), pl.Float64),
    **dict.fromkeys((*CELLS, "instances"), pl.Int64),
    "p_value": pl.Float64,
    "p_exact": pl.Boolean,
}
_SIDES = ("first", "second")


def mode_differences(marks: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Differences between the modes of one run: each less single-task inference, then the others.

    Args:
        marks: What `scoring.score_outputs` returned.
        seed: Of the bootstrap.

    Returns:
        The rows of `differences` for each pair of modes.
    """
    order = sorted(modes_of(marks), key=("mti", "batch", "mti-batch", "sti").index)
    # `sti` comes last, so that it is what the others are compared with.
    pairs = sorted(itertools.combinations(order, 2), key=lambda pair: pair[1] != "sti")
    parts = [
        differences(side_of(marks, first), side_of(marks, second), names=(first, second), seed=seed)
        for first, second in pairs
    ]
    return pl.concat(parts) if parts else pl.DataFrame(schema=DIFFERENCES_SCHEMA)


def side_of(marks: pl.DataFrame, mode: str) -> pl.DataFrame:
    """The marks of one mode.

    Raises:
        SettingError: There are none.
    """
    side = marks.filter(pl.col("mode") == mode)
    if not side.height:
        found = ", ".join(f"`{each}`" for each in modes_of(marks))
        raise SettingError(f"there are no marks of the mode `{mode}` (found {found})")
    return side


def differences(
    first: pl.DataFrame, second: pl.DataFrame, *, names: tuple[str, str] = _SIDES, seed: int = 0
) -> pl.DataFrame:
    """How much two sides differ, by scope and measure.

    Args:
        first: Marks of one mode.
        second: Marks of one mode, perhaps another one.
        names: What the sides are called.
        seed: Of the bootstrap.

    Returns:
        One row for each scope, name in that scope, measure and step: `difference`, the first side's mean less the
        second's, with its paired 95 % bootstrap interval over instances; `macro`, the same with each task weighing the
        same, drawn within tasks; instances that both, one and neither solved; and McNemar's `p_value`, counted out
        where `p_exact`. Rows of free text have no counts.
    """
    pairs = _paired(first, second)
    rows = [
        {"first": names[0], "second": names[1], "scope": scope, "name": name, "metric": metric, "step": step}
        | _difference(group, by_task=scope != "task", exact=metric != "rouge_l", seed=seed)
        for scope, name, part in scoped(pairs)
        for (metric, step), group in part.group_by("metric", "step", maintain_order=True)
    ]
    return pl.DataFrame(rows, schema=DIFFERENCES_SCHEMA)


def discordant(
    first: pl.DataFrame,
    second: pl.DataFrame,
    *,
    names: tuple[str, str] = _SIDES,
    outputs: tuple[pl.DataFrame | None, pl.DataFrame | None] = (None, None),
) -> pl.DataFrame:
    """The instances that only one side solves, side by side.

    Args:
        first: Marks of one mode.
        second: Marks of one mode, perhaps another one.
        names: What the sides are called, two different names.
        outputs: The outputs that each side's marks were made from; None leaves their texts null.

    Returns:
        One row an instance: `uid`, `task`, `subset`, `solved_by`, the golds, and for each side which steps were right,
        what was parsed, the output texts in the order of the steps, and `..._pattern`: `no output` where a step has no
        answer to read, `several outputs` where one has more than one. `note` is empty, for what a person sees in the
        rest.
    """
    solved = _paired(first, second).filter(pl.col("metric") == "final_accuracy")
    solved = solved.with_columns((pl.col(side) > 0.5).alias(side) for side in _SIDES)
    chosen = solved.filter(pl.col("first") != pl.col("second")).select("uid", "task", "subset", *_SIDES)
    table = chosen.with_columns(pl.when("first").then(pl.lit(names[0])).otherwise(pl.lit(names[1])).alias("solved_by"))
    golds = (
        first.sort("uid", "repeat", "step")
        .group_by("uid", maintain_order=True)
        .agg(pl.col("gold").filter(pl.col("repeat") == pl.col("repeat").first()))
    )
    table = table.join(golds, on="uid", how="left", maintain_order="left")
    for side, marks, texts in zip(_SIDES, (first, second), outputs, strict=True):
        shown = _shown(marks, chosen.select("uid", pl.col(side).alias("solved")), texts)
        names_of = {column: f"{side}_{column}" for column in shown.columns if column != "uid"}
        table = table.join(shown.rename(names_of), on="uid", how="left", maintain_order="left")
    return table.drop(*_SIDES).with_columns(pl.lit("").alias("note"))


def _paired(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """One row for each instance, measure and step that both sides have, each side's mean over its repeats."""
    sides = []
    for name, marks in zip(_SIDES, (first, second), strict=True):
        observed = observations(marks).filter(
            pl.col("metric").is_in(COMPARED) & (pl.col("step").is_not_null() | (pl.col("metric") == "final_accuracy"))
        )
        sides.append(
            observed.group_by("uid", "metric", "step", maintain_order=True).agg(
                pl.col("task", "subset", "steps").first(), pl.col("value").mean().alias(name)
            )
        )
    right = sides[1].select("uid", "metric", "step", "second")
    joined = sides[0].join(right, on=["uid", "metric", "step"], how="inner", nulls_equal=True)
    return joined.sort(pl.col("metric").cast(pl.Enum(COMPARED)), "step", "task", "uid")


def _difference(pairs: pl.DataFrame, *, by_task: bool, exact: bool, seed: int) -> dict[str, Any]:
    values = (pairs["first"] - pairs["second"]).to_numpy()
    micro = bootstrap_mean(values, seed=seed)
    macro = bootstrap_mean(values, strata=pairs["task"].to_numpy(), seed=seed) if by_task else micro
    row: dict[str, Any] = {
        "difference": micro.difference,
        "low": micro.interval.low,
        "high": micro.interval.high,
        "macro": macro.difference,
        "macro_low": macro.interval.low,
        "macro_high": macro.interval.high,
        "instances": pairs.height,
    }
    if exact:
        table = TwoByTwo.count((pairs["first"] > 0.5).to_list(), (pairs["second"] > 0.5).to_list())
        test = mcnemar(table.first_only, table.second_only)
        row |= {cell: getattr(table, cell) for cell in CELLS} | {"p_value": test.p_value, "p_exact": test.exact}
    return row


def _shown(marks: pl.DataFrame, chosen: pl.DataFrame, outputs: pl.DataFrame | None) -> pl.DataFrame:
    """What one side wrote for each chosen instance, in the first repeat that ended as most of its repeats did."""
    whole = marks.join(chosen, on="uid", how="inner").sort("uid", "repeat", "step")
    ended = pl.col("correct").all(ignore_nulls=True).over("uid", "repeat") == pl.col("solved")
    complete = pl.len().over("uid", "repeat") == pl.col("steps")
    typical = whole.filter(ended & complete).filter(pl.col("repeat") == pl.col("repeat").first().over("uid"))
    table = typical.group_by("uid", maintain_order=True).agg(
        pl.col("repeat").first(), pl.col("mode").first(), pl.col("correct", "parsed"), _pattern().alias("pattern")
    )
    if outputs is None:
        return table.drop("repeat", "mode").with_columns(pl.lit(None, dtype=pl.List(pl.String)).alias("output"))
    texts = (
        outputs.sort("uid", "repeat", "step", maintain_order=True)
        .group_by("uid", "mode", "repeat", maintain_order=True)
        .agg(pl.col("output"))
    )
    return table.join(texts, on=["uid", "mode", "repeat"], how="left", maintain_order="left").drop("repeat", "mode")


def _pattern() -> pl.Expr:
    """The two patterns of the paper's analysis that need no reader."""
    none = pl.col("parse").is_in(["missing", "unclosed"]).any()
    several = (pl.col("parse") == "ambiguous").any()
    return (
        pl.when(none & several)
        .then(pl.lit("no output, several outputs"))
        .when(none)
        .then(pl.lit("no output"))
        .when(several)
        .then(pl.lit("several outputs"))
        .otherwise(pl.lit(""))
    )
