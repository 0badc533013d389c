"""The front door: builds the `toolkit` command and owns its exit codes and signals.

Library code raises, commands let it pass, and `main` alone turns what arrives into words and an exit code. SIGPIPE
keeps Python's disposition (ignored) while anything runs, because servers and worker processes need it ignored.
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from pyllm.cli import _console, _pipes
from pyllm.errors import PyllmError

EPILOG = """\b
Examples:
  toolkit score train.jsonl --anchors kmeans:100 --model nano --out scores.parquet
  toolkit shard data/*.jsonl --out shards
  toolkit select scores.parquet --top 1% --out best.parquet
  toolkit pack best.parquet --tokenizer nano --length 512 --out packed
  toolkit score train.jsonl --anchors kmeans:100 --model nano | toolkit select --show

\b
Exit codes:
  0    done
  1    a bug: the traceback is on stderr
  2    the command line or the settings are wrong
  3    the data is wrong
  4    the machine lacks something: a model, a device, a writable folder
  130  interrupted (Ctrl-C)
  141  the reader of the output closed the pipe
  143  terminated (SIGTERM); what was done is saved
"""

EXIT_USAGE = 2
EXIT_SIGNAL = 128
EXIT_READER_GONE = 141

# In the order of the help. A command is a function of its module's name; Groups have commands of their own.
_COMMANDS = (
    *("score", "select", "finetune", "report", "demo"),
    *("generate", "aggregate", "anchors", "pack", "shard", "verify"),
)
_GROUPS = ("judge", "mti", "runs", "stream")

app = typer.Typer(
    name="toolkit",
    help="Find the instruction data worth training on.",
    epilog=EPILOG,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_mounted: set[str] = set()


@app.callback(invoke_without_command=True)
def _toolkit(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    if version:
        import pyllm

        typer.echo(f"pyllm {pyllm.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(EXIT_USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `toolkit` and return its exit code.

    Typer's own runner is passed over, because it answers every broken pipe with exit code 1 and hides where it came
    from.

    Args:
        arguments: The words after `toolkit`; those of this process if None.

    Returns:
        The exit code. Does not return when the reader of stdout has gone: then the process ends by SIGPIPE.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _pipes.reader_gone():
            raise
        _end_by_sigpipe()
    except KeyboardInterrupt as interrupt:
        # A second, impatient Ctrl-C must not cover the message with a traceback.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        number = getattr(interrupt, "number", signal.SIGINT)
        _console.error("interrupted" if number == signal.SIGINT else "terminated", hint=str(interrupt) or None)
        return EXIT_SIGNAL + number
    except PyllmError as error:
        _console.error(error.message, hint=error.hint)
        return error.exit_code
    return code


def _mount(words: list[str]) -> None:
    """Mount the command that is asked for: Typer takes milliseconds for each, so the others stay out of its way."""
    known = (*_COMMANDS, *_GROUPS)
    for name in words[:1] if words and words[0] in known else known:
        if name in _mounted:
            continue
        module = importlib.import_module(f"pyllm.cli.{name}")
        if name in _GROUPS:
            app.add_typer(module.app, name=name)
        else:
            app.command(name, epilog=module.EXAMPLES)(getattr(module, name))
        _mounted.add(name)


def _run(words: list[str]) -> int:
    _mount(words)
    command = typer.main.get_command(app)
    try:
        # Commands that keep their line beside their results, or repeat it in a hint, find it as `context.obj`.
        with command.make_context("toolkit", words, obj=tuple(words)) as context:
            command.invoke(context)
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        # Typer turns Ctrl-C at a question into this.
        raise KeyboardInterrupt from None
    except typer.TyperException as error:
        # Errors of the option parser itself do not say which command they belong to.
        known = f"toolkit {words[0]}" if words and words[0] in _mounted else "toolkit"
        where = getattr(getattr(error, "ctx", None), "command_path", known)
        _console.error(_as_sentence_part(error.format_message()), hint=f"{where} --help")
        return EXIT_USAGE
    return 0


def _as_sentence_part(message: str) -> str:
    """Typer's messages in the form of ours: lower case at the start, no full stop at the end."""
    return message[:1].lower() + message[1:].removesuffix(".")


def _end_by_sigpipe() -> NoReturn:
    """End as a Unix filter does whose reader has gone; bash sees 141."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPIPE])
    os.kill(os.getpid(), signal.SIGPIPE)
    # Not reached: the signal ends the process before `kill` returns.
    os._exit(EXIT_READER_GONE)


if __name__ == "__main__":
    sys.exit(main())
