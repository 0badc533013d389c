"""What marks add up to: accuracies by step and as a whole, failures of form apart, floors, and how steps hang together.

Every measure is a mean of observations, one an answer or one an instance, so that all of them can be given for the
whole, by subset, by task and by number of steps, with the mean over repeats and their spread. Names are those of
docs/methods/mti.md. An instance without a mark for each of its steps is left out of what is said of whole instances.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from pyllm.data.examples import quoted
from pyllm.errors import InputError
from pyllm.mti.scoring import KEY, MARKS_SCHEMA, MODES
from pyllm.stats.contingency import TwoByTwo, chi_squared, cochran_mantel_haenszel, odds_ratio
from pyllm.stats.intervals import wilson_interval
from pyllm.stats.resampling import bootstrap_mean

SCOPES = ("all", "subset", "task", "steps")
UNSTATED = "unstated"
_NAMES = {
    "all": pl.lit("all"),
    "subset": pl.col("subset").fill_null(UNSTATED),
    "task": pl.col("task"),
    "steps": pl.col("steps").cast(pl.String),
}
CELLS = ("both", "first_only", "second_only", "neither")

# Measures of which an instance has one observation a repeat, so that their intervals are about instances.
_PER_INSTANCE = ("step_accuracy", "conditional_accuracy", "final_accuracy", "right_after_wrong", "rouge_l")
_INSTANCE = ["uid", "mode", "repeat"]

METRICS_SCHEMA: dict[str, Any] = {
    "mode": pl.String,
    "scope": pl.String,
    "name": pl.String,
    "metric": pl.String,
    "step": pl.Int64,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "macro": pl.Float64,
    "spread": pl.Float64,
    "repeats": pl.Int64,
    "instances": pl.Int64,
    "answers": pl.Int64,
}


@dataclass(frozen=True, slots=True)
class Coverage:
    """What was marked of what was asked.

    Args:
        instances: In the tasks, or in the marks where no tasks are given.
        marked: Instances with at least one mark, by mode.
        complete: Pairs of instance and repeat with a mark for each step, by mode.
        incomplete: Those that lack some, by mode.
    """

    instances: int
    marked: dict[str, int]
    complete: dict[str, int]
    incomplete: dict[str, int]


def check_marks(marks: pl.DataFrame, *, name: str = "marks") -> pl.DataFrame:
    """The columns of a table of marks, each of its type.

    Raises:
        InputError: A column is missing or cannot be of its type, or a key stands twice.
    """
    missing = [column for column in MARKS_SCHEMA if column not in marks.columns]
    if missing:
        raise InputError(
            f"{name}: column `{missing[0]}` is missing (found {quoted(marks.columns)})",
            hint="marks are what `toolkit mti score` writes",
        )
    columns = []
    for column, dtype in MARKS_SCHEMA.items():
        given = marks[column]
        if dtype == pl.Boolean and given.dtype == pl.String:  # of a CSV file
            given = given.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        cast = given.cast(dtype, strict=False)
        wrong = (
            cast.is_null() & marks[column].is_not_null() & (marks[column].cast(pl.String, strict=False) != "")
        ).arg_true()
        if wrong.len():
            raise InputError(f"{name}, row {wrong[0] + 1}: `{column}` is `{marks[column][wrong[0]]}`, not {dtype}")
        columns.append(cast)
    table = pl.DataFrame(columns)
    again = (~table.select(pl.struct(KEY).is_first_distinct()).to_series()).arg_true()
    if again.len():
        raise InputError(f"{name}, row {again[0] + 1}: an earlier row has the same uid, mode, repeat and step")
    return table


def coverage(marks: pl.DataFrame, *, instances: int | None = None) -> Coverage:
    """Count what was marked.

    Args:
        marks: What `scoring.score_outputs` returned.
        instances: How many the tasks hold; None counts those in the marks.
    """
    whole = _whole_instances(marks)
    marked, complete, incomplete = {}, {}, {}
    for mode in modes_of(marks):
        of_mode = whole.filter(pl.col("mode") == mode)
        marked[mode] = of_mode["uid"].n_unique()
        complete[mode] = int(of_mode["complete"].sum())
        incomplete[mode] = of_mode.height - complete[mode]
    return Coverage(marks["uid"].n_unique() if instances is None else instances, marked, complete, incomplete)


def modes_of(marks: pl.DataFrame) -> list[str]:
    """The modes that occur, in the usual order."""
    there = set(marks["mode"].unique())
    return [mode for mode in MODES if mode in there]


def metrics(marks: pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Every measure, by mode and scope.

    Args:
        marks: What `scoring.score_outputs` returned.
        seed: Of the bootstrap that gives intervals where there are repeats.

    Returns:
        One row for each mode, scope (`all`, `subset`, `task`, `steps`), name in that scope, measure and step (null for
        all steps): `value`, the mean over observations and then over repeats; `low` and `high`, its 95 % interval over
        instances; `macro`, the mean of the means of tasks; `spread`, the standard deviation over repeats. The measures
        `majority_floor` and `joint_majority_floor` have no mode.
    """
    observed = observations(marks)
    parts = [_summaries(observed.with_columns(column.alias("name")), scope, seed) for scope, column in _NAMES.items()]
    floors = [
        {"mode": None, "scope": scope, "name": name} | floor
        for scope, name, part in scoped(marks)
        for floor in _floors(part)
    ]
    return pl.concat([*parts, pl.DataFrame(floors, schema=METRICS_SCHEMA)]).sort(
        pl.col("mode").cast(pl.Enum(MODES)),
        pl.col("scope").cast(pl.Enum(SCOPES)),
        "name",
        "metric",
        "step",
        nulls_last=False,
        maintain_order=True,
    )


