"""`toolkit judge`: answers graded and compared by a model, and the judge itself measured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _backend_options, _calls, _judge_runs, _judge_tables, _models, _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.judge.answers import AnswerFile
    from pyllm.judge.calls import Caller

GRADE_EXAMPLES = """\b
Examples:
  toolkit judge grade answers.parquet --judge path/to/judge --references reference.jsonl --out grades.parquet
  toolkit judge grade a.parquet b.parquet --judge served --judge-endpoint http://127.0.0.1:8000/v1 --out grades.parquet
  toolkit judge grade --show-prompt
"""
PAIR_EXAMPLES = """\b
Examples:
  toolkit judge pair a.parquet b.parquet --judge path/to/judge --out verdicts.parquet
  toolkit judge pair a.parquet b.parquet c.parquet --judge org/name --plan
  toolkit judge pair a.parquet davinci.json --judge served --judge-endpoint http://127.0.0.1:8000/v1 --out v.parquet
"""
CHECK_EXAMPLES = """\b
Examples:
  toolkit judge check answers.parquet --judge path/to/judge --limit 40
  toolkit judge check a.parquet b.parquet --judge path/to/judge --labels people.jsonl --out probes.parquet
"""
EXAMPLES = """\b
Examples:
  toolkit judge grade answers.parquet --judge path/to/judge --out grades.parquet
  toolkit judge pair a.parquet b.parquet --judge path/to/judge --out verdicts.parquet
  toolkit judge check answers.parquet --judge path/to/judge
