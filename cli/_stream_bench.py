"""`toolkit stream bench`: the paper's experiments and far memory, under many policies, each bench a command."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _models, _pipes, _stream_options
from pyllm.cli import _stream_bench_options as options
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.cli._stream_bench_texts import (
    ATTENTION_EXAMPLES,
    FEWSHOT_EXAMPLES,
    PPL_EXAMPLES,
    attention_command,
    fewshot_command,
    ppl_command,
)
from pyllm.cli._stream_recall import RECALL_EXAMPLES, recall_command
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.stream.bench.arms import Grid
    from pyllm.stream.bench.tasks import Task

BENCH_EXAMPLES = """\b
Examples:
  toolkit stream bench grocery keys.jsonl --model path/to/model --cache 256,512,1024 --out bench/grocery
  toolkit stream bench ppl dailydialog.jsonl --model path/to/model --protocol turn,token --out bench/ppl
  toolkit stream bench decay --grocery keys.jsonl --model path/to/model --limit 40 --out bench/decay
  toolkit stream bench recall --model path/to/model --out bench/recall
"""
_CHOICE_EXAMPLES = """\b
Examples:
  toolkit stream bench {task} {data} --model path/to/model --out bench/{task}
  toolkit stream bench {task} {data} --model org/name --cache 256,512,1024 --recent 0,32 --decay 1,0.9,auto \\
    --policies full,streaming,random,sirllm,h2o --spans 0,4,8 --baseline sirllm --out bench/{task}
  toolkit stream bench {task} {data} --model org/name --cache {cache} --recent 0 --decay {decay} \\
    --score as-published --ties older --template vicuna --out bench/paper
"""
_DECAY_EXAMPLES = """\b
Examples:
  toolkit stream bench decay --grocery keys.jsonl --model path/to/model --out bench/decay
  toolkit stream bench decay --rps paper.jsonl --rps rock.jsonl --decay 1,0.9,auto --horizon-turns 5,20,80 \\
    --model path/to/model --out bench/decay
