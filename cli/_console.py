"""What people see on stderr: log lines, errors and hints, progress.

stderr is for people, stdout for data: nothing here writes to stdout. Rich is imported only when a bar is drawn.
"""

import contextlib
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.errors import SettingError

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings and errors.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show details: every DEBUG line of the log.")]

_RED, _YELLOW, _GREEN, _CYAN = "\x1b[1;31m", "\x1b[1;33m", "\x1b[32m", "\x1b[36m"
_DIM, _RESET = "\x1b[2m", "\x1b[0m"
_LINE_EVERY_SECONDS = 30.0
_RATE_WINDOW_SECONDS = 60.0
_BAR_REFRESH_PER_SECOND = 4
_MARGIN = 3

_logger = logging.getLogger("pyllm.progress")


class Console:
    """How talkative one command is. Made by `open_console`, once per command."""

    def __init__(self, *, quiet: bool, verbose: bool) -> None:
        self.quiet = quiet
        self.verbose = verbose

    def say(self, text: str = "") -> None:
        """Print text for people on stderr, unless the user asked for quiet."""
        if not self.quiet:
            _print(text)

    def hint(self, text: str) -> None:
        """Print what to do next on stderr, unless the user asked for quiet."""
        if not self.quiet:
            _print(_paint("hint:", _CYAN) + f" {text}")

    @contextmanager
    def progress(self) -> Iterator["RichProgress"]:
        """A progress listener that leaves the terminal as it was, whatever happens inside the `with` block."""
        listener = RichProgress(drawn=not self.quiet and stderr_is_terminal(), quiet=self.quiet)
        try:
            yield listener
        finally:
            listener.finish()


def open_console(*, quiet: bool = False, verbose: bool = False) -> Console:
    """Send the log to stderr at the level that -q and -v ask for.

    Args:
        quiet: Warnings and errors only.
        verbose: DEBUG lines of this package, and warnings that libraries raise in Python.

    Returns:
        The console of this command.

    Raises:
        SettingError: Both were asked for.
    """
    if quiet and verbose:
        raise SettingError("`--quiet` and `--verbose` contradict each other")
    handler = _StderrHandler()
    handler.setFormatter(_PlainFormatter())
    root = logging.getLogger()
    for previous in [each for each in root.handlers if isinstance(each, _StderrHandler)]:
        root.removeHandler(previous)
    root.addHandler(handler)
    level = logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO
    logging.getLogger("pyllm").setLevel(level)
    # Libraries warn in Python about things that the user of a command cannot change; -v shows them.
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.WARNING if verbose else logging.ERROR)
    return Console(quiet=quiet, verbose=verbose)


def error(message: str, *, hint: str | None = None) -> None:
    """Print one error line on stderr, and under it what to try."""
    _print(_paint("error:", _RED) + f" {message}")
    if hint:
        _print(_paint("hint:", _CYAN) + f" {hint}")


def stderr_is_terminal() -> bool:
    """Whether a person watches stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def painted_good(text: str) -> str:
    """Text in the colour of what is as it should be, where a person watches stderr."""
    return _paint(text, _GREEN)


def painted_bad(text: str) -> str:
    """Text in the colour of errors, where a person watches stderr."""
    return _paint(text, _RED)


def _print(text: str) -> None:
    # Nobody is left to tell when stderr itself is gone.
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _paint(text: str, colour: str) -> str:
    plain = not stderr_is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return text if plain else f"{colour}{text}{_RESET}"


class _StderrHandler(logging.Handler):
    """Writes to whatever `sys.stderr` is now, so that lines land above a progress bar and not inside it."""

    def emit(self, record: logging.LogRecord) -> None:
        _print(self.format(record))


class _PlainFormatter(logging.Formatter):
    """`part: message` for news, `part` being the subpackage; `warning: message` for what needs attention."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        package, *parts = record.name.split(".")
        ours = package == "pyllm"
        part = parts[0] if ours and parts else package
        if record.levelno >= logging.WARNING:
            text = text if ours else f"{record.name}: {text}"
            grave = record.levelno >= logging.ERROR
            return (_paint("error:", _RED) if grave else _paint("warning:", _YELLOW)) + f" {text}"
        return _paint(f"{part}:", _DIM) + f" {text}"


