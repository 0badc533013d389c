"""The thread that has the model: takes requests in the order they came, and answers many of them at the same time.

Requests of one conversation are answered one after another, each when the one before has ended and is saved; others
share forward passes (`pyllm.stream.many`). A request that cannot begin at once waits, and when too many wait, the next
is refused. Events go to the requests' event loop together, once a pass.

Who leaves: a request whose client has gone while it waits never begins. An answer that has begun ends before its next
token, and what was said so far stays said, as when someone stops an answer by hand.
"""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyllm.errors import InputError, PyllmError, SettingError
from pyllm.provenance import sha256_hex
from pyllm.stream.chat import Answer, Chat
from pyllm.stream.many import Cancelled, Many
from pyllm.stream.many import Job as ManyJob
from pyllm.stream.reading import Reads
from pyllm.stream.serving.conversations import Conversations
from pyllm.stream.serving.events import Begun, Deleted, Event, Finished, FinishReason, Job, Refused, Said, Usage
from pyllm.stream.serving.refusals import Refusal, ending, failed, full, wrong
from pyllm.stream.serving.schema import ChatRequest
from pyllm.stream.serving.stops import StopTexts

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Turn:
    """A request that is being answered."""

    job: Job
    request: ChatRequest
    chat: Chat
    stops: StopTexts
    prompt_tokens: int
    seen_before: int
    cache_before: int
    work: ManyJob[Answer] | None = None


