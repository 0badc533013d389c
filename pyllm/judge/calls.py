"""Calls to a model that are never made twice: each answer is written down as it comes, under what was asked.

A call is known by a digest of its prompt, its decoding and its seed, so a file of calls serves every run with the same
model: a longer one, one that was stopped, one that asks some of the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyllm.data.lines import Lines
from pyllm.errors import SettingError
from pyllm.lm.backends.contract import Backend, Completion, Decoding, Message, Request, seed_of
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, sha256_hex


@dataclass(frozen=True, slots=True)
class Call:
    """A call wanted.

    Args:
        name: What it is for, unique in a run.
        messages: The conversation.
        repeat: Which of several answers to the same conversation.
    """

    name: str
    messages: tuple[Message, ...]
    repeat: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a call.

    Args:
        name: The call's.
        text: The answer; None where it failed.
        finish: Why the answer ended.
        error: Why there is none.
        prompt_tokens: Of the prompt; None where the server does not say.
        generated_tokens: Of the answer; the same.
        attempts: How often it was asked.
        wall_seconds: How long the last attempt took.
    """

    name: str
    text: str | None
    finish: str | None = None
    error: str | None = None
    prompt_tokens: int | None = None
    generated_tokens: int | None = None
    attempts: int = 0
    wall_seconds: float = 0.0


Follow = Callable[[Reply], Iterable[Call]]
"""Takes each reply, stored ones too, and gives the calls that became possible by it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; None leaves a side open.

    Args:
        calls: Most calls.
        tokens: Most tokens of prompts and answers, as far as they are known.
    """

    calls: int | None = None
    tokens: int | None = None


@dataclass(slots=True)
class Spent:
    """What a run spent, stored replies apart.

    Args:
        calls: Calls made.
        prompt_tokens: Of those, as far as they are known.
        generated_tokens: The same.
        taken_up: Replies that were there.
        failed: Calls without an answer.
        first_error: What the first of them died of.
        unknown_tokens: Calls of which a count was not said.
        seconds: Of all calls, one after the other.
    """

    calls: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    taken_up: int = 0
    failed: int = 0
    first_error: str | None = None
    unknown_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Caller:
    """Makes calls, and remembers them.

    Args:
        backend: Who answers.
        lines: Where replies are kept.
        decoding: How answers are chosen.
        seed: Of all chance in answers.
        budget: What may be spent.
        progress: Told of each reply.
        check: Called after each reply; may raise to stop.
    """

    backend: Backend
    lines: Lines
    decoding: Decoding
    seed: int = 0
    budget: Budget = Budget()
    progress: Progress = no_progress
    check: Callable[[], None] = lambda: None
    spent: Spent = field(default_factory=Spent)
    _asked: int = 0

    def run(self, calls: Iterable[Call], follow: Follow, *, total: int, stage: str) -> None:
        """Make calls and those that follow from them, depth first as far as the backend likes.

        Args:
            calls: The first calls.
            follow: Takes each reply.
            total: How many calls there will be at most.
            stage: What progress calls it.

        Raises:
            SettingError: The budget is used up; what was answered is kept.
            PrerequisiteError: The backend cannot go on, or replies cannot be written; what was answered is kept.
        """
        self.progress.start(stage, total, unit="calls")
        waiting: dict[str, list[Call]] = {}

        def requests(wanted: Iterable[Call]) -> list[Request]:
            asked, rest = [], list(wanted)
            while rest:
                call = rest.pop(0)
                unit = self._unit(call)
                if unit in self.lines.done:
                    self.spent.taken_up += 1
                    self.progress.advance(1)
                    rest += follow(Reply(call.name, **self.lines.done[unit]))
                elif unit in waiting:
                    waiting[unit].append(call)
                else:
                    waiting[unit] = [call]
                    asked.append(Request(unit, call.messages, self.decoding, seed_of(self.seed, unit)))
            return self._within_budget(asked)

        def done(completion: Completion) -> list[Request]:
            following: list[Call] = []
            reply = self._kept(completion)
            for call in waiting.pop(completion.id):
                following += follow(Reply(call.name, **reply))
                self.progress.advance(1)
            self.check()
            asked = requests(following)
            if waiting:
                self._check_tokens()
            return asked

        first = requests(calls)
        if first:
            self.backend.answer(first, done)
        if waiting:
            raise self._used_up(f"{self.budget.calls:,} calls")
        self.progress.finish()

    def _unit(self, call: Call) -> str:
        said = [[message.role, message.content] for message in call.messages]
        return sha256_hex(canonical_json([said, self.decoding.as_dict(), self.seed, call.repeat]))

    def _kept(self, completion: Completion) -> Mapping[str, Any]:
        spent = self.spent
        spent.calls += 1
        spent.prompt_tokens += completion.prompt_tokens or 0
        spent.generated_tokens += completion.generated_tokens or 0
        spent.seconds += completion.wall_seconds
        reply = {
            "text": completion.text,
            "finish": completion.finish,
            "prompt_tokens": completion.prompt_tokens,
            "generated_tokens": completion.generated_tokens,
            "attempts": completion.attempts,
            "wall_seconds": round(completion.wall_seconds, 6),
        }
        if completion.error is not None or completion.text is None:
            error = completion.error or "no text came"
            spent.failed, spent.first_error = spent.failed + 1, spent.first_error or error
            return {**reply, "error": error}  # not kept: the next run asks again
        spent.unknown_tokens += completion.prompt_tokens is None or completion.generated_tokens is None
        return dict(self.lines.add(completion.id, reply))

    def _within_budget(self, asked: list[Request]) -> list[Request]:
        """As many as may still be asked; the others go on waiting."""
        if self.budget.calls is not None:
            asked = asked[: max(0, self.budget.calls - self._asked)]
        self._asked += len(asked)
        return asked

    def _check_tokens(self) -> None:
        most = self.budget.tokens
        if most is not None and self.spent.prompt_tokens + self.spent.generated_tokens >= most:
            raise self._used_up(f"{most:,} tokens")

    def _used_up(self, what: str) -> SettingError:
        spent = self.spent
        used = f"{spent.calls:,} calls and {spent.prompt_tokens + spent.generated_tokens:,} tokens were spent"
        hint = "what was answered is kept: the same line with a larger budget goes on"
        return SettingError(f"the budget of {what} is used up ({used})", hint=hint)
