"""Ending long work at a good moment: what Ctrl-C and SIGTERM ask for is done between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StoppedBySignal(KeyboardInterrupt):
    """A signal asked the command to stop, and it did, with everything saved.

    Args:
        number: The signal.
        hint: How to go on.
    """

    def __init__(self, number: int, hint: str) -> None:
        super().__init__(hint)
        self.number = number


class Stop:
    """Whether a signal has asked for an end, and which."""

    def __init__(self) -> None:
        self.signal = 0

    def is_requested(self) -> bool:
        """Whether to stop at the next good moment."""
        return self.signal != 0


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Take the first Ctrl-C or SIGTERM as a wish to stop soon; a second Ctrl-C interrupts at once."""
    stop = Stop()

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and stop.signal:
            raise KeyboardInterrupt
        stop.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
