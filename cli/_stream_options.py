"""Options that the commands of `toolkit stream` share, and what they mean."""

import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _models
from pyllm.errors import SettingError

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


class AnswerTemplate(StrEnum):
    """How questions and answers are written."""

    AUTO = "auto"
    CHAT = "chat"
    VICUNA = "vicuna"


ModelOption = Annotated[str, typer.Option("--model", metavar="M", help="A folder, a hub id, or the embedded `nano`.")]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        metavar="NAME|MODULE:ATTRIBUTE",
        help="Who stays: full, window, streaming, random, interval, interval-literal, sirllm, h2o, tova, keydiff,"
        " snapkv, or your own.",
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


def _decay(text: str) -> str:
    try:
        fits = text == "auto" or 0.0 <= float(text) <= 1.0
    except ValueError:
        fits = False
    if not fits:
        message = f"{text} is neither `auto` nor a number from 0 to 1"
        raise typer.BadParameter(message)
    return text


DecayOption = Annotated[
    str | None,
    typer.Option(
        "--decay",
        metavar="D|auto",
        parser=_decay,
        help="Factor on all scores once a turn; auto follows from --horizon-turns. Default: 1.",
        show_default=False,
    ),
]
HorizonOption = Annotated[
    int | None,
    typer.Option(
        "--horizon-turns",
        metavar="H",
        min=1,
        help="How many turns back --decay auto is to remember. Default: 20.",
        show_default=False,
    ),
]
SpanAfterOption = Annotated[
    int, typer.Option("--span-after", metavar="A", min=0, help="Tokens that a high score takes along behind it.")
]
LiveSpanAfterOption = Annotated[
    int | None,
    typer.Option(
        "--span-after",
        metavar="A",
        min=0,
        help="Tokens that a high score takes along behind it. Default: 8 for sirllm by surprisal, else 0; with a preset"
        " of the paper 0.",
        show_default=False,
    ),
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
CacheOption = Annotated[
    int | None,
    typer.Option(
        "--cache",
        metavar="C",
        min=1,
        help="Most tokens in the cache. Default: 1024, or the preset's.",
        show_default=False,
    ),
]
RestEntropyOption = Annotated[
    int | None,
    typer.Option(
        "--entropy-tokens",
        metavar="E",
        min=0,
        help="Tokens kept for their score. Default: what the cache has beside the others.",
        show_default=False,
    ),
]
EvictBlockOption = Annotated[
    int,
    typer.Option(
        "--evict-block", metavar="B", min=1, help="Tokens that an answer makes room for at once, in a full cache."
    ),
]
MaxNewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Most tokens of an answer.")
]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", metavar="T", min=0, help="0 always takes the likeliest token.")
]
TopPOption = Annotated[
    float, typer.Option("--top-p", metavar="P", help="Choose among the likeliest tokens of this share.")
]
AnswerSeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, max=2**64 - 1, help="Seed of answers and of policy `random`.")
]
AnswerTemplateOption = Annotated[
    AnswerTemplate, typer.Option("--template", help="auto: the model's chat template if it has one, else vicuna.")
]


def budget_of(preset: PresetName | None, sinks: int | None, entropy: int | None, recent: int | None) -> "Budget":
    """The budget of the preset or of the defaults, with what was given in its place."""
    from pyllm.stream.settings import PRESETS, Budget

    start = Budget() if preset is None else PRESETS[preset.value].budget
    return Budget(
        start.sinks if sinks is None else sinks,
        start.entropy if entropy is None else entropy,
        start.recent if recent is None else recent,
    )


def fading(decay: str | None, horizon_turns: int | None, preset: PresetName | None = None) -> dict[str, Any]:
    """What `--decay`, `--horizon-turns` and the preset say of how scores fade, as `StreamSettings` takes it.

    Raises:
        SettingError: A horizon is given for a fixed factor.
    """
    from pyllm.stream.settings import DEFAULT_HORIZON_TURNS, PRESETS

    if decay == "auto":
        return {"horizon_turns": DEFAULT_HORIZON_TURNS if horizon_turns is None else horizon_turns}
    if horizon_turns is not None:
        raise SettingError(f"`--horizon-turns {horizon_turns}` has no part in a fixed decay", hint="add --decay auto")
    if decay is not None:
        return {"decay": float(decay)}
    return {"decay": 1.0 if preset is None else PRESETS[preset.value].decay}


