"""`toolkit mti validate`, `describe` and `compose`: task files checked, described and made. `mti.py` has the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console, stderr_is_terminal
from pyllm.data.rows import counted
from pyllm.errors import InputError, SettingError

if TYPE_CHECKING:
    import polars as pl

    from pyllm.mti.description import StepDescription
    from pyllm.mti.tasks import Task
    from pyllm.mti.validation import Finding

VALIDATE_EXAMPLES = """\b
Examples:
  toolkit mti validate tasks.json
  toolkit mti validate tasks.json --out findings.jsonl
  toolkit mti validate tasks.json --strict
"""
DESCRIBE_EXAMPLES = """\b
Examples:
  toolkit mti describe tasks.json
  toolkit mti describe tasks.json --format jsonl
"""
COMPOSE_EXAMPLES = """\b
Examples:
  toolkit mti compose spec.yaml --out tasks.json
  toolkit mti compose examples/mti/1*.yaml --data sources --seed 7 --instances 50 --out tasks.json
  toolkit mti compose spec.yaml | toolkit mti validate -
"""

_NAMED = 20

TasksArgument = Annotated[
    str | None,
    typer.Argument(metavar="TASKS", help="Task file to read; `-` is stdin, the default in a pipe.", show_default=False),
]


def validate_command(
    tasks: TasksArgument = None,
    *,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if anything was found.")] = False,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Find the flaws of a task file that a program can see.

    Placeholders that were never filled, tags of another step, options that stand twice, golds that are unsorted, not
    in the list or not accepted by the scorer, texts that stand twice, and shortcuts: what always giving one answer, or
    following a surface cue, would bring. A summary that names instances goes to stderr. Output: one row a finding
    with task, uid and step (null where it is all of them), kind, share (of instances a shortcut solves) and message;
    on a terminal only where --out or --format asks for it. Findings are no error unless --strict.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    writes = _writes_table(out, table_format, report)
    source, read = _read(tasks)

    from pyllm.mti.validation import findings_table, validate

    findings = validate(read)
    _tell_findings(read, findings, console)
    if findings and strict:
        raise InputError(
            f"{_pipes.input_name(source)}: {counted(len(findings), 'finding')}", hint="leave out --strict to go on"
        )
    numbers = {"command": "mti validate", "tasks": len(read), "instances": _instances(read), "kinds": _kinds(findings)}
    _pipes.write_report(report, numbers)
    if writes:
        _write(findings_table(findings), out, table_format, "mti validate")


def describe_command(
    tasks: TasksArgument = None,
    *,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Tell what a task file holds, step by step.

    What each step asks for, how its answers are compared, how long its texts are, and the floor: the accuracy of
    always giving the commonest gold, at the step and (joint) at all steps together. The table for people goes to
    stderr. Output: one row a task and step; on a terminal only where --out or --format asks for it.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    writes = _writes_table(out, table_format, report)
    _, read = _read(tasks)

    from dataclasses import asdict

    import polars as pl

    from pyllm.mti.description import describe

    described = describe(read)
    _tell_description(read, described, console)
    table = pl.DataFrame([asdict(each) for each in described], infer_schema_length=None).cast(
        {"subset": pl.String, "options": pl.Int64}
    )
    _pipes.write_report(report, {"command": "mti describe", "tasks": len(read), "instances": _instances(read)})
    if writes:
        _write(table, out, table_format, "mti describe")


def compose_command(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC", help="One YAML file a task; see docs/mti-tasks.md.")],
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the data files. Default: the folder of each spec.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw.")] = 0,
    instances: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Instances a task. Default: as the spec says.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the tasks here; `-` is stdout, the default."),
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Make tasks of several steps out of flat data sets.

    A spec says which rows to take from which JSON lines, what to draw, shuffle, inject and join, how texts are laid
    out, and how golds follow. The tasks, with a demonstration and `meta`, are JSON in the schema that every other
    command of this group reads. The same specs, data and seed give the same bytes.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(out)
    if out is not None and out.resolve() in {path.resolve() for path in specs}:
        raise SettingError(f"`--out {out}` would overwrite a spec", hint="give it a file of its own")

    from pyllm.mti.compose.build import compose, task_file
    from pyllm.mti.compose.rows import RowFiles
    from pyllm.mti.compose.spec import read_spec
    from pyllm.mti.validation import validate

    read = [read_spec(path) for path in specs]
    for index, spec in enumerate(read):
        if any(before.id == spec.id for before in read[:index]):
            spec.place.at("id").refuse(f"two specs make the task `{spec.id}`")
    files = RowFiles(data)
    made = [compose(spec, files, seed=seed, instances=instances) for spec in read]
    _tell_findings(made, validate(made), console)
    _pipes.write_data(task_file(made), out)


def _writes_table(out: Path | None, table_format: _pipes.TableFormat | None, report: Path | None) -> bool:
    """Whether a table is written: a person at a terminal who asked for none has the summary on stderr."""
    writes = not (_pipes.is_stdout(out) and table_format is None and _pipes.stdout_is_terminal())
    if writes:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    _pipes.ensure_writable(report, "--report")
    _pipes.ensure_distinct({"--out": out, "--report": report}, {})
    return writes


def _read(tasks: str | None) -> "tuple[str, tuple[Task, ...]]":
    from pyllm.mti.tasks import read_tasks

    source = _pipes.input_argument(tasks)
    return source, read_tasks(Path(source))


def _write(table: "pl.DataFrame", out: Path | None, table_format: _pipes.TableFormat | None, command: str) -> None:
    from pyllm.provenance import step

    _pipes.write_output(table, out, table_format, [step(command)])


def _tell_findings(tasks: "tuple[Task, ...] | list[Task]", findings: "tuple[Finding, ...]", console: Console) -> None:
    from pyllm.cli._tables import readable
    from pyllm.mti.validation import KINDS

    console.say(f"{counted(len(tasks), 'task')}, {counted(_instances(tasks), 'instance')}")
    for kind, count in _kinds(findings).items():
        of_kind = [each for each in findings if each.kind == kind]
        names = list(dict.fromkeys(each.uid or f"task {each.task}" for each in of_kind))
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        console.say(f"{kind}: {count:,} ({KINDS[kind]})")
        console.say(f"  {', '.join(map(readable, names[:_NAMED]))}{more}")
        console.say(f"  first: {readable(of_kind[0].message)}")
    if not findings:
        console.say("no findings")


def _tell_description(tasks: "tuple[Task, ...]", described: "tuple[StepDescription, ...]", console: Console) -> None:
    from collections import Counter

    from pyllm.cli._tables import Column, draw_table, readable

    subsets = Counter(each.subset or "unknown" for each in described if each.step == 1)
    steps = Counter(f"{each.steps} steps" for each in described if each.step == 1)
    kinds = Counter(each.kind for each in described)
    console.say(f"{counted(len(tasks), 'task')}, {counted(_instances(tasks), 'instance')}")
    for title, numbers in (("subsets", subsets), ("tasks of", steps), ("steps that ask to", kinds)):
        console.say(f"{title}: {', '.join(f'{readable(name)} {count}' for name, count in numbers.items())}")
    columns = [
        Column("task", "word"),
        Column("subset", "word"),
        Column("n", "number"),
        Column("step", "number"),
        Column("asks to", "word"),
        Column("compared as"),
        Column("options", "number"),
        Column("instruction", "number"),
        Column("context", "number"),
        Column("golds", "number"),
        Column("commonest"),
        Column("floor", "number"),
        Column("joint", "number"),
    ]
    rows = [
        [
            readable(each.task),
            each.subset or "-",
            f"{each.instances:,}",
            f"{each.step} of {each.steps}",
            each.kind,
            ", ".join(each.answer_types),
            readable(each.options),
            f"{each.instruction_characters:,.0f}",
            f"{each.context_characters:,.0f}",
            f"{each.distinct_golds:,}",
            readable(each.majority),
            f"{each.majority_share:.2f}",
            f"{each.joint_majority_share:.2f}",
        ]
        for each in described
    ]
    console.say(draw_table(columns, rows, terminal=stderr_is_terminal()).rstrip("\n"))


def _kinds(findings: "tuple[Finding, ...]") -> dict[str, int]:
    """How many findings of each kind, in the order of reports."""
    from collections import Counter

    from pyllm.mti.validation import KINDS

    found = Counter(each.kind for each in findings)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def _instances(tasks: "tuple[Task, ...] | list[Task]") -> int:
    return sum(len(task.instances) for task in tasks)
