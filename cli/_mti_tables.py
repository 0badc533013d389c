"""Marks, differences and agreement as tables for people."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyllm.cli._console import stderr_is_terminal
from pyllm.cli._tables import Column, draw_table, readable

if TYPE_CHECKING:
    import polars as pl

    from pyllm.mti.marking import Compared, Marked

_WORDS = {"final_accuracy": "final", "step_accuracy": "step", "rouge_l": "ROUGE-L"}


def score_text(marked: "Marked", *, by: str | None) -> str:
    """What `toolkit mti score` tells."""
    import polars as pl

    parts = [_coverage_text(marked)]
    parts.append(_accuracy_table(marked.metrics.filter(pl.col("scope") == "all"), named=False))
    if by is not None:
        parts.append(_accuracy_table(marked.metrics.filter(pl.col("scope") == by), named=True))
    if marked.differences.height:
        chosen = pl.col("scope").is_in(["all", by or "all"])
        parts.append(_difference_tables(marked.differences.filter(chosen)))
    telling = marked.association.filter(pl.col("chi_squared").is_not_null())
    if telling.height:
        parts.append("right at a step and at the next\n" + _association_table(telling))
    if marked.costs is not None and marked.costs.height:
        parts.append("cost of one solved instance\n" + _cost_table(marked.costs.filter(pl.col("scope") == "all")))
    if marked.latency is not None and marked.latency.height:
        parts.append("seconds of a call\n" + _latency_table(marked.latency))
    return "\n".join(parts)


def compare_text(compared: "Compared", *, by: str | None) -> str:
    """What `toolkit mti compare` tells."""
    import polars as pl

    chosen = pl.col("scope").is_in(["all", by or "all"])
    lines = [_difference_tables(compared.differences.filter(chosen))]
    for names in compared.names:
        mine = compared.discordant.filter(pl.col("sides") == " - ".join(names))
        only = [mine.filter(pl.col("solved_by") == name) for name in names]
        without = [mine.filter(pl.col(f"{side}_pattern") != "").height for side in ("first", "second")]
        alone = [f"{name} alone solves {table.height:,} instances" for name, table in zip(names, only, strict=True)]
        lines.append(
            f"{', '.join(alone)}; no output or several outputs among these: {without[0]:,} of {names[0]},"
            f" {without[1]:,} of {names[1]}\n"
        )
    return "\n".join(lines)


def agreement_text(table: "pl.DataFrame") -> str:
    """What `toolkit mti agree` tells."""
    columns = [Column("criterion", "word"), Column("first", "word"), Column("second", "word")]
    columns += [Column(title, "number") for title in ("items", "agree", "by chance", "kappa", "95 % interval")]
    rows = [
        [
            *(readable(row[name]) for name in ("criterion", "first", "second")),
            f"{row['items']:,}",
            *(readable(row[name]) for name in ("observed", "expected", "kappa")),
            _range(row["low"], row["high"]),
        ]
        for row in table.to_dicts()
    ]
    lacking = int(table["unlabelled"].sum())
    note = f"{lacking:,} items lack a label and are left out\n" if lacking else ""
    return _drawn(columns, rows) + note


def _coverage_text(marked: "Marked") -> str:
    covered = marked.coverage
    limited = "; the run was limited: partial results" if marked.partial else ""
    lines = [f"{covered.instances:,} instances, {marked.scoring} scoring{limited}"]
    for mode, count in covered.marked.items():
        missing = covered.instances - count
        notes = [f"{missing:,} without any output" if missing else "", _incomplete(covered.incomplete[mode])]
        said = ", ".join(note for note in notes if note)
        if said:
            lines.append(f"  {mode}: {count:,} instances marked, {said}")
    if marked.failed:
        lines.append(f"  {marked.failed:,} outputs are null: calls that failed, which are not marked")
    return "\n".join(lines) + "\n"


def _incomplete(count: int) -> str:
    return f"{count:,} lack an output for a step and are no part of final accuracy" if count else ""


def _accuracy_table(metrics: "pl.DataFrame", *, named: bool) -> str:
    """One row a mode and part: final accuracy, steps, what was not found, free text, floor."""
    values = {(row["mode"], row["name"], row["metric"], row["step"]): row for row in metrics.to_dicts()}
    steps = sorted({step for _, _, metric, step in values if metric == "step_accuracy" and step is not None})
    texts = any(metric == "rouge_l" for _, _, metric, _ in values)
    repeated = not named and any((row["repeats"] or 1) > 1 for row in values.values())
    titles = ["instances", "final", "95 % interval", *([] if named else ["macro"]), *(["spread"] if repeated else [])]
    titles += [*(f"step {step}" for step in steps), "no answer", "ambiguous", *(["ROUGE-L"] if texts else []), "floor"]
    columns = [Column("mode", "word"), *([Column("part", "word")] if named else [])]
    columns += [Column(title, "number") for title in titles]
    rows = []
    for mode, name in dict.fromkeys((mode, name) for mode, name, _, _ in values if mode is not None):

        def cell(metric: str, step: int | None = None, *, of: str = "value", mode: Any = mode, name: str = name) -> Any:
            return values.get((mode, name, metric, step), {}).get(of)

        final = values.get((mode, name, "final_accuracy", None), {})
        rows.append(
            [
                mode,
                *([readable(name)] if named else []),
                f"{final.get('instances', 0):,}",
                readable(final.get("value")),
                _range(final.get("low"), final.get("high")),
                *([] if named else [readable(final.get("macro"))]),
                *([readable(final.get("spread"))] if repeated else []),
                *(readable(cell("step_accuracy", step)) for step in steps),
                readable(cell("format_failures")),
                readable(cell("ambiguous")),
                *([readable(_mean_rouge(values, mode, name))] if texts else []),
                readable(cell("joint_majority_floor", mode=None)),
            ]
        )
    return _drawn(columns, rows)


def _mean_rouge(values: Mapping[tuple[Any, ...], Mapping[str, Any]], mode: Any, name: str) -> float | None:
    found = [row for key, row in values.items() if key[:3] == (mode, name, "rouge_l")]
    answers = sum(row["answers"] for row in found)
    return sum(row["value"] * row["answers"] for row in found) / answers if answers else None


def _difference_tables(table: "pl.DataFrame") -> str:
    """One table for each pair of sides."""
    columns = [Column("part", "word"), Column("measure", "word")]
    titles = ("instances", "difference", "95 % interval", "macro", "first only", "second only", "p")
    columns += [Column(title, "number") for title in titles]
    texts = []
    for pair in table.partition_by("first", "second", maintain_order=True):
        rows = []
        for row in pair.to_dicts():
            step = "" if row["step"] is None else f" {row['step']}"
            cells = [readable(row["name"]), f"{_WORDS[row['metric']]}{step}", f"{row['instances']:,}"]
            cells += [_signed(row["difference"]), _range(row["low"], row["high"], signed=True), _signed(row["macro"])]
            rows.append([*cells, readable(row["first_only"]), readable(row["second_only"]), _chance(row["p_value"])])
        title = f"{readable(pair['first'][0])} - {readable(pair['second'][0])}, on the same instances"
        texts.append(f"{title}\n{_drawn(columns, rows)}")
    return "\n".join(texts)


def _association_table(table: "pl.DataFrame") -> str:
    columns = [Column("mode", "word"), Column("part", "word"), Column("steps", "word")]
    titles = ("chi-squared", "p", "odds ratio", "within tasks: CMH", "p", "odds ratio")
    columns += [Column(title, "number") for title in titles]
    rows = [
        [
            row["mode"],
            readable(row["name"]),
            f"{row['step']}, {row['next_step']}",
            readable(row["chi_squared"], decimals=1),
            _chance(row["p_value"]),
            readable(row["odds_ratio"], decimals=2),
            readable(row["cmh"], decimals=1),
            _chance(row["cmh_p_value"]),
            readable(row["cmh_odds_ratio"], decimals=2),
        ]
        for row in table.to_dicts()
    ]
    return _drawn(columns, rows)


def _cost_table(table: "pl.DataFrame") -> str:
    """What one solved instance cost; tokens are prompt, cached and generated."""
    measures = {
        "calls": "calls",
        "prompt_tokens": "prompt",
        "cached_tokens": "cached",
        "generated_tokens": "written",
        "wall_seconds": "wall s",
        "busy_seconds": "busy s",
    }
    columns = [Column("mode", "word"), *(Column(title, "number") for title in ("instances", "solved", "failed calls"))]
    columns += [*(Column(title, "number") for title in measures.values()), Column("best price in", "word")]
    rows = []
    for row in table.to_dicts():
        best = [name for name in ("token", "seconds") if row[f"on_{name}_frontier"]]
        rows.append(
            [
                row["mode"],
                *(f"{row[name]:,}" for name in ("instances", "solved", "failed_calls")),
                *(_amount(row[f"{name}_per_solved"]) for name in measures),
                " and ".join("tokens" if name == "token" else name for name in best) or "-",
            ]
        )
    return _drawn(columns, rows)


def _latency_table(table: "pl.DataFrame") -> str:
    columns = [Column("mode", "word"), Column("at once", "number"), Column("calls", "number")]
    columns += [Column(title, "number") for title in ("mean", "median", "90 %", "99 %", "busy")]
    measures = ("mean_seconds", "median_seconds", "p90_seconds", "p99_seconds", "mean_busy_seconds")
    rows = [
        [row["mode"], readable(row["batch_size"]), f"{row['calls']:,}", *(readable(row[name]) for name in measures)]
        for row in table.to_dicts()
    ]
    return _drawn(columns, rows)


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 1_000 else f"{value:,.1f}"


def _drawn(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> str:
    return draw_table(columns, rows, terminal=stderr_is_terminal())


def _range(low: float | None, high: float | None, *, signed: bool = False) -> str:
    if low is None or high is None:
        return "-"
    return f"{_signed(low)} to {_signed(high)}" if signed else f"{low:.3f}-{high:.3f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _chance(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
