"""`toolkit aggregate`: a score table from log-probabilities that are on disk already."""

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console

if TYPE_CHECKING:
    from pyllm.score.aggregate import Aggregation

EXAMPLES = """\b
Examples:
  toolkit aggregate matrix.arrow --zero-shot anchors.parquet --out scores.parquet
  toolkit aggregate shard-*.parquet --zero-shot zero.npy --top 1% --out best.parquet --report numbers.json
  toolkit aggregate pairs.parquet --zero-shot zero.csv --threshold 0.85 | toolkit select --show
  toolkit aggregate pairs.parquet --zero-shot zero.csv --candidate-column row_id --missing skip --out scores.csv
  toolkit aggregate scores.parquet --value-column one_shot_nats --zero-shot anchors.parquet --out again.parquet
"""

_COPIED_BYTES = 1 << 20


class Missing(StrEnum):
    """What becomes of a candidate that lacks anchors."""

    REFUSE = "refuse"
    SKIP = "skip"


def aggregate(
    logprobs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOGPROBS...",
            help="Files read as one: our matrix file, .npy, or Parquet and Arrow tables with a list a candidate or a"
            " row a pair.",
            show_default=False,
        ),
    ],
    *,
    zero_shot: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="Zero-shot sums of the anchors: .npy, Parquet, Arrow, CSV or JSON lines, such as --anchors-out of"
            " `toolkit score` writes.",
            show_default=False,
        ),
    ],
    top: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%",
            help="Write the best N rows, or the best P percent of all rows, rounded up.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="X", help="Write rows with golden scores above X.", show_default=False)
    ] = None,
    missing: Annotated[
        Missing,
        typer.Option(help="When a candidate has no row for an anchor: refuse the input, or score over the others."),
    ] = Missing.REFUSE,
    candidate_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Ids of candidates. Default: the usual names.", show_default=False),
    ] = None,
    anchor_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Ids of anchors. Default: the usual names.", show_default=False)
    ] = None,
    value_column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Log-probabilities. Default: the usual names, or the only such.", show_default=False
        ),
    ] = None,
    zero_shot_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Sums in the zero-shot file. Default: as above.", show_default=False),
    ] = None,
    zero_shot_anchor_column: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Anchors in the zero-shot file. Default: as above.", show_default=False),
    ] = None,
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads, 0 for all cores; the table does not depend on it.")
    ] = 0,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn log-probabilities into golden scores, at any size.

    One row a candidate, in order of first appearance: id, golden_score, wins, anchors_scored, mean_gain_nats, as
    `toolkit select` reads them. An anchor is won when the one-shot sum is strictly above the zero-shot sum; NaN never
    wins and is counted; null was not tried. Equal scores are ordered by wins, then mean gain, then id, then input
    order.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    chosen = _pipes.output_format(out, table_format)
    inputs = {f"the input {path}": path for path in logprobs}
    outputs = {"--out": out, "--report": report}
    _pipes.ensure_distinct(outputs, {**inputs, "the zero-shot sums": zero_shot})
    _pipes.ensure_writable(out)
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.top import parse_top
    from pyllm.score import aggregate as library

    rule = None if top is None else parse_top(top)
    sums = library.read_zero_shot(zero_shot, anchor_column=zero_shot_anchor_column, value_column=zero_shot_column)
    columns = library.LogprobColumns(candidate_column, anchor_column, value_column)

    def write(target: Path) -> "Aggregation":
        return library.aggregate(
            logprobs,
            sums,
            target,
            top=rule,
            threshold=threshold,
            missing=missing.value,
            columns=columns,
            threads=threads,
        )

    if chosen is _pipes.TableFormat.PARQUET and _is_plain_file(out):
        numbers = write((out or Path()).resolve())
    else:
        with tempfile.TemporaryDirectory(prefix="pyllm-") as folder:
            numbers = write(Path(folder) / "table.parquet")
            _pass_on(Path(folder) / "table.parquet", out, chosen, numbers)
    console.say(describe(numbers))
    _pipes.write_report(report, numbers.as_dict())


def _is_plain_file(out: Path | None) -> bool:
    return not _pipes.is_stdout(out) and out is not None and (not out.exists() or out.is_file())


def _pass_on(table: Path, out: Path | None, chosen: _pipes.TableFormat, numbers: "Aggregation") -> None:
    """Send a finished table to stdout, or write it in another format."""
    if chosen is _pipes.TableFormat.PARQUET and _pipes.is_stdout(out):
        with table.open("rb") as file:
            while piece := file.read(_COPIED_BYTES):
                _pipes.write_stdout(piece)
        return
    import polars as pl

    _pipes.write_output(pl.read_parquet(table, glob=False), out, chosen, numbers.steps)


def describe(numbers: "Aggregation") -> str:
    """The numbers of an aggregation as lines for people."""
    written = f", {numbers.rows_written:,} written" if numbers.rules else ""
    unscored = numbers.rows - numbers.rows_scored
    lines = [f"scored {numbers.rows_scored:,} candidates x {numbers.anchors:,} anchors{written}"]
    if numbers.mean_golden_score is not None:
        lines.append(f"  mean golden score  {numbers.mean_golden_score:.3f}")
    counts = [
        ("without a score", unscored),
        ("pairs not tried", numbers.pairs_left_out),
        ("pairs no number", numbers.nan_pairs),
    ]
    lines += [f"  {name:<17}  {count:,}" for name, count in counts if count]
    return "\n".join(lines)