def observations(marks: pl.DataFrame) -> pl.DataFrame:
    """What each measure is the mean of.

    Returns:
        `uid`, `mode`, `repeat`, `task`, `subset`, `steps`, `metric`, `step` (null for all steps) and `value`.
    """
    ordered = marks.sort(*KEY).with_columns(
        # Free text is neither right nor wrong, so it does not break a chain of right answers.
        pl.col("correct").fill_null(value=True).cast(pl.Int8).cum_min().over(_INSTANCE).cast(pl.Boolean).alias("chain"),
        (pl.col("step").cum_count().over(_INSTANCE) == pl.col("step")).alias("unbroken"),
    )
    exact = ordered.filter(pl.col("correct").is_not_null())
    before = pl.when(pl.col("step").diff().over(_INSTANCE) == 1).then(pl.col("correct").shift(1).over(_INSTANCE))
    after = exact.with_columns(before.alias("before"))
    whole = _whole_instances(marks).filter(pl.col("complete") & pl.col("final").is_not_null())
    parsed = pl.col("parse").is_in(["ok", "ambiguous"])
    parts = [
        _observed(exact, "step_accuracy", pl.col("correct")),
        _observed(exact, "step_accuracy", pl.col("correct"), by_step=False),
        _observed(exact.filter(parsed), "accuracy_when_found", pl.col("correct"), by_step=False),
        _observed(exact.filter("unbroken"), "conditional_accuracy", pl.col("chain")),
        _observed(after.filter(~pl.col("before")), "right_after_wrong", pl.col("correct")),
        _observed(whole, "final_accuracy", pl.col("final"), by_step=False),
        _observed(ordered.filter(pl.col("score").is_not_null()), "rouge_l", pl.col("score")),
        _observed(ordered, "format_failures", ~parsed, by_step=False),
        *(
            _observed(ordered, state, pl.col("parse") == state, by_step=False)
            for state in ("missing", "unclosed", "ambiguous")
        ),
    ]
    return pl.concat(parts)


