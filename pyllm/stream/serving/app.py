"""The server's HTTP side: who may ask, what is asked, and answers in OpenAI's form, whole or as they come.

Nothing here touches the model or the disk: a request becomes a job of the worker's thread, and its events come back
through a queue. Requests are checked in the order of what they cost: where they come from and the key before any of
the body is read, its size while it is read, its fields when it is whole.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyllm.stream.generation import Sampling
from pyllm.stream.serving.events import Begun, Deleted, Event, Finished, Job, Refused, Said, Usage
from pyllm.stream.serving.refusals import Refusal, failed
from pyllm.stream.serving.schema import ChatRequest, Limits, check_conversation_id, model_mismatch, read_request
from pyllm.stream.serving.worker import Worker

_log = logging.getLogger(__name__)

_BODY_SECONDS = 30.0
_DISCARDED_BODIES = 8
"""Of a body that is too large, this many times the limit are read and thrown away: its sender then sees the reply."""
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Front:
    """What the HTTP side needs to know.

    Args:
        model: The name that the model is served under.
        fingerprint: What tells answers of other weights and settings apart.
        limits: How much a request may ask for.
        usual: How answers are chosen where a request says nothing.
        key_digest: SHA-256 of the key that requests must carry; None where they need none.
        hosts: Names of this server that requests may use; None where any will do.
        started: When it was started, in seconds since 1970.
    """

    model: str
    fingerprint: str
    limits: Limits
    usual: Sampling
    key_digest: bytes | None
    hosts: frozenset[str] | None
    started: int


def make_app(worker: Worker, front: Front) -> ASGIApp:
    """The application, for any ASGI server.

    Args:
        worker: Has the model; must be running when requests come.
        front: What it shows of itself.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await _body(request, front.limits)
        asked = read_request(body, front.limits, front.usual)
        if asked.model is not None and asked.model != front.model:
            raise model_mismatch(asked.model, front.model)
        job = worker.submit(asked)
        # Only now: while the body was read, the same messages were needed there.
        watch = asyncio.create_task(_cancel_when_gone(request, job))
        reply = _Reply(front, asked)
        try:
            first = await job.next()
            if isinstance(first, Refused):
                raise first.refusal
            if not asked.stream:
                return JSONResponse(await reply.whole(request, job, first))
        except BaseException:
            job.cancel()
            raise
        finally:
            # Whether a stream is left is seen by who sends it.
            watch.cancel()
        return _Stream(reply.stream(request, job, first), job)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model_card(front)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != front.model:
            raise model_mismatch(name, front.model)
        return _model_card(front)

    @app.delete("/v1/conversations/{name}")
    async def delete(name: str) -> dict[str, Any]:
        job = worker.delete(check_conversation_id(name))
        done = await job.next()
        if isinstance(done, Refused):
            raise done.refusal
        return {"id": name, "object": "conversation.deleted", "deleted": isinstance(done, Deleted)}

    @app.get("/health")
    async def health() -> Response:
        state = worker.health()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    @app.exception_handler(Refusal)
    async def refused(_request: Request, error: Exception) -> Response:
        return _refused(error if isinstance(error, Refusal) else failed("internal error"))

    @app.exception_handler(HTTPException)
    async def not_there(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        reason = f"{request.method} {request.url.path} is not offered here"
        return _refused(Refusal(status, reason, code="not_found" if status == 404 else "not_allowed", headers=headers))

    @app.exception_handler(Exception)
    async def broken(_request: Request, _error: Exception) -> Response:
        return _refused(failed("internal error; the server's log has more"))

    return _Door(app, front)


class _Door:
    """Stands before everything: lets in whom it may, and writes a line for every request."""

    def __init__(self, app: ASGIApp, front: Front) -> None:
        self._app = app
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0
        scope.setdefault("state", {})

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await _refused(refusal)(scope, receive, noted)
                return
            await self._app(scope, receive, noted)
        finally:
            self._write_line(scope, status, time.monotonic() - started)

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        front = self._front
        if front.hosts is not None and _host_name(headers.get(b"host", b"")) not in front.hosts:
            # A page of another site may have had its own name lead here.
            return Refusal(403, "this host name is not one of this server", code="host_not_allowed")
        if front.key_digest is None or scope["path"] == "/health":
            return None
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        given = hashlib.sha256(key.strip()).digest()
        if hmac.compare_digest(given, front.key_digest) and kind.lower() == b"bearer":
            return None
        return Refusal(
            401, "the API key is missing or wrong", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
        )

    def _write_line(self, scope: Scope, status: int, seconds: float) -> None:
        usage = scope["state"].get("usage")
        counts = "" if usage is None else f" {usage.prompt_tokens}+{usage.completion_tokens} tokens"
        # What was sent as a path must not be able to write lines of its own.
        path = scope["path"][:120].encode("unicode_escape").decode()
        # Those who watch a server ask for this every second.
        level = logging.DEBUG if scope["path"] == "/health" and status == 200 else logging.INFO
        _log.log(level, "%s %s %s%s %.3f s", scope["method"], path, status or "no reply", counts, seconds)


def _host_name(header: bytes) -> str:
    text = header.decode("latin-1").lower()
    name = text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]
    return "localhost" if name.endswith(".localhost") else name