def live_span_after(given: int | None, policy: str, score: Score = Score.SURPRISAL, *, published: bool = False) -> int:
    """Tokens that a high score takes along in a dialogue that is answered.

    Args:
        given: What was asked for; None where nothing was.
        policy: The policy.
        score: What a token is worth to it.
        published: Whether the paper's own settings were asked for.
    """
    from pyllm.stream.settings import LIVE_SPAN_AFTER

    if given is not None:
        return given
    return LIVE_SPAN_AFTER if policy == "sirllm" and score is Score.SURPRISAL and not published else 0


def live_settings(
    *,
    policy: str,
    budget: "Budget",
    score: Score,
    first_token: FirstToken,
    fading: dict[str, Any],
    span_after: int | None,
    span_before: int,
    ties: Ties | None,
    positions: Positions,
    compat: Compat | None,
    preset: PresetName | None,
    seed: int,
) -> "StreamSettings":
    """What the options of a dialogue that is answered say, checked.

    Raises:
        SettingError: They contradict each other, or there is no such policy.
    """
    from pyllm.stream.settings import StreamSettings

    settings = StreamSettings(
        policy=policy,
        budget=budget,
        score=score.value,
        first_token=first_token.value,
        **fading,
        span_after=live_span_after(span_after, policy, score, published=preset is not None or compat is not None),
        span_before=span_before,
        ties=None if ties is None else ties.value,
        positions=positions.value,
        reference=compat is Compat.REFERENCE,
        # Another seed must not keep a dialogue from going on where no policy draws.
        seed=seed if policy == "random" else 0,
    )
    check_policy(settings)
    return settings


def chat_budget(
    cache: int | None,
    sinks: int | None,
    entropy: int | None,
    recent: int | None,
    *,
    preset: PresetName | None = None,
) -> "Budget":
    """The parts of a cache of `--cache` tokens.

    Raises:
        SettingError: The parts that were given are not those of such a cache.
    """
    from pyllm.stream.settings import PRESETS, Budget

    start = Budget() if preset is None else PRESETS[preset.value].budget
    first = start.sinks if sinks is None else sinks
    newest = start.recent if recent is None else recent
    if entropy is None:
        tokens = start.tokens if cache is None else cache
        if first + newest > tokens:
            raise SettingError(
                f"a cache of {tokens:,} tokens cannot hold {first} sinks and {newest} recent tokens",
                hint="give a larger --cache, or a smaller --sinks and --recent",
            )
        return Budget(first, tokens - first - newest, newest)
    made = Budget(first, entropy, newest)
    if cache is not None and made.tokens != cache:
        raise SettingError(
            f"`--cache {cache}` is not the {made.tokens:,} of sinks ({first}), entropy tokens ({entropy}) and recent"
            f" ({newest})",
            hint="leave out --cache or --entropy-tokens",
        )
    return made


def check_top_p(top_p: float) -> None:
    """Refuse a share that is none, before anything is loaded."""
    if not 0.0 < top_p <= 1.0:
        raise SettingError(f"top-p is {top_p}: it must be above 0 and at most 1")


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
    if name in POLICY_NAMES and name != "sirllm" and (settings.decay != 1.0 or settings.horizon_turns is not None):
        _logger.warning("`--decay` has no part in policy `%s`", name)
    if name in POLICY_NAMES and name not in SCORED_POLICIES and settings.span_after + settings.span_before:
        _logger.warning("spans have no part in policy `%s`, which gives tokens no scores", name)


def load_model(source: "ModelSource", dtype: _models.Dtype, device: str) -> "StreamModel":
    from pyllm.lm.loading import choose_device, choose_dtype, load_config
    from pyllm.stream.model import load_stream_model

    place = choose_device(device)
    return load_stream_model(source, device=place, dtype=choose_dtype(dtype.value, place, load_config(source)))


def tokenizer_of(source: "ModelSource") -> Any:
    from pyllm.lm.loading import load_tokenizer

    return load_tokenizer(source)
