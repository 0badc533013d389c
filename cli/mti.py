"""`toolkit mti`: several instructions in one call, in several, or many at once, on the same instances."""

import typer

from pyllm.cli import _mti_marks, _mti_run, _mti_tasks

EXAMPLES = """\b
Examples:
  toolkit mti validate tasks.json
  toolkit mti describe tasks.json
  toolkit mti compose spec.yaml --data sources --seed 1 --out tasks.json
  toolkit mti run tasks.json --model path/to/model --mode mti,sti --out runs/a
  toolkit mti score runs/a --scoring strict --out marks.parquet
"""

app = typer.Typer(
    help="Can a model do several instructions at once?",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)
# Commands on task files.
app.command("validate", epilog=_mti_tasks.VALIDATE_EXAMPLES)(_mti_tasks.validate_command)
app.command("describe", epilog=_mti_tasks.DESCRIBE_EXAMPLES)(_mti_tasks.describe_command)
app.command("compose", epilog=_mti_tasks.COMPOSE_EXAMPLES)(_mti_tasks.compose_command)
# Commands that run models: from `_mti_run`.
app.command("run", epilog=_mti_run.RUN_EXAMPLES)(_mti_run.run_command)
# Commands on runs and outputs: from `_mti_marks`.
app.command("score", epilog=_mti_marks.SCORE_EXAMPLES)(_mti_marks.score_command)
app.command("compare", epilog=_mti_marks.COMPARE_EXAMPLES)(_mti_marks.compare_command)
app.command("agree", epilog=_mti_marks.AGREE_EXAMPLES)(_mti_marks.agree_command)


@app.callback(invoke_without_command=True)
def _mti(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