async def _body(request: Request, limits: Limits) -> bytes:
    """A body of no more than the allowed bytes, whatever its headers say.

    Raises:
        Refusal: It is no JSON by its own word, too large, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Pages of other sites can send any other type without asking first.
        raise Refusal(415, "the body must be sent as `Content-Type: application/json`", code="unsupported_media_type")
    most = limits.request_bytes
    data, length = bytearray(), 0
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for part in request.stream():
                length += len(part)
                if length <= most:
                    data += part
                elif length > most * _DISCARDED_BODIES:
                    break
    except TimeoutError as error:
        raise Refusal(408, "the body did not come in time", code="request_timeout") from error
    if length > most:
        raise Refusal(413, f"the body has more than {most:,} bytes", code="request_too_large")
    return bytes(data)


async def _cancel_when_gone(request: Request, job: Job) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.cancel()


def _refused(refusal: Refusal) -> JSONResponse:
    return JSONResponse(refusal.as_dict(), status_code=refusal.status, headers=refusal.headers)


def _model_card(front: Front) -> dict[str, Any]:
    return {"id": front.model, "object": "model", "created": front.started, "owned_by": "pyllm"}


class _Stream(StreamingResponse):
    """An answer as it comes, which ends when its reader leaves, be it before the first part."""

    def __init__(self, parts: AsyncIterator[bytes], job: Job) -> None:
        super().__init__(parts, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


class _Reply:
    """The reply to one request, in OpenAI's form."""

    def __init__(self, front: Front, asked: ChatRequest) -> None:
        self._asked = asked
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": front.model,
            "system_fingerprint": front.fingerprint,
        }
        if asked.conversation_id is not None:
            self._head["conversation_id"] = asked.conversation_id

    async def whole(self, request: Request, job: Job, event: Event) -> dict[str, Any]:
        """The whole answer.

        Raises:
            Refusal: There will be none.
        """
        texts: list[str] = []
        while not isinstance(event, Finished):
            if isinstance(event, Refused):
                raise event.refusal
            if isinstance(event, Said):
                texts.append(event.text)
            event = await job.next()
        request.state.usage = event.usage
        message = {"role": "assistant", "content": "".join(texts), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": event.reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": event.usage.as_dict()}

    async def stream(self, request: Request, job: Job, event: Event) -> AsyncIterator[bytes]:
        """The answer as it comes, as server-sent events."""
        while not isinstance(event, Finished):
            if isinstance(event, Refused):
                yield _data(event.refusal.as_dict())
                return
            if isinstance(event, Begun):
                yield self._chunk({"role": "assistant", "content": ""})
            elif isinstance(event, Said):
                yield self._chunk({"content": event.text})
            event = await job.next()
        request.state.usage = event.usage
        yield self._chunk({}, event.reason)
        if self._asked.include_usage:
            yield self._event([], event.usage)
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> bytes:
        return self._event([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _event(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> bytes:
        event = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._asked.include_usage:
            event["usage"] = None if usage is None else usage.as_dict()
        return _data(event)


def _data(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