class Worker:
    """The thread and what it works on.

    Args:
        conversations: The conversations by name; of this worker alone.
        many: Runs the forward passes; of this worker alone.
        alone: Makes the chat of a request without a conversation, from its system text.
        seed: Of the chance in answers to requests that give none and have no conversation.
        rows: Most answers at the same time.
        queue: Most requests that wait beside them.
        prompt_tokens: Most tokens of a request's messages.
    """

    def __init__(
        self,
        conversations: Conversations,
        many: Many,
        alone: Callable[[str | None], Chat],
        *,
        seed: int,
        rows: int,
        queue: int,
        prompt_tokens: int,
    ) -> None:
        self._conversations, self._many, self._alone = conversations, many, alone
        self._seed, self._rows, self._queue, self._prompt_tokens = seed, rows, queue, prompt_tokens
        self._lock = threading.Condition()
        # Of all threads, behind the lock:
        self._inbox: list[Job] = []
        self._open = 0
        self._looks_up = False
        self._ends_at: float | None = None
        self._ended = False
        # Of the worker's thread:
        self._waiting: deque[Job] = deque()
        self._turns: list[_Turn] = []
        self._events: list[tuple[Job, Event]] = []
        self._without_conversation = 0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._on_end: Callable[[], object] = lambda: None
        self.crash: BaseException | None = None
        """What ended the thread, if it did not end as it should."""

    def start(self, on_end: Callable[[], object] = lambda: None) -> None:
        """Begin to work.

        Args:
            on_end: Called in the worker's thread when it has ended, for whatever reason.
        """
        self._on_end = on_end
        self._thread.start()

    def submit(self, request: ChatRequest) -> Job:
        """Queue a request. Of any event loop.

        Raises:
            Refusal: Too many wait, or the server is about to end.
        """
        return self._queued(request.conversation_id, request)

    def delete(self, name: str) -> Job:
        """Queue the end of a conversation, behind what was asked of it before. Of any event loop.

        Raises:
            Refusal: Too many wait, or the server is about to end.
        """
        return self._queued(name, None)

    def health(self) -> dict[str, Any]:
        """How it does. From any thread."""
        with self._lock:
            status = "broken" if self.crash else "ending" if self._ends_at is not None or self._ended else "ok"
            running = len(self._turns)
            return {"status": status, "running": running, "waiting": max(0, self._open - running)}

    def look_up(self) -> None:
        """Have it see that a request was cancelled. From any thread."""
        with self._lock:
            self._looks_up = True
            self._lock.notify_all()

    def drain(self, seconds: float) -> None:
        """Refuse what waits and what comes, and end when the answers have ended. From any thread.

        Args:
            seconds: After this time, answers that are still going on are broken off and count for nothing.
        """
        with self._lock:
            self._ends_at = min(self._ends_at or math.inf, time.monotonic() + seconds)
            self._lock.notify_all()

    def join(self) -> None:
        """Wait until it has ended; nothing to wait for where it never began."""
        if self._thread.ident is not None:
            self._thread.join()

    def _queued(self, name: str | None, request: ChatRequest | None) -> Job:
        job = Job(name, request, self.look_up)
        with self._lock:
            if self.crash is not None:
                raise failed("the model's thread has ended")
            if self._ends_at is not None or self._ended:
                raise ending()
            if self._open >= self._rows + self._queue:
                raise full(self._open - len(self._turns))
            self._open += 1
            self._inbox.append(job)
            self._lock.notify_all()
        return job

    def _run(self) -> None:
        try:
            while self._go_on():
                self._send()
        except BaseException as error:  # noqa: BLE001  (told by `crash`, in the thread that can end the program)
            self.crash = error
        finally:
            with self._lock:
                self._ended = True
                self._waiting.extend(self._inbox)
                self._inbox.clear()
            self._close()
            self._on_end()

    def _go_on(self) -> bool:
        """Take in what has come, begin what can, and do one forward pass; whether there may be more to do."""
        with self._lock:
            if not self._turns:
                self._lock.wait_for(self._is_called)
            news = bool(self._inbox) or self._looks_up
            self._waiting.extend(self._inbox)
            self._inbox.clear()
            self._looks_up = False
            ends_at = self._ends_at
        if ends_at is not None:
            self._refuse_waiting()
            if time.monotonic() >= ends_at or not self._turns:
                return False
        if news:
            self._see_who_left()
            self._admit()
        self._send()  # a turn that begins is known before its first pass
        before = len(self._turns)
        self._many.step()
        if len(self._turns) < before:
            self._admit()
        return True

    def _is_called(self) -> bool:
        return bool(self._inbox or self._looks_up or self._ends_at is not None)

    def _close(self) -> None:
        self._refuse_waiting()
        self._many.close()  # ends every turn
        with contextlib.suppress(Exception):
            self._conversations.close()
        self._send()

    def _refuse_waiting(self) -> None:
        while self._waiting:
            self._tell(self._waiting.popleft(), Refused(ending()))

    def _see_who_left(self) -> None:
        """Take out whose client has gone; what goes on in a conversation ends by itself, at its next token."""
        for turn in self._turns:
            if turn.job.cancelled and turn.request.conversation_id is None and turn.work is not None:
                turn.work.cancel()
        stay = deque[Job]()
        for job in self._waiting:
            if job.cancelled and job.request is not None:
                self._tell(job, Refused(_gone()))
            else:
                stay.append(job)
        self._waiting = stay

    def _admit(self) -> None:
        """Begin what can begin, in the order of arrival, one of each conversation at a time."""
        busy = {turn.job.name for turn in self._turns} - {None}
        stay = deque[Job]()
        for job in self._waiting:
            if job.name in busy or (job.request is not None and len(self._turns) >= self._rows):
                stay.append(job)
                works = True
            else:
                works = self._begin(job)
            # What comes later to the same conversation must not overtake.
            if works and job.name is not None:
                busy.add(job.name)
        self._waiting = stay

    def _begin(self, job: Job) -> bool:
        """Do what a request asks for; whether there is now a turn that works on it."""
        try:
            if job.request is not None:
                self._begin_turn(job, job.request)
                return True
            self._conversations.delete(str(job.name))
            self._tell(job, Deleted())
        except Refusal as refusal:
            self._tell(job, Refused(refusal))
        except Exception as error:  # noqa: BLE001  (whatever it is, the others go on)
            self._tell(job, Refused(self._refusal_of(error, job)))
        return False

    def _begin_turn(self, job: Job, request: ChatRequest) -> None:
        name = job.name
        chat = self._chat_alone(request) if name is None else self._conversations.take(name, request.system)
        try:
            prompt_tokens = self._counted(chat, request)
            if name is not None:
                self._conversations.begin(name)
        except BaseException:
            if name is not None:
                self._conversations.give_back(name)
            raise
        turn = _Turn(job, request, chat, StopTexts(request.stops), prompt_tokens, chat.seen_tokens, chat.cache_tokens)
        self._turns.append(turn)
        self._tell(job, Begun())
        turn.work = self._many.submit(chat.dialogue, self._reads(turn), lambda work: self._turn_ended(turn, work))

    def _chat_alone(self, request: ChatRequest) -> Chat:
        try:
            return self._alone(request.system)
        except (InputError, SettingError) as error:
            raise wrong(error.message, "messages") from error

    def _counted(self, chat: Chat, request: ChatRequest) -> int:
        """Tokens that the request's messages are.

        Raises:
            Refusal: They are too many, or the chat template refuses one.
        """
        try:
            count = chat.prompt_tokens(request.told, request.question)
        except InputError as error:
            raise wrong(error.message, "messages") from error
        if count > self._prompt_tokens:
            raise wrong(
                f"the messages are {count:,} tokens, and a request may have {self._prompt_tokens:,}",
                "messages",
                "context_length_exceeded",
            )
        return count

    def _reads(self, turn: _Turn) -> Reads[Answer]:
        """The whole work of a request."""
        request, chat, job = turn.request, turn.chat, turn.job
        for question, told in request.told:
            yield from chat.telling(question, told)
        answer = yield from chat.asking(
            request.question,
            sampling=request.sampling,
            seed=self._seed_of(request),
            show=lambda text: self._say(turn, turn.stops.add(text)),
            stopped=lambda: turn.stops.found or job.cancelled,
        )
        return answer

    def _seed_of(self, request: ChatRequest) -> int | None:
        if request.seed is not None or request.conversation_id is not None:
            return request.seed
        # Requests that drew the same numbers would be given the same answer again and again.
        self._without_conversation += 1
        return mixed_seed(self._seed, f"request {self._without_conversation}")

    def _say(self, turn: _Turn, text: str) -> None:
        if text:
            self._tell(turn.job, Said(text))

    def _turn_ended(self, turn: _Turn, work: ManyJob[Answer]) -> None:
        self._turns.remove(turn)
        name, chat = turn.job.name, turn.chat
        try:
            answer = work.result()
        except BaseException as error:  # noqa: BLE001  (whatever it is, the others go on)
            if name is not None:
                self._conversations.drop(name)
            self._tell(turn.job, Refused(self._refusal_of(error, turn.job)))
            return
        if name is not None:
            self._conversations.give_back(name)
        self._say(turn, turn.stops.rest())
        fed = chat.seen_tokens - turn.seen_before
        usage = Usage(
            prompt_tokens=turn.prompt_tokens,
            completion_tokens=len(answer.token_ids),
            turn=chat.turns,
            seen_tokens=chat.seen_tokens,
            cache_tokens=chat.cache_tokens,
            kept_tokens=int((chat.dialogue.memory.positions < turn.seen_before).sum()),
            evicted_tokens=turn.cache_before + fed - chat.cache_tokens,
        )
        reasons: dict[str, FinishReason] = {"end": "stop", "length": "length", "stopped": "cancelled"}
        self._tell(turn.job, Finished("stop" if turn.stops.found else reasons[answer.ended], usage))

    def _refusal_of(self, error: BaseException, job: Job) -> Refusal:
        if isinstance(error, Cancelled):
            return _gone() if job.cancelled else ending()
        if isinstance(error, PyllmError):
            _log.error("%s", error.message)
            return failed(error.message)
        _log.error("an answer broke off", exc_info=error)
        return failed("internal error; the server's log has more")

    def _tell(self, job: Job, event: Event) -> None:
        """Send an event with the next lot."""
        self._events.append((job, event))
        if isinstance(event, Finished | Refused | Deleted):
            with self._lock:
                self._open -= 1

    def _send(self) -> None:
        """Hand events to the event loops of their requests."""
        lots: dict[asyncio.AbstractEventLoop, list[tuple[Job, Event]]] = {}
        for job, event in self._events:
            lots.setdefault(job.loop, []).append((job, event))
        self._events = []
        for loop, lot in lots.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver, lot)


def mixed_seed(seed: int, name: str) -> int:
    """The seed of one of many that must not resemble each other."""
    return int(sha256_hex(f"{seed} {name}")[:15], 16)


def _deliver(lot: list[tuple[Job, Event]]) -> None:
    for job, event in lot:
        job.deliver(event)


def _gone() -> Refusal:
    return Refusal(499, "the client has gone", code="cancelled")
