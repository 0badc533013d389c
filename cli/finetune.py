"""`toolkit finetune`: selected rows, or packs of them, to a trained model."""

import contextlib
import logging
import os
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from pyllm.cli import _baselines, _models, _pipes, _plans
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.cli._signals import StoppedBySignal, stop_between_steps
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.finetune.job import Request
    from pyllm.finetune.run import FinetuneResult

EXAMPLES = """\b
Examples:
  toolkit finetune best.parquet --model models/llama --out runs/a
  toolkit score train.jsonl --model nano | toolkit select --top 10% | toolkit finetune --model nano --out runs/b
  toolkit finetune best.parquet --model models/llama --out runs/c --recipe nuggets --eval-split 0.05
  toolkit finetune packed --model models/llama --out runs/d --batch-tokens 131072 --lora
  toolkit finetune best.parquet --model models/llama --out runs/e --plan
  toolkit finetune best.parquet --model models/llama --out runs/e --show-mask 3
  toolkit finetune best.parquet --model models/llama --out runs/f --baseline random,longest,all --pool scores.parquet \\
    --eval-data clean.jsonl --seeds 3
  toolkit finetune --model models/llama --out runs/a --resume
"""


class Recipe(StrEnum):
    """Settings of a paper."""

    NUGGETS = "nuggets"


class Template(StrEnum):
    """How an example becomes text."""

    CHAT = "chat"
    ALPACA = "alpaca"
    NUGGETS = "nuggets"


class Schedule(StrEnum):
    """How the learning rate falls."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class Precision(StrEnum):
    """Type to compute in."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


def finetune(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="TABLE|PACKS|-",
            help="Any instruction file, a folder of shards, or packs of `toolkit pack`; `-` is stdin, the default in a"
            " pipe. With --resume it may be left out.",
            show_default=False,
        ),
    ] = None,
    *,
    model: Annotated[
        str, typer.Option(metavar="M", help="A folder, a hub id, or the embedded `nano`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder of the run.", show_default=False)],
    recipe: Annotated[
        Recipe | None,
        typer.Option(help="nuggets: 64 examples a step, Alpaca template, 2e-5, 3 epochs.", show_default=False),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(metavar="E", help="Times each example is seen. Default: 3.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="B", min=1, help="Examples of a step. Default: 64.", show_default=False),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(metavar="T", min=1, help="Tokens of a step, in packs of --max-length.", show_default=False),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(metavar="L", help="The highest. Default: 2e-5; 2e-4 with --lora.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, max=2**32 - 1, help="Seed of order and dropout.")] = 0,
    template: Annotated[
        Template | None,
        typer.Option(help="Default: the tokenizer's chat template if it has one, else alpaca.", show_default=False),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=2, max=65_536, help="Cut examples to N tokens. Default: 2048.", show_default=False
        ),
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train a low-rank adapter (needs the extra `peft`).")] = False,
    lora_rank: Annotated[int, typer.Option(metavar="R", min=1, help="Rank of the adapter.")] = 16,
    lora_alpha: Annotated[int, typer.Option(metavar="A", min=1, help="Its scale is alpha / rank.")] = 32,
    lora_dropout: Annotated[float, typer.Option(metavar="P", min=0, max=0.99, help="Dropout of its inputs.")] = 0.0,
    eval_data: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows to measure the held-out loss on.", show_default=False),
    ] = None,
    eval_split: Annotated[
        float | None,
        typer.Option(metavar="P", help="Hold out this share of the rows instead.", show_default=False),
    ] = None,
    baseline: _baselines.BaselineOption = None,
    pool: _baselines.PoolOption = None,
    seeds: _baselines.SeedsOption = None,
    early_stop: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            min=1,
            help="Stop after K evaluations without a better held-out loss, and keep the best.",
            show_default=False,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Steps between checkpoints and evaluations. Default: 20 of them in a run.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[int, typer.Option(metavar="N", min=2, help="Checkpoints to keep.")] = 2,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    plan: _plans.PlanOption = False,
    show_mask: _plans.ShowMaskOption = None,
    schedule: Annotated[
        Schedule | None,
        typer.Option(help="How the learning rate falls. Default: cosine.", show_default=False),
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(metavar="P", help="Share of the steps in which it rises. Default: 0.03.", show_default=False),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="W", help="Default: 0, which is Adam.", show_default=False)
    ] = None,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 on a GPU, fp32 on the CPU.")] = Precision.AUTO,
    device: _models.DeviceOption = "auto",
    micro_batch_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Most tokens of one forward pass. Default: 1024 on a CPU, 8192 on a GPU.",
            show_default=False,
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--activation-checkpointing/--no-activation-checkpointing",
            help="Compute activations twice instead of keeping them. Default: on a GPU.",
            show_default=False,
        ),
    ] = None,
    padded: Annotated[
        bool, typer.Option("--padded", help="Pad examples to one length instead of packing them.")
    ] = False,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="Shard the model over the processes of torchrun.")] = False,
    shape: _pipes.ShapeOption = _pipes.Shape.AUTO,
    strict: _pipes.StrictOption = False,
    bad_rows: _pipes.BadRowsOption = None,
    dedup: Annotated[bool, typer.Option("--dedup", help="Drop exact duplicates; the first row stays.")] = False,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a model on instruction data.

    Answers are trained, prompts are not, and examples that share a row do not see each other. Writes RUN/final (the
    model in safetensors and its tokenizer, which carries the template), RUN/checkpoints, RUN/events.jsonl and a
    manifest that `toolkit verify RUN` checks. A run that was stopped goes on with --resume and ends with the weights of
    an unbroken one.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    console = open_console(quiet=quiet or not is_first, verbose=verbose and is_first)
    if not is_first:
        logging.getLogger("pyllm").setLevel(logging.ERROR)  # the first process speaks for all
    looks_only = _plans.looks_only(plan=plan, show_mask=show_mask)
    words: tuple[str, ...] = context.obj
    origin = _origin(source, out, resume=resume or looks_only, words=words)
    _pipes.ensure_distinct({"--report": report, "--bad-rows": bad_rows}, {"the input": origin or ""})
    for option, path in {"--report": report, "--bad-rows": bad_rows}.items():
        _pipes.ensure_writable(path, option)

    from pyllm.finetune.processes import use_device
    from pyllm.finetune.settings import LORA_LEARNING_RATE, RECIPES, FinetuneSettings, LoraSettings, RecipeName

    if batch_size is not None and batch_tokens is not None:
        raise SettingError("`--batch-size` and `--batch-tokens` contradict each other")
    recipe_name: RecipeName | None = None if recipe is None else "nuggets"
    base = RECIPES[recipe_name]
    wanted = base.template if template is None else template.value
    settings = FinetuneSettings(
        model=model,
        template=wanted or "alpaca",
        max_length=_given(max_length, base.max_length),
        epochs=_given(epochs, base.epochs),
        batch_examples=None if batch_tokens is not None else _given(batch_size, base.batch_examples),
        batch_tokens=batch_tokens,
        learning_rate=_given(learning_rate, LORA_LEARNING_RATE if lora else base.learning_rate),
        schedule=base.schedule if schedule is None else schedule.value,
        warmup=_given(warmup, base.warmup),
        weight_decay=_given(weight_decay, base.weight_decay),
        seed=seed,
        lora=LoraSettings(lora_rank, lora_alpha, lora_dropout) if lora else None,
        precision=precision.value,
        device=use_device(device, fsdp=fsdp),
        activation_checkpointing=activation_checkpointing,
        padded=padded,
        micro_batch_tokens=micro_batch_tokens,
        fsdp=fsdp,
        recipe=recipe_name,
    )
    if early_stop is not None and eval_data is None and eval_split is None and origin is not None:
        raise SettingError("`--early-stop` needs held-out rows", hint="add --eval-data FILE or --eval-split 0.05")

    baselines = _baselines.asked_for(baseline, pool, seeds, eval_data=eval_data, early_stop=early_stop, words=words)

    from pyllm.finetune.job import Request

    request = Request(
        origin,
        settings,
        template=wanted,
        eval_data=eval_data,
        eval_share=eval_split,
        shape=shape.value,
        strict=strict,
        bad_rows_path=bad_rows,
        dedup=dedup,
        early_stop=None if early_stop is None else (early_stop, save_every),
    )
    if looks_only:
        _plans.look(request, out, show_mask=show_mask, save_every=save_every, report=report, console=console)
        return
    result = _train(
        request,
        out,
        save_every=save_every,
        keep=keep,
        patience=early_stop,
        baselines=baselines,
        words=words,
        console=console,
    )
    _pipes.write_report(report, result.report)
    _tell(result, out, console)


