"""What right answers cost: calls, tokens and seconds of each mode, in all, per instance and per instance solved.

A call is counted once however many instances it answers. A count that a server did not report is unknown, and so is
every sum with it; an unknown is null and never 0.
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from pyllm.data.examples import quoted
from pyllm.errors import InputError
from pyllm.mti.metrics import SCOPES, observations, scoped
from pyllm.mti.scoring import MODES, subset_of
from pyllm.mti.tasks import Task

TOKENS = ("prompt_tokens", "cached_tokens", "generated_tokens")
SECONDS = ("wall_seconds", "busy_seconds")

_SUMS = ("calls", *TOKENS, *SECONDS)
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("mode", "scope", "name"), pl.String),
    **dict.fromkeys(("instances", "solved", "failed_calls"), pl.Int64),
    "final_accuracy": pl.Float64,
    **dict.fromkeys(_SUMS, pl.Float64),
    **dict.fromkeys((f"{name}_per_instance" for name in _SUMS), pl.Float64),
    **dict.fromkeys((f"{name}_per_solved" for name in _SUMS), pl.Float64),
    **dict.fromkeys(("on_token_frontier", "on_seconds_frontier"), pl.Boolean),
}


def costs(calls: pl.DataFrame, marks: pl.DataFrame, tasks: Sequence[Task], *, name: str = "calls") -> pl.DataFrame:
    """What each mode cost.

    Args:
        calls: One row a call: `task`, `mode`, `repeat`, `uids`, `error` (null where it was answered), and where known
            `prompt_tokens`, `cached_tokens`, `generated_tokens`, `wall_seconds` and `busy_seconds`.
        marks: The marks of the run; they say which instances were solved.
        tasks: The tasks that were asked: a task all of whose calls failed has no marks.
        name: What messages call the calls.

    Returns:
        One row for each mode, scope and name in that scope: instances asked (each repeat counts), those solved, sums
        over answered calls, each also per instance and per solved instance (null where none was), and whether no other
        mode of the same part is as accurate for less: in tokens computed or written, and in busy seconds.

    Raises:
        InputError: A column is missing, or a task is not among the tasks.
    """
    for column in ("task", "mode", "repeat", "uids", "error"):
        if column not in calls.columns:
            raise InputError(f"{name}: column `{column}` is missing (found {quoted(calls.columns)})")
    facts = pl.DataFrame(
        [(task.id, subset_of(task), task.steps) for task in tasks],
        schema={"task": pl.String, "subset": pl.String, "steps": pl.Int64},
        orient="row",
    )
    unknown = calls.filter(~pl.col("task").is_in(facts["task"].to_list()))
    if unknown.height:
        raise InputError(f"{name}: there is no task `{unknown['task'][0]}` in the tasks")
    table = calls.select(
        "task",
        pl.col("mode").cast(pl.String),
        pl.col("repeat").cast(pl.Int64),
        "uids",
        pl.col("error").is_not_null().alias("failed"),
        *(_known(calls, column, pl.Float64) for column in (*TOKENS, *SECONDS)),
    ).join(facts, on="task", how="left", maintain_order="left")
    solved = observations(marks).filter(pl.col("metric") == "final_accuracy")
    finals = {(scope, part_name): part for scope, part_name, part in scoped(solved)}
    rows = []
    for scope, part_name, part in scoped(table):
        final = finals.get((scope, part_name), solved.clear())
        for (mode,), group in part.group_by("mode", maintain_order=True):
            asked = group.select("repeat", pl.col("uids").alias("uid")).explode("uid").unique()
            ended = final.filter(pl.col("mode") == mode).join(asked, on=["uid", "repeat"], how="semi")
            rows.append({"mode": mode, "scope": scope, "name": part_name} | _spent(group, asked.height, ended))
    scopes = pl.col("scope").cast(pl.Enum(SCOPES))
    result = pl.DataFrame(rows, schema=_SCHEMA).sort(scopes, "name", pl.col("mode").cast(pl.Enum(MODES)))
    return _with_frontiers(result)


def latency(calls: pl.DataFrame) -> pl.DataFrame:
    """How long an answered call took, by mode and by how many calls were computed at once.

    Args:
        calls: As for `costs`, with `wall_seconds`; `batch_size` where it is known.

    Returns:
        One row for each mode and batch size: calls, instances they answered, mean, median, 90th and 99th percentile of
        the wall seconds of a call, and the mean of its busy seconds. No rows where no call was timed.
    """
    timed = calls.select(
        pl.col("mode").cast(pl.String),
        _known(calls, "batch_size", pl.Int64),
        pl.col("uids").list.len().alias("instances"),
        *(_known(calls, column, pl.Float64) for column in SECONDS),
        pl.col("error").is_null().alias("answered"),
    ).filter("answered", pl.col("wall_seconds").is_not_null())
    wall = pl.col("wall_seconds")
    return (
        timed.group_by("mode", "batch_size")
        .agg(
            pl.len().cast(pl.Int64).alias("calls"),
            pl.col("instances").sum().cast(pl.Int64),
            wall.mean().alias("mean_seconds"),
            wall.quantile(0.5, "linear").alias("median_seconds"),
            wall.quantile(0.9, "linear").alias("p90_seconds"),
            wall.quantile(0.99, "linear").alias("p99_seconds"),
            pl.col("busy_seconds").mean().alias("mean_busy_seconds"),
        )
        .sort(pl.col("mode").cast(pl.Enum(MODES)), "batch_size")
    )


def _known(calls: pl.DataFrame, column: str, dtype: Any) -> pl.Expr:
    there = pl.col(column) if column in calls.columns else pl.lit(None)
    return there.cast(dtype).alias(column)


def _spent(group: pl.DataFrame, instances: int, ended: pl.DataFrame) -> dict[str, Any]:
    answered = group.filter(~pl.col("failed"))
    solved = int(ended["value"].sum())
    sums: dict[str, float | None] = {"calls": float(answered.height)}
    for column in (*TOKENS, *SECONDS):
        sums[column] = None if answered[column].null_count() else float(answered[column].sum())
    return {
        "instances": instances,
        "solved": solved,
        "failed_calls": group.height - answered.height,
        "final_accuracy": solved / ended.height if ended.height else None,
        **sums,
        **{f"{name}_per_instance": _shared(value, instances) for name, value in sums.items()},
        **{f"{name}_per_solved": _shared(value, solved) for name, value in sums.items()},
    }


def _shared(value: float | None, among: int) -> float | None:
    return None if value is None or not among else value / among


def _with_frontiers(table: pl.DataFrame) -> pl.DataFrame:
    """Mark the rows that no other mode of their part beats in both accuracy and cost."""
    tokens = (
        pl.col("prompt_tokens_per_instance")
        - pl.col("cached_tokens_per_instance").fill_null(0)
        + pl.col("generated_tokens_per_instance")
    )
    rows = table.with_columns(tokens.alias("_tokens"), pl.col("busy_seconds_per_instance").alias("_seconds"))
    parts = []
    for part in rows.partition_by("scope", "name", maintain_order=True):
        flags = {
            "on_token_frontier": _frontier(part["final_accuracy"].to_list(), part["_tokens"].to_list()),
            "on_seconds_frontier": _frontier(part["final_accuracy"].to_list(), part["_seconds"].to_list()),
        }
        parts.append(part.with_columns(pl.Series(name, values, dtype=pl.Boolean) for name, values in flags.items()))
    return pl.concat(parts).select(list(_SCHEMA)) if parts else table


def _frontier(accuracies: list[float | None], prices: list[float | None]) -> list[bool | None]:
    points = list(zip(accuracies, prices, strict=True))
    flags: list[bool | None] = []
    for accuracy, price in points:
        if accuracy is None or price is None:
            flags.append(None)
            continue
        beaten = any(
            other >= accuracy and cost <= price and (other > accuracy or cost < price)
            for other, cost in points
            if other is not None and cost is not None
        )
        flags.append(not beaten)
    return flags
