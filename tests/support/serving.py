"""A server of a tiny model in this process, on a port of its own."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import torch

from pyllm.lm.loading import load_tokenizer
from pyllm.lm.sources import ModelSource, find_model
from pyllm.stream.chat import Chat
from pyllm.stream.generation import Sampling, Voice
from pyllm.stream.model import StreamModel, load_stream_model
from pyllm.stream.serving.events import Deleted, Event, Finished, Job, Refused, Said
from pyllm.stream.serving.schema import ChatRequest, Limits
from pyllm.stream.serving.server import Door, Serving, app_of, open_worker, serve
from pyllm.stream.serving.worker import Worker
from pyllm.stream.settings import Budget, StreamSettings

SMALL = StreamSettings(budget=Budget(2, 54, 8))
USUAL = Sampling(max_new_tokens=12)
QUESTION = {"role": "user", "content": "Who is there?"}


@dataclass(frozen=True)
class Loaded:
    """A tiny model with all that belongs to it."""

    source: ModelSource
    model: StreamModel
    voice: Voice

    def serving(self, **changes: Any) -> Serving:
        usual = Serving("tiny", SMALL, USUAL, Limits(20_000, 400, 200), rows=4, conversations=4, grace_seconds=2.0)
        return replace(usual, **changes)

    def worker(self, **changes: Any) -> Worker:
        return open_worker(self.model, self.voice, self.source, self.serving(**changes))[0]

    def chat(self, **how: Any) -> Chat:
        """The library's own conversation with the settings of the server."""
        return Chat(self.model, SMALL, self.voice, USUAL, **how)


def load(folder: Path) -> Loaded:
    """What was saved as a tiny model."""
    source = find_model(str(folder))
    model = load_stream_model(source, device=torch.device("cpu"), dtype=torch.float32)
    return Loaded(source, model, Voice(load_tokenizer(source), model))


@contextmanager
def at_work(worker: Worker) -> Iterator[Worker]:
    """A worker that works."""
    worker.start()
    try:
        yield worker
    finally:
        worker.drain(0.0)
        worker.join()


@contextmanager
def served(loaded: Loaded, **changes: Any) -> Iterator[httpx2.Client]:
    """A client of a server that runs in a thread."""
    serving = loaded.serving(**changes)
    door = Door("127.0.0.1", 0)
    worker, fingerprint = open_worker(loaded.model, loaded.voice, loaded.source, serving)
    ready = threading.Event()
    app = app_of(worker, fingerprint, serving, door)
    thread = threading.Thread(
        target=serve, args=(worker, app, door), kwargs={"grace_seconds": serving.grace_seconds, "ready": ready.set}
    )
    thread.start()
    try:
        assert ready.wait(20)
        headers = {"Authorization": f"Bearer {serving.key}"} if serving.key else {}
        with httpx2.Client(base_url=door.url, headers=headers, timeout=60) as client:
            yield client
    finally:
        worker.drain(0.0)
        thread.join()
        door.socket.close()


def asking(text: str, conversation: str | None = None, **fields: Any) -> ChatRequest:
    """A checked request."""
    usual = ChatRequest("tiny", None, (), text, USUAL, None, (), False, False, conversation)
    return replace(usual, **fields)


async def outcome(job: Job) -> tuple[str, Event]:
    """All the text of an answer, and how it ended."""
    texts = []
    while True:
        event = await job.next()
        if isinstance(event, Said):
            texts.append(event.text)
        if isinstance(event, Finished | Refused | Deleted):
            return "".join(texts), event


def run(coroutine: Any) -> Any:
    """In an event loop of its own."""
    return asyncio.run(coroutine)


def events_of(body: str) -> list[Any]:
    """The data of server-sent events."""
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]
