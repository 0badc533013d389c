"""Requests that are refused, in the words and shapes that OpenAI's clients understand."""

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):  # noqa: N818  (it is an answer, and no error of the program)
    """A request is refused.

    Args:
        status: The HTTP status.
        message: What is wrong with it.
        code: What programs know the reason by.
        param: The field that is wrong.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def kind(self) -> str:
        """The `type` of OpenAI's error objects."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def as_dict(self) -> dict[str, Any]:
        """The body of the response."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


def wrong(message: str, param: str | None, code: str = "invalid_value") -> Refusal:
    """A field is not what it may be."""
    return Refusal(400, message, code=code, param=param)


def failed(reason: str) -> Refusal:
    """Something broke here, and the request is not to blame."""
    return Refusal(500, reason, code="internal_error")


def full(waiting: int) -> Refusal:
    """No more requests can wait."""
    return Refusal(
        429,
        f"{waiting:,} requests are waiting, and no more may",
        code="rate_limit_exceeded",
        headers={"Retry-After": "1"},
    )


def ending() -> Refusal:
    """The server is about to end."""
    return Refusal(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})


def unknown_conversation(name: str) -> Refusal:
    """There is no such conversation."""
    return Refusal(404, f"there is no conversation `{name}`", code="conversation_not_found", param="conversation_id")
