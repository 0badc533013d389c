"""`toolkit stream plan`, `bench` and `run`: what is measured, foretold or done in bulk. `stream.py` has the rest."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _pipes, _stream_options
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console, stderr_is_terminal

if TYPE_CHECKING:
    from pyllm.lm.sources import ModelSource
    from pyllm.stream.model import StreamModel
    from pyllm.stream.plan import ModelSizes, PlanRow

PLAN_EXAMPLES = """\b
Examples:
  toolkit stream plan --model path/to/model
  toolkit stream plan --model org/name --cache 512 --cache 4096 --batch 1 --batch 64 --bandwidth 3350 --memory 80
  toolkit stream plan --model nano --dtype bfloat16 --bandwidth 80 --report plan.json
"""

RECALL_EXAMPLES = """\b
Examples:
  toolkit stream bench recall --model path/to/model --out bench/recall
  toolkit stream bench recall --model org/name --facts 8 --tokens 4000 --cache 512 --dialogues 50 --out bench/far
  toolkit stream bench recall --model path/to/model --policies full,streaming,h2o+4,sirllm,sirllm+8 --out bench/few
"""
BENCH_EXAMPLES = """\b
Examples:
  toolkit stream bench recall --model path/to/model --out bench/recall
"""

_GIB = 2**30

bench = typer.Typer(
    help="Measure what caches remember, under many policies.", epilog=BENCH_EXAMPLES, rich_markup_mode=None
)


def plan_command(
    *,
    model: _stream_options.ModelOption = "nano",
    cache: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Tokens a dialogue keeps; repeatable. Default: 512, 1024, 4096.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(metavar="B", min=1, help="Dialogues at once; repeatable. Default: 1, 8, 64.", show_default=False),
    ] = None,
    dtype: Annotated[
        _stream_options.Dtype, typer.Option(help="Of weights, keys and values. auto: the checkpoint's own.")
    ] = _stream_options.Dtype.AUTO,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            metavar="GB/S", min=0, help="Memory bandwidth of the device, in 10^9 bytes a second.", show_default=False
        ),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(metavar="GIB", min=0, help="Memory of the device, in GiB.", show_default=False)
    ] = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Tell what caches would take, and how fast they could be.

    Reads the model's config and no weights. With --bandwidth, the tokens a second that all dialogues together cannot
    exceed; with --memory, how many dialogues fit beside the weights. The row `full` is a dialogue as long as the
    model's limit of which nothing is evicted.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")

    from pyllm.lm.loading import load_config
    from pyllm.lm.sources import find_model

    source = find_model(model)
    config = load_config(source)

    import torch

    from pyllm.lm.loading import choose_dtype
    from pyllm.stream.plan import DEFAULT_BATCHES, DEFAULT_CACHES, model_sizes, plan_rows

    # A plan is for some other machine as often as not: the device here has no say.
    chosen = choose_dtype(dtype.value, torch.device("meta"), config)
    sizes = model_sizes(config, model, chosen)
    rows = plan_rows(
        sizes,
        caches=cache or DEFAULT_CACHES,
        batches=batch or DEFAULT_BATCHES,
        bandwidth_bytes=None if bandwidth is None else bandwidth * 1e9,
        memory_bytes=None if memory is None else memory * _GIB,
    )
    kind = str(chosen).removeprefix("torch.")
    _tell_plan(model, kind, sizes, rows, console)
    numbers = {
        "command": "stream plan",
        "model": model,
        "dtype": kind,
        "bandwidth_gb_per_second": bandwidth,
        "memory_gib": memory,
        "sizes": sizes.as_dict(),
        "rows": [row.as_dict() for row in rows],
    }
    _pipes.write_report(report, numbers)


def _tell_plan(model: str, dtype: str, sizes: "ModelSizes", rows: list["PlanRow"], console: Console) -> None:
    from pyllm.cli._tables import Column, draw_table, readable

    console.say(f"{readable(model)}: {sizes.parameters:,} parameters, {_size(sizes.weights_bytes)} in {dtype}")
    token = sizes.key_bytes_per_token + sizes.value_bytes_per_token
    console.say(
        f"a token: {_size(token)} of keys and values in {sizes.kv_layers} layers,"
        f" and {_size(sizes.key_bytes_per_token)} of keys as they came once a cache evicts"
    )
    if sizes.expert_bytes:
        console.say(f"experts: {_size(sizes.expert_bytes)}, of which a token reads {100 * sizes.expert_share:.1f} %")
    titles = ["cache", "batch", "a dialogue", "all", "read a step"]
    fast = any(row.tokens_per_second is not None for row in rows)
    fits = any(row.most_dialogues is not None for row in rows)
    titles += ["tokens/s at most"] * fast + ["dialogues that fit"] * fits
    lines = []
    for row in rows:
        cache = f"{row.cache_tokens:,}" if row.bounded else f"full {row.cache_tokens:,}"
        sized = [_size(row.dialogue_bytes), _size(row.total_bytes), _size(row.step_bytes)]
        speed = [] if row.tokens_per_second is None else [_rate(row.tokens_per_second)]
        most = [] if row.most_dialogues is None else [f"{row.most_dialogues:,}"]
        lines.append([cache, f"{row.batch:,}", *sized, *speed, *most])
    columns = [Column(title, "number") for title in titles]
    console.say(draw_table(columns, lines, terminal=stderr_is_terminal()).rstrip("\n"))


@bench.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@bench.command("recall", epilog=RECALL_EXAMPLES)
def recall_command(
    *,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the results; a run that was stopped goes on from it.")
    ],
    model: _stream_options.ModelOption = "nano",
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[+A],...",
            help="Policies, with +A for spans of A tokens. Default: full, window, streaming, random, random+4,"
            " random+8, sirllm, sirllm+2, sirllm+4, sirllm+8.",
            show_default=False,
        ),
    ] = None,
    facts: Annotated[int, typer.Option(metavar="N", help="Names that a dialogue tells and asks for.")] = 6,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens before the questions, about.")] = 1000,
    cache: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Tokens kept. Default: a quarter of --tokens.", show_default=False),
    ] = None,
    sinks: Annotated[int, typer.Option(metavar="S", min=0, help="First tokens, always kept.")] = 4,
    recent: Annotated[int, typer.Option(metavar="R", min=0, help="Newest tokens kept.")] = 32,
    dialogues: Annotated[int, typer.Option(metavar="N", min=1, help="How many dialogues.")] = 20,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[+A]",
            help="The policy that others are compared with. Default: sirllm, else the first.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="S", min=0, max=2**63 - 1, help="Of the dialogues, `random` and intervals.")
    ] = 0,
    template: _stream_options.TemplateOption = _stream_options.Template.AUTO,
    dtype: _stream_options.DtypeOption = _stream_options.Dtype.AUTO,
    device: _stream_options.DeviceOption = "auto",
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Measure how many names, told early, are known at the end.

    Each dialogue tells --facts names in its first third, goes on with small talk, and then asks for every name. Written
    to --out: dialogues.jsonl as the work goes on; recall.parquet, a row for each dialogue and policy; recall.json, what
    the table on stderr shows, with intervals over dialogues. A longer or wider run takes up what is there.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    _pipes.ensure_writable(report, "--report")

    from pyllm.lm.sources import find_model
    from pyllm.stream.recall import DEFAULT_ARMS, RecallSettings, measure_recall

    arms = DEFAULT_ARMS if policies is None else tuple(each.strip() for each in policies.split(",") if each.strip())
    settings = RecallSettings(
        arms=arms, facts=facts, tokens=tokens, cache=cache, sinks=sinks, recent=recent, dialogues=dialogues, seed=seed,
        template=template.value, baseline=baseline,
    )  # fmt: skip
    for arm in arms:
        _stream_options.check_policy(settings.of_arm(arm))
    source = find_model(model)
    loaded = _stream_options.load_model(source, dtype, device)
    tokenizer = _stream_options.tokenizer_of(source)
    identity = identity_of(source, loaded)
    with console.progress() as progress:
        done = measure_recall(
            loaded,
            tokenizer,
            settings,
            out / "dialogues.jsonl",
            identity=identity,
            decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
            progress=progress,
        )
    from pyllm.data.tables import write_json_atomically, write_table
    from pyllm.provenance import step

    numbers = {**done.report, "model": model, **identity}
    facts_of_run = {"settings": done.report["settings"], **identity}
    write_table(
        done.table, out / "recall.parquet", format="parquet", steps=[step("stream bench recall", **facts_of_run)]
    )
    write_json_atomically(out / "recall.json", numbers)
    _pipes.write_report(report, numbers)
    _tell_recall(done.report, console)


def identity_of(source: "ModelSource", loaded: "StreamModel") -> dict[str, Any]:
    """What decides a run's numbers beside its settings."""
    from pyllm.provenance import package_version

    return {
        **source.digests(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": loaded.device.type,
        "version": package_version(),
    }


def _tell_recall(report: dict[str, Any], console: Console) -> None:
    from pyllm.cli._tables import Column, draw_table

    settings = report["settings"]
    console.say(
        f"{report['dialogues']:,} dialogues of about {report['tokens']:,.0f} tokens, {settings['facts']} facts each,"
        f" cache {settings['cache']:,}; differences from `{settings['baseline']}`, 95 % intervals over dialogues"
    )
    rows = []
    for row in [*report["arms"], *report["context"]]:
        intervals, apart = row.get("intervals", {}), row.get("differences", {})
        cache = f"{row['cache_tokens']:,}" if "cache_tokens" in row else "-"
        recall = [_measured(row["recall"], intervals.get("recall")), _changed(apart.get("recall"))]
        nats = [_measured(row["nats"], None), _changed(apart.get("nats"))]
        rows.append([row["arm"], cache, *recall, _measured(row["choice"], None), *nats])
    titles = ("cache", "recall", "difference", "choice", "nats/token", "difference")
    columns = [Column("policy", "word"), *(Column(title, "number") for title in titles)]
    console.say(draw_table(columns, rows, terminal=stderr_is_terminal()).rstrip("\n"))


def _measured(value: float | None, interval: list[float] | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if interval is None else f" ({interval[0]:.2f}-{interval[1]:.2f})")


def _changed(apart: dict[str, float] | None) -> str:
    return "-" if apart is None else f"{apart['difference']:+.2f} ({apart['low']:+.2f}..{apart['high']:+.2f})"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
