"""Many dialogues at work at the same time, whose forward passes are shared: continuous batching.

A job is a dialogue and a piece of work on it that reads (`pyllm.stream.reading.Reads`): `Chat.asking` is a whole turn,
`Dialogue.feeding` reads tokens. `Many.step` runs the next forward pass of every job at work, all together as far as
they fit, hands each what it gave, and lets jobs that wait take the places of those that ended. Dialogues whose cache
cannot stand in a pool (native-sliding positions, a model that the pool cannot serve) take part all the same, with a
pass of their own.

Threads: one thread calls `step`, and everything of a job happens in it: the dialogue's own work and all callbacks
(`show`, `stopped`, `done`). `submit`, `Job.cancel`, `wait` and the properties may be called from any thread. While a
job of it waits or works, a dialogue (and the chat around it) belongs to the stepping thread; before and after, its
cache is its own, so that it can be saved, pinned, asked alone or thrown away. Jobs on one dialogue run one after
another, in the order they came.

Example:
    >>> many = Many(model, rows=16)  # doctest: +SKIP
    >>> jobs = [many.submit(chat.dialogue, chat.asking("Who is there?")) for chat in chats]  # doctest: +SKIP
    >>> while many.step():  # doctest: +SKIP
    ...     pass
    >>> [job.result().text for job in jobs]  # doctest: +SKIP
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic

from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.model import StreamModel
from pyllm.stream.pool import Asked, Pool, PoolRow
from pyllm.stream.reading import Forward, Reads, Result

_log = logging.getLogger(__name__)

PART_TOKENS = 128
"""Most tokens of one job in one pass, so that a long question does not hold up the answers of others."""


class Cancelled(Exception):  # noqa: N818  (as `concurrent.futures` names it)
    """A job was cancelled before it was done; its dialogue may stand in the middle of a turn."""


class Job(Generic[Result]):
    """A piece of work on a dialogue. Made by `Many.submit`."""

    def __init__(
        self, dialogue: Dialogue, steps: Reads[Result], done: Callable[["Job[Result]"], object] | None = None
    ) -> None:
        self.dialogue = dialogue
        self._steps = steps
        self._done = done
        self._finished = threading.Event()
        self._cancelled = False
        self._result: Result | None = None
        self._error: BaseException | None = None
        self.part: Int[Tensor, " new"] | None = None
        """What it must read next. Of the stepping thread."""

    def cancel(self) -> None:
        """End it before its next forward pass, where it stands. From any thread.

        To end an answer cleanly, what was said so far kept, let the `stopped` of `Chat.asking` say True instead.
        """
        self._cancelled = True

    @property
    def is_done(self) -> bool:
        """Whether it ended, in whatever way. From any thread."""
        return self._finished.is_set()

    def result(self) -> Result:
        """What it returned. From any thread, when it is done.

        Raises:
            Cancelled: It was cancelled.
            Exception: Whatever ended it.
        """
        if not self.is_done:
            raise RuntimeError("the job is not done")
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set where there is no error

    def go_on(self, seen: Forward | None) -> bool:
        """Work up to the next forward pass; whether there is one. Of the stepping thread.

        Args:
            seen: What the last pass gave; None at the beginning.
        """
        if self._cancelled:
            self.fail(Cancelled("the job was cancelled"))
            return False
        try:
            self.part = next(self._steps) if seen is None else self._steps.send(seen)
        except StopIteration as stop:
            self._result, self.part = stop.value, None
            return False
        except Exception as error:  # noqa: BLE001  (whatever it is belongs to whom the job belongs to)
            self._error, self.part = error, None
            return False
        return True

    def fail(self, error: BaseException) -> None:
        """End it with an error. Of the stepping thread."""
        self._error, self.part = error, None
        self._steps.close()

    def finish(self) -> None:
        """Say that it is done, its dialogue being its own again. Of the stepping thread."""
        self._finished.set()
        if self._done is not None:
            self._done(self)


class Many:
    """Jobs that wait and jobs at work. See the module docstring.

    Args:
        model: The model of all dialogues.
        rows: Most jobs at work at the same time.
        part_tokens: Most tokens of one job in one pass.
    """

    def __init__(self, model: StreamModel, *, rows: int = 16, part_tokens: int = PART_TOKENS) -> None:
        if rows < 1:
            raise SettingError(f"a batch of {rows}: it must be 1 or more")
        self._model, self._rows, self._part_tokens = model, rows, part_tokens
        self._waiting: deque[Job[Any]] = deque()
        self._working: list[Job[Any]] = []
        self._lock = threading.Condition()
        # A single dialogue is served best by its own cache, which needs no mask.
        self._pool = _pool_of(model) if rows > 1 else None

    @property
    def waiting(self) -> int:
        """How many jobs wait. From any thread."""
        return len(self._waiting)

    @property
    def working(self) -> int:
        """How many jobs are at work. From any thread."""
        return len(self._working)

    def submit(
        self, dialogue: Dialogue, steps: Reads[Result], done: Callable[[Job[Result]], object] | None = None
    ) -> Job[Result]:
        """Queue a piece of work. From any thread; returns at once.

        Args:
            dialogue: The dialogue that it works on.
            steps: The work, not begun, such as `chat.asking(text, show=..., stopped=...)`.
            done: Called in the stepping thread when it ended, whatever way: see `Job.result`.
        """
        job = Job(dialogue, steps, done)
        with self._lock:
            self._waiting.append(job)
            self._lock.notify_all()
        return job

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep until there is something to do, or for so long; whether there is. From any thread."""
        with self._lock:
            return self._lock.wait_for(lambda: bool(self._waiting or self._working), seconds)

    def step(self) -> bool:
        """One forward pass for every job at work; whether there is more to do.

        What goes wrong with one job ends that job only (`Job.result` raises it).
        """
        self._admit()
        self._read()
        with self._lock:
            return bool(self._waiting or self._working)

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.step():
            pass

    def close(self) -> None:
        """Cancel every job. Of the stepping thread, or when no thread steps any more."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for job in [*self._working, *waiting]:
            job.fail(Cancelled("the job was cancelled"))
            self._end(job)

    def _admit(self) -> None:
        """Let jobs that wait begin, as far as there is room, one of each dialogue at a time, in their order."""
        with self._lock:
            busy = {id(job.dialogue) for job in self._working}
            begun: list[Job[Any]] = []
            rest: list[Job[Any]] = []
            for job in self._waiting:
                free = len(self._working) + len(begun) < self._rows and id(job.dialogue) not in busy
                busy.add(id(job.dialogue))
                (begun if free else rest).append(job)
            self._waiting = deque(rest)
            self._working += begun
        for job in begun:
            self._begin(job)

    def _begin(self, job: Job[Any]) -> None:
        dialogue = job.dialogue
        try:
            if self._pool is not None and dialogue.settings.positions != "native-sliding":
                self._pool.join(dialogue)
            dialogue.part_tokens = min(self._part_tokens, dialogue.part_tokens)
        except Exception as error:  # noqa: BLE001  (as in `Job.go_on`)
            job.fail(error)
            self._end(job)
            return
        if not job.go_on(None):
            self._end(job)

    def _read(self) -> None:
        jobs = list(self._working)
        pooled = [job for job in jobs if isinstance(job.dialogue.cache, PoolRow)]
        for job, seen in [*zip(pooled, self._read_pooled(pooled), strict=True), *self._read_alone(jobs)]:
            if isinstance(seen, Exception):
                job.fail(seen)
                self._end(job)
            elif not job.go_on(seen):
                self._end(job)

    def _read_pooled(self, jobs: Sequence[Job[Any]]) -> list[Forward | Exception]:
        """What the pool gave each; an error in place of what a pass that failed should have given."""
        assert self._pool is not None or not jobs
        return [] if self._pool is None else self._pool.read([_asked(job) for job in jobs])

    def _read_alone(self, jobs: Iterable[Job[Any]]) -> list[tuple[Job[Any], Forward | Exception]]:
        made: list[tuple[Job[Any], Forward | Exception]] = []
        for job in jobs:
            if job.part is not None and not isinstance(job.dialogue.cache, PoolRow):
                try:
                    made.append((job, job.dialogue.read(job.part)))
                except Exception as error:  # noqa: BLE001  (as in `Job.go_on`)
                    made.append((job, error))
        return made

    def _end(self, job: Job[Any]) -> None:
        dialogue = job.dialogue
        if self._pool is not None and isinstance(dialogue.cache, PoolRow):
            self._pool.leave(dialogue)
        dialogue.part_tokens = self._model.forward_tokens
        with self._lock:
            if job in self._working:
                self._working.remove(job)
        job.finish()


def feed_many(
    model: StreamModel, fed: Sequence[tuple[Dialogue, Sequence[int]]], *, block: int = 1, rows: int = 64
) -> list[Float[ndarray, " new"]]:
    """`Dialogue.feed` of many dialogues with forward passes in common; the scores of each one's tokens.

    Args:
        model: The model of all.
        fed: Different dialogues, each with a turn begun, and more tokens of it.
        block: See `Dialogue.feed`.
        rows: Most dialogues in one pass.

    Raises:
        SettingError: As `Dialogue.feed`.
        PrerequisiteError: As `Dialogue.feed`.
    """
    many = Many(model, rows=rows)
    jobs = [many.submit(dialogue, dialogue.feeding(ids, block=block)) for dialogue, ids in fed]
    many.run()
    return [job.result() for job in jobs]


def _asked(job: Job[Any]) -> Asked:
    assert job.part is not None
    return Asked(job.dialogue, job.part)


def _pool_of(model: StreamModel) -> Pool | None:
    try:
        return Pool(model)
    except PrerequisiteError as error:
        _log.warning("dialogues are read one at a time: %s", error.message)
        return None
