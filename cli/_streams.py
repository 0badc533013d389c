"""`toolkit stream plan`: what caches would take. Also what identifies a run of the other commands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _models, _pipes, _stream_options
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

_GIB = 2**30


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
        _models.Dtype, typer.Option(help="Of weights, keys and values. auto: the checkpoint's own.")
    ] = _models.Dtype.AUTO,
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


def identity_of(source: "ModelSource", loaded: "StreamModel") -> dict[str, Any]:
    """What decides a run's numbers beside its settings."""
    from pyllm.provenance import package_version

    return {
        **source.digests(),
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": loaded.device.type,
        "version": package_version(),
    }


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"
