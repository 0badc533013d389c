"""The server's HTTP side: OpenAI's own client, streams, keys and hosts, and requests that must change nothing."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyllm.stream.reading import read_alone
from tests.support.serving import QUESTION, USUAL, events_of, load, served
from tests.support.shapes import without_shape_checks
from tests.support.tiny_models import save_tiny_model

KEY = "a-secret-key"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    with without_shape_checks():
        yield load(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("talks")


@pytest.fixture(scope="module")
def client(loaded, folder):
    """A server with a key and a folder; the client has the key."""
    with served(loaded, key=KEY, folder=folder, rows=1, queue=1, conversations=1) as client:
        yield client


@pytest.fixture(scope="module")
def api(client):
    """OpenAI's own client of the same server."""
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0) as api:
        yield api


@pytest.fixture(scope="module")
def open_client(loaded):
    """A server without a key, for this machine alone."""
    with served(loaded, queue=1000) as client:
        yield client


def test_openai_client_plain(api, loaded):
    assert [model.id for model in api.models.list()] == ["tiny"]
    assert api.models.retrieve("tiny").owned_by == "pyllm"
    done = api.chat.completions.create(model="tiny", messages=[QUESTION], max_tokens=7)
    chat = loaded.chat()
    answer = chat.ask(QUESTION["content"])
    assert answer.text.startswith(done.choices[0].message.content)
    assert (done.choices[0].finish_reason, done.choices[0].message.role) == ("length", "assistant")
    assert (done.usage.completion_tokens, done.usage.total_tokens) == (7, done.usage.prompt_tokens + 7)
    assert done.usage.prompt_tokens == len(chat.voice.question(QUESTION["content"]))
    assert done.usage.pyllm["turn"] == 1
    assert done.usage.pyllm["cache_tokens"] == done.usage.pyllm["seen_tokens"] == done.usage.total_tokens + 1


def test_openai_client_stream_is_the_plain_answer_in_parts(api):
    asked = {"model": "tiny", "messages": [QUESTION], "temperature": 1, "seed": 3}
    whole = api.chat.completions.create(**asked)
    chunks = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == whole.choices[0].message.content
    assert len(chunks) > 8
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    quiet = list(api.chat.completions.create(**asked, stream=True))
    assert len(quiet) == len(chunks) - 1
    assert all(chunk.usage is None for chunk in quiet)


def test_openai_client_conversations(api, client, loaded, folder):
    def say(text, **more):
        messages = [{"role": "user", "content": text}]
        return api.chat.completions.create(
            model="tiny", messages=messages, extra_body={"conversation_id": "talk", **more}
        )

    chat = loaded.chat()
    for turn in range(1, 6):
        done = say(f"question {turn}")
        answer = chat.ask(f"question {turn}")
        assert done.choices[0].message.content == answer.text
        assert done.conversation_id == "talk"
        assert done.usage.pyllm["turn"] == turn
        assert done.usage.pyllm["cache_tokens"] == answer.cache_tokens <= 64
        # It was saved before the answer came.
        assert len((folder / "talk" / "turns.jsonl").read_text().splitlines()) == turn
    assert done.usage.pyllm["evicted_tokens"] > 0
    assert 0 < done.usage.pyllm["kept_tokens"] < 64
    assert client.delete("/v1/conversations/talk").json() == {
        "id": "talk", "object": "conversation.deleted", "deleted": True,
    }  # fmt: skip
    assert client.delete("/v1/conversations/talk").status_code == 404
    assert say("question 1").usage.pyllm["turn"] == 1
    assert client.delete("/v1/conversations/a%2Fb").status_code == 404
    assert client.delete("/v1/conversations/.hidden").status_code == 400


