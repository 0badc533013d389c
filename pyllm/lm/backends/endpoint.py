"""Any OpenAI-compatible endpoint as a backend: vLLM, llama.cpp, `transformers serve`, a company's gateway.

Many requests are under way at once. What a server cannot do now (429, 5xx, a broken connection, an answer that is not
whole) is asked again after a growing, jittered wait, or after the wait that the server names; what it never can do is
an error of that request and of no other. The key comes from an environment variable and goes into one header: no
message, log or file holds it.
"""

import asyncio
import email.utils
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.backends.contract import Completion, Done, Finish, Request

_log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
_LONGEST_NAMED_WAIT_SECONDS = 600.0
_CONNECT_SECONDS = 10.0
_TRIES_BEFORE_FIRST_CONTACT = 3
_MESSAGE_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How an endpoint is asked.

    Args:
        concurrency: Most requests under way at once.
        timeout_seconds: For one attempt, from sending it to the end of its answer.
        retries: Attempts after the first.
        seed: Of the jitter in waits.

    Raises:
        SettingError: A value is out of its range.
    """

    concurrency: int = 16
    timeout_seconds: float = 600.0
    retries: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise SettingError(f"concurrency is {self.concurrency}: it must be 1 or more")
        if not self.timeout_seconds > 0:
            raise SettingError(f"timeout is {self.timeout_seconds}: it must be above 0 seconds")
        if self.retries < 0:
            raise SettingError(f"retries is {self.retries}: it must be 0 or more")


class _AgainError(Exception):
    """An attempt that may go better next time.

    Args:
        reason: What happened.
        wait_seconds: What the server asks for, or None.
        connected: Whether a server was there at all.
    """

    def __init__(self, reason: str, wait_seconds: float | None = None, *, connected: bool = True) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds
        self.connected = connected


class _NeverError(Exception):
    """An attempt that would go the same way again."""


class EndpointBackend:
    """A server that speaks the protocol of OpenAI.

    Args:
        url: Its address, with or without `/v1`.
        model: The name it knows the model by.
        settings: How it is asked.
        api_key: What stands in the header `Authorization`; None for none.

    Raises:
        SettingError: The address is none, or holds a user name or password.
    """

    def __init__(self, url: str, model: str, settings: EndpointSettings, *, api_key: str | None = None) -> None:
        self._base = _base_url(url)
        self._model = model
        self._settings = settings
        self._key = api_key
        self._most_tokens_field = "max_tokens"
        self._contacted = False
        self._lost = 0
        self._hold_until = 0.0

    def facts(self) -> dict[str, Any]:
        """The address and the name of the model; what is behind them is not known."""
        return {"backend": "endpoint", "endpoint": self._base, "model": self._model}

    def answer(self, requests: Iterable[Request], done: Done) -> None:
        """See `pyllm.lm.backends.contract.Backend`."""
        asyncio.run(self._answer(deque(requests), done))

    async def _answer(self, waiting: deque[Request], done: Done) -> None:
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        connections = self._settings.concurrency
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx2.Timeout(self._settings.timeout_seconds, connect=_CONNECT_SECONDS, pool=None)
        under_way: set[asyncio.Task[Completion]] = set()
        # A proxy cannot reach this machine's own servers.
        outside = urlsplit(self._base).hostname not in ("localhost", "127.0.0.1", "::1")
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=timeout, trust_env=outside) as client:
            try:
                while waiting or under_way:
                    while waiting and len(under_way) < connections:
                        under_way.add(asyncio.create_task(self._ask(client, waiting.popleft())))
                    ended, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    failures = [failure for task in ended if (failure := task.exception()) is not None]
                    # Answers that end with a failure are paid for, and kept.
                    follow = [each for task in ended if task.exception() is None for each in done(task.result())]
                    if failures:
                        raise failures[0]
                    # What follows goes first: the server may still know its beginning.
                    waiting.extendleft(follow[::-1])
            finally:
                for task in under_way:
                    task.cancel()
                await asyncio.gather(*under_way, return_exceptions=True)

    async def _ask(self, client: httpx2.AsyncClient, request: Request) -> Completion:
        attempt = 0
        while True:
            attempt += 1
            await self._held()
            started = time.perf_counter()
            try:
                return await self._attempt(client, request, attempt, started)
            except _NeverError as error:
                reason = str(error)
            except _AgainError as error:
                reason = str(error)
                self._note_contact(connected=error.connected, attempt=attempt, reason=reason)
                if attempt <= self._settings.retries:
                    _log.debug("%s: attempt %d: %s", request.id, attempt, reason)
                    await self._wait(request, attempt, error.wait_seconds)
                    continue
                reason = f"{reason} (after {attempt} attempts)"
                if not error.connected:
                    self._note_lost(reason)
            return Completion(request.id, error=reason, wall_seconds=time.perf_counter() - started, attempts=attempt)

    async def _attempt(self, client: httpx2.AsyncClient, request: Request, attempt: int, started: float) -> Completion:
        path = "completions" if isinstance(request.prompt, str) else "chat/completions"
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                response = await client.post(f"{self._base}/{path}", json=self._body(request))
        except TimeoutError as error:
            raise _AgainError(f"no answer within {self._settings.timeout_seconds:g} seconds") from error
        except httpx2.TransportError as error:
            connected = not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            reason = f"{type(error).__name__}: {self._safe(str(error)) or 'no reason given'}"
            raise _AgainError(reason, connected=connected) from error
        self._contacted, self._lost = True, 0
        seconds = time.perf_counter() - started
        if response.status_code != httpx2.codes.OK:
            self._refused(response)
        return self._completion(request, response, attempt, seconds)

    def _body(self, request: Request) -> dict[str, Any]:
        decoding = request.decoding
        body: dict[str, Any] = {"model": self._model, self._most_tokens_field: decoding.max_new_tokens}
        if isinstance(request.prompt, str):
            body["prompt"] = request.prompt
        else:
            body["messages"] = [{"role": each.role, "content": each.content} for each in request.prompt]
        body["temperature"] = decoding.temperature
        if decoding.temperature > 0.0:
            body |= {"top_p": decoding.top_p, "seed": request.seed}
        if decoding.stop:
            body["stop"] = list(decoding.stop)
        return body

    def _refused(self, response: httpx2.Response) -> None:
        """Raise what a status other than 200 means."""
        status = response.status_code
        reason = f"status {status}: {self._safe(_said(response))}"
        if status in (401, 403):
            raise PrerequisiteError(
                f"endpoint {self._base} refuses the key: {reason}", hint="set the variable that --api-key-env names"
            )
        if status == 404:
            raise PrerequisiteError(f"endpoint {self._base} does not serve `{self._model}`: {reason}")
        if status == 400 and "max_completion_tokens" in response.text and self._most_tokens_field == "max_tokens":
            self._most_tokens_field = "max_completion_tokens"
            raise _AgainError(reason, 0.0)
        if status in (408, 409, 425, 429) or status >= 500:
            raise _AgainError(reason, _named_wait(response))
        raise _NeverError(reason)

    def _completion(self, request: Request, response: httpx2.Response, attempt: int, seconds: float) -> Completion:
        try:
            value = response.json()
            choice = value["choices"][0]
            text = choice["text"] if isinstance(request.prompt, str) else choice["message"]["content"]
            ended = choice.get("finish_reason")
            usage = value.get("usage") or {}
            details = usage.get("prompt_tokens_details") or {}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _AgainError(f"the answer is not whole: {self._safe(response.text)[:80]!r}") from error
        if not isinstance(text, str | None):
            raise _AgainError("the answer is not whole: its content is no text")
        if ended == "content_filter":
            raise _NeverError("the server withheld the answer (content_filter)")
        finish: Finish | None = ended if ended in ("stop", "length") else None
        return Completion(
            request.id,
            _whole_characters(text or ""),
            finish,
            prompt_tokens=_count(usage.get("prompt_tokens")),
            cached_tokens=_count(details.get("cached_tokens")),
            generated_tokens=_count(usage.get("completion_tokens")),
            wall_seconds=seconds,
            attempts=attempt,
        )

    def _note_contact(self, *, connected: bool, attempt: int, reason: str) -> None:
        if connected:
            self._contacted, self._lost = True, 0
        elif not self._contacted and attempt >= min(_TRIES_BEFORE_FIRST_CONTACT, self._settings.retries + 1):
            raise PrerequisiteError(f"endpoint {self._base} is not there: {reason}", hint="start the server first")

    def _note_lost(self, reason: str) -> None:
        self._lost += 1
        if self._lost >= min(self._settings.concurrency, 8):
            raise PrerequisiteError(
                f"endpoint {self._base} has gone: {reason}", hint="run the same command again when it is back"
            )

    async def _wait(self, request: Request, attempt: int, named: float | None) -> None:
        chance = random.Random(f"{self._settings.seed} {request.id} {attempt}")
        longest = min(_FIRST_WAIT_SECONDS * 2 ** (attempt - 1), _LONGEST_WAIT_SECONDS)
        if named is None:
            await asyncio.sleep(longest * chance.uniform(0.5, 1.0))
            return
        # What the server asks of one request holds for all.
        self._hold_until = max(self._hold_until, time.monotonic() + named)
        await asyncio.sleep(named + _FIRST_WAIT_SECONDS * chance.random() * (named > 0.0))

    async def _held(self) -> None:
        while (left := self._hold_until - time.monotonic()) > 0.0:
            await asyncio.sleep(left)

    def _safe(self, text: str) -> str:
        """A server's words as one short line, without the key that it may repeat."""
        text = text if not self._key else text.replace(self._key, "[key]")
        text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
        return text if len(text) <= _MESSAGE_CHARACTERS else f"{text[:_MESSAGE_CHARACTERS]}..."


