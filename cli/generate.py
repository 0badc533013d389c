"""`toolkit generate`: a model's answers to prompts, as a table."""

from typing import Annotated

import typer

from pyllm.cli import _backend_options, _calls, _models, _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console

EXAMPLES = """\b
Examples:
  toolkit generate mt_bench.jsonl --model runs/a/final --out answers.parquet
  toolkit generate prompts.jsonl --model served --endpoint http://127.0.0.1:8000/v1 --out answers.parquet
  toolkit generate prompts.jsonl --model org/name --temperature 0.7 --repeats 3 --seed 1 --out answers.parquet
  toolkit generate prompts.jsonl --model nano | toolkit judge grade - --judge path/to/judge --out grades.parquet
"""


def generate(
    prompts: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPTS",
            help="Prompts of one turn or two, as in MT-Bench, Alpaca-Eval, Vicuna, Koala or LIMA; `-` is stdin.",
            show_default=False,
        ),
    ] = None,
    *,
    model: _backend_options.ModelOption = "nano",
    endpoint: _backend_options.EndpointOption = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Stands before every prompt.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="R", min=1, help="Answers to each prompt.")] = 1,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N prompts.", show_default=False)
    ] = None,
    max_new_tokens: _backend_options.MaxNewTokensOption = 1024,
    temperature: _backend_options.TemperatureOption = 0.0,
    top_p: _backend_options.TopPOption = 1.0,
    seed: _calls.SeedOption = 0,
    run: _calls.RunOption = None,
    plan: _calls.PlanOption = False,
    budget: _calls.BudgetOption = None,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    template: _backend_options.TemplateOption = _backend_options.PromptTemplate.AUTO,
    trained_template: Annotated[
        _backend_options.TrainedTemplate | None,
        typer.Option(
            help="Ask a local model as `toolkit finetune --template` trains it; what that command trained carries its"
            " template.",
            show_default=False,
        ),
    ] = None,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Let a model answer prompts.

    Output: one row a prompt, turn and repeat, with prompt_id, category, turn, repeat, prompt, answer, answer_tokens,
    model, finish and error. A second turn is asked behind the model's own first answer. A failed call is a row without
    an answer. Answers are kept as they come: a run that was stopped goes on, and asks nothing twice.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origin = _pipes.input_argument(prompts)
    if not plan:
        _pipes.output_format(out, table_format)
    _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {"the prompts": origin})
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.tables import read_table
    from pyllm.judge.questions import read_questions

    table, steps = read_table(origin)
    questions = read_questions(table, _pipes.input_name(origin))[:limit]

    from pyllm.lm.backends.contract import Decoding

    decoding = Decoding(
        max_new_tokens if max_new_tokens is not None else 1024,
        temperature=temperature if temperature is not None else 0.0,
        top_p=top_p if top_p is not None else 1.0,
    )
    options = _backend_options.BackendOptions(
        model=model, endpoint=endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, template=template, dtype=dtype, device=device, batch_size=batch_size, seed=seed,
        trained_template=trained_template,
    )  # fmt: skip
    if plan:
        asked = ["\n".join(each.turns[:turn]) for each in questions for turn in range(1, len(each.turns) + 1)]
        _calls.tell_plan("generate", asked * repeats, options, decoding, report=report, console=console)
        return

    from pyllm.judge.generation import generate_answers
    from pyllm.provenance import step

    with _calls.calling(options, decoding, run=run, budget=budget, console=console) as caller:
        made = generate_answers(caller, questions, model=model, repeats=repeats, system=system)
    spent = _calls.tell_spent(caller, console)
    facts = {"decoding": decoding.as_dict(), "model": caller.backend.facts(), "repeats": repeats, "seed": seed}
    _pipes.write_report(report, {"command": "generate", "rows": made.table.height, "without_answer": made.failed,
                                 "spent": spent, **facts})  # fmt: skip
    _pipes.write_output(made.table, out, table_format, [*steps, step("generate", **facts)])
