"""The endpoint backend against servers that fail in every way a server can."""

import gc
import logging
import time
from collections.abc import Iterable

import pytest

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.backends import endpoint
from pyllm.lm.backends.contract import Completion, Decoding, Message, Request
from pyllm.lm.backends.endpoint import EndpointBackend, EndpointSettings, key_from_environment
from tests.support.fake_endpoint import Reply, fake_endpoint

GREEDY = Decoding(max_new_tokens=8)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_FIRST_WAIT_SECONDS", 0.01)


def requests(count: int, decoding: Decoding = GREEDY) -> list[Request]:
    return [Request(f"r{place}", (Message("user", f"question {place}"),), decoding, place) for place in range(count)]


def answers(backend: EndpointBackend, asked: Iterable[Request]) -> dict[str, Completion]:
    found: dict[str, Completion] = {}

    def done(completion: Completion) -> list[Request]:
        assert completion.id not in found
        found[completion.id] = completion
        return []

    backend.answer(asked, done)
    return found


def backend_of(url: str, *, key: str | None = None, **settings: float) -> EndpointBackend:
    return EndpointBackend(url, "m", EndpointSettings(**settings), api_key=key)  # type: ignore[arg-type]


def test_nothing_is_lost_and_nothing_mixed_up_whatever_goes_wrong() -> None:
    tried: dict[str, int] = {}

    def script(_: int, prompt: str, __: dict[str, object]) -> Reply:
        attempt = tried[prompt] = tried.get(prompt, 0) + 1
        number = int(prompt.split()[1])
        if attempt == 1:
            return (
                Reply(status=429, headers={"retry-after": "0.05"}, body='{"error": {"message": "slow down"}}'),
                Reply(status=500, body="oops"),
                Reply(text="never whole", cut=0.5),
                Reply(text="never whole", broken=True),
                Reply(body='{"choices": []}'),
                Reply(text=prompt.upper(), wait_seconds=0.2),
                Reply(text=prompt.upper()),
            )[number % 7]
        if attempt == 2 and number % 3 == 0:
            return Reply(status=503, headers={"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"})
        return Reply(text=prompt.upper(), wait_seconds=0.001 * (40 - number))

    with fake_endpoint(script) as server:
        found = answers(backend_of(server.url, concurrency=8), requests(40))
    assert {name: each.text for name, each in found.items()} == {f"r{n}": f"QUESTION {n}" for n in range(40)}
    assert all(each.error is None for each in found.values())
    assert {each.attempts for each in found.values()} == {1, 2, 3}
    assert list(found) != [f"r{n}" for n in range(40)]  # they came as they finished
    assert server.most_under_way <= 8


def test_a_request_that_keeps_failing_is_an_error_and_others_go_on() -> None:
    def script(_: int, prompt: str, __: dict[str, object]) -> Reply:
        if prompt == "question 1":
            return Reply(status=500, body='{"error": {"message": "broken\\u001b[31m"}}')
        if prompt == "question 2":
            return Reply(status=400, body='{"error": {"message": "context length is 16"}}')
        if prompt == "question 3":
            return Reply(text="", finish="content_filter")
        return Reply(text="fine")

    with fake_endpoint(script) as server:
        found = answers(backend_of(server.url, retries=2), requests(5))
        prompts = server.prompts
    assert [found[f"r{n}"].text for n in range(5)] == ["fine", None, None, None, "fine"]
    assert found["r1"].error == "status 500: broken [31m (after 3 attempts)"
    assert found["r2"].error == "status 400: context length is 16"
    assert "content_filter" in str(found["r3"].error)
    assert [prompts.count(f"question {n}") for n in range(5)] == [1, 3, 1, 1, 1]


def test_a_slow_server_is_asked_again() -> None:
    with fake_endpoint(lambda n, *_: Reply(text="late", wait_seconds=1.0 if n == 0 else 0.0)) as server:
        found = answers(backend_of(server.url, timeout_seconds=0.2), requests(1))
    assert (found["r0"].text, found["r0"].attempts) == ("late", 2)


def test_retry_after_holds_every_request_back() -> None:
    times: list[float] = []

    def script(number: int, *_: object) -> Reply:
        times.append(time.monotonic())
        return Reply(status=429, headers={"retry-after": "0.5"}) if number == 0 else Reply(text="x")

    with fake_endpoint(script) as server:
        answers(backend_of(server.url, concurrency=1), requests(3))
    assert times[1] - times[0] >= 0.5


def test_what_is_sent() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    sampled = Decoding(max_new_tokens=9, temperature=0.7, top_p=0.9, stop=("### Task:",))
    asked = [*requests(1), Request("s", "raw text", sampled, 5)]
    with fake_endpoint(lambda n, *_: Reply(text="x", usage=usage if n == 0 else None, finish="length")) as server:
        found = answers(backend_of(server.url.removesuffix("/v1"), concurrency=1), asked)
    assert server.asked == [
        {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.0},
        {
            "model": "m", "max_tokens": 9, "prompt": "raw text", "temperature": 0.7, "top_p": 0.9, "seed": 5,
            "stop": ["### Task:"],
        },
    ]  # fmt: skip
    first, second = found["r0"], found["s"]
    assert (first.prompt_tokens, first.cached_tokens, first.generated_tokens, first.finish) == (12, 8, 3, "length")
    assert (second.prompt_tokens, second.cached_tokens, second.generated_tokens) == (None, None, None)
    assert first.busy_seconds is None
    assert first.wall_seconds > 0