def key_from_environment(name: str, *, needed: bool) -> str | None:
    """The key in an environment variable, or None where there is none.

    Args:
        name: Of the variable.
        needed: Whether the user named it.

    Raises:
        PrerequisiteError: It is needed and not set, or it cannot stand in a header.
    """
    key = os.environ.get(name, "").strip()
    if not key:
        if needed:
            raise PrerequisiteError(f"the environment variable `{name}` is not set", hint="put the key into it")
        return None
    if not key.isascii() or not key.isprintable():
        raise PrerequisiteError(f"the key in `{name}` holds characters that a header cannot")
    return key


def _base_url(url: str) -> str:
    hint = "as in http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingError(f"endpoint `{url}` is no address: {error}", hint=hint) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SettingError(f"endpoint `{url}` is no address of http or https", hint=hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingError("the endpoint's address holds more than host and path", hint="give keys by --api-key-env")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _said(response: httpx2.Response) -> str:
    """The error message in an answer, or its text."""
    try:
        value = response.json()
        error = value.get("error", value.get("detail", value))
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError, RecursionError):
        return response.text


def _named_wait(response: httpx2.Response) -> float | None:
    """Seconds that the header `Retry-After` asks for: a number, or a time."""
    named = response.headers.get("retry-after", "").strip()
    try:
        seconds = float(named)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(named)
        except ValueError:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_NAMED_WAIT_SECONDS) if math.isfinite(seconds) else None


def _whole_characters(text: str) -> str:
    """Text that can be written as UTF-8: JSON can hold half a surrogate pair, which cannot."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
