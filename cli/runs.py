"""`toolkit runs`: what the cache of resumable scoring runs holds, and emptying it."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import PrerequisiteError, SettingError

if TYPE_CHECKING:
    from pyllm.score.runs import RunSummary

LIST_EXAMPLES = """\b
Examples:
  toolkit runs list
  PYLLM_CACHE=/scratch/pyllm toolkit runs list
"""
CLEAN_EXAMPLES = """\b
Examples:
  toolkit runs clean --older-than 30
  toolkit runs clean --all --yes
"""
EXAMPLES = """\b
Examples:
  toolkit runs list
  toolkit runs clean --older-than 30 --yes
"""

app = typer.Typer(
    help="Show and empty the cache of scoring runs.",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _runs(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command("list", epilog=LIST_EXAMPLES)
def list_command(*, quiet: QuietOption = False, verbose: VerboseOption = False) -> None:
    """Show the run folders in the cache.

    The last used stands first. `toolkit score` resumes a run when it is started again with the same settings.
    """
    from pyllm.score.runs import cache_folder, list_runs

    console = open_console(quiet=quiet, verbose=verbose)
    runs = list_runs()
    if runs:
        _pipes.write_stdout_text(_draw(runs))
    size = sum(run.size_bytes for run in runs)
    console.say(f"{_counted(len(runs))}, {_size(size)}, in {cache_folder()}")


@app.command("clean", epilog=CLEAN_EXAMPLES)
def clean_command(
    *,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than", metavar="DAYS", min=0, help="Remove runs not used for DAYS days.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove every run.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Remove run folders from the cache.

    A run that a process works in is kept.
    """
    from pyllm.score import runs as cache

    console = open_console(quiet=quiet, verbose=verbose)
    if everything == (older_than is not None):
        raise SettingError("say which runs to remove: either `--older-than DAYS` or `--all`")
    found = cache.list_runs()
    wanted = found if older_than is None else cache.older_than(found, older_than)
    free = [run for run in wanted if not run.locked]
    busy = [run for run in wanted if run.locked]
    if free and not yes:
        _ask(free)
    removed = cache.clean_runs(free)
    console.say(f"removed {_counted(len(removed))}, {_size(sum(run.size_bytes for run in removed))}")
    if busy:
        raise PrerequisiteError(
            f"kept {_counted(len(busy))} in use: " + ", ".join(f"`{run.folder}`" for run in busy),
            hint="wait until the process that holds it ends",
        )


def _ask(runs: "list[RunSummary]") -> None:
    size = _size(sum(run.size_bytes for run in runs))
    if sys.stdin is None or not sys.stdin.isatty():
        raise SettingError(
            f"{_counted(len(runs))} ({size}) would be removed, and stdin is no terminal to ask at", hint="add --yes"
        )
    if not typer.confirm(f"Remove {_counted(len(runs))} ({size})?", err=True):
        raise typer.Exit


def _draw(runs: "list[RunSummary]") -> str:
    from pyllm.cli._tables import Column, draw_table, readable

    columns = [
        Column("run", "word"),
        Column("created", "word"),
        Column("rows done", "number"),
        Column("size", "number"),
        Column("state", "word"),
        Column("model"),
    ]
    cells = [
        [
            run.folder.name,
            "-" if run.created is None else run.created.astimezone().strftime("%Y-%m-%d %H:%M"),
            f"{_number(run.rows_done)}/{_number(run.rows_total)}",
            _size(run.size_bytes),
            "in use" if run.locked else "complete" if run.is_complete else "resumable",
            readable(run.model or "-"),
        ]
        for run in runs
    ]
    return draw_table(columns, cells, terminal=_pipes.stdout_is_terminal())


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _counted(runs: int) -> str:
    return f"{runs:,} run" if runs == 1 else f"{runs:,} runs"


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = float(size_bytes)
    units = iter(("kB", "MB", "GB", "TB"))
    unit = "B"
    while size >= 999.95 and (larger := next(units, None)):
        size, unit = size / 1000, larger
    return f"{size:.1f} {unit}"
