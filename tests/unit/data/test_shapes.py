"""Rows of every shape become the content they stand for, and rows of none say why."""

from typing import Any

import pytest

from pyllm.data.shapes import SHAPES
from pyllm.errors import SettingError
from tests.support.slow_reader.rows import BadFieldError
from tests.support.slow_reader.shapes import ShapeReader

FIELD_ROWS: list[tuple[str, dict[str, Any], tuple[str, str | None, str | None], set[str]]] = [
    ("alpaca", {"instruction": "i", "input": "n", "output": "o"}, ("i", "n", "o"), {"instruction", "input", "output"}),
    ("alpaca", {"instruction": "", "input": "", "response": ""}, ("", "", ""), {"instruction", "input", "response"}),
    ("alpaca", {"instruction": "i", "response": "r", "output": "o"}, ("i", None, "o"), {"instruction", "output"}),
    ("alpaca", {"instruction": "i", "answer": "a", "completion": "c"}, ("i", None, "c"), {"instruction", "completion"}),
    ("alpaca", {"instruction": "i", "output": None, "answer": "a"}, ("i", None, "a"), {"instruction", "answer"}),
    ("alpaca", {"instruction": "i", "category": "c", "score": 0.5}, ("i", None, None), {"instruction"}),
    ("alpaca", {"idx": 1, "Skill": "s", "Instruction": "i"}, ("i", None, None), {"Instruction"}),
    ("alpaca", {"Instruction": "other", "instruction": "i"}, ("i", None, None), {"instruction"}),
    ("qa", {"question": "q", "answer": "a <<1=1>> # 2"}, ("q", None, "a <<1=1>> # 2"), {"question", "answer"}),
    ("qa", {"question": "q", "answer": "a", "output": "o"}, ("q", None, "a"), {"question", "answer"}),
    ("qa", {"question": "q", "choices": ["a", "b"], "answer": "a"}, ("q", None, "a"), {"question", "answer"}),
    ("prompt", {"prompt": " p\n"}, (" p\n", None, None), {"prompt"}),
    ("prompt", {"prompt": "p", "completion": "c"}, ("p", None, "c"), {"prompt", "completion"}),
    ("prompt", {"conversations": "one prompt"}, ("one prompt", None, None), {"conversations"}),
    ("text", {"text": "t {{name}}", "category": "c"}, ("t {{name}}", None, None), {"text"}),
    ("nested", {"instruction": "i", "instances": [{"input": "n", "output": "o"}]}, ("i", "n", "o"),
     {"instruction", "instances"}),
    ("nested", {"instruction": "i", "instances": [{"input": "n"}, {"input": "m"}]}, ("i", "n", None), {"instruction"}),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "row", "fields", "used"), FIELD_ROWS)
def test_rows_of_fields(
    shape: str, row: dict[str, Any], fields: tuple[str, str | None, str | None], used: set[str]
) -> None:
    content = ShapeReader().read(row)
    assert content.shape == shape
    assert (content.instruction, content.input, content.output) == fields
    assert content.turns is None
    assert content.used == used


PARTS = [
    {"type": "reasoning", "value": "hm"},
    {"type": "text", "text": "so"},
    {"type": "tool_call", "value": '{"name": "f"}'},
]
CHAT_ROWS: list[tuple[str, dict[str, Any], list[tuple[str, str, bool]]]] = [
    (
        "messages",
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
        [("system", "s", False), ("user", "u", False)],
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": PARTS, "loss_weight": 0.0}]},
        [("assistant", 'hm\nso\n{"name": "f"}', False)],
    ),
    (
        "messages",
        {"messages": [{"role": "user", "content": [], "loss_weight": 1.0}], "prompt": "p", "instruction": "i"},
        [("user", "", True)],
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}]},
        [("assistant", '{"name":"f"}', True)],
    ),
    ("messages", {"messages": '[{"role": "tool", "content": "t"}]'}, [("tool", "t", False)]),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "h"},
                {"from": "function_call", "value": "f"},
                {"from": "observation", "value": "o"},
                {"from": "gpt", "value": "g"},
                {"from": "system", "value": "s"},
            ]
        },
        [
            ("user", "h", False),
            ("assistant", "f", True),
            ("tool", "o", False),
            ("assistant", "g", True),
            ("system", "s", False),
        ],
    ),
    ("turns", {"question_id": 1, "turns": ["a", "b"]}, [("user", "a", False), ("user", "b", False)]),
    ("choices", {"choices": [{"index": 0, "turns": ["a"]}]}, [("assistant", "a", True)]),
]


@pytest.mark.parametrize(("shape", "row", "turns"), CHAT_ROWS)
def test_rows_of_turns(shape: str, row: dict[str, Any], turns: list[tuple[str, str, bool]]) -> None:
    content = ShapeReader().read(row)
    assert content.shape == shape
    assert content.turns == turns
    assert (content.instruction, content.input, content.output) == (None, None, None)


