"""Multi-task runs on a page: accuracy against cost by mode, paired differences, and kinds of failure with examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import polars as pl

from pyllm.mti.compare import mode_differences
from pyllm.mti.metrics import check_marks, metrics
from pyllm.report import drawing
from pyllm.report.blocks import (
    Block,
    Column,
    Heading,
    Passages,
    Plot,
    Section,
    Table,
    Words,
    count,
    number,
    one_line,
    passage,
    words,
)
from pyllm.report.sources import Sources

_SHOWN_EXAMPLES = 2
_KINDS = ("right", "wrong", "ambiguous", "missing", "unclosed", "free text")
_SAID = {
    "wrong": "wrong: an answer, and not the right one", "missing": "missing: no answer to read",
    "unclosed": "unclosed: a tag that never ends", "ambiguous": "ambiguous: several answers",
    "cut_short": "cut short: ended at its most tokens", "error": "error: the call failed",
}  # fmt: skip


def tasks_section(sources: Sources) -> Section | None:
    """The section about multi-task runs; None where there are none."""
    marks = [(run.name, check_marks(run.table, name=run.name)) for run in sources.of_kind("marks")]
    if not sources.mti and not marks:
        return None
    blocks: list[Block] = []
    several = len(sources.mti) + len(marks) > 1
    for run in sources.mti:
        blocks += [Heading(run.name)] if several else []
        blocks += _run_blocks(run.metrics, run.marks)
        blocks += _examples(run.examples)
    for name, table in marks:
        found = {"metrics": metrics(table).to_dicts(), "differences": mode_differences(table).to_dicts()}
        blocks += [Heading(name)] if several else []
        blocks += _run_blocks(found, table)
    return Section("mti", "Several instructions at once", tuple(blocks))


def _run_blocks(found: Mapping[str, Any], marks: pl.DataFrame) -> list[Block]:
    values = {(row["scope"], row["name"], row["mode"], row["metric"], row["step"]): row for row in found["metrics"]}
    modes = list(dict.fromkeys(row["mode"] for row in found["metrics"] if row["mode"] is not None))
    blocks: list[Block] = [Words(_in_words(found, marks))]
    if found.get("partial"):
        blocks.append(Words("The run was limited to some instances of each task: partial results.", is_warning=True))
    blocks += _cost_plots(found.get("costs") or [], values)
    if not found.get("costs"):
        finals = [(mode, values.get(("all", "all", mode, "final_accuracy", None))) for mode in modes]
        rows = [drawing.Dot(mode, *(100 * row[name] for name in ("value", "low", "high"))) for mode, row in finals
                if row is not None and row["low"] is not None]  # fmt: skip
        if rows:
            blocks.append(Plot("Final accuracy", drawing.dots(rows, across="instances solved, %", decimals=1)))
    blocks += _difference_plot(found["differences"])
    kinds = [(mode, _kinds(marks.filter(pl.col("mode") == mode))) for mode in modes]
    shown = [kind for kind in _KINDS if any(counts[kind] for _, counts in kinds)]
    parts = [[100 * counts[kind] / max(1, sum(counts.values())) for kind in shown] for _, counts in kinds]
    drawn = drawing.stacked_bars(modes, parts, shown, across="% of answers")
    blocks.append(Plot("What became of answers", drawn))
    blocks.append(_accuracy_table(values, modes, "Accuracy by mode"))
    blocks.append(_difference_table(found["differences"], "Paired differences"))
    if found.get("costs"):
        blocks.append(_cost_table(found["costs"], "Cost of an instance by mode"))
    blocks.append(_by_task_table(values, modes, "Final accuracy by task"))
    return blocks


def _in_words(found: Mapping[str, Any], marks: pl.DataFrame) -> str:
    instances = found.get("instances", marks["uid"].n_unique())
    parts = [f"{instances:,} instances of {marks['task'].n_unique():,} tasks, {marks.height:,} answers marked"]
    if "scoring" in found:
        parts.append(f"{found['scoring']} scoring")
    counts = found.get("counts")
    if counts:
        parts.append(f"{counts['calls']:,} calls")
        said = {"failed": "failed", "never_asked": "never asked", "cut_short": "cut at their most tokens"}
        parts += [f"{counts[name]:,} {words_of}" for name, words_of in said.items() if counts.get(name)]
    return ", ".join(parts) + "."


def _cost_plots(costs: Sequence[Mapping[str, Any]], values: Mapping[Any, Any]) -> list[Block]:
    blocks: list[Block] = []
    rows = [row for row in costs if row["scope"] == "all"]
    prices: dict[str, Callable[[Mapping[str, Any]], float | None]] = {
        "tokens computed or written, an instance": _tokens,
        "seconds of work, an instance": _seconds,
    }
    for said, price in prices.items():
        points = []
        for row in rows:
            final = values.get(("all", "all", row["mode"], "final_accuracy", None))
            cost = price(row)
            if final is None or cost is None:
                continue
            ends = () if final["low"] is None else (100 * final["low"], 100 * final["high"])
            points.append(drawing.Point(row["mode"], cost, 100 * final["value"], *ends))
        if points:
            drawn = drawing.points(points, across=said, up="instances solved, %", ends=(-3, 103))
            blocks.append(Plot(f"Accuracy against {said.partition(',')[0]}", drawn, "Bars are 95 % intervals."))
    return blocks


def _tokens(row: Mapping[str, Any]) -> float | None:
    prompt, generated = row["prompt_tokens_per_instance"], row["generated_tokens_per_instance"]
    if prompt is None or generated is None:
        return None
    return float(prompt - (row["cached_tokens_per_instance"] or 0) + generated)


def _seconds(row: Mapping[str, Any]) -> float | None:
    return None if row["busy_seconds_per_instance"] is None else float(row["busy_seconds_per_instance"])


def _difference_plot(differences: Sequence[Mapping[str, Any]]) -> list[Block]:
    rows = [
        drawing.Dot(
            f"{row['first']} less {row['second']}", *(100 * row[name] for name in ("difference", "low", "high"))
        )
        for row in differences
        if row["scope"] == "all" and row["metric"] == "final_accuracy"
    ]
    if not rows:
        return []
    drawn = drawing.dots(rows, across="difference in instances solved, points", zero=0.0, decimals=1)
    return [Plot("Paired differences", drawn, "Bars are 95 % intervals over instances.")]


def _kinds(marks: pl.DataFrame) -> dict[str, int]:
    """How many answers of each kind there are."""
    kind = (
        pl.when(pl.col("parse").is_in(["missing", "unclosed", "ambiguous"]))
        .then(pl.col("parse"))
        .when(pl.col("correct").is_null())
        .then(pl.lit("free text"))
        .when(pl.col("correct"))
        .then(pl.lit("right"))
        .otherwise(pl.lit("wrong"))
    )
    found = dict(marks.select(kind.alias("kind")).group_by("kind").len().rows())
    return {name: int(found.get(name, 0)) for name in _KINDS}


def _accuracy_table(values: Mapping[Any, Any], modes: Sequence[str], title: str) -> Table:
    steps = sorted({key[4] for key in values if key[0] == "all" and key[3] == "step_accuracy" and key[4] is not None})
    columns = [Column("mode", "word"), Column("instances"), Column("solved (95 % interval)"), Column("mean of tasks")]
    columns += [*(Column(f"step {step}") for step in steps), Column("no answer to read"), Column("ambiguous")]
    rows = []
    for mode in modes:

        def of(metric: str, step: int | None = None, *, mode: str = mode) -> Mapping[str, Any]:
            row: Mapping[str, Any] = values.get(("all", "all", mode, metric, step), {})
            return row

        final = of("final_accuracy")
        interval = None if final.get("low") is None else (final["low"], final["high"])
        rows.append(
            (
                words(mode),
                count(final.get("instances")),
                number(final.get("value"), interval, percent=True),
                number(final.get("macro"), percent=True),
                *(number(of("step_accuracy", step).get("value"), percent=True) for step in steps),
                number(of("format_failures").get("value"), percent=True),
                number(of("ambiguous").get("value"), percent=True),
            )
        )
    floor = values.get(("all", "all", None, "joint_majority_floor", None), {}).get("value")
    note = "" if floor is None else f"Always giving each task's commonest answers would solve {100 * floor:.1f} %."
    return Table(title, tuple(columns), tuple(rows), note)


def _difference_table(differences: Sequence[Mapping[str, Any]], title: str) -> Table:
    columns = (Column("modes", "word"), Column("measure", "word"), Column("difference (95 % interval)"),
               Column("both"), Column("only first"), Column("only second"), Column("neither"), Column("p"))  # fmt: skip
    rows = []
    for row in differences:
        if row["scope"] != "all":
            continue
        step = "" if row["step"] is None else f" {row['step']}"
        is_share = row["metric"] != "rouge_l"
        rows.append(
            (
                words(f"{row['first']} less {row['second']}"),
                words(row["metric"].replace("_", " ") + step),
                number(row["difference"], (row["low"], row["high"]), percent=is_share, signed=True),
                *(count(row[name]) for name in ("both", "first_only", "second_only", "neither")),
                number(row["p_value"], digits=4),
            )
        )
    return Table(title, columns, tuple(rows), "p is McNemar's, over instances that one mode alone solves.")


def _cost_table(costs: Sequence[Mapping[str, Any]], title: str) -> Table:
    names = [("calls", "calls"), ("prompt_tokens", "prompt tokens"), ("cached_tokens", "of them cached"),
             ("generated_tokens", "answer tokens"), ("busy_seconds", "seconds")]  # fmt: skip
    columns = [Column("mode", "word"), Column("solved"), *(Column(said) for _, said in names)]
    columns += [Column("tokens, one solved"), Column("seconds, one solved")]
    rows = []
    for row in costs:
        if row["scope"] != "all":
            continue
        parts = [row[f"{name}_per_solved"] for name in ("prompt_tokens", "generated_tokens")]
        solved = None if None in parts else sum(parts)
        cells = [number(row[f"{name}_per_instance"], digits=2) for name, _ in names]
        rows.append((words(row["mode"]), count(row["solved"]), *cells, number(solved, digits=1),
                     number(row["busy_seconds_per_solved"], digits=2)))  # fmt: skip
    return Table(title, tuple(columns), tuple(rows))


def _by_task_table(values: Mapping[Any, Any], modes: Sequence[str], title: str) -> Table:
    tasks = list(dict.fromkeys(key[1] for key in values if key[0] == "task"))
    columns = [Column("task", "text"), Column("instances"), *(Column(mode) for mode in modes)]
    rows = []
    for task in tasks:
        found = [values.get(("task", task, mode, "final_accuracy", None), {}) for mode in modes]
        if any(found):
            most = max(row.get("instances", 0) for row in found)
            rows.append((words(task), count(most), *(number(row.get("value"), percent=True) for row in found)))
    return Table(title, tuple(columns), tuple(rows))


def _examples(examples: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Answers of every kind of failure, folded."""
    blocks: list[Block] = []
    kinds = list(dict.fromkeys(kind for found in examples.values() for kind in found))
    for kind in kinds:
        items = []
        for mode, found in examples.items():
            for row in found.get(kind, [])[:_SHOWN_EXAMPLES]:
                gold = f", right is {one_line(row['gold'], 60)}" if row.get("gold") else ""
                read = f": read {one_line(row['parsed'], 60)}" if row.get("parsed") else ""
                parts = [(name, passage(row[name])) for name in ("prompt", "output", "error") if row.get(name)]
                items.append((f"{mode}, {row['uid']}{read}{gold}", tuple(parts)))
        if items:
            blocks.append(Passages(f"{_SAID.get(kind, kind)}", tuple(items)))
    return blocks
