"""`toolkit stream chat`: the command, and the conversation in a plain pipe. The terminal's is `_chat_terminal`."""

import contextlib
import json
import logging
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyllm.cli import _pipes, _stream_options
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import InputError, SettingError

if TYPE_CHECKING:
    from pyllm.stream.chat import Chat
    from pyllm.stream.settings import Budget

_logger = logging.getLogger("pyllm.stream")

CHAT_EXAMPLES = """\b
Examples:
  toolkit stream chat --model path/to/model --cache 1024
  toolkit stream chat --model org/name --cache 512 --session talks/monday --system 'You are brief.'
  toolkit stream chat --model nano --span-after 4 --decay 0.9 --temperature 0.7 --top-p 0.9 --seed 5
  echo '{"content": "Hello"}' | toolkit stream chat --model nano --max-new-tokens 32
"""

_CACHE_TOKENS, _SINKS, _RECENT = 1024, 4, 32
_FIELD = "content"


class AnswerTemplate(StrEnum):
    """How questions and answers are written."""

    AUTO = "auto"
    CHAT = "chat"
    VICUNA = "vicuna"


def chat_command(
    *,
    model: _stream_options.ModelOption = "nano",
    cache: Annotated[
        int | None,
        typer.Option(
            "--cache", metavar="C", min=1, help="Most tokens in the cache. Default: 1024.", show_default=False
        ),
    ] = None,
    policy: _stream_options.PolicyOption = "sirllm",
    sinks: _stream_options.SinksOption = None,
    entropy_tokens: Annotated[
        int | None,
        typer.Option(
            "--entropy-tokens",
            metavar="E",
            min=0,
            help="Tokens kept for their score. Default: what the cache has beside the others.",
            show_default=False,
        ),
    ] = None,
    recent: _stream_options.RecentOption = None,
    decay: _stream_options.DecayOption = None,
    span_after: _stream_options.SpanAfterOption = 0,
    span_before: _stream_options.SpanBeforeOption = 0,
    positions: _stream_options.PositionsOption = _stream_options.Positions.CACHE,
    evict_block: Annotated[
        int,
        typer.Option(
            "--evict-block", metavar="B", min=1, help="Tokens that an answer makes room for at once, in a full cache."
        ),
    ] = 32,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Most tokens of an answer.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", min=0, help="0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option("--top-p", metavar="P", help="Choose among the likeliest tokens of this share.")
    ] = 1.0,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, max=2**64 - 1, help="Seed of answers and of policy `random`.")
    ] = 0,
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
    template: Annotated[
        AnswerTemplate,
        typer.Option("--template", help="auto: the model's chat template if it has one, else vicuna."),
    ] = AnswerTemplate.AUTO,
    dtype: _stream_options.DtypeOption = _stream_options.Dtype.AUTO,
    device: _stream_options.DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Talk with a model that forgets what mattered least.

    On a terminal: type, and `/help` names the commands; Ctrl-C stops an answer. In a pipe: an object with `content` a
    line in, an object with `content` and `cache_tokens` a line out. C = sinks + entropy tokens + recent tokens.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    on_terminal = _on_terminal()
    budget = chat_budget(cache, sinks, entropy_tokens, recent)
    if not 0.0 < top_p <= 1.0:
        raise SettingError(f"top-p is {top_p}: it must be above 0 and at most 1")

    from pyllm.lm.sources import find_model
    from pyllm.stream.settings import StreamSettings

    settings = StreamSettings(
        policy=policy,
        budget=budget,
        decay=1.0 if decay is None else decay,
        span_after=span_after,
        span_before=span_before,
        positions=positions.value,
        # Another seed must not keep a dialogue from going on where no policy draws.
        seed=seed if policy == "random" else 0,
    )
    _stream_options.check_policy(settings)
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


def chat_budget(cache: int | None, sinks: int | None, entropy: int | None, recent: int | None) -> "Budget":
    """The parts of a cache of `--cache` tokens.

    Raises:
        SettingError: The parts that were given are not those of such a cache.
    """
    from pyllm.stream.settings import Budget

    first = _SINKS if sinks is None else sinks
    newest = _RECENT if recent is None else recent
    if entropy is None:
        tokens = _CACHE_TOKENS if cache is None else cache
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
    if _pipes.reader_gone():
        raise BrokenPipeError
    return False