Value = TypeVar("Value")


def _given(value: Value | None, otherwise: Value) -> Value:
    return otherwise if value is None else value


def _origin(source: str | None, out: Path, *, resume: bool, words: Sequence[str]) -> str | None:
    """What to train on: named, piped in, or, when going on, what the run keeps."""
    begun = (out / "run.json").is_file()
    if begun and not resume:
        raise SettingError(f"there is a run in {out} already", hint=f"to go on with it: {_line_to_resume(words)}")
    if begun and source is None:
        return None
    return _pipes.input_argument(source)


def _line_to_resume(words: Sequence[str]) -> str:
    """The command line that goes on with this run; what was piped in stands in the run's folder."""
    kept = [word for word in words if word not in (_pipes.STANDARD_STREAM, "--resume")]
    return shlex.join(["toolkit", *kept, "--resume"])


def _train(
    request: "Request",
    out: Path,
    *,
    save_every: int | None,
    keep: int,
    patience: int | None,
    baselines: _baselines.Baselines | None,
    words: Sequence[str],
    console: Console,
) -> "FinetuneResult":
    from pyllm.finetune.folder import locked
    from pyllm.finetune.job import prepare
    from pyllm.finetune.processes import world
    from pyllm.finetune.run import finetune as run

    rank, processes = world()
    # Only the first process writes; the others wait for what it has written.
    held = locked(out) if rank == 0 else contextlib.nullcontext()
    with held, console.progress() as progress, stop_between_steps() as stop:
        job = prepare(request, kept=out, processes=processes)
        compare = (
            None if baselines is None else _baselines.prepare(baselines, job, progress, kept=request.source is None)
        )
        result = run(
            job,
            out,
            save_every=save_every,
            keep=keep,
            patience=patience,
            arguments=words,
            progress=progress,
            should_stop=stop.is_requested,
        )
        if compare is not None and not result.stopped:
            result = compare(result, out, save_every=save_every, should_stop=stop.is_requested)
    if result.stopped:
        raise StoppedBySignal(stop.signal, f"to go on: {_line_to_resume(words)}")
    return result


def _tell(result: "FinetuneResult", out: Path, console: Console) -> None:
    report = result.report
    losses = report["held_out_loss"]
    console.say(f"trained {report['steps']:,} steps on {report['tokens']:,} tokens in {report['seconds']:,.0f} s")
    if losses:
        console.say(f"  held-out loss  {losses[0]['loss']:.4f} -> {losses[-1]['loss']:.4f} nats a token")
    console.say(f"  model          {out / 'final'}")
    if "baselines" in report:
        _baselines.tell(report["baselines"], out, console)
    console.hint(f"toolkit verify {out}")
