"""`toolkit stream chat`: the command, and the conversation in a plain pipe. The terminal's is `_chat_terminal`."""

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _models, _pipes, _stream_options
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import InputError, SettingError

if TYPE_CHECKING:
    from pyllm.stream.chat import Chat

_logger = logging.getLogger("pyllm.stream")

CHAT_EXAMPLES = """\b
Examples:
  toolkit stream chat --model path/to/model --cache 1024
  toolkit stream chat --model org/name --cache 512 --session talks/monday --system 'You are brief.'
  toolkit stream chat --model org/name --preset paper-dailydialog --score as-published --compat reference
  toolkit stream chat --model nano --span-after 4 --decay 0.9 --temperature 0.7 --top-p 0.9 --seed 5
  echo '{"content": "Hello"}' | toolkit stream chat --model nano --max-new-tokens 32
"""

_FIELD = "content"


def chat_command(
    *,
    model: _stream_options.ModelOption = "nano",
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
    max_new_tokens: _stream_options.MaxNewTokensOption = 256,
    temperature: _stream_options.TemperatureOption = 0.0,
    top_p: _stream_options.TopPOption = 1.0,
    seed: _stream_options.AnswerSeedOption = 0,
    session: Annotated[
        Path | None,
        typer.Option(
            "--session",
            metavar="DIR",
            help="Keep the dialogue in this folder, turn by turn, and go on with what is there.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT", help="Stands before everything and is never evicted.", show_default=False
        ),
    ] = None,
    template: _stream_options.AnswerTemplateOption = _stream_options.AnswerTemplate.AUTO,
    dtype: _models.DtypeOption = _models.Dtype.AUTO,
    device: _models.DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Talk with a model that forgets what mattered least.

    On a terminal: type, and `/help` names the commands; Ctrl-C stops an answer. In a pipe: an object with `content` a
    line in, an object with `content` and `cache_tokens` a line out. C = sinks + entropy tokens + recent tokens.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    on_terminal = _on_terminal()
    budget = _stream_options.chat_budget(cache, sinks, entropy_tokens, recent, preset=preset)
    fading = _stream_options.fading(decay, horizon_turns, preset)
    _stream_options.check_top_p(top_p)

    from pyllm.lm.sources import find_model

    settings = _stream_options.live_settings(
        policy=policy, budget=budget, score=score, first_token=first_token, fading=fading, span_after=span_after,
        span_before=span_before, ties=ties, positions=positions, compat=compat, preset=preset, seed=seed,
    )  # fmt: skip
    source = find_model(model)

    from pyllm.stream.chat import Chat
    from pyllm.stream.dialogue import limit_warning
    from pyllm.stream.generation import Sampling, Voice
    from pyllm.stream.session import Session, session_facts

    sampling = Sampling(temperature, top_p, max_new_tokens)
    loaded = _stream_options.load_model(source, dtype, device)
    voice = Voice(_stream_options.tokenizer_of(source), loaded, template.value)
    warning = limit_warning(loaded, settings)
    if warning is not None:
        _logger.warning("%s", warning)

    def start(opened: Session | None, said: str | None) -> Chat:
        return Chat(loaded, settings, voice, sampling, seed=seed, block=evict_block, system=said, session=opened)

    with contextlib.ExitStack() as opened:

        def open_session(folder: Path) -> Session:
            found = Session(folder, session_facts(source, loaded, settings, voice.template))
            opened.callback(found.close)
            return found

        chat = start(None if session is None else open_session(session), system)
        if not on_terminal:
            talk_in_pipe(chat)
            return

        from pyllm.cli._chat_terminal import Talk

        facts = {
            "model": f"{model}, {str(loaded.model.dtype).removeprefix('torch.')} on {loaded.device}",
            "answers": f"at most {max_new_tokens:,} tokens, temperature {temperature:g}, top-p {top_p:g}, seed {seed}",
        }
        Talk(chat, open_session=open_session, start=start, facts=facts, console=console).run()


def _on_terminal() -> bool:
    if sys.stdin is None:
        raise SettingError("no input: stdin is closed", hint="pipe lines into this command, or use a terminal")
    if not sys.stdin.isatty():
        return False
    if not _pipes.stdout_is_terminal():
        raise SettingError("stdin is a terminal and stdout is not", hint="pipe lines with `content` into this command")
    return True


def talk_in_pipe(chat: "Chat") -> None:
    """Answer questions line by line: each is answered, and saved, before the next is read.

    Raises:
        InputError: A line is no question; the message has its number.
        BrokenPipeError: The reader has gone.
    """
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        question = _question(line, number)
        answer = chat.ask(question, stopped=_reader_gone)
        row = {"content": answer.text, "cache_tokens": answer.cache_tokens}
        _pipes.write_stdout(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def _question(line: bytes, number: int) -> str:
    place = f"standard input: line {number}"
    try:
        value: Any = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{place} is no JSON object", hint='write {"content": "..."} on every line')
    others = sorted(value.keys() - {_FIELD})
    if others:
        raise InputError(f"{place} has a field `{others[0]}` that is not known", hint=f"give `{_FIELD}` alone")
    text = value.get(_FIELD)
    if not isinstance(text, str) or not text:
        raise InputError(f"{place} has no text as its `{_FIELD}`")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{place}: `{_FIELD}` holds half a character") from error
    return text


def _reader_gone() -> bool:
    """Never says so: without a reader, the turn ends at once and does not count."""
    _pipes.stop_without_reader()
    return False
