"""A run: every call of every instance in every mode, asked as soon as it can be, written down as soon as it is there.

A call that needs earlier outputs waits for those of its own group alone, so all groups go on side by side. An error in
a call makes the later calls of its group errors too, never wrong answers. A run that was stopped goes on: calls that
were answered are not asked again, and those that failed are.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyllm.data.lines import Lines
from pyllm.errors import SettingError
from pyllm.lm.backends.contract import Backend, Completion, Decoding, Message, Request, seed_of
from pyllm.mti.prompts import Prompter, PromptSettings, Reading
from pyllm.mti.scoring import MODES, Mode
from pyllm.mti.tasks import Instance, Task
from pyllm.progress import Progress, no_progress

SPENT = ("prompt_tokens", "cached_tokens", "generated_tokens", "wall_seconds", "busy_seconds", "attempts", "batch_size")
"""What a call costs, as a completion and a line of the run have it."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is asked, and how.

    Args:
        modes: Which packings, each once.
        prompts: How instances become prompts.
        decoding: How answers are chosen.
        repeats: How often everything is asked, with other seeds.
        limit: Instances of each task, from its first; None for all.
        seed: Of all chance in answers.
        feed_gold: Let later calls stand behind right answers, in place of the model's own.

    Raises:
        SettingError: A value is out of its range.
    """

    modes: tuple[Mode, ...] = MODES
    prompts: PromptSettings = field(default_factory=PromptSettings)
    decoding: Decoding = field(default_factory=Decoding)
    repeats: int = 1
    limit: int | None = None
    seed: int = 0
    feed_gold: bool = False

    def __post_init__(self) -> None:
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise SettingError("no mode is given" if not self.modes else "a mode is given twice")
        if self.repeats < 1:
            raise SettingError(f"repeats is {self.repeats}: it must be 1 or more")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit is {self.limit}: it must be 1 or more")

    def key(self) -> dict[str, Any]:
        """What decides the answer to a call. Modes, repeats and the limit decide only which calls there are."""
        return {
            "prompts": self.prompts.as_dict(),
            "decoding": self.decoding.as_dict(),
            "seed": self.seed,
            "feed_gold": self.feed_gold,
        }

    def extent(self) -> dict[str, Any]:
        """Which calls there are."""
        return {"modes": list(self.modes), "repeats": self.repeats, "limit": self.limit}


def read_modes(names: Sequence[str]) -> tuple[Mode, ...]:
    """Modes by their names.

    Raises:
        SettingError: There is no such mode.
    """
    for name in names:
        if name not in MODES:
            raise SettingError(f"mode `{name}` is unknown", hint=f"use {', '.join(MODES)}, or several of them")
    return tuple(mode for name in names for mode in MODES if mode == name)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend in all, what it spent before included; None is no bound.

    Args:
        calls: Answered calls.
        tokens: Tokens of prompts and answers.
    """

    calls: int | None = None
    tokens: int | None = None

    def check(self, calls: int, tokens: int) -> None:
        """See that what was spent, or would be, is within bounds.

        Raises:
            SettingError: It is not.
        """
        for name, most, spent in (("calls", self.calls, calls), ("tokens", self.tokens, tokens)):
            if most is not None and spent > most:
                raise SettingError(
                    f"the budget of {most:,} {name} is not enough: {spent:,}"
                    + (" are needed in all" if name == "calls" else " are spent, and more would be"),
                    hint="give a larger --budget or ask less; every answer so far is kept",
                )


@dataclass(slots=True)
class Chain:
    """The calls of one group of instances, one behind another.

    Args:
        prompter: Writes the prompts of the task.
        mode: The packing.
        repeat: Which time this is.
        group: The instances.
        calls: What is known of each call, by its number from 1: a line of the run.
    """

    prompter: Prompter
    mode: Mode
    repeat: int
    group: tuple[Instance, ...]
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """How many calls there are in all."""
        return self.prompter.calls(self.mode)

    def ready(self, *, feed_gold: bool) -> list[int]:
        """Calls that could be asked now and are not known yet."""
        if feed_gold:
            return [call for call in range(1, self.length + 1) if call not in self.calls]
        failed = any(line["error"] is not None for line in self.calls.values())
        return [] if failed or len(self.calls) == self.length else [len(self.calls) + 1]

    def call_id(self, call: int) -> str:
        """The name of a call; calls count from 1."""
        return f"{self.mode}/{self.repeat}/{call}/{'+'.join(instance.uid for instance in self.group)}"

    def prompt(self, call: int, *, feed_gold: bool) -> str:
        """The text of a call; the ones before it are there, or golds stand in for them."""
        outputs = [
            self.prompter.gold_output(self.mode, self.group, before) if feed_gold else str(self.calls[before]["output"])
            for before in range(1, call)
        ]
        return self.prompter.prompt(self.mode, self.group, outputs)

    def readings(self, call: int) -> list[Reading]:
        """What the output of a call answers."""
        return self.prompter.readings(self.mode, self.group, call)


