"""What is asked of a backend, and what comes back."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pyllm.errors import SettingError
from pyllm.provenance import sha256_hex

Finish = Literal["stop", "length"]
"""Why an answer ended: the model (or a stop text) ended it, or it was cut at its most tokens."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Args:
        role: `system`, `user` or `assistant`.
        content: Its text.
    """

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an answer is chosen.

    Args:
        max_new_tokens: Most tokens of an answer.
        min_new_tokens: The answer does not end before it has this many; local models only.
        temperature: 0 takes the likeliest token; else logits are divided by it.
        top_p: Choose among the likeliest tokens that have this probability together.
        stop: Texts before which an answer ends.

    Raises:
        SettingError: A value is out of its range.
    """

    max_new_tokens: int = 512
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingError(f"max new tokens is {self.max_new_tokens}: it must be 1 or more")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise SettingError(f"min new tokens is {self.min_new_tokens}: it must be 0 to {self.max_new_tokens}")
        if not 0.0 <= self.temperature < float("inf"):
            raise SettingError(f"temperature is {self.temperature}: it must be 0 or more")
        if not 0.0 < self.top_p <= 1.0:
            raise SettingError(f"top-p is {self.top_p}: it must be above 0 and at most 1")
        if "" in self.stop:
            raise SettingError("a stop text is empty")

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True, slots=True)
class Request:
    """One answer wanted.

    Args:
        id: Its name, unique among the requests of a run.
        prompt: A conversation, which the model's own chat template writes down, or a text that is taken as it is.
        decoding: How the answer is chosen.
        seed: Of all chance in the answer.
    """

    id: str
    prompt: str | tuple[Message, ...]
    decoding: Decoding
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of a request: an answer, or an error and no answer.

    Args:
        id: The request's.
        text: The answer; None where there is an error.
        finish: Why it ended; None where there is an error or the server does not say.
        error: Why there is no answer.
        prompt_tokens: Tokens of the prompt; None where a server does not say, as below.
        cached_tokens: Those of them that were not computed for this request, because they were there.
        generated_tokens: Tokens of the answer, the one that ended it included.
        wall_seconds: From the start of the work on it (of its last attempt) to its end.
        busy_seconds: Its share of the seconds in which the model computed; None for endpoints.
        attempts: How often it was sent or computed.
        batch_size: How many requests a local model reads at once at most; None for endpoints.
    """

    id: str
    text: str | None = None
    finish: Finish | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    generated_tokens: int | None = None
    wall_seconds: float = 0.0
    busy_seconds: float | None = None
    attempts: int = 1
    batch_size: int | None = None


Done = Callable[[Completion], Iterable[Request]]
"""Takes a completion as it comes, and gives the requests that became possible by it. What it raises ends the work."""


@runtime_checkable
class Backend(Protocol):
    """Something that answers requests."""

    def facts(self) -> dict[str, Any]:
        """What decides the answers, as JSON holds it: digests of a model, or the address and name of one."""

    def answer(self, requests: Iterable[Request], done: Done) -> None:
        """Answer requests, and those that `done` gives for each completion, in whatever order is best.

        Raises:
            PrerequisiteError: No further request can be answered; what `done` was given stands.
        """


def seed_of(seed: int, name: str) -> int:
    """The seed of one request: answers do not depend on which others are asked for, and differ between requests."""
    return int(sha256_hex(f"{seed} {name}")[:8], 16) >> 1