"""

_CACHE, _SWEEP, _HORIZONS = ["512"], ["1,0.99,0.97,0.95,0.9,0.8,0.7,0.5,auto"], ["5,20,80"]

bench = typer.Typer(
    help="Measure what caches remember, under many policies.", epilog=BENCH_EXAMPLES, rich_markup_mode=None
)


@bench.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


bench.command("recall", epilog=RECALL_EXAMPLES)(recall_command)


def _choice_command(task: "Task", *, cache: str, decay: str, most: str, titles: dict[str, str]) -> Callable[..., None]:
    """The command of one task.

    Args:
        task: Which.
        cache: Cache sizes to begin with.
        decay: Decay to begin with.
        most: The option that says how much of a file counts.
        titles: What `most` means, and what the command says of itself.
    """
    caches, decays = [cache], [decay]

    def command(
        data: options.DataArgument,
        *,
        out: options.OutOption,
        model: _stream_options.ModelOption = "nano",
        policies: options.PoliciesOption = options.POLICIES,
        cache: options.CacheOption = caches,
        recent: options.RecentsOption = options.RECENT,
        spans: options.SpansOption = options.SPANS,
        decay: options.DecaysOption = decays,
        horizon_turns: options.HorizonsOption = options.HORIZONS,
        score: options.ScoresOption = options.SCORES,
        sinks: options.SinksOption = 4,
        first_token: _stream_options.FirstTokenOption = _stream_options.FirstToken.CARRIED,
        ties: options.TiesOption = _stream_options.Ties.NEWER,
        baseline: options.BaselineOption = None,
        history: options.HistoryOption = options.History.SELF,
        most: Annotated[
            int | None, typer.Option(most, metavar="N", min=1, help=titles["most"], show_default=False)
        ] = None,
        limit: options.LimitOption = None,
        seed: options.SeedOption = 0,
        template: options.TemplateOption = options.BenchTemplate.AUTO,
        dtype: _models.DtypeOption = _models.Dtype.AUTO,
        device: _models.DeviceOption = "auto",
        report: _pipes.ReportOption = None,
        quiet: QuietOption = False,
        verbose: VerboseOption = False,
    ) -> None:
        console = open_console(quiet=quiet, verbose=verbose)
        _pipes.ensure_writable(report, "--report")
        grid = options.grid_of(
            policies=policies, cache=cache, recent=recent, spans=spans, decay=decay, horizon_turns=horizon_turns,
            score=score, sinks=sinks, first_token=first_token, ties=ties, seed=seed,
        )  # fmt: skip
        _run_choices(
            task, {task: data}, grid, out, model=model, baseline=baseline, history=history, most={task: most},
            limit=limit, template=template, dtype=dtype, device=device, report=report, console=console,
        )  # fmt: skip

    command.__doc__ = titles["help"]
    return command


_FILES = (
    " Written to --out: dialogues.jsonl as the work goes on; a Parquet table, a row for each dialogue and arm; a JSON"
    " report with intervals over dialogues, and page.html, which needs no network. A longer or wider run takes up what"
    " is there."
)
_TASKS: dict[str, dict[str, Any]] = {
    "dailydialog": {
        "cache": "512", "decay": "0.7", "most": "--lines",
        "titles": {
            "most": "Lines of a file that count. Default: 2000, as published.",
            "help": "Choose the next utterance of everyday dialogues.\n\nAccuracy as published, by letter, and by text"
            " where two choices are the same." + _FILES,
        },
    },
    "grocery": {
        "cache": "256,512,1024", "decay": "1", "most": "--lines",
        "titles": {
            "most": "Lines of a file that count. Default: all.",
            "help": "Tell a grocery, ask twenty questions, and ask for it.\n\nAccuracy of questions and recall,"
            " and the share of the grocery's tokens that the cache still holds then." + _FILES,
        },
    },
    "rps": {
        "cache": "1024", "decay": "0.9", "most": "--rounds",
        "titles": {
            "most": "Rounds of each player. Default: 2000.",
            "help": "Play rock-paper-scissors against players who prefer a move; each file is a player.\n\nThe mean"
            " win, beside constant answers and a count of what was played." + _FILES,
        },
    },
}  # fmt: skip
_DATA = {"dailydialog": "dailydialog.jsonl", "grocery": "keys.jsonl", "rps": "paper.jsonl rock.jsonl scissors.jsonl"}
_PAPER = {"dailydialog": (512, 0.7), "grocery": (1024, 1), "rps": (1024, 0.9)}
for _task, _named in _TASKS.items():
    _examples = _CHOICE_EXAMPLES.format(task=_task, data=_DATA[_task], cache=_PAPER[_task][0], decay=_PAPER[_task][1])
    bench.command(_task, epilog=_examples)(_choice_command(_task, **_named))  # type: ignore[arg-type]
bench.command("fewshot", epilog=FEWSHOT_EXAMPLES)(fewshot_command)
bench.command("ppl", epilog=PPL_EXAMPLES)(ppl_command)
bench.command("attention", epilog=ATTENTION_EXAMPLES)(attention_command)


@bench.command("decay", epilog=_DECAY_EXAMPLES)
def decay_command(
    *,
    out: options.OutOption,
    dailydialog: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Data of DailyDialog; repeatable.", show_default=False)
    ] = None,
    grocery: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Data of grocery; repeatable.", show_default=False)
    ] = None,
    rps: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A player's rounds; repeatable.", show_default=False)
    ] = None,
    model: _stream_options.ModelOption = "nano",
    policies: options.PoliciesOption = "streaming,sirllm",
    cache: options.CacheOption = _CACHE,
    recent: options.RecentsOption = options.RECENT,
    spans: options.SpansOption = options.SPANS,
    decay: options.DecaysOption = _SWEEP,
    horizon_turns: options.HorizonsOption = _HORIZONS,
    score: options.ScoresOption = options.SCORES,
    sinks: options.SinksOption = 4,
    first_token: _stream_options.FirstTokenOption = _stream_options.FirstToken.CARRIED,
    ties: options.TiesOption = _stream_options.Ties.NEWER,
    baseline: options.BaselineOption = "sirllm",
    history: options.HistoryOption = options.History.SELF,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Rounds of each player.")] = 2000,
    limit: options.LimitOption = None,
    seed: options.SeedOption = 0,
    template: options.TemplateOption = options.BenchTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare fixed decay with decay that follows from a horizon, on one to three tasks.

    Every ratio of --decay, and `auto` at every horizon of --horizon-turns, plays each task given. Reported beside the
    tasks' measures: the mean ratio, and the share of the cache that was read more than the horizon ago.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")
    files = {"dailydialog": dailydialog, "grocery": grocery, "rps": rps}
    given = {task: paths for task, paths in files.items() if paths}
    if not given:
        raise SettingError("no data is given", hint="name a file with --dailydialog, --grocery or --rps")
    grid = options.grid_of(
        policies=policies, cache=cache, recent=recent, spans=spans, decay=decay, horizon_turns=horizon_turns,
        score=score, sinks=sinks, first_token=first_token, ties=ties, seed=seed,
    )  # fmt: skip
    _run_choices(
        "decay", given, grid, out, model=model, baseline=baseline, history=history, most={"rps": rounds}, limit=limit,
        template=template, dtype=dtype, device=device, report=report, console=console,
    )  # fmt: skip


def _run_choices(
    name: str,
    data: "dict[str, list[Path]]",
    grid: "Grid",
    out: Path,
    *,
    model: str,
    baseline: str | None,
    history: options.History,
    most: dict[str, int | None],
    limit: int | None,
    template: options.BenchTemplate,
    dtype: _models.Dtype,
    device: str,
    report: Path | None,
    console: Console,
) -> None:
    """Play tasks under arms, write the results and show them."""
    from pyllm.lm.sources import find_model
    from pyllm.stream.bench.arms import baseline_of

    arms = tuple(grid.arms())
    baseline_of(arms, baseline)  # finds a wrong name before anything is loaded
    conversations, partial = {}, []
    for task, paths in data.items():
        conversations[task], said = options.read_dialogues(task, paths, most.get(task), limit)  # type: ignore[arg-type]
        partial += said
    facts = [fact for paths in data.values() for fact in options.data_facts(paths)]
    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)

    from pyllm.cli._streams import identity_of
    from pyllm.stream.bench.choices import MEASURES, ChoiceWork, measure_choices
    from pyllm.stream.bench.page import measure_plot
    from pyllm.stream.bench.report import arm_table

    wording = options.wording_of(source, loaded, template)
    options.warn_of_limits(loaded, grid, console)
    works = [
        ChoiceWork(task, tuple(each), arms, history.value, baseline, grid.seed)  # type: ignore[arg-type]
        for task, each in conversations.items()
    ]
    shared: dict[str, Any] = {
        "sinks": grid.sinks,
        "first_token": grid.first_token,
        "ties": grid.ties,
        "seed": grid.seed,
    }
    shared |= {"history": history.value, "template": wording.template}
    identity = identity_of(source, loaded)
    key = {"command": f"stream bench {name}", "settings": shared, **identity}
    with console.progress() as progress:
        table, reports = measure_choices(loaded, wording, works, out / "dialogues.jsonl", key=key, progress=progress)
    tables, brief, plots = [], [], []
    for work, made in zip(works, reports, strict=True):
        title = f"{work.task}: {made['dialogues']:,} dialogues, {made['turns']:,} turns, {made['tokens']:,} tokens"
        shown = title, made["arms"], made["context"], MEASURES[work.task]
        tables.append(arm_table(*shown))
        brief.append(arm_table(*shown, brief=True))
        for measure in MEASURES[work.task]:
            plot = measure_plot(f"{work.task}: {measure.title}", made["arms"], made["context"], measure)
            plots += [plot] if plot is not None and measure.compared else []
    numbers = {
        "command": f"stream bench {name}", "model": model, **identity, "data": facts,
        "partial": "; ".join(partial) or None,
        "settings": {**shared, "grid": asdict(grid), "baseline": baseline}, "tasks": reports,
    }  # fmt: skip
    options.write_results(
        out, name, table, numbers, tables=tables, brief=brief, plots=plots, report=report, console=console
    )
