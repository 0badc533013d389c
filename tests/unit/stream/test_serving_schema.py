"""Which requests are taken, which field of the others is wrong, and where answers end."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyllm.stream.generation import Sampling
from pyllm.stream.serving.refusals import Refusal
from pyllm.stream.serving.schema import ChatRequest, Limits, read_request
from pyllm.stream.serving.stops import StopTexts

LIMITS = Limits(request_bytes=10_000, prompt_tokens=100, answer_tokens=50)
USUAL = Sampling(0.5, 0.9, 20)
HELLO = [{"role": "user", "content": "Hello"}]


def read(**fields):
    return read_request(json.dumps({"messages": HELLO, **fields}).encode(), LIMITS, USUAL)


def refusal(body):
    with pytest.raises(Refusal) as refused:
        read_request(body if isinstance(body, bytes) else json.dumps(body).encode(), LIMITS, USUAL)
    assert refused.value.status == 400
    return refused.value


def test_what_is_left_out_is_as_usual():
    usual = ChatRequest(None, None, (), "Hello", USUAL, None, (), False, False, None)
    assert read() == usual
    nulls = ["model", "seed", "stop", "stream", "stream_options", "max_tokens", "temperature", "top_p", "tools", "n"]
    assert read(**dict.fromkeys([*nulls, "conversation_id", "no such field"])) == usual


def test_every_field():
    made = read(
        messages=[
            {"role": "developer", "content": "Be"},
            {"role": "system", "content": "brief"},
            {"role": "user", "content": "A", "name": "Ann"},
            {"role": "user", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]},
            {"role": "assistant", "content": "D", "refusal": None, "tool_calls": [], "annotations": []},
            {"role": "user", "content": "E"},
        ],
        model="m",
        max_completion_tokens=50,
        max_tokens=50,
        temperature=2,
        top_p=1,
        seed=-(2**63),
        stop=["x", "yz"],
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        conversation_id="A-1_b.c",
    )
    assert made == ChatRequest(
        model="m",
        system="Be\n\nbrief",
        told=(("A\n\nBC", "D"),),
        question="E",
        sampling=Sampling(2.0, 1.0, 50),
        seed=-(2**63),
        stops=("x", "yz"),
        stream=True,
        include_usage=True,
        conversation_id="A-1_b.c",
    )
    assert read(stop="x").stops == ("x",)


def test_what_changes_nothing_is_passed_over():
    neutral = {
        "user": "u", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True,
        "n": 1, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False,
        "top_logprobs": 0, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0.0, "modalities": ["text"],
    }  # fmt: skip
    assert read(**neutral) == read()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"n": True}, "n", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"presence_penalty": 0.1}, "presence_penalty", "unsupported_parameter"),
        ({"top_k": 5}, "top_k", "unknown_parameter"),
        ({"x" * 100: 5}, "x" * 37 + "...", "unknown_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 51}, "max_tokens", "invalid_value"),
        ({"max_tokens": 5.0}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": True}, "max_completion_tokens", "invalid_type"),
        ({"max_completion_tokens": 5, "max_tokens": 6}, "max_tokens", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"seed": 1.5}, "seed", "invalid_type"),
        ({"seed": 2**64}, "seed", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", None]}, "stop", "invalid_type"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": list("abcde")}, "stop", "invalid_value"),
        ({"stop": "x" * 257}, "stop", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": []}, "stream_options", "invalid_type"),
        ({"stream": True, "stream_options": {"more": 1}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_type"),
        ({"messages": "Hello"}, "messages", "invalid_type"),
        ({"messages": ["Hello"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "Hello"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": ["user"], "content": "Hello"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "Hello"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages[0].content", "invalid_value"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "invalid_type",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", "invalid_type"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "messages[0].audio", "unsupported_parameter"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [{"role": "assistant", "content": "x"}, *HELLO]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [*HELLO, {"role": "system", "content": "x"}, *HELLO]}, "messages[1].role", "invalid_value"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_wrong_field_is_named(fields, param, code):
    refused = refusal({"messages": HELLO, **fields})
    assert (refused.param, refused.code) == (param, code)
    assert refused.as_dict()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../a", "-a", ".a", "a b", "a\n", "é", "a\x00", "x" * 101, 5, {}]
)
def test_names_of_conversations_that_could_leave_the_folder(name):
    assert refusal({"messages": HELLO, "conversation_id": name}).param == "conversation_id"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"hello", b"[]", b"5", b'{"messages":', b"\xff\xfe", b'{"a": "\xff"}', b"[" * 9_000, b'{"a":' * 1_500),
        *(b'{"messages": NaN}', b'{"seed": -Infinity}', b'{"seed": ' + b"9" * 5_000 + b"}", b'{"a": "\\ud800"}'),
        b'{"messages": [{"role": "user", "content": "\\udc00"}]}',
    ],
    ids=lambda body: str(body)[:30],
)
def test_what_is_no_json(body):
    assert refusal(body).code == "invalid_json"


TEXTS = st.text("ab<|>", max_size=12)


@given(st.lists(TEXTS, max_size=12), st.lists(st.text("ab<|>", min_size=1, max_size=4), max_size=4))
def test_answers_end_before_the_stop_text_that_is_whole_first(pieces, stops):
    found = StopTexts(stops)
    whole, sent = "".join(pieces), ""
    for piece in pieces:
        sent += found.add(piece)
        assert not any(stop in sent for stop in stops)
    before = sent
    sent += found.rest()
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    assert found.found == bool(ends)
    if not ends:
        assert sent == whole
        # Nothing is held back without need: what was held is the beginning of a stop text.
        assert not sent[len(before) :] or any(stop.startswith(sent[len(before) :]) for stop in stops)
        return
    first = min(ends)
    ending = [stop for stop in stops if whole[:first].endswith(stop)]
    assert sent == whole[: first - max(map(len, ending))]


@given(TEXTS.filter(bool), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_where_tokens_begin_and_end_does_not_matter(text, stops):
    at_once, by_letter = StopTexts(stops), StopTexts(stops)
    once = at_once.add(text) + at_once.rest()
    assert once == "".join(by_letter.add(letter) for letter in text) + by_letter.rest()