def test_openai_client_errors(api, client):
    def ask(**fields):
        return api.chat.completions.create(**{"model": "tiny", "messages": [QUESTION], **fields})

    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong") as refused:
        ask(extra_headers={"Authorization": "Bearer wrong"})
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError, match="there is no model `other` here, only `tiny`") as refused:
        ask(model="other")
    assert refused.value.param == "model"
    for fields, param in (({"n": 2}, "n"), ({"max_tokens": 201}, "max_tokens"), ({"messages": []}, "messages")):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(**fields, stream=True)
        assert (refused.value.param, refused.value.type) == (param, "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(messages=[{"role": "user", "content": "x" * 500}], stream=True)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIStatusError) as refused:
        ask(messages=[{"role": "user", "content": "x" * 30_000}])
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")

    def crowd(_):
        try:
            return ask(max_tokens=100).choices[0].finish_reason
        except openai.RateLimitError as error:
            return f"{error.code}, retry after {error.response.headers['Retry-After']}"

    with ThreadPoolExecutor(6) as pool:
        got = set(pool.map(crowd, range(6)))
    assert got - {"length", "stop"} == {"rate_limit_exceeded, retry after 1"}
    assert got & {"length", "stop"}


def test_leaving_in_the_middle_of_a_stream_ends_the_answer(api, client, folder):
    stream = api.chat.completions.create(
        model="tiny", messages=[QUESTION], max_tokens=200, stream=True, extra_body={"conversation_id": "left"}
    )
    for _ in range(3):
        next(stream)
    stream.close()
    log = folder / "left" / "turns.jsonl"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    (record,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert record["ended"] == "stopped"
    start, end = record["answer_tokens"]
    assert end - start < 200


def test_leaving_before_a_whole_answer_came_ends_it_too(client, folder):
    body = json.dumps({"messages": [QUESTION], "max_tokens": 200, "conversation_id": "gone"}).encode()
    with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
        raw.sendall(head(len(body)) + body)
        while client.get("/health").json()["running"] == 0:
            time.sleep(0.005)
    log = folder / "gone" / "turns.jsonl"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert json.loads(log.read_text())["ended"] == "stopped"


def head(length):
    lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Authorization: Bearer {KEY}", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_stream_format_to_the_byte(open_client):
    said = {"messages": [QUESTION], "stream": True, "max_tokens": 3, "stop": "never", "conversation_id": "bytes"}
    with open_client.stream("POST", CHAT, json=said) as reply:
        body = b"".join(reply.iter_bytes()).decode()
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["cache-control"] == "no-cache"
    assert body.endswith("data: [DONE]\n\n")
    events = events_of(body)
    assert [event["choices"][0]["delta"].get("role") for event in events[:-1]] == ["assistant"] + [None] * (
        len(events) - 2
    )
    assert {event["object"] for event in events[:-1]} == {"chat.completion.chunk"}
    assert {event["conversation_id"] for event in events[:-1]} == {"bytes"}
    assert events[-2]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert not any("usage" in event for event in events[:-1])


def test_an_error_in_the_middle_of_a_stream_is_told(open_client, loaded, monkeypatch):
    monkeypatch.setattr(loaded.voice, "decode", lambda _: 1 / 0)
    with open_client.stream("POST", CHAT, json={"messages": [QUESTION], "stream": True}) as reply:
        events = events_of(b"".join(reply.iter_bytes()).decode())
    assert events[-1]["error"]["type"] == "server_error"
    asked = {"model": "tiny", "messages": [QUESTION]}
    with openai.OpenAI(base_url=f"{open_client.base_url}/v1", api_key="none", max_retries=0) as api:
        with pytest.raises(openai.APIError, match="internal error"):
            list(api.chat.completions.create(**asked, stream=True))
        with pytest.raises(openai.InternalServerError):
            api.chat.completions.create(**asked)


def test_who_may_come_in(client, open_client):
    for headers in ({}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": "Bearer"}):
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("DELETE", "/v1/conversations/a"), ("GET", "/x")):
            bare = client.build_request(method, path)
            bare.headers.pop("Authorization")
            bare.headers.update(headers)
            refused = client.send(bare)
            assert refused.status_code == 401
            assert refused.json()["error"]["type"] == "authentication_error"
            assert refused.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/health", headers={"Authorization": ""}).json()["status"] == "ok"
    assert open_client.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert open_client.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert open_client.get("/v1/models", headers={"Host": "[::1]"}).status_code == 200
    assert client.get("/v1/models", headers={"Host": "its.public.name"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = open_client.post(CHAT, content=json.dumps({"messages": [QUESTION]}), headers={"Content-Type": kind})
        assert refused.status_code == 415
    assert open_client.get("/nowhere").json()["error"]["code"] == "not_found"
    assert open_client.get(CHAT).status_code == 405
    assert open_client.options(CHAT).status_code == 405
    assert open_client.get("/v1/models/other").status_code == 404


def test_keys_and_contents_are_in_no_log(client, caplog):
    caplog.set_level("DEBUG")
    client.post(CHAT, json={"messages": [{"role": "user", "content": "PRIVATE"}], "conversation_id": "seen"})
    client.get("/v1/models%0d%0afake: line", headers={"Authorization": "Bearer WRONG-KEY"})
    text = caplog.text
    assert "POST /v1/chat/completions 200 " in text
    assert "tokens" in text
    assert not any(word in text for word in ("PRIVATE", KEY, "WRONG-KEY"))
    assert "\nfake" not in text


def test_bodies_of_any_length_are_bounded(client, folder):
    before = tree(folder)
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 40_000}], "conversation_id": "big"}).encode()

    def parts():
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    for content in (body, parts()):
        refused = client.post(CHAT, content=content, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")
    for length in (10, 10**15, 10**30):  # what is announced is not what comes
        with socket.create_connection((client.base_url.host, client.base_url.port)) as raw:
            raw.sendall(head(length) + body * 5)
            raw.settimeout(20)
            assert raw.recv(4096).split()[1][:1] == b"4"
    assert tree(folder) == before


def tree(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


GOOD = {
    "model": "tiny", "messages": [{"role": "system", "content": "Be brief."}, QUESTION], "max_tokens": 3,
    "temperature": 0.5, "top_p": 0.9, "seed": 5, "stop": ["x"], "stream": True,
    "stream_options": {"include_usage": True}, "conversation_id": "mutated", "n": 1,
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=5,
)


@st.composite
def broken(draw):
    """Bodies that were a good request before something was done to them that no field can take."""
    body = json.dumps(GOOD).encode()
    kind = draw(st.sampled_from(("cut", "byte", "type", "unknown", "messages")))
    if kind == "cut":
        return body[: draw(st.integers(0, len(body) - 1))]
    if kind == "byte":
        place = draw(st.integers(0, len(body)))
        return body[:place] + draw(st.sampled_from([b"\xff", b"\x00", b'"'])) + body[place:]
    if kind == "type":
        name = draw(st.sampled_from(sorted(GOOD)))
        right = {"stop": [], "stream": True, "stream_options": {}}
        wrong = [each for each in (5.5, [], {}, {"a": 1}, [5], True) if each != right.get(name)]
        return json.dumps({**GOOD, name: draw(st.sampled_from(wrong))}).encode()
    if kind == "unknown":
        return json.dumps({**GOOD, f"my_{draw(st.text('abc', max_size=3))}": draw(JSON.filter(bool))}).encode()
    return json.dumps({**GOOD, "messages": draw(st.lists(JSON, max_size=3))}).encode()


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=broken())
def test_broken_requests_get_4xx_and_change_nothing(client, folder, body):
    before = tree(folder)
    reply = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= reply.status_code < 500, reply.text
    assert reply.json()["error"].keys() == {"message", "type", "param", "code"}
    assert tree(folder) == before


def test_many_at_the_same_time_over_http(open_client, loaded):
    def say(number):
        body = {
            "messages": [{"role": "user", "content": f"question {number // 8}"}],
            "conversation_id": f"many-{number % 8}",
            "stream": bool(number % 2),
            "max_tokens": 6,
        }
        reply = open_client.post(CHAT, json=body)
        assert reply.status_code == 200
        if not number % 2:
            return reply.json()["choices"][0]["message"]["content"]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events_of(reply.text)[:-1])

    with ThreadPoolExecutor(8) as pool:
        rounds = [list(pool.map(say, range(start, start + 8))) for start in (0, 8, 16)]
    chat, short = loaded.chat(), replace(USUAL, max_new_tokens=6)
    for turn, got in enumerate(rounds):
        work = chat.asking(f"question {turn}", sampling=short)
        assert set(got) == {read_alone(work, chat.dialogue.read).text}