"""

AnswersArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ANSWERS...",
        help="Tables of `toolkit generate`, or files with instruction and output; `-` is stdin.",
        show_default=False,
    ),
]
MaxNewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Most tokens of what the judge says.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", metavar="T", min=0, help="Of the judge; 0 takes the likeliest token.")
]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="Only the first N prompts of the first file.", show_default=False),
]

app = typer.Typer(help="Have answers judged by a model, and judge the judge.", epilog=EXAMPLES, rich_markup_mode=None)


app.command("baselines", epilog=_judge_runs.BASELINES_EXAMPLES)(_judge_runs.baselines_command)


@app.callback(invoke_without_command=True)
def _judge(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command("grade", epilog=GRADE_EXAMPLES)
def grade_command(
    answers: AnswersArgument = None,
    *,
    judge: _calls.JudgeOption = "",
    judge_endpoint: _calls.JudgeEndpointOption = None,
    references: _calls.ReferencesOption = None,
    show_prompt: _calls.ShowPromptOption = False,
    allow_empty: _calls.AllowEmptyOption = False,
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 1024,
    temperature: TemperatureOption = 0.0,
    seed: _calls.SeedOption = 0,
    run: _calls.RunOption = None,
    plan: _calls.PlanOption = False,
    budget: _calls.BudgetOption = None,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    template: _backend_options.TemplateOption = _backend_options.PromptTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Have every answer graded from 1 to 10.

    Output: one row an answer with prompt_id, category, turn, repeat, model, grade (null where none could be read),
    parse (ok, missing, ambiguous, invalid), and what the judge read, said and took. Several files are compared with the
    first on the same prompts. Grades are kept as they come: a run that was stopped goes on, and asks nothing twice.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    if show_prompt:
        from pyllm.judge.wording import shown_grade_prompts

        _pipes.write_stdout_text(shown_grade_prompts())
        return
    origins = _origins(answers, at_least=1)
    _check_places(judge, origins, out, table_format, report, plan=plan)
    files, steps = _answer_files(origins, allow_empty=allow_empty, limit=limit)

    from pyllm.judge.judging import grade, grade_tasks
    from pyllm.lm.backends.contract import Decoding

    tasks = grade_tasks(files, _references(references))
    decoding = Decoding(max_new_tokens, temperature=temperature)
    options = _backend_options.BackendOptions(
        model=judge, endpoint=judge_endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, template=template, dtype=dtype, device=device, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if plan:
        prompts = [task.prompt for task in tasks]
        _calls.tell_plan("judge grade", prompts, options, decoding, report=report, console=console)
        return
    with _calls.calling(options, decoding, run=run, budget=budget, console=console) as caller:
        table = grade(caller, tasks, judge)

    from pyllm.judge.grades import summarize_grades

    summaries = summarize_grades(table, [file.label for file in files], seed=seed)
    spent = _calls.tell_spent(caller, console)
    console.say(_judge_tables.grades_text(summaries).rstrip("\n"))
    facts = _facts(caller)
    _pipes.write_report(report, {"command": "judge grade", **facts, "spent": spent,
                                 "models": [each.as_dict() for each in summaries]})  # fmt: skip
    _pipes.write_output(table, out, table_format, [*steps, _step("judge grade", facts)])


@app.command("pair", epilog=PAIR_EXAMPLES)
def pair_command(
    answers: AnswersArgument = None,
    *,
    judge: _calls.JudgeOption = "",
    judge_endpoint: _calls.JudgeEndpointOption = None,
    references: _calls.ReferencesOption = None,
    show_prompt: _calls.ShowPromptOption = False,
    allow_empty: _calls.AllowEmptyOption = False,
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 1024,
    temperature: TemperatureOption = 0.0,
    seed: _calls.SeedOption = 0,
    run: _calls.RunOption = None,
    plan: _calls.PlanOption = False,
    budget: _calls.BudgetOption = None,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    template: _backend_options.TemplateOption = _backend_options.PromptTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Have the answers of every two files compared, in both orders.

    Output: one row a verdict with prompt_id, category, turn, repeat, a, b (the files' models), order (ab shows a's
    answer first), verdict (a, b, tie, or null where none could be read), parse, and what the judge read, said and took.
    Verdicts that differ between the orders make a tie. Verdicts are kept as they come: a run that was stopped goes on.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    if show_prompt:
        from pyllm.judge.wording import shown_pair_prompts

        _pipes.write_stdout_text(shown_pair_prompts())
        return
    origins = _origins(answers, at_least=2)
    _check_places(judge, origins, out, table_format, report, plan=plan)
    files, steps = _answer_files(origins, allow_empty=allow_empty, limit=limit, matching=True)

    from pyllm.judge.judging import compare, pair_tasks
    from pyllm.lm.backends.contract import Decoding

    tasks = pair_tasks(files, _references(references))
    decoding = Decoding(max_new_tokens, temperature=temperature)
    options = _backend_options.BackendOptions(
        model=judge, endpoint=judge_endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, template=template, dtype=dtype, device=device, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if plan:
        prompts = [task.prompt for task in tasks]
        _calls.tell_plan("judge pair", prompts, options, decoding, report=report, console=console)
        return
    with _calls.calling(options, decoding, run=run, budget=budget, console=console) as caller:
        table = compare(caller, tasks, judge)

    from pyllm.judge.pairs import strengths, summarize_pairs

    summaries = summarize_pairs(table, seed=seed)
    spent = _calls.tell_spent(caller, console)
    console.say(_judge_tables.pairs_text(summaries).rstrip("\n"))
    facts = _facts(caller)
    numbers = {"pairs": [each.as_dict() for each in summaries]}
    if len(files) > 2:
        found = strengths(table, [file.label for file in files], seed=seed)
        console.say(_judge_tables.strengths_text(found).rstrip("\n"))
        numbers["strengths"] = [each.as_dict() for each in found]
    _pipes.write_report(report, {"command": "judge pair", **facts, "spent": spent, **numbers})
    _pipes.write_output(table, out, table_format, [*steps, _step("judge pair", facts)])


@app.command("check", epilog=CHECK_EXAMPLES)
def check_command(
    answers: AnswersArgument = None,
    *,
    judge: _calls.JudgeOption = "",
    judge_endpoint: _calls.JudgeEndpointOption = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What people said of two files: prompt_id, label (a, b, tie).", show_default=False
        ),
    ] = None,
    references: _calls.ReferencesOption = None,
    repeats: Annotated[int, typer.Option(metavar="R", min=1, help="Grades of the same answer.")] = 3,
    allow_empty: _calls.AllowEmptyOption = False,
    limit: LimitOption = None,
    max_new_tokens: MaxNewTokensOption = 1024,
    temperature: TemperatureOption = 0.0,
    seed: _calls.SeedOption = 0,
    run: _calls.RunOption = None,
    plan: _calls.PlanOption = False,
    budget: _calls.BudgetOption = None,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    template: _backend_options.TemplateOption = _backend_options.PromptTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure a judge before believing it.

    Probes: an answer against itself (place), against a padded copy (length), graded several times (constancy), and,
    with two files and --labels, pairs that people judged (agreement beyond chance). Output: one row a judgement with
    its probe. A greedy judge in this process says the same each time: sample with --temperature to see constancy.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origins = _origins(answers, at_least=1 if labels is None else 2)
    if len(origins) > 1 + (labels is not None):
        raise SettingError(
            f"{len(origins)} files were given to check a judge with",
            hint="give one file, or two with --labels FILE",
        )
    _check_places(judge, origins, out, table_format, report, plan=plan)
    files, steps = _answer_files(origins, allow_empty=allow_empty, limit=limit, matching=len(origins) > 1)

    import polars as pl

    from pyllm.data.tables import read_table
    from pyllm.judge.checking import probes_of, read_labels, summarize_probes
    from pyllm.judge.judging import compare, grade
    from pyllm.lm.backends.contract import Decoding

    said = None if labels is None else read_labels(read_table(labels)[0], str(labels), files)
    probes = probes_of(files, _references(references), repeats=repeats, labels=said)
    decoding = Decoding(max_new_tokens, temperature=temperature)
    options = _backend_options.BackendOptions(
        model=judge, endpoint=judge_endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, template=template, dtype=dtype, device=device, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    if plan:
        prompts = [probe.task.prompt for probe in probes]
        _calls.tell_plan("judge check", prompts, options, decoding, report=report, console=console)
        return
    choices = [probe for probe in probes if not probe.grades]
    grades = [probe for probe in probes if probe.grades]
    with _calls.calling(options, decoding, run=run, budget=budget, console=console) as caller:
        chosen = compare(caller, [probe.task for probe in choices], judge)
        graded = grade(caller, [probe.task for probe in grades], judge)
    chosen = chosen.with_columns(probe=pl.Series([probe.kind for probe in choices], dtype=pl.String))
    graded = graded.with_columns(probe=pl.Series([probe.kind for probe in grades], dtype=pl.String))
    found = summarize_probes(chosen, graded, said, seed=seed)
    spent = _calls.tell_spent(caller, console)
    console.say(_judge_tables.check_text(found).rstrip("\n"))
    facts = _facts(caller)
    _pipes.write_report(report, {"command": "judge check", **facts, "spent": spent, "probes": found})
    table = pl.concat([chosen, graded], how="diagonal")
    _pipes.write_output(table, out, table_format, [*steps, _step("judge check", facts)])


def _origins(answers: list[str] | None, *, at_least: int) -> list[str]:
    """The inputs that were named; one may be stdin."""
    origins = [_pipes.input_argument(each) for each in answers or [_pipes.STANDARD_STREAM]]
    if origins.count(_pipes.STANDARD_STREAM) > 1:
        raise SettingError("stdin was named twice", hint="name files")
    if len(origins) < at_least:
        raise SettingError(
            f"{len(origins)} file of answers was given: {at_least} are needed", hint="name the other one too"
        )
    return origins


def _check_places(
    judge: str,
    origins: list[str],
    out: Path | None,
    table_format: _pipes.TableFormat | None,
    report: Path | None,
    *,
    plan: bool,
) -> None:
    if not judge:
        raise SettingError("no judge is named", hint="add --judge PATH, or --judge NAME --judge-endpoint URL")
    if not plan:
        _pipes.output_format(out, table_format)
    _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {each: each for each in origins})
    _pipes.ensure_writable(report, "--report")


def _answer_files(
    origins: list[str], *, allow_empty: bool, limit: int | None, matching: bool = False
) -> tuple[list["AnswerFile"], list[dict[str, Any]]]:
    """The answers, under labels that tell them apart, and their provenance."""
    from pyllm.data.tables import read_table
    from pyllm.judge.answers import distinct_labels, first_prompts, matched, read_answers

    files, steps = [], []
    for origin in origins:
        table, made = read_table(origin)
        name = _pipes.input_name(origin)
        files.append(read_answers(table, name, label=_label(origin), allow_empty=allow_empty))
        steps += [each for each in made if each not in steps]
    files = distinct_labels(files, [_label(origin) for origin in origins])
    if matching:
        files = matched(files)
    return (files if limit is None else first_prompts(files, limit)), steps


def _label(origin: str) -> str:
    return "stdin" if origin == _pipes.STANDARD_STREAM else Path(origin).name.split(".")[0]


def _references(path: Path | None) -> dict[str, tuple[str, ...]]:
    if path is None:
        return {}
    from pyllm.data.tables import read_table
    from pyllm.judge.questions import read_references

    return read_references(read_table(path)[0], str(path))


def _facts(caller: "Caller") -> dict[str, Any]:
    from pyllm.judge.wording import VERSION

    facts = {"judge": caller.backend.facts(), "decoding": caller.decoding.as_dict(), "prompt_version": VERSION}
    return {**facts, "seed": caller.seed}


def _step(command: str, facts: dict[str, Any]) -> dict[str, Any]:
    from pyllm.provenance import step

    return step(command, **facts)
