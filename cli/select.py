"""`toolkit select`: keep the rows of a score table that satisfy the rules, or show them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

if TYPE_CHECKING:
    import polars as pl

    from pyllm.select import Rules, Selection, SelectionReport

EXAMPLES = """\b
Examples:
  toolkit select scores.parquet --top 1% --out best.parquet
  toolkit select scores.parquet --threshold 0.85 --max-tokens 1000000 > golden.parquet
  toolkit select scores.parquet --at-most 0.5 --out worst.jsonl --report worst.json
  toolkit select scores.parquet --show --limit 5
  toolkit score train.jsonl --anchors kmeans:100 --model nano | toolkit select --top 1000 --show
"""

_SOURCES_SHOWN = 10


def select(
    *,
    source: _pipes.InputArgument = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="Keep golden scores above X.", show_default=False)
    ] = None,
    at_most: Annotated[
        float | None, typer.Option(metavar="X", help="Keep golden scores of X or less.", show_default=False)
    ] = None,
    top: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Keep the best N rows, or the best P percent of all rows, rounded up.",
            show_default=False,
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Keep, best first, rows of N demo_tokens in total, up to the first that does not fit.",
            show_default=False,
        ),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Show the rows as a table for people, best first; needs no rule.")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Rows that --show shows.")] = 20,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Choose rows of a score table.

    Rules combine by AND. Rows keep their columns and their order. Rows without a score are never chosen. Equal scores
    are ordered by wins, then mean gain, then row id, then input order.
    """
    from pyllm.select import Rules, parse_top

    console = open_console(quiet=quiet, verbose=verbose)
    rules = Rules(threshold, at_most, None if top is None else parse_top(top), max_tokens)
    writes_table = not show or not _pipes.is_stdout(out)
    _check_request(rules, show=show, writes_table=writes_table, table_format=table_format)
    origin = _pipes.input_argument(source)
    if writes_table:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.tables import read_table
    from pyllm.provenance import step
    from pyllm.select import select_rows, selection_report

    table, steps = read_table(origin)
    selection = select_rows(table, rules, name=_pipes.input_name(origin))
    numbers = selection_report(table, rules, selection)
    if not rules.is_empty:
        console.say(describe(numbers))
        if not numbers.rows_selected and numbers.rows_in > numbers.null_scores:
            console.hint("no row satisfies all rules: each is judged on the whole table")
    if writes_table:
        facts = {"rules": numbers.rules, "rows_in": numbers.rows_in, "rows_selected": numbers.rows_selected}
        _pipes.write_output(table[selection.rows], out, table_format, [*steps, step("select", **facts)])
    _pipes.write_report(report, numbers.as_dict())
    if show:
        if not rules.is_empty:
            console.say()
        _show(table, selection, rules, limit)


def _check_request(
    rules: "Rules", *, show: bool, writes_table: bool, table_format: "_pipes.TableFormat | None"
) -> None:
    if rules.is_empty and writes_table:
        raise SettingError(
            "nothing to select by: no rule was given",
            hint="add --threshold, --at-most, --top or --max-tokens; --show alone shows the table",
        )
    if show and not writes_table and table_format not in (None, _pipes.TableFormat.TABLE):
        raise SettingError(
            f"`--show` writes a table for people to stdout, so `--format {table_format}` has nothing to write",
            hint="add --out FILE, or leave --show out",
        )


def describe(numbers: "SelectionReport") -> str:
    """The report of a selection as lines for people."""
    kept = f"{numbers.rows_selected:,} of {numbers.rows_in:,} rows"
    share = f" ({100 * numbers.rows_selected / numbers.rows_in:.2f} %)" if numbers.rows_in else ""
    unscored = f", {numbers.null_scores:,} without a score" if numbers.null_scores else ""
    lines = [f"selected {kept}{share}{unscored}"]
    if numbers.cut is not None:
        lines.append(f"  score at the cut  {_cut_phrase(numbers)}")
    above = "  ".join(f"{limit:g}: {rows:,}" for limit, rows in numbers.rows_above.items())
    lines.append(f"  rows above        {above}")
    mix = numbers.mix
    if mix.length_unit is not None and mix.median_after is not None and mix.median_before is not None:
        ratio = f" ({mix.median_ratio:.2f} times)" if mix.median_ratio is not None else ""
        lines.append(
            f"  median length     {mix.median_before:,.0f} -> {mix.median_after:,.0f} {mix.length_unit}{ratio}"
        )
    lines += _length_lines(numbers) + _source_lines(numbers)
    return "\n".join(lines)


