"""`toolkit stream`: dialogue without end over a bounded cache that keeps what mattered."""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console

if TYPE_CHECKING:
    from pyllm.lm.sources import ModelSource
    from pyllm.stream.model import StreamModel
    from pyllm.stream.settings import Budget, StreamSettings

_logger = logging.getLogger("pyllm.stream")

REPLAY_EXAMPLES = """\b
Examples:
  toolkit stream replay turns.parquet --model path/to/model --entropy-tokens 220 --recent 32 --out trace.parquet
  toolkit stream replay chats.jsonl --model nano --policy streaming --entropy-tokens 0 --recent 252 --format jsonl
  toolkit stream replay turns.parquet --model org/name --preset paper-dailydialog --out trace.parquet
  cat turns.jsonl | toolkit stream replay --model nano --policy my_policies:Newest --out trace.parquet
"""
EXAMPLES = """\b
Examples:
  toolkit stream replay turns.parquet --model path/to/model --entropy-tokens 220 --recent 32 --out trace.parquet
"""

app = typer.Typer(
    help="Dialogue without end over a bounded cache that keeps what mattered.",
    epilog=EXAMPLES,
    rich_markup_mode=None,
)


class Score(StrEnum):
    """What a token is worth."""

    SURPRISAL = "surprisal"
    AS_PUBLISHED = "as-published"


class FirstToken(StrEnum):
    """What a turn's first token is scored by."""

    CARRIED = "carried"
    MAX = "max"


class Ties(StrEnum):
    """Which of two equal tokens stays."""

    NEWER = "newer"
    OLDER = "older"


class Positions(StrEnum):
    """Which positions the tokens that stay have."""

    CACHE = "cache"
    REBASE = "rebase"
    NATIVE_SLIDING = "native-sliding"


class Compat(StrEnum):
    """Whose numbers to give."""

    REFERENCE = "reference"


class PresetName(StrEnum):
    """Settings of the paper."""

    GROCERY = "paper-grocery"
    DAILYDIALOG = "paper-dailydialog"
    RPS = "paper-rps"


class Template(StrEnum):
    """How texts become turns."""

    AUTO = "auto"
    CHAT = "chat"
    VICUNA = "vicuna"
    NONE = "none"