def scoped(table: pl.DataFrame) -> Iterator[tuple[str, str, pl.DataFrame]]:
    """The whole table and its parts by subset, task and number of steps, each with the names of scope and part."""
    for scope, column in _NAMES.items():
        parts = table.with_columns(column.alias("_name")).partition_by("_name", as_dict=True, include_key=False)
        for (name,), part in sorted(parts.items()):
            yield scope, str(name), part


def association(marks: pl.DataFrame) -> pl.DataFrame:
    """Whether being right at one step goes with being right at the next, pooled and within tasks.

    Three steps are paired as 1 with 2 and 2 with 3, each pair by itself. With repeats the first is taken, because
    repeats of one instance are not independent.

    Returns:
        One row for each mode, scope (`all`, `subset`) and pair of steps: the counts, Pearson's chi-squared and the odds
        ratio of the pooled table, and the Cochran-Mantel-Haenszel test and common odds ratio with tasks as strata.
    """
    first = marks.filter(pl.col("correct").is_not_null() & (pl.col("repeat") == pl.col("repeat").min().over("mode")))
    later = first.select(*_INSTANCE, (pl.col("step") - 1).alias("step"), pl.col("correct").alias("next"))
    pairs = first.join(later, on=[*_INSTANCE, "step"], how="inner")
    rows = []
    for scope, name, part in scoped(pairs):
        if scope not in ("all", "subset"):
            continue
        for (mode, step), group in part.group_by("mode", "step", maintain_order=True):
            rows.append(
                {"mode": mode, "scope": scope, "name": name, "step": step, "next_step": int(str(step)) + 1}
                | _associated(group)
            )
    schema = {
        **dict.fromkeys(("mode", "scope", "name"), pl.String),
        **dict.fromkeys(("step", "next_step", *CELLS, "tasks"), pl.Int64),
        **dict.fromkeys(("chi_squared", "p_value", "odds_ratio", "low", "high"), pl.Float64),
        **dict.fromkeys(("cmh", "cmh_p_value", "cmh_odds_ratio", "cmh_low", "cmh_high"), pl.Float64),
    }
    return pl.DataFrame(rows, schema=schema).sort(pl.col("mode").cast(pl.Enum(MODES)), "scope", "name", "step")


def _associated(pairs: pl.DataFrame) -> dict[str, Any]:
    tables = [
        TwoByTwo.count(part["correct"].to_list(), part["next"].to_list())
        for part in pairs.partition_by("task", maintain_order=True)
    ]
    pooled = TwoByTwo(*(sum(getattr(table, cell) for table in tables) for cell in CELLS))
    test, odds = chi_squared(pooled), odds_ratio(pooled)
    within, common = cochran_mantel_haenszel(tables)
    return {
        **{cell: getattr(pooled, cell) for cell in CELLS},
        "tasks": len(tables),
        "chi_squared": _number(test.statistic),
        "p_value": _number(test.p_value),
        "odds_ratio": _number(odds.ratio),
        "low": odds.interval.low if odds.interval else None,
        "high": odds.interval.high if odds.interval else None,
        "cmh": _number(within.statistic),
        "cmh_p_value": _number(within.p_value),
        "cmh_odds_ratio": _number(common.ratio),
        "cmh_low": common.interval.low if common.interval else None,
        "cmh_high": common.interval.high if common.interval else None,
    }


def _number(value: float) -> float | None:
    """A number that JSON can hold; where a step is never wrong alone, the odds ratio has no bound."""
    return value if isfinite(value) else None


def _observed(table: pl.DataFrame, metric: str, value: pl.Expr, *, by_step: bool = True) -> pl.DataFrame:
    return table.select(
        *_INSTANCE,
        "task",
        "subset",
        "steps",
        pl.lit(metric).alias("metric"),
        (pl.col("step") if by_step else pl.lit(None, dtype=pl.Int64)).alias("step"),
        value.cast(pl.Float64).alias("value"),
    )


