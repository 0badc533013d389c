"""The folder of a run: everything that a later look at it needs, and nothing from elsewhere.

Layout::

    run.json            what the run is, its counts when it has ended, versions and seeds
    calls.jsonl         a line for each call as it came: exact prompt, raw output, tokens, times, error
    tasks.json          the tasks that were asked, as they were given
    calls.parquet       the calls as a table, those included that an error kept from being asked
    outputs.parquet     a row for each answer that a call holds: uid, mode, repeat, step, tag, output
    marks.parquet       the marks of the answers
    metrics.json        what they add up to
    examples.json       some answers of every kind of failure, with what was asked

All but the first three are made when the last call has ended, and again by a run that goes on.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.tables import write_bytes_atomically, write_json_atomically, write_table
from pyllm.errors import PrerequisiteError, SettingError, reason_of
from pyllm.mti.marking import Marked, summarise
from pyllm.mti.run import SPENT, Chain
from pyllm.mti.scoring import Scoring, score_outputs
from pyllm.mti.tasks import Task
from pyllm.provenance import package_version, step

CALLS_SCHEMA: dict[str, Any] = {
    "call_id": pl.String,
    "task": pl.String,
    "mode": pl.String,
    "repeat": pl.Int64,
    "call": pl.Int64,
    "uids": pl.List(pl.String),
    "prompt": pl.String,
    "output": pl.String,
    "finish": pl.String,
    "error": pl.String,
    "prompt_tokens": pl.Int64,
    "cached_tokens": pl.Int64,
    "generated_tokens": pl.Int64,
    "wall_seconds": pl.Float64,
    "busy_seconds": pl.Float64,
    "attempts": pl.Int64,
    "batch_size": pl.Int64,
}
OUTPUTS_SCHEMA: dict[str, Any] = {
    "uid": pl.String,
    "task": pl.String,
    "mode": pl.String,
    "repeat": pl.Int64,
    "step": pl.Int64,
    "tag": pl.Int64,
    "call": pl.Int64,
    "call_id": pl.String,
    "answers_of_call": pl.Int64,
    "output": pl.String,
    "finish": pl.String,
    "error": pl.String,
    **{name: CALLS_SCHEMA[name] for name in SPENT},
}
_EXAMPLES_OF_A_KIND = 3
_TEXT_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Results:
    """What came of a run.

    Args:
        calls: A row for each call.
        outputs: A row for each answer that a call holds.
        marked: Marks of the answers, and what they add up to.
        counts: Calls asked, answered, failed and never asked, and their tokens; null where a server said none.
    """

    calls: pl.DataFrame
    outputs: pl.DataFrame
    marked: Marked
    counts: dict[str, Any]


def make_folder(folder: Path) -> None:
    """Make the folder of a run, or see that it is one.

    Raises:
        SettingError: It holds something else.
        PrerequisiteError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise PrerequisiteError(f"run folder `{folder}` cannot be used: {reason_of(error)}") from error
    if entries and "calls.jsonl" not in entries:
        raise SettingError(f"run folder `{folder}` holds other files (`{entries[0]}`)", hint="give an empty folder")


def write_beginning(folder: Path, task_data: bytes, facts: Mapping[str, Any]) -> None:
    """Write down what the run is and what it asks."""
    write_bytes_atomically(folder / "tasks.json", task_data)
    write_json_atomically(folder / "run.json", {**facts, "status": "unfinished", "versions": versions()})