def test_tools_are_text_or_become_their_json() -> None:
    chat = {"messages": [{"role": "user", "content": "u"}]}
    assert ShapeReader().read({**chat, "tools": '[ {"a":1}]'}).tools == '[ {"a":1}]'
    assert ShapeReader().read({**chat, "tools": [{"b": 1, "a": "é"}]}).tools == '[{"a":"é","b":1}]'
    assert ShapeReader().read({**chat, "tools": ""}).tools == ""


WRONG_ROWS: list[tuple[dict[str, Any], str | None, str]] = [
    ({"instruction": 5}, "instruction", "is a number, not text"),
    ({"instruction": "i", "input": ["x"]}, "input", "is a list, not text"),
    ({"instruction": "i", "output": {"a": 1}}, "output", "is an object, not text"),
    ({"instruction": True}, "instruction", "is true or false, not text"),
    ({"instruction": "i", "instances": []}, "instances", "is an empty list"),
    ({"instruction": "i", "instances": ["x"]}, "instances[0]", "is text, not an object"),
    ({"instruction": "i", "instances": [{"output": 3}]}, "instances[0].output", "is a number, not text"),
    ({"label": 1, "Body": "b"}, None, "fits no known shape (found `label`, `Body`)"),
    ({"instruction": None}, None, "fits no known shape (found nothing)"),
    ({"messages": []}, "messages", "is an empty list"),
    ({"messages": "hello"}, "messages", "is text, not a list"),
    ({"messages": [3]}, "messages[0]", "is a number, not an object"),
    ({"messages": [{"content": "x"}]}, "messages[0]", "has no `role` (or `from`)"),
    ({"messages": [{"role": "poet", "content": "x"}]}, "messages[0].role", "is `poet`, which is no known role"),
    ({"messages": [{"role": "user"}]}, "messages[0]", "has no `content` (or `value`)"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "is a number, not text"),
    (
        {"messages": [{"role": "user", "content": "x", "loss_weight": "1"}]},
        "messages[0].loss_weight",
        "is text, not a number",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0]",
        "is of type `text` and has no text",
    ),
    ({"turns": ["a", 2]}, "turns[1]", "is a number, not text"),
    ({"choices": [{"turns": None}]}, "choices[0].turns", "is null, not a list"),
    ({"instruction": "i", "tools": 7}, "tools", "is a number, not text"),
]


@pytest.mark.parametrize(("row", "field", "reason"), WRONG_ROWS)
def test_wrong_rows_say_what_is_wrong(row: dict[str, Any], field: str | None, reason: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        ShapeReader().read(row)
    assert (caught.value.field, caught.value.reason, caught.value.wrong_kind) == (field, reason, False)


USER = {"role": "user", "content": "<image>what is it?"}
WRONG_KINDS: list[tuple[dict[str, Any], str]] = [
    ({"chosen": "a", "rejected": "b", "prompt": "p"}, "chosen"),
    ({"chosen_messages": [], "rejected_messages": []}, "chosen_messages"),
    ({"conversations": [{"from": "human", "value": "h"}], "Chosen": {}, "Rejected": {}}, "Chosen"),
    ({"messages": [USER], "images": ["a.jpg"]}, "images"),
    ({"messages": [USER], "images": []}, "images"),
    ({"messages": [USER], "image": "a.jpg"}, "image"),
    ({"instruction": "i", "videos": ["a.mp4"]}, "videos"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
]


@pytest.mark.parametrize(("row", "field"), WRONG_KINDS)
def test_other_kinds_of_data_are_told_from_damage(row: dict[str, Any], field: str) -> None:
    with pytest.raises(BadFieldError) as caught:
        ShapeReader().read(row)
    assert (caught.value.field, caught.value.wrong_kind) == (field, True)


def test_a_row_with_no_images_and_no_mark_is_text() -> None:
    assert ShapeReader().read({"instruction": "write an <image> tag"}).shape == "alpaca"
    assert ShapeReader().read({"instruction": "plain", "images": [], "image": "cover.png"}).shape == "alpaca"


def test_a_forced_shape_is_kept_to() -> None:
    row = {"instruction": "i", "question": "q", "answer": "a", "text": "t"}
    assert ShapeReader("qa").read(row).instruction == "q"
    assert ShapeReader("text").read(row).instruction == "t"
    with pytest.raises(BadFieldError) as caught:
        ShapeReader("messages", beside=["extra"]).read(row)
    assert caught.value.field == "messages"
    assert "which the shape `messages` needs" in caught.value.reason
    assert "`extra`" in caught.value.reason
    text = '[{"from": "human", "value": "h"}]'
    assert ShapeReader().read({"conversations": text}).instruction == text


def test_rows_with_many_different_keys_are_read_without_keeping_every_plan() -> None:
    reader = ShapeReader()
    for number in range(5_000):
        assert reader.read({"instruction": "i", f"extra_{number}": 1}).used == {"instruction"}
    assert len(reader._plans) <= ShapeReader._MOST_PLANS


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingError) as caught:
        ShapeReader("orca")
    assert all(shape in str(caught.value.hint) for shape in SHAPES)