def test_a_server_that_wants_the_other_name_gets_it() -> None:
    def script(_: int, __: str, body: dict[str, object]) -> Reply:
        if "max_tokens" in body:
            return Reply(status=400, body='{"error": {"message": "use max_completion_tokens instead"}}')
        return Reply(text="x")

    with fake_endpoint(script) as server:
        found = answers(backend_of(server.url, concurrency=1), requests(2))
    assert [each.text for each in found.values()] == ["x", "x"]
    assert server.asked[-1]["max_completion_tokens"] == 8
    assert len(server.asked) == 3


def test_half_a_surrogate_pair_becomes_text_that_can_be_written() -> None:
    with fake_endpoint(lambda *_: Reply(body='{"choices": [{"message": {"content": "a\\ud800b"}}]}')) as server:
        found = answers(backend_of(server.url), requests(1))
    text = str(found["r0"].text)
    assert text.encode("utf-8").decode("utf-8") == text
    assert text.startswith("a")
    assert text.endswith("b")


def test_follow_ups_go_first_and_see_their_answer() -> None:
    order: list[str] = []

    def done(completion: Completion) -> list[Request]:
        order.append(completion.id)
        if completion.id.endswith("+"):
            return []
        return [Request(f"{completion.id}+", (Message("user", f"{completion.text} again"),), GREEDY)]

    with fake_endpoint(lambda _, prompt, __: Reply(text=prompt[::-1])) as server:
        backend_of(server.url, concurrency=1).answer(requests(2), done)
    assert order == ["r0", "r0+", "r1", "r1+"]
    assert server.prompts[1] == "0 noitseuq again"


def test_the_key_goes_into_one_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    caplog.set_level(logging.DEBUG)
    key = key_from_environment("MY_KEY", needed=True)

    def script(_: int, prompt: str, __: dict[str, object]) -> Reply:
        if prompt == "question 0":
            return Reply(status=500, body='{"error": {"message": "bad key sk-secret-123"}}')
        return Reply(text="x")

    with fake_endpoint(script) as server:
        found = answers(backend_of(server.url, key=key, retries=1), requests(2))
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sk-secret-123"}
    assert found["r0"].error == "status 500: bad key [key] (after 2 attempts)"
    assert "sk-secret" not in caplog.text
    refusing = fake_endpoint(lambda *_: Reply(status=401, body="no sk-secret-123 here"))
    with refusing as server, pytest.raises(PrerequisiteError) as caught:
        answers(backend_of(server.url, key=key), requests(3))
    assert "refuses the key" in caught.value.message
    assert "sk-secret" not in caught.value.message
    monkeypatch.delenv("MY_KEY")
    assert key_from_environment("MY_KEY", needed=False) is None
    with pytest.raises(PrerequisiteError, match="`MY_KEY` is not set"):
        key_from_environment("MY_KEY", needed=True)


def test_no_server() -> None:
    with pytest.raises(PrerequisiteError, match=r"endpoint http://127\.0\.0\.1:9/v1 is not there"):
        answers(backend_of("http://127.0.0.1:9"), requests(3))


def test_answers_that_end_with_failures_are_kept_and_each_failure_is_heard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(_: EndpointBackend, __: object, request: Request) -> Completion:
        if request.id in ("r0", "r2"):
            raise PrerequisiteError(f"{request.id} failed")
        return Completion(request.id, "x", "stop")

    monkeypatch.setattr(EndpointBackend, "_ask", ask)
    found: list[str] = []
    with pytest.raises(PrerequisiteError, match=r"r[02] failed"):
        backend_of("http://127.0.0.1:9", concurrency=4).answer(
            requests(4), lambda completion: found.append(completion.id) or []
        )
    assert sorted(found) == ["r1", "r3"]
    # What no one asked of a task is logged when the task is thrown away.
    gc.collect()
    assert not caplog.records


def test_a_server_that_dies_on_the_way_ends_the_work_with_what_is_there() -> None:
    found: list[str] = []
    with fake_endpoint(lambda *_: Reply(text="x")) as server:
        backend = backend_of(server.url, concurrency=2, retries=1)
        backend.answer(requests(2), lambda completion: found.append(completion.id) or [])
    with pytest.raises(PrerequisiteError, match="has gone"):
        backend.answer(requests(9), lambda completion: found.append(completion.id) or [])
    assert sorted(found[:2]) == ["r0", "r1"]


def test_what_the_receiver_raises_ends_the_work() -> None:
    def done(_: Completion) -> list[Request]:
        raise KeyboardInterrupt

    with fake_endpoint(lambda *_: Reply(text="x")) as server, pytest.raises(KeyboardInterrupt):
        backend_of(server.url).answer(requests(30), done)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/v1/", "http://h:8000/v1"),
        ("https://h/api/v1/chat/completions", "https://h/api/v1"),
        ("https://h/openai", "https://h/openai"),
    ],
)
def test_addresses(url: str, base: str) -> None:
    assert backend_of(url).facts() == {"backend": "endpoint", "endpoint": base, "model": "m"}


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h", "http://", "http://h:x", "http://u:p@h/v1", "http://h?k=1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match=r"no address|more than host"):
        backend_of(url)
