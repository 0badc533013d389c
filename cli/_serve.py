"""`toolkit stream serve`: conversations over HTTP, for the clients of OpenAI's chat interface."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _models, _stream_options
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.cli._signals import StoppedBySignal
from pyllm.errors import PrerequisiteError, SettingError

if TYPE_CHECKING:
    from pyllm.lm.sources import ModelSource
    from pyllm.stream.serving.server import Door, Serving

_logger = logging.getLogger("pyllm.stream")

SERVE_EXAMPLES = """\b
Examples:
  toolkit stream serve --model path/to/model --cache 1024
  toolkit stream serve --model org/name --cache 512 --conversations talks --port 8080
  API_KEY=... toolkit stream serve --model org/name --host 0.0.0.0 --api-key-env API_KEY
"""


def serve_command(
    *,
    model: _stream_options.ModelOption = "nano",
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Serve the model under this name. Default: the hub id, or the folder's name.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65_535, help="0 takes a free port and says which.")
    ] = 8000,
    conversations: Annotated[
        Path | None,
        typer.Option(
            "--conversations",
            metavar="DIR",
            help="Keep conversations here, turn by turn, and go on with what is there. Default: until the server ends.",
            show_default=False,
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env",
            metavar="VARIABLE",
            help="Answer only requests that carry the key in this environment variable.",
            show_default=False,
        ),
    ] = None,
    allow_no_key: Annotated[
        bool,
        typer.Option("--allow-no-key", help="Listen on an address that others can reach, and answer whoever comes."),
    ] = False,
    cache: _stream_options.CacheOption = None,
    preset: _stream_options.PresetOption = None,
    policy: _stream_options.PolicyOption = "sirllm",
    score: _stream_options.ScoreOption = _stream_options.Score.SURPRISAL,
    first_token: _stream_options.FirstTokenOption = _stream_options.FirstToken.CARRIED,
    sinks: _stream_options.SinksOption = None,
    entropy_tokens: _stream_options.RestEntropyOption = None,
    recent: _stream_options.RecentOption = None,
    decay: _stream_options.DecayOption = None,
    horizon_turns: _stream_options.HorizonOption = None,
    span_after: _stream_options.LiveSpanAfterOption = None,
    span_before: _stream_options.SpanBeforeOption = 0,
    ties: _stream_options.TiesOption = None,
    compat: _stream_options.CompatOption = None,
    positions: _stream_options.PositionsOption = _stream_options.Positions.CACHE,
    evict_block: _stream_options.EvictBlockOption = 32,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="Most tokens of an answer where a request does not say."
        ),
    ] = 256,
    temperature: Annotated[
        float,
        typer.Option("--temperature", metavar="T", min=0, max=2, help="Where a request does not say."),
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", metavar="P", help="Where a request does not say.")] = 1.0,
    seed: _stream_options.AnswerSeedOption = 0,
    template: _stream_options.AnswerTemplateOption = _stream_options.AnswerTemplate.AUTO,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, help="Most answers made at the same time.")] = 16,
    max_conversations: Annotated[
        int,
        typer.Option(
            "--max-conversations", metavar="N", min=1, help="Most conversations in memory; the others wait on disk."
        ),
    ] = 256,
    max_queue: Annotated[
        int,
        typer.Option("--max-queue", metavar="N", min=0, help="Most requests that wait; the next is refused (429)."),
    ] = 256,
    max_request_bytes: Annotated[
        int, typer.Option("--max-request-bytes", metavar="N", min=1, help="Most bytes of a request (else 413).")
    ] = 1 << 20,
    max_prompt_tokens: Annotated[
        int,
        typer.Option("--max-prompt-tokens", metavar="N", min=1, help="Most tokens of a request's messages (else 400)."),
    ] = 32_768,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="Most tokens that a request may ask for (else 400).")
    ] = 4_096,
    grace: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", min=0, help="How long answers may go on after Ctrl-C or SIGTERM."),
    ] = 10.0,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Serve endless conversations to OpenAI's clients.

    POST /v1/chat/completions (with `stream`, and `conversation_id` for a conversation that the server remembers), GET
    /v1/models, GET /health, DELETE /v1/conversations/ID. C = sinks + entropy tokens + recent tokens. Needs the extra
    `serve`.
    """
    open_console(quiet=quiet, verbose=verbose)
    budget = _stream_options.chat_budget(cache, sinks, entropy_tokens, recent, preset=preset)
    fading = _stream_options.fading(decay, horizon_turns, preset)
    _stream_options.check_top_p(top_p)
    key = _key(api_key_env)
    _check_extra()

    from pyllm.lm.sources import find_model

    settings = _stream_options.live_settings(
        policy=policy, budget=budget, score=score, first_token=first_token, fading=fading, span_after=span_after,
        span_before=span_before, ties=ties, positions=positions, compat=compat, preset=preset, seed=seed,
    )  # fmt: skip
    source = find_model(model)

    from pyllm.stream.generation import Sampling
    from pyllm.stream.serving.schema import Limits
    from pyllm.stream.serving.server import Door, Serving

    serving = Serving(
        name=name or (source.folder.resolve().name if Path(model).is_dir() else model),
        settings=settings,
        usual=Sampling(temperature, top_p, max_new_tokens),
        limits=Limits(max_request_bytes, max_prompt_tokens, max_tokens),
        seed=seed,
        block=evict_block,
        rows=batch,
        queue=max_queue,
        conversations=max_conversations,
        folder=conversations,
        key=key,
        grace_seconds=grace,
    )
    with Door(host, port) as door:
        _check_door(door, has_key=key is not None, allow_no_key=allow_no_key)
        number = _serve(door, serving, source, _Loading(template, dtype, device))
    if conversations is None:
        raise StoppedBySignal(number, "conversations are gone; --conversations DIR keeps them")
    raise StoppedBySignal(number, "every finished turn is saved; the same command goes on")


