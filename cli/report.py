"""`toolkit report`: finished runs of any kind as one page."""

from pathlib import Path
from typing import Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

EXAMPLES = """\b
Examples:
  toolkit report scores.parquet best.parquet runs/a --out page.html
  toolkit report scores.parquet anchors.parquet score.json --title "Pool of May" --out pool.html
  toolkit report bench/recall bench/ppl talks/monday --out memory.html
  toolkit report runs/mti grades.parquet verdicts.parquet --out answers.html
"""


def report(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders of finetune, mti run, stream bench and stream chat; tables of score, aggregate, select,"
            " judge, stream replay and stream run; JSON files of --report.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page; `-` is stdout.", show_default=False)],
    title: Annotated[str, typer.Option(metavar="TEXT", help="Title of the page.")] = "toolkit report",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show finished runs on one page.

    Writes one HTML file that needs no network, is right on light, dark and paper, and has tables to sort. What each
    RUN is, is found out from what it holds. A selected table is set against the one that it was selected from, and rows
    of `score --per-anchor` against the table of --anchors-out, where those are given too.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(out)
    if _pipes.is_stdout(out) and _pipes.stdout_is_terminal():
        raise SettingError("refusing to write a page to a terminal", hint="name a file with --out")
    _pipes.ensure_distinct({"the page": out}, {f"the source {path}": path for path in sources})

    from pyllm.report.build import build_report

    page, sections = build_report(sources, title=title)
    data = page.encode()
    _pipes.write_data(data, out)
    console.say(f"{', '.join(sections)}: {len(data) / 1e6:.1f} MB")