def _whole_instances(marks: pl.DataFrame) -> pl.DataFrame:
    """One row an instance, mode and repeat: `complete`, and `final`, null where every step is free text."""
    return marks.group_by(_INSTANCE, maintain_order=True).agg(
        pl.col("task", "subset", "steps").first(),
        (pl.len() == pl.col("steps").first()).alias("complete"),
        pl.when(pl.col("correct").is_not_null().any()).then(pl.col("correct").all(ignore_nulls=True)).alias("final"),
    )


def _summaries(observed: pl.DataFrame, scope: str, seed: int) -> pl.DataFrame:
    """Mean, interval, macro mean and spread of every measure, for each `name`."""
    keys = ["mode", "name", "metric", "step"]
    value = pl.col("value")
    grouped = observed.group_by(keys, maintain_order=True).agg(
        pl.col("uid").n_unique().cast(pl.Int64).alias("instances"), pl.len().cast(pl.Int64).alias("answers")
    )
    by_repeat = observed.group_by(*keys, "repeat", maintain_order=True).agg(value.mean())
    means = by_repeat.group_by(keys, maintain_order=True).agg(
        value.mean(), value.std().alias("spread"), pl.len().cast(pl.Int64).alias("repeats")
    )
    by_task = observed.group_by(*keys, "repeat", "task", maintain_order=True).agg(value.mean())
    macro = by_task.group_by(*keys, "repeat", maintain_order=True).agg(value.mean())
    macro = macro.group_by(keys, maintain_order=True).agg(value.mean().alias("macro"))
    whole = pl.col("step").is_not_null() | (pl.col("metric") == "final_accuracy")
    single = observed.filter(pl.col("metric").is_in(_PER_INSTANCE) & whole)
    by_instance = single.group_by(*keys, "uid", maintain_order=True).agg(value.mean())
    values = by_instance.group_by(keys, maintain_order=True).agg(value.alias("values"))
    table = grouped
    for part in (means, macro, values):
        table = table.join(part, on=keys, how="left", nulls_equal=True, maintain_order="left")
    bounds = [
        (None, None) if row is None else _interval(np.array(row), repeats, seed)
        for row, repeats in table.select("values", "repeats").iter_rows()
    ]
    return table.with_columns(
        pl.lit(scope).alias("scope"),
        pl.Series("low", [low for low, _ in bounds], dtype=pl.Float64),
        pl.Series("high", [high for _, high in bounds], dtype=pl.Float64),
    ).select(list(METRICS_SCHEMA))


def _interval(values: Float64[np.ndarray, " rows"], repeats: int, seed: int) -> tuple[float, float]:
    """Of the mean of what each instance has on average over the repeats."""
    if repeats == 1 and np.isin(values, (0.0, 1.0)).all():
        interval = wilson_interval(int(values.sum()), values.size)
    else:
        interval = bootstrap_mean(np.sort(values), seed=seed).interval
    return interval.low, interval.high


def _floors(marks: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """What always giving each task's commonest answer would bring, at each step and at all of them together."""
    exact = marks.filter(pl.col("correct").is_not_null()).unique(["uid", "step"], maintain_order=True)
    joint = exact.sort("uid", "step").group_by("uid", "task", maintain_order=True).agg(pl.col("gold"))
    yield from _floor(joint.with_columns(pl.lit(None, dtype=pl.Int64).alias("step")), "joint_majority_floor")
    yield from _floor(exact.select("uid", "task", "gold", "step"), "majority_floor")


def _floor(golds: pl.DataFrame, metric: str) -> Iterator[dict[str, Any]]:
    for (step,), part in golds.group_by("step", maintain_order=True):
        commonest = (
            part.group_by("task", "gold")
            .len()
            .group_by("task")
            .agg(pl.col("len").max(), pl.col("len").sum().alias("of"))
        )
        yield {
            "metric": metric,
            "step": step,
            "value": commonest["len"].sum() / part.height,
            "macro": (commonest["len"] / commonest["of"]).mean(),
            "instances": part.height,
            "answers": part.height,
        }
