"""Options that the commands of `toolkit stream` share, and what they mean."""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pyllm.lm.sources import ModelSource
    from pyllm.stream.model import StreamModel
    from pyllm.stream.settings import Budget, StreamSettings

_logger = logging.getLogger("pyllm.stream")


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


def budget_of(
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


def check_policy(settings: "StreamSettings") -> None:
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


def load_model(source: "ModelSource", dtype: Dtype, device: str) -> "StreamModel":
    from pyllm.lm.loading import choose_device, choose_dtype, load_config
    from pyllm.stream.model import load_stream_model

    place = choose_device(device)
    return load_stream_model(source, device=place, dtype=choose_dtype(dtype.value, place, load_config(source)))


def tokenizer_of(source: "ModelSource") -> Any:
    from pyllm.lm.loading import load_tokenizer

    return load_tokenizer(source)