class Meter:
    """Counts the work of one stage and knows its recent pace.

    The pace is that of about the last minute, so that a resumed run or a stretch of long rows does not bend it.

    Args:
        total: Units in the whole stage.
        done: Units that were there before it began.
        clock: Seconds that only grow; given by tests.
    """

    def __init__(self, total: int, done: int = 0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = total
        self.done = done
        self._tokens = 0
        self._clock = clock
        self._marks: deque[tuple[float, int, int]] = deque([(clock(), done, 0)])

    def advance(self, units: int, tokens: int = 0) -> None:
        """Count `units` more, which took `tokens` model tokens."""
        self.done += units
        self._tokens += tokens
        now = self._clock()
        # Marks closer than a second apart would only make the window long to walk.
        if len(self._marks) > 1 and now - self._marks[-2][0] < 1.0:
            self._marks.pop()
        self._marks.append((now, self.done, self._tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > _RATE_WINDOW_SECONDS:
            self._marks.popleft()

    def rates(self) -> tuple[float, float]:
        """Units and tokens per second of late; zeros before the first unit."""
        (start, units, tokens), (end, done, all_tokens) = self._marks[0], self._marks[-1]
        seconds = end - start
        if seconds <= 0:
            return 0.0, 0.0
        return (done - units) / seconds, (all_tokens - tokens) / seconds

    def seconds_left(self) -> float | None:
        """Time left at the present pace, or None before there is one."""
        pace, _ = self.rates()
        return None if pace <= 0 else max(self.total - self.done, 0) / pace

    def describe(self, unit: str) -> str:
        """`120 of 2,000 rows (6 %), 11.9 rows/s, 4,120 tokens/s, 2:38 left`."""
        share = 100 * self.done // self.total if self.total else 100
        return ", ".join([f"{self.done:,} of {self.total:,} {unit} ({share} %)", *self.pace(unit)])

    def pace(self, unit: str) -> list[str]:
        """The rates and the time left, each as a short phrase; empty before the first unit."""
        units, tokens = self.rates()
        left = self.seconds_left()
        if left is None:
            return []
        phrases = [f"{_short(units)} {unit}/s"]
        if tokens > 0:
            phrases.append(f"{_short(tokens)} tokens/s")
        if self.done < self.total:
            phrases.append(f"{clock_time(left)} left")
        return phrases


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def clock_time(seconds: float) -> str:
    """`2:38`, `1:02:38` or `3 d 01:02` for a span of time."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days} d {hours_of_day:02}:{minutes:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class RichProgress:
    """Draws `pyllm.progress.Progress` as a bar on a terminal, or logs a plain line now and then elsewhere.

    Use it through `Console.progress`, which ends it on every way out.
    """

    def __init__(self, *, drawn: bool, quiet: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._drawn = drawn
        self._quiet = quiet
        self._clock = clock
        self._bar: RichBar | None = None
        self._task: TaskID | None = None
        self._meter: Meter | None = None
        self._stage = ""
        self._unit = "rows"
        self._note = ""
        self._last_line = 0.0

    def start(self, stage: str, total: int, *, done: int = 0, unit: str = "rows") -> None:
        """Begin a stage of `total` units, of which `done` were there already (a resumed run)."""
        self.finish()
        self._stage, self._unit, self._note = stage, unit, ""
        self._meter = Meter(total, done, clock=self._clock)
        self._last_line = self._clock()
        if self._drawn:
            self._draw()

    def advance(self, units: int, *, tokens: int = 0) -> None:
        """Report `units` more done, at the cost of `tokens` model tokens."""
        if self._meter is None:
            return
        self._meter.advance(units, tokens)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._meter.done, pace=self._pace())
        elif not self._quiet and not self._drawn and self._clock() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = self._clock()
            noted = f", {self._note}" if self._note else ""
            _logger.info("%s %s%s", self._stage, self._meter.describe(self._unit), noted)

    def note(self, text: str) -> None:
        """Show a short text beside the pace."""
        self._note = text

    def finish(self) -> None:
        """End the stage and give the terminal back. Harmless when there is none."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = self._meter = None

    def _pace(self) -> str:
        noted = [self._note] if self._note else []
        return ", ".join([*noted, *self._meter.pace(self._unit)]) if self._meter is not None else ""

    def _draw(self) -> None:
        from rich.console import Console as RichConsole
        from rich.console import RenderableType
        from rich.constrain import Constrain
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = RichConsole(stderr=True)

        class Bar(Progress):
            """A bar that leaves room for the `^C` that a terminal writes behind it, which would break the line."""

            def get_renderable(self) -> RenderableType:
                return Constrain(super().get_renderable(), console.width - _MARGIN)

        if self._meter is None:
            return
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(separator="/"),
            TextColumn(self._unit, markup=False),
            TextColumn("{task.fields[pace]}", markup=False, style="cyan"),
            console=console,
            refresh_per_second=_BAR_REFRESH_PER_SECOND,
            redirect_stdout=False,
            expand=True,
        )
        self._task = self._bar.add_task(self._stage, total=self._meter.total, completed=self._meter.done, pace="")
        self._bar.start()
