"""Examples as tokens to train on: text, spans and labels, by templates of text and of chat."""

import pytest

from pyllm.data.examples import Example, Message
from pyllm.data.framing import Refused, TextFraming
from pyllm.data.prompts import render_nuggets
from pyllm.data.tokens import MASKED, RowTokens, chat_rows, render_training, text_rows
from pyllm.errors import PrerequisiteError
from tests.support.tiny_models import tiny_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
# Answers are written otherwise once a turn follows, as templates do that drop reasoning from earlier turns.
FORGETS = (
    "{% for message in messages %}{{ message['role'] + ':' + (message['content'] if loop.last else '...') + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def exchange(instruction="Add.", given="", output="3"):
    return Example("0" * 32, "a", 0, instruction, given, output, None, None)


def conversation(*turns):
    return Example("0" * 32, "a", 0, None, None, None, tuple(Message(*turn) for turn in turns), None)


TWO_ANSWERS = conversation(
    ("system", "Be kind.", False),
    ("user", " Hi ", False),
    ("assistant", "Hello", True),
    ("user", "Sum?", False),
    ("assistant", "Hm", False),
    ("user", "Well?", False),
    ("assistant", " 3 ", True),
    ("user", "Bye", False),
)


def answers(text):
    return [text.text[start:end] for start, end in text.answers]


@pytest.mark.parametrize(
    "example", [exchange(), exchange(given="1 and 2"), exchange(given="No Input"), exchange(output=" 3\n"), TWO_ANSWERS]
)
def test_nuggets_is_what_scoring_renders(example):
    prompt, text = render_nuggets(example), render_training(example, "nuggets")
    assert text.text == prompt.text
    assert text.answers[-1] == (len(prompt.query), len(prompt.text))


def test_every_trained_turn_is_an_answer():
    assert answers(render_training(TWO_ANSWERS, "nuggets")) == ["Hello", "3"]
    assert answers(render_training(TWO_ANSWERS, "alpaca")) == ["Hello", "3"]


def test_alpaca_has_the_published_wording():
    plain = render_training(exchange("Add. ", "<noinput>", " 3 "), "alpaca")
    assert plain.text == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nAdd. \n\n### Response: 3 "
    )
    assert answers(plain) == [" 3 "]
    given = render_training(exchange("Add.", "1, 2", "3"), "alpaca")
    assert given.text == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:3"
    )


@pytest.mark.parametrize(
    "example",
    [
        exchange(output=None),
        exchange(output=" \n"),
        conversation(("user", "Hi", True)),
        conversation(("user", "Hi", False), ("assistant", "Hello", False)),
        conversation(("user", "Hi", False), ("assistant", "  ", True)),
    ],
)
def test_a_row_without_an_answer_is_none(example):
    assert render_training(example, "nuggets") is None
    assert render_training(example, "alpaca") is None
    assert chat_rows([example], tiny_tokenizer(chat_template=CHATML)) == [None]


def test_answers_begin_where_scoring_has_them_begin():
    tokenizer = tiny_tokenizer()
    examples = [exchange(), exchange(output="ﬁ 中"), TWO_ANSWERS]

    def encode(texts):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    rows = text_rows(examples, "nuggets", encode, start_id=0, end_id=1)
    scored = TextFraming(tokenizer).demonstrations([render_nuggets(example) for example in examples])
    for row, demonstration in zip(rows, scored, strict=True):
        assert row.ids[0] == 0
        assert row.ids[-1] == 1
        assert row.trained[-1] == (demonstration.demo_tokens - demonstration.answer_tokens, len(row.ids))
    trained = [rows[2].ids[start:end] for start, end in rows[2].trained]
    assert [tokenizer.decode(ids) for ids in trained] == ["Hello", "3</s>"]


def test_labels_are_ids_where_trained_and_never_at_the_first_token():
    assert RowTokens([5, 6, 7, 8], [(0, 2), (3, 4)]).labels == [MASKED, 6, MASKED, 8]


@pytest.mark.parametrize("example", [exchange(), exchange(given="1 and 2"), TWO_ANSWERS])
def test_chat_ids_are_those_of_the_template(example):
    tokenizer = tiny_tokenizer(chat_template=CHATML)
    (row,) = chat_rows([example], tokenizer)
    if example.messages is None:
        turns = [{"role": "user", "content": "Add." + ("\n\n1 and 2" if example.input else "")}]
        turns.append({"role": "assistant", "content": "3"})
        spoken = ["3<|im_end|>\n"]
    else:
        turns = [{"role": turn.role, "content": turn.content.strip()} for turn in example.messages[:-1]]
        spoken = ["Hello<|im_end|>\n", "3<|im_end|>\n"]
    assert row.ids == tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)["input_ids"]
    assert [tokenizer.decode(row.ids[start:end]) for start, end in row.trained] == spoken


def test_system_text_goes_to_the_next_user_turn_where_a_template_takes_none():
    tokenizer = tiny_tokenizer(chat_template=NO_SYSTEM)
    (row,) = chat_rows([TWO_ANSWERS], tokenizer)
    assert tokenizer.decode(row.ids).startswith("<|im_start|>user\nBe kind.\n\nHi<|im_end|>\n")


def test_a_template_that_writes_earlier_answers_otherwise_is_refused_for_them_only():
    tokenizer = tiny_tokenizer(chat_template=FORGETS)
    once = conversation(
        ("user", "Hi", False), ("assistant", "Hello", False), ("user", "A", False), ("assistant", "B", True)
    )
    rows = chat_rows([TWO_ANSWERS, exchange()], tokenizer)
    assert isinstance(rows[0], Refused)
    assert "otherwise when others follow" in rows[0].reason
    assert isinstance(chat_rows([once], tokenizer)[0], Refused | RowTokens)


def test_what_a_template_says_is_the_reason():
    template = "{{ raise_exception('only tea') }}"
    assert chat_rows([exchange()], tiny_tokenizer(chat_template=template)) == [Refused("only tea")]


def test_no_chat_template_is_refused():
    with pytest.raises(PrerequisiteError, match="no chat template"):
        chat_rows([exchange()], tiny_tokenizer())
