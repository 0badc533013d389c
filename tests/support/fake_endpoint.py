"""An OpenAI-compatible server whose faults a test chooses: it answers by a function and notes what it was asked."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back.

    Args:
        text: The answer; None sends `body` alone.
        status: Of HTTP.
        headers: Beside the usual ones.
        body: Sent in place of an answer.
        cut: Send only this share of the answer's JSON, as a whole response.
        broken: Close the connection in the middle of the body.
        wait_seconds: Before anything is sent.
        usage: What the answer reports; None reports nothing.
        finish: Why the answer ended.
    """

    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    cut: float = 1.0
    broken: bool = False
    wait_seconds: float = 0.0
    usage: dict[str, Any] | None = None
    finish: str = "stop"


Script = Callable[[int, str, dict[str, Any]], Reply]
"""From the number of the request, its prompt and its body to the reply."""


@dataclass(slots=True)
class FakeEndpoint:
    """A running server.

    Args:
        url: Its address.
        script: What it does; may be replaced.
        asked: Bodies of all requests, in the order in which they came.
        headers: Their headers.
        most_under_way: Most requests that were there at once.
    """

    url: str
    script: Script
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_under_way: int = 0
    under_way: int = 0

    @property
    def prompts(self) -> list[str]:
        """The text of every request."""
        return [prompt_of(body) for body in self.asked]


def prompt_of(body: dict[str, Any]) -> str:
    """The text of a request: its last message, which is the user's, or its raw prompt."""
    if "prompt" in body:
        return str(body["prompt"])
    message = body["messages"][-1]
    assert message["role"] == "user"
    return str(message["content"])


@contextmanager
def fake_endpoint(script: Script) -> Iterator[FakeEndpoint]:
    """Serve on a free loopback port until the block ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(state.asked)
                state.asked.append(body)
                state.headers.append({name.lower(): value for name, value in self.headers.items()})
                state.under_way += 1
                state.most_under_way = max(state.most_under_way, state.under_way)
            try:
                self._reply(state.script(number, prompt_of(body), body), chat="messages" in body)
            except OSError:  # the asker has gone
                self.close_connection = True
            finally:
                with lock:
                    state.under_way -= 1

        def _reply(self, reply: Reply, *, chat: bool) -> None:
            time.sleep(reply.wait_seconds)
            data = reply.body.encode()
            if reply.text is not None:
                said = {"message": {"role": "assistant", "content": reply.text}} if chat else {"text": reply.text}
                answer = {"choices": [{"index": 0, "finish_reason": reply.finish, **said}]}
                if reply.usage is not None:
                    answer["usage"] = reply.usage  # type: ignore[assignment]
                data = json.dumps(answer).encode()
                data = data[: int(len(data) * reply.cut)]
            self.send_response(reply.status)
            for name, value in {"content-type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            if reply.broken:
                data = data[: len(data) // 2]
                self.close_connection = True
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = FakeEndpoint(f"http://127.0.0.1:{server.server_port}/v1", script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