def _cut_phrase(numbers: "SelectionReport") -> str:
    cut = numbers.cut
    if cut is None:
        return ""
    phrase = f"{cut.golden_score:.3f}"
    if cut.standard_error is not None:
        phrase += f" ± {cut.standard_error:.3f} (standard error over {cut.anchors_scored:,} anchors)"
    if cut.tied_rows > 1:
        phrase += f", kept {cut.tied_rows_kept:,} of the {cut.tied_rows:,} rows with that score"
    return phrase


def _length_lines(numbers: "SelectionReport") -> list[str]:
    bands = numbers.mix.bands
    if not bands or not numbers.rows_selected:
        return []
    unit = numbers.mix.length_unit
    names = [
        f"{band.shortest:,}" if band.shortest == band.longest else f"{band.shortest:,}-{band.longest:,}"
        for band in bands
    ]
    return ["", *_before_and_after(unit or "", names, [(band.rows_before, band.rows_after) for band in bands], numbers)]


def _source_lines(numbers: "SelectionReport") -> list[str]:
    sources = numbers.mix.sources
    if len(sources) < 2 or not numbers.rows_selected:
        return []
    from pyllm.cli._tables import readable

    shown = sources[:_SOURCES_SHOWN]
    lines = _before_and_after(
        "source",
        [readable(source.source_file) for source in shown],
        [(source.rows_before, source.rows_after) for source in shown],
        numbers,
    )
    more = [f"  ... and {len(sources) - len(shown):,} more"] if len(sources) > len(shown) else []
    return ["", *lines, *more]


def _before_and_after(
    title: str, names: Sequence[str], rows: Sequence[tuple[int, int]], numbers: "SelectionReport"
) -> list[str]:
    width = max(len(title), *(len(name) for name in names))
    lines = [f"  {title:<{width}}  {'rows':>9}  {'share':>7}  {'selected':>9}  {'share':>7}"]
    for name, (before, after) in zip(names, rows, strict=True):
        share_before = f"{100 * before / numbers.rows_in:.1f} %"
        share_after = f"{100 * after / numbers.rows_selected:.1f} %"
        lines.append(f"  {name:<{width}}  {before:>9,}  {share_before:>7}  {after:>9,}  {share_after:>7}")
    return lines


def _show(table: "pl.DataFrame", selection: "Selection", rules: "Rules", limit: int) -> None:
    from pyllm.cli._tables import Column, draw_table, more_line, readable

    rows = selection.ranking if rules.is_empty else selection.best_first
    shown = rows[:limit]
    rank_of = {row: place for place, row in enumerate(selection.ranking.tolist(), start=1)}
    columns = [Column("rank", "number"), Column("score", "number")]
    optional = [("wins", "wins"), ("mean_gain_nats", "mean gain"), ("demo_tokens", "tokens")]
    present = [(name, title) for name, title in optional if name in table.columns]
    columns += [Column(title, "number") for _, title in present]
    columns += [Column("instruction", share=3), Column("answer", share=4)]
    cells = []
    for row in shown.tolist():
        record = table.row(row, named=True)
        numbers = [readable(rank_of[row]), readable(record["golden_score"])]
        numbers += [_wins(record) if name == "wins" else readable(record[name]) for name, _ in present]
        cells.append([*numbers, *(readable(text) for text in _question_and_answer(record))])
    text = draw_table(columns, cells, terminal=_pipes.stdout_is_terminal())
    _pipes.write_stdout_text(text + more_line(rows.size - shown.size))


def _wins(record: dict[str, object]) -> str:
    wins, anchors = record["wins"], record.get("anchors_scored")
    return "-" if wins is None else f"{wins}" if anchors is None else f"{wins}/{anchors}"


def _question_and_answer(record: dict[str, object]) -> tuple[str | None, str | None]:
    messages = record.get("messages")
    if isinstance(messages, list) and messages:
        asked = [message["content"] for message in messages if message.get("role") == "user"]
        answered = [message["content"] for message in messages if message.get("role") == "assistant"]
        return (asked[0] if asked else None), (answered[-1] if answered else None)
    parts = [str(record[name]) for name in ("instruction", "input") if record.get(name)]
    output = record.get("output")
    return (" | ".join(parts) or None), (None if output is None else str(output))
