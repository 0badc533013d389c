"""What passes between the thread that has the model and the requests that wait for it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pyllm.stream.serving.refusals import Refusal
from pyllm.stream.serving.schema import ChatRequest

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: by itself or before a stop text, because it had its most tokens, or by the client's leaving."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The turn has begun: the request was fine, and from now on the conversation changes."""


@dataclass(frozen=True, slots=True)
class Said:
    """More of the answer.

    Args:
        text: What may be shown now.
    """

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a turn took.

    Args:
        prompt_tokens: Tokens of the request that were read.
        completion_tokens: Tokens of the answer.
        turn: The turn's number in its conversation, from 1 on.
        seen_tokens: Tokens that the conversation ever had.
        cache_tokens: Tokens in its cache now.
        kept_tokens: Those of them that were there before the request.
        evicted_tokens: Tokens that went in this request.
    """

    prompt_tokens: int
    completion_tokens: int
    turn: int
    seen_tokens: int
    cache_tokens: int
    kept_tokens: int
    evicted_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """As OpenAI's clients read it, and our own counts under a name that they pass over."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "pyllm": {
                "turn": self.turn,
                "seen_tokens": self.seen_tokens,
                "cache_tokens": self.cache_tokens,
                "kept_tokens": self.kept_tokens,
                "evicted_tokens": self.evicted_tokens,
            },
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """The turn has ended, and what is to last is on disk.

    Args:
        reason: Why the answer ended.
        usage: What it took.
    """

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Refused:
    """There will be no answer, or no more of it.

    Args:
        refusal: Why.
    """

    refusal: Refusal


@dataclass(frozen=True, slots=True)
class Deleted:
    """The conversation is gone."""


Event = Begun | Said | Finished | Refused | Deleted


class Job:
    """A request on its way through the worker, seen from its event loop, in which it is made.

    Args:
        name: Its conversation; None where it has none.
        request: What is asked; None to delete the conversation.
        look_up: Tells the worker that something about it has changed.
    """

    def __init__(self, name: str | None, request: ChatRequest | None, look_up: Callable[[], object]) -> None:
        self.name, self.request = name, request
        self.loop = asyncio.get_running_loop()
        self.cancelled = False
        self._look_up = look_up
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    async def next(self) -> Event:
        """What happens next; nothing does after `Finished`, `Refused` or `Deleted`."""
        return await self._events.get()

    def cancel(self) -> None:
        """End it soon: nobody waits for it any more. Harmless when it has ended."""
        self.cancelled = True
        self._look_up()

    def deliver(self, event: Event) -> None:
        """Let the request know."""
        self._events.put_nowait(event)
