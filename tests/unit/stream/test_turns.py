"""Tables of dialogues to turns of token ids, and what is said of tables that are wrong."""

import polars as pl
import pytest

from pyllm.errors import InputError, PrerequisiteError
from pyllm.stream.turns import Turn, read_turns
from tests.support.tiny_models import tiny_tokenizer

CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
REWRITES = "{% for m in messages %}{{ m['content'] }}{% if loop.last %}!{% endif %}{% endfor %}"


def turns_of(rows, *, template="auto", chat=None, vocabulary=320):
    table = pl.DataFrame(rows) if isinstance(rows, dict) else pl.DataFrame(rows, infer_schema_length=None)
    return read_turns(
        table, "it", vocabulary=vocabulary, tokenizer=lambda: tiny_tokenizer(chat_template=chat), template=template
    )


def texts(rows, **more):
    tokenizer = tiny_tokenizer()
    return [tokenizer.decode(turn.token_ids) for turn in turns_of(rows, **more)]


def said(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_ids_as_they_are():
    rows = {"dialogue_id": ["b", "a", "b"], "turn": [1, 0, 0], "token_ids": [[5, 6], [7], [8, 9]], "text": ["x"] * 3}
    assert turns_of(rows) == [Turn("b", 1, (5, 6)), Turn("a", 0, (7,)), Turn("b", 0, (8, 9))]


def test_ids_as_csv_has_them():
    rows = {"dialogue_id": ["3"], "turn": ["12"], "token_ids": ["[5, 6]"]}
    assert turns_of(rows) == [Turn("3", 12, (5, 6))]
    assert turns_of({"dialogue_id": [3], "turn": [2.0], "token_ids": [[5]]}) == [Turn(3, 2, (5,))]


def test_texts():
    rows = {"dialogue_id": ["a", "a"], "turn": [1, 0], "text": ["Why?", "Hi "]}
    assert texts(rows) == ["USER: Why?\n\nASSISTANT:", "USER: Hi \n\nASSISTANT:"]
    assert texts(rows, template="none") == ["Why?", "Hi "]
    assert texts(rows, chat=CHAT) == ["<user>Why?</s><assistant>", "<user>Hi </s><assistant>"]
    # What the template writes in front of a dialogue stands in front of its first turn alone.
    headed = "Be kind. " + CHAT
    assert texts(rows, chat=headed) == ["<user>Why?</s><assistant>", "Be kind. <user>Hi </s><assistant>"]


def test_conversations():
    dialogue = said(("system", "Short."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Why?"))
    rows = {"dialogue_id": [7], "messages": [dialogue]}
    assert [turn.number for turn in turns_of(rows)] == [0, 1]
    assert texts(rows) == ["USER: Short.\n\nHi\n\nASSISTANT: Hello", "USER: Why?\n\nASSISTANT:"]
    assert texts(rows, chat=CHAT) == [
        "<system>Short.</s><user>Hi</s><assistant>Hello</s>",
        "<user>Why?</s><assistant>",
    ]
    alone = {"dialogue_id": [7], "messages": [said(("user", "Hi"), ("user", "Why?"))]}
    assert texts(alone, chat=CHAT) == ["<user>Hi</s><assistant>", "<user>Why?</s><assistant>"]
    assert texts(alone) == ["USER: Hi\n\nASSISTANT:", "USER: Why?\n\nASSISTANT:"]


def test_an_answers_tokens_begin_where_the_contexts_end():
    """As the published code has it: a token that would join both is never made."""
    rows = {"dialogue_id": [7], "messages": [said(("user", "Hi"), ("assistant", "A"))]}
    whole = turns_of(rows)[0].token_ids
    context = turns_of({"dialogue_id": [7], "messages": [said(("user", "Hi"))]})[0].token_ids
    assert whole[: len(context)] == context
    assert tiny_tokenizer().decode(whole[len(context) :]) == " A"


IDS = {"dialogue_id": ["a"], "turn": [0], "token_ids": [[5]]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"turn": [0], "token_ids": [[5]]}, "column `dialogue_id` is missing from it (found `turn`, `token_ids`)"),
        ({"dialogue_id": ["a"], "token_ids": [[5]]}, "column `turn` is missing from it"),
        ({"dialogue_id": ["a"], "x": [1]}, "a column `token_ids`, `text` or `messages` is missing from it"),
        ({name: [] for name in IDS}, "it holds no rows"),
        (IDS | {"dialogue_id": [None]}, "it: row 0, field `dialogue_id`: null is neither text nor a whole number"),
        (IDS | {"dialogue_id": [1.5]}, "it: row 0, field `dialogue_id`: `1.5` is neither text nor a whole number"),
        (IDS | {"turn": ["one"]}, "it: row 0, field `turn`: `one` is no whole number"),
        (IDS | {"turn": [None]}, "it: row 0, field `turn`: null is no whole number"),
        (IDS | {"token_ids": [[]]}, "it: row 0, field `token_ids`: a turn needs at least one token"),
        (IDS | {"token_ids": [None]}, "it: row 0, field `token_ids`: it is no list of token ids"),
        (IDS | {"token_ids": ["5,6"]}, "it: row 0, field `token_ids`: it is neither a list nor JSON text of one"),
        (IDS | {"token_ids": [[5, None]]}, "it: row 0, field `token_ids`: null at place 1 is no whole number"),
        (IDS | {"token_ids": [[5.0, 1.5]]}, "it: row 0, field `token_ids`: `1.5` at place 1 is no whole number"),
        (
            IDS | {"token_ids": [[5, 320]]},
            "it: row 0, field `token_ids`: 320 at place 1 is no token of the model, which has 320",
        ),
        (IDS | {"token_ids": [[float("inf")]]}, "it: row 0, field `token_ids`: `inf` at place 0 is no whole number"),
        (IDS | {"token_ids": [[-1]]}, "it: row 0, field `token_ids`: -1 at place 0 is no token of the model"),
        (
            {"dialogue_id": ["a", "b", "a"], "turn": [0, 0, 0], "token_ids": [[5]] * 3},
            "it: row 2, field `turn`: 0 of dialogue `a` stood in row 0",
        ),
        ({"dialogue_id": ["a"], "turn": [0], "text": [""]}, "it: row 0, field `text`: a turn needs a text"),
        ({"dialogue_id": ["a"], "turn": [0], "text": [5]}, "it: row 0, field `text`: a turn needs a text"),
        ({"dialogue_id": ["a"], "messages": [[]]}, "it: row 0, field `messages`: a dialogue needs a message"),
        ({"dialogue_id": ["a"], "messages": [3]}, "it: row 0, field `messages`: it is no list of messages"),
        (
            {"dialogue_id": ["a"], "messages": [said(("user", "x"), ("tool", "y"))]},
            "it: row 0, field `messages`: message 1 has no role among system, user, assistant",
        ),
        (
            {"dialogue_id": ["a"], "messages": [[{"role": "user", "content": None}]]},
            "it: row 0, field `messages`: message 0 has no text as its `content`",
        ),
        (
            {"dialogue_id": ["a", "a"], "messages": [said(("user", "x"))] * 2},
            "it: dialogue `a` stands in two rows",
        ),
    ],
)
def test_a_wrong_table_is_refused_by_row_and_field(rows, message):
    with pytest.raises(InputError) as caught:
        turns_of(rows)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("chat", "pairs", "message"),
    [
        (STRICT, [("system", "x"), ("user", "y"), ("assistant", "z")], "the chat template refuses it: no system"),
        (
            REWRITES,
            [("user", "y"), ("assistant", "z"), ("user", "u"), ("assistant", "v")],
            "the chat template writes earlier turns anew in turn 1",
        ),
    ],
)
def test_a_template_that_does_not_take_a_conversation(chat, pairs, message):
    with pytest.raises(InputError) as caught:
        turns_of({"dialogue_id": ["a"], "messages": [said(*pairs)]}, chat=chat)
    assert caught.value.message == f"it: row 0, field `messages`: {message}"


def test_templates_need_a_tokenizer_that_fits():
    rows = {"dialogue_id": ["a"], "turn": [0], "text": ["x"]}
    with pytest.raises(PrerequisiteError, match="no chat template"):
        turns_of(rows, template="chat")
    with pytest.raises(InputError, match="the tokenizer gives token 223, and the model has 80"):
        turns_of(rows, vocabulary=80)
