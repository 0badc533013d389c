"""Commands of `toolkit mti` on what models wrote: `score`, `compare` and `agree`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyllm.cli import _mti_tables, _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

SCORE_EXAMPLES = """\b
Examples:
  toolkit mti score runs/a --scoring typed
  toolkit mti score --tasks tasks.json --outputs outputs.parquet --scoring strict --out marks.parquet
  toolkit mti score --tasks tasks.json --outputs outputs.jsonl --by task --metrics metrics.parquet --out marks.parquet
  cat outputs.jsonl | toolkit mti score --tasks tasks.json --outputs - | toolkit mti compare - --modes mti,sti
"""
COMPARE_EXAMPLES = """\b
Examples:
  toolkit mti compare runs/a runs/b --out only-one.parquet
  toolkit mti compare runs/a --modes mti,sti --out only-one.jsonl
  toolkit mti compare marks-a.parquet marks-b.parquet --modes mti,mti --differences differences.parquet > rows.parquet
"""
AGREE_EXAMPLES = """\b
Examples:
  toolkit mti agree labels.csv --columns first_person,second_person
  toolkit mti agree labels.jsonl --by criterion --out agreement.parquet
"""


class ScoringOption(StrEnum):
    """How answers are judged."""

    TYPED = "typed"
    STRICT = "strict"


class Scope(StrEnum):
    """What a table has one row for."""

    SUBSET = "subset"
    TASK = "task"
    STEPS = "steps"


SeedOption = Annotated[int, typer.Option(metavar="S", min=0, max=2**63 - 1, help="Seed of the bootstrap.")]
ByOption = Annotated[Scope | None, typer.Option("--by", help="Show the numbers of each part too.", show_default=False)]


def score_command(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A folder that `toolkit mti run` made.", show_default=False)
    ] = None,
    *,
    tasks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The tasks that were asked.", show_default=False)
    ] = None,
    outputs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Rows of uid, mode, output and, where known, repeat, step and tag; `-` is stdin.",
            show_default=False,
        ),
    ] = None,
    scoring: Annotated[
        ScoringOption,
        typer.Option(help="typed: answers are compared by value. strict: the published scorer's verdicts."),
    ] = ScoringOption.TYPED,
    by: ByOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every measure as a table here.", show_default=False)
    ] = None,
    report: _pipes.ReportOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Mark what models wrote: one row for each answer, right or wrong, and how it was found.

    Columns are uid, mode, repeat, step, correct (null for free text), score (ROUGE-L of free text), parse (ok, missing,
    unclosed, ambiguous), parsed, gold, task, subset, steps and answer_type. Nothing that a model wrote is ever run.
    A null output is a call that failed: it is counted and gets no mark.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _check_score_request(run, tasks, outputs)
    shown_only = run is not None and out is None and table_format is None and _pipes.stdout_is_terminal()
    if not shown_only:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    _pipes.ensure_distinct(
        {"--out": out, "--metrics": metrics, "--report": report}, {"the tasks": tasks, "the outputs": outputs}
    )
    for option, path in (("--metrics", metrics), ("--report", report)):
        _pipes.ensure_writable(path, option)
    metrics_format = None if metrics is None else _pipes.side_format(metrics, "--metrics")

    from pyllm.mti.marking import mark

    marked = mark(run=run, tasks=tasks, outputs=outputs, scoring=scoring.value, seed=seed)
    console.say(_mti_tables.score_text(marked, by=by.value if by else None).rstrip("\n"))
    _pipes.write_report(report, marked.as_dict())
    if metrics is not None:
        _pipes.write_output(marked.metrics, metrics, metrics_format, marked.steps)
    if not shown_only:
        _pipes.write_output(marked.marks, out, table_format, marked.steps)


def _check_score_request(run: Path | None, tasks: Path | None, outputs: str | None) -> None:
    if run is not None and (tasks is not None or outputs is not None):
        raise SettingError("a run has tasks and outputs of its own", hint="leave --tasks and --outputs out")
    if run is None and (tasks is None or outputs is None):
        raise SettingError("nothing to score", hint="name a run folder, or give both --tasks FILE and --outputs FILE")
    if outputs == _pipes.STANDARD_STREAM:
        _pipes.input_argument(outputs)


def compare_command(
    first: Annotated[str, typer.Argument(metavar="RUN_A", help="A run folder or a table of marks; `-` is stdin.")],
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN_B", help="What to compare with; by default two modes of the first.", show_default=False
        ),
    ] = None,
    *,
    modes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="The mode of each side. Default: each mode that both runs have; of one run, mti,sti.",
            show_default=False,
        ),
    ] = None,
    scoring: Annotated[
        ScoringOption, typer.Option(help="How the outputs of runs are judged; marks stay as they are.")
    ] = ScoringOption.TYPED,
    by: ByOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    differences: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write all differences with their intervals here.", show_default=False),
    ] = None,
    report: _pipes.ReportOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare two runs, or two modes of one, on the instances that both answered.

    The differences go to stderr; the table holds the instances that only one side solves, side by side: what each
    side's answers were, the patterns that need no reader (no output, several outputs), and an empty column `note` for
    what a person sees.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    shown_only = out is None and table_format is None and _pipes.stdout_is_terminal()
    if not shown_only:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    _pipes.ensure_distinct(
        {"--out": out, "--differences": differences, "--report": report},
        {"the first side": first, "the second side": second},
    )
    for option, path in (("--differences", differences), ("--report", report)):
        _pipes.ensure_writable(path, option)
    differences_format = None if differences is None else _pipes.side_format(differences, "--differences")
    for source in (first, second):
        if source == _pipes.STANDARD_STREAM:
            _pipes.input_argument(source)

    from pyllm.mti.marking import compare_sources

    compared = compare_sources(first, second, modes=_modes(modes), scoring=scoring.value, seed=seed)
    console.say(_mti_tables.compare_text(compared, by=by.value if by else None).rstrip("\n"))
    _pipes.write_report(report, compared.as_dict())
    if differences is not None:
        _pipes.write_output(compared.differences, differences, differences_format, compared.steps)
    if not shown_only:
        _pipes.write_output(compared.discordant, out, table_format, compared.steps)
    elif compared.discordant.height:
        console.hint("add --out FILE to get the instances that only one side solves, side by side")


def _modes(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise SettingError(f"--modes `{text}` does not name two modes", hint="as in --modes mti,sti")
    return names[0], names[1]


def agree_command(
    labels: Annotated[str, typer.Argument(metavar="LABELS", help="Table of labels; `-` is stdin.")],
    *,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="The two label columns. Default: item, rater and label, else the only two that are no identifiers.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="COLUMN", help="Compare each criterion by itself.", show_default=False),
    ] = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Say how far two people agree beyond chance on the quality of instances: Cohen's kappa with an interval."""
    console = open_console(quiet=quiet, verbose=verbose)
    chosen = None
    if columns is not None:
        names = [name.strip() for name in columns.split(",")]
        if len(names) != 2 or not all(names):
            raise SettingError(f"--columns `{columns}` does not name two columns", hint="as in --columns anna,ben")
        chosen = (names[0], names[1])
    shown_only = out is None and table_format is None and _pipes.stdout_is_terminal()
    if not shown_only:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {"the labels": labels})
    _pipes.ensure_writable(report, "--report")
    origin = _pipes.input_argument(labels)

    from pyllm.data.tables import read_table
    from pyllm.mti.agree import agreement
    from pyllm.provenance import step

    table, steps = read_table(origin)
    result = agreement(table, columns=chosen, by=by, seed=seed, name=_pipes.input_name(origin))
    console.say(_mti_tables.agreement_text(result).rstrip("\n"))
    _pipes.write_report(report, {"agreement": result.to_dicts(), "seed": seed})
    if not shown_only:
        _pipes.write_output(result, out, table_format, [*steps, step("mti agree", seed=seed)])
