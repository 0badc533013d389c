"""`toolkit mti run`: the same instances in every packing, asked of one model."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _backend_options, _models, _mti_tables, _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console, stderr_is_terminal
from pyllm.cli._mti_marks import ScoringOption
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.lm.backends.contract import Decoding
    from pyllm.mti.plan import Plan
    from pyllm.mti.run import RunSettings
    from pyllm.mti.run_folder import Results

RUN_EXAMPLES = """\b
Examples:
  toolkit mti run tasks.json --model path/to/model --out runs/a
  toolkit mti run tasks.json --model org/name --mode mti,sti --layout chained --limit 20 --out runs/b
  toolkit mti run tasks.json --model served --endpoint http://127.0.0.1:8000/v1 --concurrency 64 --out runs/c
  toolkit mti run tasks.json --model path/to/model --demonstrations cot.json --preset paper --repeats 3 --out runs/d
  toolkit mti run tasks.json --model path/to/model --plan --price-prompt 0.5 --price-answer 1.5
"""

_SHORT_OF = {
    "failed": "failed (run again to ask them again)",
    "never_asked": "not asked, because a call before them failed",
    "cut_short": "cut at their most tokens",
}


class LayoutOption(StrEnum):
    """How prompts are laid out."""

    REFERENCE = "reference"
    CHAINED = "chained"


class PresetOption(StrEnum):
    """Settings of the paper."""

    PAPER = "paper"


def run_command(
    tasks: Annotated[Path, typer.Argument(metavar="TASKS", help="A task file.", show_default=False)],
    *,
    model: _backend_options.ModelOption = "nano",
    endpoint: _backend_options.EndpointOption = None,
    mode: Annotated[
        str, typer.Option(metavar="MODE,...", help="Packings: mti, sti, batch, mti-batch.")
    ] = "mti,sti,batch,mti-batch",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the run; one that was stopped goes on from it.", show_default=False
        ),
    ] = None,
    layout: Annotated[
        LayoutOption,
        typer.Option(help="reference: the published prompts. chained: call k is call k-1 and more."),
    ] = LayoutOption.REFERENCE,
    shots: Annotated[int, typer.Option(metavar="N", min=0, help="Demonstrations before the task.")] = 1,
    demonstrations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Demonstrations of each step: JSON of lists by task, or .xlsx.", show_default=False
        ),
    ] = None,
    batch_instances: Annotated[int, typer.Option(metavar="K", min=1, help="Instances of a batch.")] = 2,
    feed_gold: Annotated[
        bool, typer.Option("--feed-gold", help="Let later calls stand behind right answers, not the model's.")
    ] = False,
    look_ahead: Annotated[
        str | None,
        typer.Option(
            metavar="instruction,context", help="Show this of step 2 in the call for step 1.", show_default=False
        ),
    ] = None,
    preset: Annotated[
        PresetOption | None,
        typer.Option(help="Sample as published: temperature 0.7, top-p 1, 32 to 2048 new tokens.", show_default=False),
    ] = None,
    max_new_tokens: _backend_options.MaxNewTokensOption = None,
    temperature: _backend_options.TemperatureOption = None,
    top_p: _backend_options.TopPOption = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="End an answer before this text; repeatable.", show_default=False),
    ] = None,
    repeats: Annotated[int, typer.Option(metavar="R", min=1, help="Ask everything so often.")] = 1,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only the first N instances of each task.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, max=2**63 - 1, help="Seed of all chance.")] = 0,
    scoring: Annotated[ScoringOption, typer.Option(help="How answers are judged.")] = ScoringOption.TYPED,
    plan: Annotated[bool, typer.Option("--plan", help="Say what the run would ask and cost; ask nothing.")] = False,
    price_prompt: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="For --plan: price of a million prompt tokens.", show_default=False),
    ] = None,
    price_answer: Annotated[
        float | None,
        typer.Option(metavar="X", min=0, help="For --plan: price of a million answer tokens.", show_default=False),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="calls=N,tokens=N",
            help="Stop before more than this is spent, what was spent before included.",
            show_default=False,
        ),
    ] = None,
    api_key_env: _backend_options.ApiKeyEnvOption = None,
    concurrency: _backend_options.ConcurrencyOption = 16,
    timeout: _backend_options.TimeoutOption = 600.0,
    retries: _backend_options.RetriesOption = 6,
    template: _backend_options.TemplateOption = _backend_options.PromptTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    batch_size: _backend_options.BatchSizeOption = None,
    reuse: _backend_options.ReuseOption = True,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Ask a model every instance in every packing, and mark what it answers.

    The folder --out gets calls.jsonl as calls end, and calls, outputs and marks as Parquet, metrics.json and
    examples.json when all have. The marks also go to stdout, unless that is a terminal. A failed call is an error and
    never a wrong answer; the same command asks again for what failed or is missing.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    to_stdout = not plan and (table_format is not None or not _pipes.stdout_is_terminal())
    if to_stdout:
        _pipes.output_format(None, table_format)
    _pipes.ensure_distinct({"--report": report}, {"the tasks": tasks, "the demonstrations": demonstrations})
    _pipes.ensure_writable(report, "--report")

    from pyllm.mti.prompts import PromptSettings, read_look_ahead
    from pyllm.mti.run import Budget, RunSettings, read_modes

    settings = RunSettings(
        modes=read_modes(_names(mode)),
        prompts=PromptSettings(layout.value, shots, batch_instances, read_look_ahead(_names(look_ahead or "")), seed),
        decoding=_decoding(preset, max_new_tokens, temperature, top_p, stop),
        repeats=repeats,
        limit=limit,
        seed=seed,
        feed_gold=feed_gold,
    )
    bounds = Budget(**_backend_options.read_budget(budget))

    options = _backend_options.BackendOptions(
        model=model, endpoint=endpoint, api_key_env=api_key_env, concurrency=concurrency, timeout=timeout,
        retries=retries, template=template, dtype=dtype, device=device, batch_size=batch_size, reuse=reuse, seed=seed,
    )  # fmt: skip
    if plan:
        local = model if endpoint is None else None
        prices = price_prompt, price_answer
        made = _planned(tasks, demonstrations, settings, model=local, template=template, prices=prices)
        _tell_plan(console, made, local)
        _pipes.write_report(report, made.as_dict())
        return
    if out is None:
        raise SettingError("no folder for the run is given", hint="add --out DIR, or --plan to ask nothing")

    from pyllm.mti.run_job import run_tasks

    with console.progress() as progress:
        try:
            results = run_tasks(
                tasks,
                demonstrations,
                settings,
                options.open,
                out,
                scoring=scoring.value,
                budget=bounds,
                progress=progress,
                check=_pipes.stop_without_reader if to_stdout else None,
            )
        except KeyboardInterrupt as interrupt:
            progress.finish()
            hint = f"run the same command again to go on; what is done is kept in {out}"
            raise KeyboardInterrupt(hint) from interrupt
    _tell(console, results)
    _pipes.write_report(report, {**results.marked.as_dict(), "counts": results.counts})
    if to_stdout:
        _pipes.write_output(results.marked.marks, None, table_format, results.marked.steps)


def _planned(
    tasks: Path,
    demonstrations: Path | None,
    settings: "RunSettings",
    *,
    model: str | None,
    template: _backend_options.PromptTemplate,
    prices: tuple[float | None, float | None],
) -> "Plan":
    from pyllm.mti.plan import make_plan
    from pyllm.mti.run_job import read_asked

    asked = read_asked(tasks, demonstrations, settings)
    if model is None:
        return make_plan(asked.chains, settings, tokenize=None, prices=prices)
    from pyllm.lm.backends.contract import Message
    from pyllm.lm.backends.wording import Wording
    from pyllm.lm.loading import load_config, load_tokenizer
    from pyllm.lm.sources import find_model

    source = find_model(model)
    vocabulary = int(load_config(source).get_text_config().vocab_size)
    wording = Wording(load_tokenizer(source), None, vocabulary, template.value)
    return make_plan(asked.chains, settings, tokenize=lambda text: wording.ids((Message("user", text),)), prices=prices)


def _tell_plan(console: Console, plan: "Plan", model: str | None) -> None:
    from pyllm.cli._tables import Column, draw_table

    how = f"tokens of `{model}`" if model is not None else "about: four bytes are taken for a token"
    console.say(f"the run would ask this ({how}; later calls behind right answers, answers at their most)")
    priced = any(row.cost is not None for row in plan.rows)
    titles = [
        "instances",
        "calls",
        "prompt tokens",
        "longest",
        "shared",
        "answer tokens",
        *(["cost"] if priced else []),
    ]
    columns = [Column("mode", "word"), *(Column(title, "number") for title in titles)]
    lines = [
        [
            row.mode,
            f"{row.instances:,}",
            f"{row.calls:,}",
            f"{row.prompt_tokens:,}",
            f"{row.longest_prompt_tokens:,}",
            f"{100 * row.shared_share:.1f} %",
            f"{row.answer_tokens:,}",
            *([f"{row.cost:,.2f}"] if row.cost is not None else []),
        ]
        for row in plan.rows
    ]
    console.say(draw_table(columns, lines, terminal=stderr_is_terminal()).rstrip("\n"))


def _tell(console: Console, results: "Results") -> None:
    counts = results.counts
    parts = [f"{counts['answered']:,} answered"]
    parts += [f"{counts[name]:,} {words}" for name, words in _SHORT_OF.items() if counts[name]]
    console.say(f"{counts['calls']:,} calls: {', '.join(parts)}")
    console.say(_mti_tables.score_text(results.marked, by=None).rstrip("\n"))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _decoding(
    preset: PresetOption | None,
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    stop: list[str] | None,
) -> "Decoding":
    """The preset or the defaults, with what was given in their place."""
    from pyllm.lm.backends.contract import Decoding

    paper = preset is PresetOption.PAPER
    most = max_new_tokens if max_new_tokens is not None else 2048 if paper else 512
    return Decoding(
        max_new_tokens=most,
        min_new_tokens=min(32, most) if paper else 0,
        temperature=temperature if temperature is not None else 0.7 if paper else 0.0,
        top_p=top_p if top_p is not None else 1.0,
        stop=tuple(stop or ()),
    )
