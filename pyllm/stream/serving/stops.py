"""Ends an answer before a given text, wherever its tokens begin and end."""

from collections.abc import Sequence


class StopTexts:
    """Lets the text of an answer through as far as no stop text can begin in it any more.

    Args:
        stops: Texts before which the answer ends; none of them is ever let through, not even in part.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False
        """Whether the answer has come to a stop text. Nothing is let through then."""

    def add(self, text: str) -> str:
        """More of the answer; what may be shown now."""
        if self.found:
            return ""
        whole = self._held + text
        starts = {stop: whole.find(stop) for stop in self._stops if stop in whole}
        if starts:
            # The one that ends first, as if the answer had come letter by letter.
            self.found, self._held = True, ""
            return whole[: min((start + len(stop), start) for stop, start in starts.items())[1]]
        held = max((_overlap(whole, stop) for stop in self._stops), default=0)
        shown, self._held = whole[: len(whole) - held], whole[len(whole) - held :]
        return shown

    def rest(self) -> str:
        """What was held back, when the answer has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
