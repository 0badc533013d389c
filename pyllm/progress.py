"""The one progress protocol: long loops report units done, the shell floor draws them."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Something that listens to a long loop."""

    def start(self, stage: str, total: int, *, done: int = 0, unit: str = "rows") -> None:
        """Begin a stage of `total` units, of which `done` were there already (a resumed run)."""

    def advance(self, units: int, *, tokens: int = 0) -> None:
        """Report `units` more done, at the cost of `tokens` model tokens."""

    def note(self, text: str) -> None:
        """Give a short text to stand beside the stage, such as the present loss; it replaces the one before."""

    def finish(self) -> None:
        """End the stage."""


class _NoProgress:
    def start(self, stage: str, total: int, *, done: int = 0, unit: str = "rows") -> None:
        pass

    def advance(self, units: int, *, tokens: int = 0) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


no_progress: Progress = _NoProgress()
"""A listener that does nothing: the default of every long loop."""