@dataclass(frozen=True, slots=True)
class _Loading:
    """How the model is loaded."""

    template: _stream_options.AnswerTemplate
    dtype: _models.Dtype
    device: str


def _serve(door: "Door", serving: "Serving", source: "ModelSource", loading: _Loading) -> int:
    """Serve until a signal comes, and give it."""
    from pyllm.stream.dialogue import limit_warning
    from pyllm.stream.generation import Voice
    from pyllm.stream.serving.server import app_of, open_worker, serve

    loaded = _stream_options.load_model(source, loading.dtype, loading.device)
    voice = Voice(_stream_options.tokenizer_of(source), loaded, loading.template.value)
    warning = limit_warning(loaded, serving.settings)
    if warning is not None:
        _logger.warning("%s", warning)
    worker, fingerprint = open_worker(loaded, voice, source, serving)

    def ready() -> None:
        _logger.info("serving `%s` at %s/v1 (Ctrl-C ends it)", serving.name, door.url)

    app = app_of(worker, fingerprint, serving, door)
    return serve(worker, app, door, grace_seconds=serving.grace_seconds, ready=ready)


def _check_door(door: "Door", *, has_key: bool, allow_no_key: bool) -> None:
    """Let nobody in by mistake.

    Raises:
        SettingError: Others can reach the address, and nobody said that they may.
    """
    if door.is_loopback or has_key:
        return
    if not allow_no_key:
        raise SettingError(
            f"others can reach `{door.host}`, and no API key is asked for",
            hint="give --api-key-env, listen on 127.0.0.1, or let everyone in with --allow-no-key",
        )
    _logger.warning("whoever can reach `%s` can use this server: no API key is asked for", door.host)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise SettingError(f"environment variable `{variable}` holds no API key: it is not set, or empty")
    return key


def _check_extra() -> None:
    """Find out before anything is loaded.

    Raises:
        PrerequisiteError: The extra is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise PrerequisiteError(
            f"`toolkit stream serve` needs the package {error.name}", hint="pip install 'pyllm[serve]'"
        ) from error