def make_chains(tasks: Sequence[Task], settings: RunSettings, given: Mapping[str, Sequence[str]]) -> list[Chain]:
    """All chains of a run, nothing of them known yet.

    Raises:
        SettingError: Demonstrations are missing.
    """
    chains = []
    for task in tasks:
        prompter = Prompter(task, settings.prompts, given, settings.modes)
        instances = task.instances[: settings.limit]
        for mode in settings.modes:
            groups = prompter.groups(mode, instances)
            chains += [Chain(prompter, mode, repeat, group) for repeat in range(settings.repeats) for group in groups]
    return chains


def answer_chains(
    chains: Sequence[Chain],
    backend: Backend,
    lines: Lines,
    settings: RunSettings,
    *,
    budget: Budget | None = None,
    progress: Progress = no_progress,
    check: Callable[[], None] | None = None,
) -> None:
    """Ask every call that has no answer yet, and fill the chains.

    Args:
        chains: From `make_chains`.
        backend: Who answers.
        lines: Where answers are kept.
        settings: Of the run.
        budget: What may be spent in all.
        progress: Listens; the unit is calls.
        check: Called after every call; whatever it raises ends the work.

    Raises:
        PrerequisiteError: The backend can answer nothing more, or a line cannot be written.
        SettingError: The budget is spent.
    """
    work = _Work(chains, lines, settings, budget=budget or Budget(), progress=progress, check=check)
    first = work.begin()
    progress.start("asking", work.total, done=work.total - work.open_calls, unit="calls")
    if first:
        backend.answer(first, work.done)
    work.close()
    progress.finish()


class _Work:
    """Which call is whose, and what follows."""

    def __init__(
        self,
        chains: Sequence[Chain],
        lines: Lines,
        settings: RunSettings,
        *,
        budget: Budget,
        progress: Progress,
        check: Callable[[], None] | None,
    ) -> None:
        self._chains, self._lines, self._settings = chains, lines, settings
        self._budget, self._progress, self._check = budget, progress, check
        self._asked: dict[str, tuple[Chain, int, str]] = {}
        self._spent_calls = self._spent_tokens = 0
        for value in lines.done.values():
            self._spend(value)
        self.total = self.open_calls = sum(chain.length for chain in chains)

    def begin(self) -> list[Request]:
        """Take up what is there; the calls that can be asked now."""
        first = [request for chain in self._chains for request in self._advance(chain)]
        self._check_budget()
        return first

    def done(self, completion: Completion) -> Iterable[Request]:
        """Write a completion down; the calls that it makes possible."""
        chain, call, prompt = self._asked.pop(completion.id)
        line = {
            "task": chain.group[0].task,
            "mode": chain.mode,
            "repeat": chain.repeat,
            "call": call,
            "uids": [instance.uid for instance in chain.group],
            "prompt": prompt,
            "output": completion.text,
            "finish": completion.finish,
            "error": completion.error,
            **{name: getattr(completion, name) for name in SPENT},
        }
        chain.calls[call] = self._lines.add(completion.id, line)
        self._spend(line)
        self.open_calls -= 1
        self._progress.advance(1, tokens=(completion.prompt_tokens or 0) + (completion.generated_tokens or 0))
        if self._check is not None:
            self._check()
        following = list(self._advance(chain))
        self._check_budget()
        return following

    def close(self) -> None:
        """Give the calls that were never asked the error of the call that they needed."""
        for chain in self._chains:
            for call in range(1, chain.length + 1):
                if call not in chain.calls:
                    before = chain.calls[call - 1]
                    error = (
                        before["error"] if before["prompt"] is None else f"call {call - 1} failed: {before['error']}"
                    )
                    nothing = dict.fromkeys((*SPENT, "prompt", "output", "finish"))
                    chain.calls[call] = {**before, **nothing, "call": call, "error": error}

    def _advance(self, chain: Chain) -> Iterator[Request]:
        """Move what is known into a chain, and give the calls that can be asked then."""
        gold = self._settings.feed_gold
        moved = True
        while moved:
            moved = False
            for call in chain.ready(feed_gold=gold):
                name = chain.call_id(call)
                if name in self._asked:
                    continue
                prompt = chain.prompt(call, feed_gold=gold)
                kept = self._lines.done.get(name)
                if kept is not None and kept["error"] is None and kept["prompt"] == prompt:
                    chain.calls[call] = kept
                    self.open_calls -= 1
                    moved = True
                    continue
                self._asked[name] = chain, call, prompt
                seed = seed_of(self._settings.seed, name)
                yield Request(name, (Message("user", prompt),), self._settings.decoding, seed)

    def _check_budget(self) -> None:
        if self._asked:
            self._budget.check(self._spent_calls + self.open_calls, self._spent_tokens)

    def _spend(self, line: Mapping[str, Any]) -> None:
        if line["error"] is not None:
            return
        self._spent_calls += 1
        for name, text in (("prompt_tokens", "prompt"), ("generated_tokens", "output")):
            # What a server does not report is taken from the text's length, for the budget alone.
            self._spent_tokens += line[name] if line[name] is not None else len(line[text]) // 4
