"""`toolkit score`: golden scores of instruction rows against anchor tasks."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _models, _pipes
from pyllm.cli._console import Console, QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.data.reading import ExampleTable
    from pyllm.score.job import Job
    from pyllm.score.plan import Plan
    from pyllm.score.run import ScoreResult
    from pyllm.score.settings import ScoreSettings

EXAMPLES = """\b
Examples:
  toolkit score train.jsonl --anchors kmeans:100 --model path/to/model --out scores.parquet
  toolkit score train.parquet --anchors anchors.json --model org/name | toolkit select --top 1% --out best.parquet
  toolkit score train.json --anchors random:100 --model path/to/model --plan
  zcat rows.jsonl.gz | toolkit score --anchors random:20 --model nano --per-anchor --out scores.parquet
  toolkit score train.json --anchors anchors.json --model path/to/model --compat reference > scores.parquet
"""


class Compat(StrEnum):
    """Whose numbers to give."""

    REFERENCE = "reference"


class Template(StrEnum):
    """How rows become text."""

    NUGGETS = "nuggets"
    CHAT = "chat"


def score(
    source: _pipes.InputArgument = None,
    *,
    anchors: Annotated[
        str,
        typer.Option(
            metavar="FILE|random:N|kmeans:N",
            help="Tasks to try each row on: a file of examples, N rows of the input drawn at random, or the N rows"
            " nearest to K-Means centres.",
        ),
    ] = "kmeans:100",
    model: Annotated[str, typer.Option(metavar="M", help="A folder, a hub id, or the embedded `nano`.")] = "nano",
    compat: Annotated[
        Compat | None,
        typer.Option(help="Give the numbers of the published NUGGETS code.", show_default=False),
    ] = None,
    per_anchor: Annotated[
        bool, typer.Option("--per-anchor", help="Add the columns anchor_wins and one_shot_nats.")
    ] = False,
    run: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the results so far here. Default: a folder in the user's cache that belongs to this very work.",
            show_default=False,
        ),
    ] = None,
    out: _pipes.OutOption = None,
    anchors_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the anchors with their zero-shot sums.", show_default=False),
    ] = None,
    matrix_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the one-shot sums of all pairs as an Arrow file for `toolkit aggregate`.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S", min=0, max=2**64 - 1, help="Seed of the anchor choice.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what the run would cost; loads no weights.")] = False,
    report: _pipes.ReportOption = None,
    template: Annotated[Template, typer.Option(help="The published one, or the model's own chat template.")] = (
        Template.NUGGETS
    ),
    max_anchor_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cut anchors to N tokens. Default: 512; 200 with --compat.", show_default=False),
    ] = None,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    max_batch_tokens: Annotated[
        str,
        typer.Option(metavar="auto|N", help="Most anchor tokens of one forward pass; 1 reads one anchor at a time."),
    ] = "auto",
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="M", help="Encoder for kmeans anchors. Default: the model's own hidden states.", show_default=False
        ),
    ] = None,
    table_format: _pipes.FormatOption = None,
    shape: _pipes.ShapeOption = _pipes.Shape.AUTO,
    strict: _pipes.StrictOption = False,
    bad_rows: _pipes.BadRowsOption = None,
    dedup: Annotated[bool, typer.Option("--dedup", help="Drop exact duplicates; the first row stays.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Give each row its golden score.

    The golden score of a row is the share of anchors whose answer grows likelier when the row stands before it as a
    one-shot demonstration (NUGGETS, arXiv 2312.10302). Output: the input rows plus golden_score, wins,
    anchors_scored, mean_gain_nats, demo_tokens and answer_tokens. Results are kept as they come: run the same command
    again after an interruption and it goes on.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origin = _pipes.input_argument(source)
    if not plan:
        _pipes.output_format(out, table_format)
        _pipes.ensure_writable(out)
    side = {"--report": report, "--anchors-out": anchors_out, "--matrix-out": matrix_out, "--bad-rows": bad_rows}
    _pipes.ensure_distinct({"--out": out, **side}, {"the input": origin, "the anchors": anchors})
    for option, path in side.items():
        _pipes.ensure_writable(path, option)
    anchors_format = None if anchors_out is None else _pipes.side_format(anchors_out, "--anchors-out")

    from pyllm.data.reading import read_examples
    from pyllm.lm.sources import find_model
    from pyllm.score.settings import AnchorSpec, ScoreSettings

    settings = ScoreSettings(
        anchors=AnchorSpec.parse(anchors),
        model=model,
        reference=compat is Compat.REFERENCE,
        template=template.value,
        max_anchor_tokens=max_anchor_tokens,
        dtype=dtype.value,
        device=device,
        max_batch_tokens=_batch_tokens(max_batch_tokens),
        seed=seed,
        encoder=encoder,
    )
    find_model(settings.model)  # a typing mistake shows before a long file is read
    examples = read_examples(origin, shape=shape.value, strict=strict, bad_rows_path=bad_rows, dedup=dedup)
    if plan:
        _plan(examples, settings, report, strict=strict, console=console)
        return
    result = _score(examples, settings, run, matrix_out, per_anchor=per_anchor, strict=strict, console=console)
    _pipes.write_report(report, {**_reading_numbers(examples), **result.report})
    if anchors_out is not None:
        _pipes.write_output(result.anchor_table, anchors_out, anchors_format, result.steps)
    _pipes.write_output(result.table, out, table_format, result.steps)


def _batch_tokens(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isascii() or not text.isdigit():
        raise SettingError(f"--max-batch-tokens `{text}` is neither `auto` nor a whole number")
    return int(text)


def _score(
    examples: "ExampleTable",
    settings: "ScoreSettings",
    run: Path | None,
    matrix_out: Path | None,
    *,
    per_anchor: bool,
    strict: bool,
    console: Console,
) -> "ScoreResult":
    from pyllm.score.job import prepare
    from pyllm.score.run import score

    with console.progress() as progress:
        job = prepare(examples, settings, strict=strict, progress=progress)
        try:
            return score(
                job,
                run_folder=run,
                per_anchor=per_anchor,
                matrix_out=None if matrix_out is None else matrix_out.resolve(),
                progress=progress,
                check=_pipes.stop_without_reader,
            )
        except KeyboardInterrupt as interrupt:
            progress.finish()
            raise KeyboardInterrupt(_how_to_go_on(job, run)) from interrupt


def _how_to_go_on(job: "Job", run: Path | None) -> str:
    from pyllm.score.job import default_run_folder, run_key

    folder = run or default_run_folder(run_key(job))
    return f"run the same command again to go on; what is done is kept in {folder}"


def _reading_numbers(examples: "ExampleTable") -> dict[str, object]:
    return {
        "rows_read": examples.rows_read,
        "bad_rows": len(examples.bad_rows),
        "duplicate_rows": examples.duplicate_rows,
        "shapes": dict(examples.shapes),
    }


def _plan(
    examples: "ExampleTable", settings: "ScoreSettings", report: Path | None, *, strict: bool, console: Console
) -> None:
    from pyllm.score.job import prepare
    from pyllm.score.plan import make_plan

    with console.progress() as progress:
        plan: Plan = make_plan(prepare(examples, settings, strict=strict, progress=progress))
    console.say("\n".join(plan.lines()))
    _pipes.write_report(report, {**_reading_numbers(examples), **plan.as_dict()})
