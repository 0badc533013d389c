"""A server from its socket to its end: bound before the model is loaded, and ended with everything said saved.

The first Ctrl-C or SIGTERM closes the door: nothing new is taken in, what waits is refused, answers that have begun may
end within a time of grace, and what is still going on then is broken off and counts for nothing. A second Ctrl-C
shortens the grace to nothing.
"""

import asyncio
import contextlib
import hashlib
import ipaddress
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.types import ASGIApp

from pyllm.errors import PrerequisiteError, SettingError, reason_of
from pyllm.lm.sources import ModelSource
from pyllm.provenance import canonical_json, sha256_hex
from pyllm.stream.chat import Chat
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.many import Many
from pyllm.stream.model import StreamModel
from pyllm.stream.serving.app import Front, make_app
from pyllm.stream.serving.conversations import Conversations
from pyllm.stream.serving.schema import Limits
from pyllm.stream.serving.worker import Worker, mixed_seed
from pyllm.stream.session import Session, session_facts
from pyllm.stream.settings import StreamSettings

_log = logging.getLogger(__name__)

_BACKLOG = 2048
_LAST_WORDS_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Serving:
    """How a server is to be.

    Args:
        name: The name that the model is served under.
        settings: What decides who stays.
        usual: How answers are chosen where a request says nothing.
        limits: How much a request may ask for.
        seed: Of all chance in answers.
        block: When a cache is full, an answer makes room for this many tokens at once.
        rows: Most answers at the same time.
        queue: Most requests that wait beside them.
        conversations: Most conversations in memory.
        folder: Where conversations last; None keeps them as long as the server runs.
        key: What requests must carry; None where they need nothing.
        grace_seconds: How long answers may go on when the server is asked to end.

    Raises:
        SettingError: A value is out of its range, or the key cannot be sent in a header.
    """

    name: str
    settings: StreamSettings
    usual: Sampling
    limits: Limits
    seed: int = 0
    block: int = 32
    rows: int = 16
    queue: int = 256
    conversations: int = 256
    folder: Path | None = None
    key: str | None = field(default=None, repr=False)
    grace_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.conversations < self.rows:
            raise SettingError(
                f"{self.conversations:,} conversations in memory are fewer than the {self.rows:,} that are answered at"
                " the same time",
                hint="raise --max-conversations, or lower --batch",
            )
        if self.usual.max_new_tokens > self.limits.answer_tokens:
            raise SettingError(
                f"answers of {self.usual.max_new_tokens:,} tokens are longer than the {self.limits.answer_tokens:,}"
                " that a request may ask for",
                hint="raise --max-tokens, or lower --max-new-tokens",
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise SettingError("the API key has characters that a header cannot carry", hint="use printable ASCII")


class Door:
    """An address that is taken, and does not answer yet. Use it in a `with` block.

    Args:
        host: An address or a name of this machine.
        port: A port; 0 takes a free one.

    Raises:
        PrerequisiteError: It cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.socket = socket.socket(family, kind, protocol)
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind(address)
            except BaseException:
                self.socket.close()
                raise
        except OSError as error:
            raise PrerequisiteError(
                f"cannot listen on `{host}`, port {port}: {reason_of(error)}", hint="use another --port"
            ) from error
        self.port = int(self.socket.getsockname()[1])

    def __enter__(self) -> "Door":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    @property
    def url(self) -> str:
        """Where clients find the server."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(str(self.socket.getsockname()[0]))

    @property
    def names(self) -> frozenset[str]:
        """What clients on this machine call it."""
        own = f"[{self.host}]" if ":" in self.host else self.host
        return frozenset(("localhost", "127.0.0.1", "[::1]", own.lower()))


def is_loopback(address: str) -> bool:
    """Whether an IP address is reachable from this machine alone."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def open_worker(model: StreamModel, voice: Voice, source: ModelSource, serving: Serving) -> tuple[Worker, str]:
    """Make the worker, not started yet, and the fingerprint of what it answers with.

    Raises:
        PrerequisiteError: The folder of conversations cannot be written, or the policy does not fit the model.
        SettingError: The settings do not fit the model.
    """
    settings = serving.settings
    facts = session_facts(source, model, settings, voice.template)

    def make(name: str | None, system: str | None, session: Session | None) -> Chat:
        seed = serving.seed if name is None else mixed_seed(serving.seed, f"conversation {name}")
        return Chat(
            model, settings, voice, serving.usual, seed=seed, block=serving.block, system=system, session=session
        )

    make(None, None, None)  # what does not fit together is to be known now, and not from the first request
    worker = Worker(
        Conversations(make, facts, folder=serving.folder, most=serving.conversations),
        Many(model, rows=serving.rows),
        lambda system: make(None, system, None),
        seed=serving.seed,
        rows=serving.rows,
        queue=serving.queue,
        prompt_tokens=serving.limits.prompt_tokens,
    )
    return worker, f"fp_{sha256_hex(canonical_json(facts))[:10]}"


def app_of(worker: Worker, fingerprint: str, serving: Serving, door: Door) -> ASGIApp:
    """The application in front of a worker."""
    guarded = serving.key is None and door.is_loopback
    return make_app(
        worker,
        Front(
            model=serving.name,
            fingerprint=fingerprint,
            limits=serving.limits,
            usual=serving.usual,
            key_digest=None if serving.key is None else hashlib.sha256(serving.key.encode()).digest(),
            hosts=door.names if guarded else None,
            started=int(time.time()),
        ),
    )


def serve(worker: Worker, app: ASGIApp, door: Door, *, grace_seconds: float, ready: Callable[[], object]) -> int:
    """Answer requests until a signal asks for the end.

    Args:
        worker: Not started yet.
        app: What `app_of` made.
        door: Where.
        grace_seconds: How long answers may go on then.
        ready: Called when requests are answered.

    Returns:
        The signal; 0 where the worker was told to end in another way.

    Raises:
        BaseException: Whatever ended the worker's thread.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(grace_seconds + _LAST_WORDS_SECONDS),
    )
    server = _Server(config, worker, grace_seconds, ready)

    async def until_all_is_saved() -> None:
        with server.heeding_signals():
            try:
                await server.serve(sockets=[door.socket])
            finally:
                worker.drain(0.0)
                await asyncio.to_thread(worker.join)

    asyncio.run(until_all_is_saved())
    if worker.crash is not None:
        raise worker.crash
    return server.signal


class _Server(uvicorn.Server):
    """Uvicorn, with our way to end."""

    def __init__(
        self, config: uvicorn.Config, worker: Worker, grace_seconds: float, ready: Callable[[], object]
    ) -> None:
        super().__init__(config)
        self._worker, self._grace_seconds, self._ready = worker, grace_seconds, ready
        self.signal = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.start(self._end)
        await super().startup(sockets)
        self._ready()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals to `heeding_signals`, which goes on until everything is saved."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Take the first signal as a wish to end."""
        loop = asyncio.get_running_loop()
        # Signals reach the main thread alone; elsewhere, whoever runs the server ends it by `Worker.drain`.
        on_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if on_main else ()
        for number in numbers:
            loop.add_signal_handler(number, self._asked_to_end, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _asked_to_end(self, number: int) -> None:
        again = number == signal.SIGINT and self.signal != 0
        self.signal = self.signal or number
        if again:
            self.force_exit = True
        else:
            _log.info("ending: answers that have begun have %g seconds", self._grace_seconds)
        self._worker.drain(0.0 if again else self._grace_seconds)
        self._end()

    def _end(self) -> None:
        self.should_exit = True
