"""A conversation on a terminal: questions are typed, answers appear as they are made, `/help` names the commands.

What a model says is shown without the control characters that could steer a terminal.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyllm.cli import _console, _pipes, _stream_options
from pyllm.cli._chat_switch import switched
from pyllm.cli._console import Console
from pyllm.cli._signals import StoppedBySignal, stop_between_steps
from pyllm.cli._tables import Column, draw_table, readable
from pyllm.errors import InputError, PyllmError, SettingError

if TYPE_CHECKING:
    from pyllm.stream.chat import Chat
    from pyllm.stream.past import SeenToken
    from pyllm.stream.session import Session

_PROMPT = "> "
_SHOWN_TOKENS = 12
_HELP = """\
/memory              what is held, by turn
/why                 the held tokens that count most, and what went last
/pin WHAT            keep tokens whatever comes; `/pin off` lets all of them leave again
/forget WHAT         take tokens out of the cache at once
/save [DIR]          save the dialogue in a folder, and keep it there from then on
/load DIR            go on with the dialogue of a folder
/policy              what decides who stays
/policy NAME [K=V]   let another policy decide from now on, or the same with other settings (`/policy decay=0.9`)
/help                this
/quit                leave; so does Ctrl-D

WHAT is turns (`/pin 1 3`) or original positions (`/pin @40 @60-72`).
Ctrl-C stops an answer; a second one, before it has stopped, ends the program.
A question that begins with a slash takes a space before it.
"""


class Talk:
    """The conversation of one terminal.

    Args:
        chat: The conversation.
        open_session: Opens a session folder.
        start: Makes a conversation of a session and a system text.
        facts: What `/policy` shows beside the policy, by name.
        console: How talkative it is.
    """

    def __init__(
        self,
        chat: "Chat",
        *,
        open_session: "Callable[[Path], Session]",
        start: "Callable[[Session | None, str | None], Chat]",
        facts: dict[str, str],
        console: Console,
    ) -> None:
        self._chat = chat
        self._open_session, self._start = open_session, start
        self._facts = facts
        self._console = console
        self._commands: dict[str, Callable[[Sequence[str]], None]] = {
            "/memory": self._memory,
            "/why": self._why,
            "/pin": self._pin,
            "/forget": self._forget,
            "/save": self._save,
            "/load": self._load,
            "/policy": self._policy,
            "/help": lambda _: _write(_HELP),
        }

    def run(self) -> None:
        """Talk until the person leaves.

        Raises:
            StoppedBySignal: The process was told to end.
        """
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives `input` its history and its editing keys)
        self._welcome()
        while True:
            try:
                line = input(_PROMPT)
            except EOFError:
                _write("\n")
                return
            except KeyboardInterrupt:
                _write("\n")
                self._console.hint("Ctrl-D or /quit leaves")
                continue
            if line.startswith("/"):
                name, *words = line.split()
                if name == "/quit":
                    return
                self._command(name, words)
            elif line.strip():
                self._ask(line.strip())

    def _welcome(self) -> None:
        chat = self._chat
        gone_on = f"; going on behind turn {chat.turns:,}" if chat.turns else ""
        self._console.say(f"{self._facts['model']}; {self._kept_by()}{gone_on}; /help names the commands")

    def _kept_by(self) -> str:
        settings, evicts = self._chat.dialogue.settings, self._chat.dialogue.memory.evicts
        return f"{settings.policy}, {settings.budget.tokens:,} tokens" if evicts else f"{settings.policy}, no limit"

    def _ask(self, text: str) -> None:
        with stop_between_steps() as stop:
            try:
                answer = self._chat.ask(text, show=lambda part: _write(_safe(part)), stopped=stop.is_requested)
            except InputError as error:
                _console.error(error.message, hint=error.hint)
                return
        _write("" if answer.text.endswith("\n") else "\n")
        ends = {"end": "", "length": ", cut at its most tokens", "stopped": ", stopped"}
        held = f"{answer.cache_tokens:,} of {self._chat.seen_tokens:,} tokens held"
        self._console.say(_dim(f"[turn {self._chat.turns:,}: {held}{ends[answer.ended]}]"))
        if stop.signal == signal.SIGTERM:
            raise StoppedBySignal(stop.signal, "what was said before is remembered" if self._chat.session else "")

    def _command(self, name: str, words: Sequence[str]) -> None:
        try:
            if name not in self._commands:
                raise SettingError(f"command `{readable(name)}` is unknown", hint="/help names the commands")
            self._commands[name](words)
        except PyllmError as error:
            _console.error(error.message, hint=error.hint)

    def _memory(self, _: Sequence[str]) -> None:
        turns = self._chat.past.held_turns()
        if not turns:
            _write("nothing is held yet\n")
            return
        columns = [
            Column("turn", "number"),
            Column("held", "number"),
            Column("of", "number"),
            Column("pinned", "number"),
        ]
        rows = [
            [f"{each.turn}", f"{each.held}", f"{each.tokens}", f"{each.pinned}", readable(each.text)] for each in turns
        ]
        _write(draw_table([*columns, Column("text")], rows, terminal=True))
        _write(f"{self._chat.cache_tokens:,} of {self._chat.seen_tokens:,} tokens are held ({self._kept_by()})\n")

    def _why(self, _: Sequence[str]) -> None:
        held = self._chat.past.most_surprising(_SHOWN_TOKENS)
        if not held:
            _write("nothing is held yet\n")
            return
        _write("held, most surprising first:\n" + _table(held))
        gone = len(self._chat.past.gone)
        if gone:
            _write(f"the last {gone:,} that went, most surprising first:\n")
            _write(_table(self._chat.past.last_gone(_SHOWN_TOKENS)))
        else:
            _write("nothing has gone yet\n")

    def _pin(self, words: Sequence[str]) -> None:
        if list(words) == ["off"]:
            self._chat.unpin()
            _write("nothing is pinned now\n")
            return
        pinned = self._chat.pin(self._positions("/pin", words))
        _write(f"{pinned:,} of these tokens are held, and pinned now\n")

    def _forget(self, words: Sequence[str]) -> None:
        gone = self._chat.forget(self._positions("/forget", words))
        _write(f"{gone:,} of these tokens were held, and are gone now\n")

    def _positions(self, command: str, words: Sequence[str]) -> list[int]:
        hint = f"`{command} 1 3` names turns, `{command} @40 @60-72` positions"
        if not words:
            raise SettingError(f"{command} what?", hint=hint)
        positions: list[int] = []
        for word in words:
            first, dash, last = word.removeprefix("@").partition("-")
            last = last if dash else first
            if not (first.isascii() and first.isdecimal() and last.isascii() and last.isdecimal()):
                raise SettingError(f"`{readable(word)}` is no turn and no position", hint=hint)
            if word.startswith("@"):
                positions += range(int(first), min(int(last) + 1, self._chat.seen_tokens))
            else:
                # A last turn that never was is named in the error; those behind it need not be.
                for turn in range(int(first), min(int(last), max(int(first), self._chat.turns + 1)) + 1):
                    positions += self._chat.past.positions_of(turn)
        return positions

    def _save(self, words: Sequence[str]) -> None:
        chat = self._chat
        if not words:
            if chat.session is None:
                raise SettingError("there is no folder to save in", hint="/save DIR")
            _write(f"everything up to turn {chat.turns:,} is in {chat.session.folder}\n")
            return
        opened = self._open_session(self._other_folder(words))
        try:
            chat.save_to(opened)
        except PyllmError:
            opened.close()
            raise
        _write(f"saved in {opened.folder}, and from now on after every turn\n")

    def _other_folder(self, words: Sequence[str]) -> Path:
        folder = Path(" ".join(words)).expanduser()
        session = self._chat.session
        if session is not None and session.folder.resolve() == folder.resolve():
            raise SettingError(f"session `{folder}` is the one that is open here")
        return folder

    def _load(self, words: Sequence[str]) -> None:
        if not words:
            raise SettingError("there is no folder to load from", hint="/load DIR")
        from pyllm.stream.log import METADATA

        folder = self._other_folder(words)
        if not (folder / METADATA).is_file():
            raise InputError(f"folder `{folder}` holds no session")
        opened = self._open_session(folder)
        try:
            chat = self._start(opened, None)
        except PyllmError:
            opened.close()
            raise
        if self._chat.session is not None:
            self._chat.session.close()
        self._chat = chat
        _write(f"going on behind turn {chat.turns:,} of {folder}\n")

    def _policy(self, words: Sequence[str]) -> None:
        if words:
            from pyllm.stream.dialogue import limit_warning

            settings = switched(self._chat.dialogue.settings, words)
            _stream_options.check_policy(settings)
            self._chat.switch(settings)
            warning = limit_warning(self._chat.dialogue.model, settings)
            if warning is not None:
                self._console.say(f"warning: {warning}")
        settings = self._chat.dialogue.settings
        budget, horizon = settings.budget, settings.horizon_turns
        facts = {
            "policy": self._kept_by(),
            "budget": f"{budget.sinks:,} sinks, {budget.entropy:,} for their score, {budget.recent:,} recent",
            "decay": f"{settings.decay:g} a turn" if horizon is None else f"auto, for a horizon of {horizon:,} turns",
            "spans": f"{settings.span_after} after, {settings.span_before} before",
            "positions": settings.positions,
            **self._facts,
        }
        _write("".join(f"{name:<10} {value}\n" for name, value in facts.items()))


def _table(tokens: "Sequence[SeenToken]") -> str:
    columns = [Column("position", "number"), Column("turn", "number"), Column("nats", "number"), Column("token")]
    rows = [[f"{each.position}", f"{each.turn}", f"{each.nats:.2f}", readable(repr(each.text))] for each in tokens]
    return draw_table(columns, rows, terminal=True)


def _safe(text: str) -> str:
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


def _dim(text: str) -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not _console.stderr_is_terminal()
    return text if plain else f"\x1b[2m{text}\x1b[0m"


def _write(text: str) -> None:
    sys.stdout.flush()
    _pipes.write_stdout_text(text)