class Dtype(StrEnum):
    """Type of the weights."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


ModelOption = Annotated[str, typer.Option("--model", metavar="M", help="A folder, a hub id, or the embedded `nano`.")]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME|MODULE:ATTRIBUTE",
        help="Who stays: full, window, streaming, random, interval, sirllm, h2o, tova, keydiff, snapkv, or your own.",
    ),
]
PresetOption = Annotated[
    PresetName | None,
    typer.Option("--preset", help="The budget and decay of the paper's experiments.", show_default=False),
]
ScoreOption = Annotated[
    Score,
    typer.Option("--score", help="The paper's surprisal, or what its released code computes."),
]
FirstTokenOption = Annotated[
    FirstToken,
    typer.Option(
        "--first-token", help="Score a turn's first token by what was predicted before it, or by its turn's largest."
    ),
]
SinksOption = Annotated[
    int | None,
    typer.Option("--sinks", metavar="S", min=0, help="First tokens, always kept. Default: 4.", show_default=False),
]
EntropyOption = Annotated[
    int | None,
    typer.Option(
        "--entropy-tokens", metavar="E", min=0, help="Tokens kept for their score. Default: 988.", show_default=False
    ),
]
RecentOption = Annotated[
    int | None,
    typer.Option("--recent", metavar="R", min=0, help="Newest tokens kept. Default: 32.", show_default=False),
]
DecayOption = Annotated[
    float | None,
    typer.Option(
        "--decay", metavar="D", min=0, max=1, help="Factor on all scores once a turn. Default: 1.", show_default=False
    ),
]
SpanAfterOption = Annotated[
    int, typer.Option("--span-after", metavar="A", min=0, help="Tokens that a high score takes along behind it.")
]
SpanBeforeOption = Annotated[
    int, typer.Option("--span-before", metavar="B", min=0, help="Tokens that it takes along before it.")
]
TiesOption = Annotated[
    Ties | None,
    typer.Option(
        "--ties", help="Which of equal tokens stays. Default: newer; older with --compat.", show_default=False
    ),
]
CompatOption = Annotated[
    Compat | None,
    typer.Option("--compat", help="Do what only the published SirLLM code does.", show_default=False),
]
PositionsOption = Annotated[
    Positions, typer.Option("--positions", help="Positions of the tokens that stay: re-numbered, or as they were.")
]
SeedOption = Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**64 - 1, help="Seed of `random`.")]
TemplateOption = Annotated[
    Template, typer.Option("--template", help="For texts. auto: the model's chat template if it has one, else vicuna.")
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="auto: float32 on the CPU, the checkpoint's own on a GPU.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda|cuda:N", help="Where to compute.")]


@app.callback(invoke_without_command=True)
def _stream(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command("replay", epilog=REPLAY_EXAMPLES)
def replay_command(
    turns: Annotated[
        str | None,
        typer.Argument(
            metavar="TURNS",
            help="Table with dialogue_id and turn and token_ids or text, or dialogue_id and messages; `-` is stdin, the"
            " default in a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    model: ModelOption = "nano",
    policy: PolicyOption = "sirllm",
    preset: PresetOption = None,
    score: ScoreOption = Score.SURPRISAL,
    first_token: FirstTokenOption = FirstToken.CARRIED,
    sinks: SinksOption = None,
    entropy_tokens: EntropyOption = None,
    recent: RecentOption = None,
    decay: DecayOption = None,
    span_after: SpanAfterOption = 0,
    span_before: SpanBeforeOption = 0,
    ties: TiesOption = None,
    compat: CompatOption = None,
    positions: PositionsOption = Positions.CACHE,
    seed: SeedOption = 0,
    template: TemplateOption = Template.AUTO,
    dtype: DtypeOption = Dtype.AUTO,
    device: DeviceOption = "auto",
    out: _pipes.OutOption = None,
    table_format: _pipes.FormatOption = None,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Show what a cache would remember of given dialogues.

    Feeds each dialogue turn by turn, evicting as a live dialogue would, and generates nothing. Output: one row a turn
    with dialogue_id, turn, cache_tokens_before, kept (original positions that survived the turn's last eviction, null
    where there was none), entropy_nats (one value a token) and cache_tokens_after.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    origin = _pipes.input_argument(turns)
    _pipes.output_format(out, table_format)
    _pipes.ensure_writable(out)
    _pipes.ensure_distinct({"--out": out, "--report": report}, {"the input": origin})
    _pipes.ensure_writable(report, "--report")

    from pyllm.data.tables import read_table
    from pyllm.lm.sources import find_model
    from pyllm.stream.settings import StreamSettings

    budget, ratio = _budget(preset, sinks, entropy_tokens, recent, decay)
    settings = StreamSettings(
        policy=policy,
        budget=budget,
        score=score.value,
        first_token=first_token.value,
        decay=ratio,
        span_after=span_after,
        span_before=span_before,
        ties=None if ties is None else ties.value,
        positions=positions.value,
        reference=compat is Compat.REFERENCE,
        seed=seed,
    )
    _check_policy(settings)
    source = find_model(model)
    table, steps = read_table(origin)

    from pyllm.stream.replay import replay
    from pyllm.stream.turns import read_turns

    loaded = _load(source, dtype, device)
    config = loaded.model.config.get_text_config()
    found = read_turns(
        table,
        _pipes.input_name(origin),
        vocabulary=int(config.vocab_size),
        tokenizer=lambda: _tokenizer(source),
        template=template.value,
    )
    with console.progress() as progress:
        done = replay(loaded, found, settings, progress=progress, check=_stop_without_reader)
    from pyllm.provenance import step

    facts = {"settings": settings.as_dict(), "template": template.value, "weights_sha256": source.weights_sha256()}
    _pipes.write_report(report, done.report)
    _pipes.write_output(done.table, out, table_format, [*steps, step("stream replay", **facts)])


def _budget(
    preset: PresetName | None, sinks: int | None, entropy: int | None, recent: int | None, decay: float | None
) -> tuple["Budget", float]:
    """The budget and decay of the preset or of the defaults, with what was given in their place."""
    from pyllm.stream.settings import PRESETS, Budget

    start = Budget() if preset is None else PRESETS[preset.value].budget
    ratio = 1.0 if preset is None else PRESETS[preset.value].decay
    budget = Budget(
        start.sinks if sinks is None else sinks,
        start.entropy if entropy is None else entropy,
        start.recent if recent is None else recent,
    )
    return budget, ratio if decay is None else decay


def _check_policy(settings: "StreamSettings") -> None:
    """Find a wrong name before anything is loaded, and say which options the policy has no use for.

    Raises:
        SettingError: There is no such policy.
    """
    from pyllm.stream.policies import POLICY_NAMES, SCORED_POLICIES, policy_of

    # A policy of one's own stands in the working folder, where an installed program does not look.
    sys.path.insert(0, str(Path.cwd()))
    try:
        policy_of(settings)
    finally:
        sys.path.pop(0)
    name = settings.policy
    if name in POLICY_NAMES and name != "sirllm" and settings.decay != 1.0:
        _logger.warning("`--decay` has no part in policy `%s`", name)
    if name in POLICY_NAMES and name not in SCORED_POLICIES and settings.span_after + settings.span_before:
        _logger.warning("spans have no part in policy `%s`, which gives tokens no scores", name)


def _load(source: "ModelSource", dtype: Dtype, device: str) -> "StreamModel":
    from pyllm.lm.loading import choose_device, choose_dtype, load_config
    from pyllm.stream.model import load_stream_model

    place = choose_device(device)
    return load_stream_model(source, device=place, dtype=choose_dtype(dtype.value, place, load_config(source)))


def _tokenizer(source: "ModelSource") -> Any:
    from pyllm.lm.loading import load_tokenizer

    return load_tokenizer(source)


def _stop_without_reader() -> None:
    """End early when the reader of stdout has gone."""
    if _pipes.reader_gone():
        raise BrokenPipeError
