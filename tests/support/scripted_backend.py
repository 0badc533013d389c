"""A backend that answers by a function of the prompt: judges with known tastes and faults."""

from collections.abc import Callable, Iterable
from typing import Any

from pyllm.errors import PrerequisiteError
from pyllm.lm.backends.contract import Completion, Done, Request


class ScriptedBackend:
    """Answers each request with what a function says of its last message; an exception is an error.

    Args:
        script: Takes the request and gives the text, or an exception that is the call's error.
        fails_after: The backend goes away after so many answers; None never.
    """

    def __init__(self, script: Callable[[Request], str | Exception], *, fails_after: int | None = None) -> None:
        self._script, self._fails_after = script, fails_after
        self.asked: list[Request] = []

    def facts(self) -> dict[str, Any]:
        return {"backend": "scripted"}

    def answer(self, requests: Iterable[Request], done: Done) -> None:
        waiting = list(requests)
        while waiting:
            if self._fails_after is not None and len(self.asked) >= self._fails_after:
                raise PrerequisiteError("the backend is gone")
            request = waiting.pop()  # the last first: nothing may depend on the order
            self.asked.append(request)
            said = self._script(request)
            if isinstance(said, Exception):
                waiting += done(Completion(request.id, error=str(said)))
            else:
                words = sum(len(message.content.split()) for message in request.prompt if not isinstance(message, str))
                waiting += done(Completion(request.id, said, "stop", None, words, 0, len(said.split())))