def results_of(chains: Sequence[Chain], tasks: tuple[Task, ...], facts: Mapping[str, Any], scoring: Scoring) -> Results:
    """Tables and measures of a run whose calls have all ended."""
    calls, outputs = [], []
    for chain in chains:
        for call, line in sorted(chain.calls.items()):
            name = chain.call_id(call)
            calls.append({"call_id": name, **line})
            readings = chain.readings(call)
            outputs += [
                {
                    **line,
                    "uid": reading.uid,
                    "step": reading.step,
                    "tag": reading.tag,
                    "call_id": name,
                    "answers_of_call": len(readings),
                }
                for reading in readings
            ]
    call_table = _table(calls, CALLS_SCHEMA)
    output_table = _table(outputs, OUTPUTS_SCHEMA)
    answered = call_table["error"].null_count()
    never = call_table["prompt"].null_count()
    counts = {
        "calls": call_table.height,
        "answered": answered,
        "failed": call_table.height - answered - never,
        "never_asked": never,
        "cut_short": int((call_table["finish"] == "length").sum()),
        **{
            name: None if call_table[name].null_count() == call_table.height else call_table[name].sum()
            for name in ("prompt_tokens", "cached_tokens", "generated_tokens")
        },
    }
    marked = summarise(
        score_outputs(tasks, output_table, scoring),
        tasks,
        scoring,
        calls=call_table,
        failed=output_table["output"].null_count(),
        limit=facts["extent"]["limit"],
        seed=facts["key"]["seed"],
        steps=(step("mti run", **facts["key"], **facts["extent"], scoring=scoring),),
    )
    return Results(call_table, output_table, marked, counts)


def _table(rows: Sequence[Mapping[str, Any]], schema: Mapping[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([pl.Series(name, [row[name] for row in rows], dtype=dtype) for name, dtype in schema.items()])


def write_results(folder: Path, results: Results, facts: Mapping[str, Any]) -> None:
    """Write the tables and numbers of a finished run.

    Raises:
        PrerequisiteError: The folder cannot be written.
    """
    marked = results.marked
    for name, table in (("calls", results.calls), ("outputs", results.outputs), ("marks", marked.marks)):
        write_table(table, folder / f"{name}.parquet", format="parquet", steps=marked.steps)
    write_json_atomically(folder / "metrics.json", {**marked.as_dict(), "counts": results.counts})
    write_json_atomically(folder / "examples.json", examples(results))
    ended = {"status": "finished", "scoring": marked.scoring, "counts": results.counts, "versions": versions()}
    write_json_atomically(folder / "run.json", {**facts, **ended})


def examples(results: Results) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The first answers of every kind of failure, by mode and kind.

    Kinds are `wrong` (found, and not the gold), `missing`, `unclosed`, `ambiguous` (right or wrong), `cut_short` and
    `error`.
    """
    given = results.outputs.join(results.calls.select("call_id", "prompt"), on="call_id", how="left")
    marked = results.marked.marks.select("uid", "mode", "repeat", "step", "correct", "parse", "parsed", "gold")
    one = given.filter(pl.col("step").is_null()).drop("step").join(marked, on=["uid", "mode", "repeat"], how="left")
    each = given.filter(pl.col("step").is_not_null()).join(marked, on=["uid", "mode", "repeat", "step"], how="left")
    rows = pl.concat([one.select(sorted(one.columns)), each.select(sorted(one.columns))])
    kinds = {
        "wrong": (pl.col("parse") == "ok") & pl.col("correct").not_(),
        "missing": pl.col("parse") == "missing",
        "unclosed": pl.col("parse") == "unclosed",
        "ambiguous": pl.col("parse") == "ambiguous",
        "cut_short": pl.col("finish") == "length",
        "error": pl.col("error").is_not_null(),
    }
    shown = ("uid", "repeat", "step", "tag", "prompt", "output", "parsed", "gold", "correct", "finish", "error")
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for mode in rows["mode"].unique(maintain_order=True):
        found[mode] = {}
        for kind, which in kinds.items():
            some = rows.filter((pl.col("mode") == mode) & which).head(_EXAMPLES_OF_A_KIND)
            found[mode][kind] = [{name: _cut(row[name]) for name in shown} for row in some.to_dicts()]
    return found


def _cut(value: Any) -> Any:
    return f"{value[:_TEXT_CHARACTERS]} [...]" if isinstance(value, str) and len(value) > _TEXT_CHARACTERS else value


def versions() -> dict[str, str]:
    """Of what the answers and marks were computed with."""
    found = {"pyllm": package_version(), "python": platform.python_version()}
    for name in ("torch", "transformers", "polars", "httpx2"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
