"""Framing: the same start on both sides, answers where they begin, chat templates that split or are refused."""

import pytest

from pyllm.data.examples import Example, Message, example_id
from pyllm.data.framing import ChatFraming, Refused, TextFraming
from pyllm.data.prompts import Prompt, render_nuggets
from pyllm.errors import PrerequisiteError
from tests.support.tiny_models import tiny_tokenizer

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
LAST_ONLY = (
    "{% for m in messages %}{% if m['role'] == 'user' %}U:{{ m['content'] }}\n{% else %}"
    "A:{% if loop.index == loop.length %}think {% endif %}{{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
COUNTING = "{{ messages | length }} turns\n{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def example(
    instruction: str | None = None,
    given: str | None = None,
    output: str | None = None,
    messages: tuple[Message, ...] | None = None,
) -> Example:
    name = example_id(instruction, given, output, messages, None)
    return Example(name, "rows.jsonl", 0, instruction, given, output, messages, None)


def test_nuggets_template_is_the_published_one() -> None:
    prompt = render_nuggets(example(" Add.\n", "2 3", "5 "))
    assert prompt.text == "Instruction:\nAdd.\nInput:\n2 3\nResponse:\n5"
    assert render_nuggets(example("Add.", "", "5")).query == "Instruction:\nAdd.\nResponse:\n"


def test_fields_are_stripped_as_python_strips() -> None:
    prompt = render_nuggets(example("\x1f\u3000Add.\u00a0\x85", None, "\x1c5\x1d"))
    assert prompt.text == "Instruction:\nAdd.\nResponse:\n5"


@pytest.mark.parametrize("text", ["No input", "noinput", "<No Input>", "No input required"])
def test_inputs_that_say_there_is_none_are_blanked_but_not_in_reference_mode(text: str) -> None:
    row = example("Add.", text, "5")
    assert "Input:" not in render_nuggets(row).query
    assert f"Input:\n{text}\n" in render_nuggets(row, blank_no_input=False).query


def test_a_conversation_answers_with_its_last_trained_turn() -> None:
    turns = (
        Message("system", "Be brief.", trained=False),
        Message("user", "Hi", trained=False),
        Message("assistant", "Hello", trained=True),
        Message("user", "And?", trained=False),
        Message("assistant", "Bye", trained=True),
        Message("user", "Wait", trained=False),
    )
    prompt = render_nuggets(example(messages=turns))
    assert prompt.query == "System:\nBe brief.\nInstruction:\nHi\nResponse:\nHello\nInstruction:\nAnd?\nResponse:\n"
    assert prompt.answer == "Bye"


def test_a_row_without_an_answer_renders_with_an_empty_one() -> None:
    assert render_nuggets(example("Add.", None, None)).answer == ""
    assert render_nuggets(example(messages=(Message("user", "Hi", trained=False),))).answer == ""


def decoded(tokenizer: object, ids: list[int]) -> str:
    return str(tokenizer.decode(ids))  # type: ignore[attr-defined]


def test_default_framing_starts_both_sides_alike() -> None:
    tokenizer = tiny_tokenizer()
    framing = TextFraming(tokenizer)
    prompt = Prompt("Q:\n", "yes", (("user", "Q"),))
    (demo,) = framing.demonstrations([prompt])
    (anchor,) = framing.anchors([prompt])
    assert framing.zero_shot_prefix() == [0]
    assert decoded(tokenizer, demo.prefix_ids) == "<s>Q:\nyes\n\n"
    assert (demo.demo_tokens, demo.answer_tokens) == (7, 3)
    assert decoded(tokenizer, anchor.ids) == "Q:\nyes"
    assert anchor.answer_start == 3


def test_a_tokenizer_without_start_token_gets_none() -> None:
    framing = TextFraming(tiny_tokenizer(bos=False))
    (demo,) = framing.demonstrations([Prompt("Q:\n", "yes", ())])
    assert framing.zero_shot_prefix() == []
    assert demo.demo_tokens == len(demo.prefix_ids) - 2


def test_reference_framing_has_no_separator_and_no_start_on_the_anchor() -> None:
    framing = TextFraming(tiny_tokenizer(), reference=True)
    (demo,) = framing.demonstrations([Prompt("Q:\n", "yes", ())])
    assert framing.zero_shot_prefix() == []
    assert demo.demo_tokens == len(demo.prefix_ids)


@pytest.mark.parametrize("template", [CHATML, BRACKETS, LAST_ONLY], ids=["chatml", "brackets", "last turn differs"])
def test_chat_framing_composes_to_what_the_template_writes(template: str) -> None:
    tokenizer = tiny_tokenizer(chat_template=template)
    framing = ChatFraming(tokenizer)
    first = Prompt("", "It is four.", (("user", "2 + 2?"),))
    second = Prompt("", "Paris.", (("system", "Geography."), ("user", "Capital of France?")))
    (demo,) = framing.demonstrations([first])
    (anchor,) = framing.anchors([second])
    query = anchor.ids[: anchor.answer_start]
    exchange = [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "It is four."},
        {"role": "user", "content": "Geography.\n\nCapital of France?"},
    ]
    whole = tokenizer.apply_chat_template(exchange, tokenize=True, add_generation_prompt=True, return_dict=True)
    alone = tokenizer.apply_chat_template(exchange[2:], tokenize=True, add_generation_prompt=True, return_dict=True)
    assert demo.prefix_ids + query == list(whole["input_ids"])
    assert framing.zero_shot_prefix() + query == list(alone["input_ids"])
    assert decoded(tokenizer, anchor.ids[anchor.answer_start :]) == "Paris."


def test_a_prompt_that_the_template_does_not_split_is_refused() -> None:
    framing = ChatFraming(tiny_tokenizer(chat_template=COUNTING))
    turns = (("user", "a"), ("assistant", "b"), ("user", "c"))
    (anchor,) = framing.anchors([Prompt("", "d", turns)])
    assert isinstance(anchor, Refused)
    assert "stand behind any demonstration" in anchor.reason


def test_separators_end_a_demonstration_that_was_cut() -> None:
    tokenizer = tiny_tokenizer(chat_template=CHATML)
    assert decoded(tokenizer, TextFraming(tokenizer).separator_ids()) == "\n\n"
    assert TextFraming(tokenizer, reference=True).separator_ids() == []
    assert ChatFraming(tokenizer).separator_ids() == []
    assert decoded(tokenizer, ChatFraming(tiny_tokenizer(chat_template=LAST_ONLY)).separator_ids()) == "\n"


def test_a_missing_chat_template_is_named() -> None:
    with pytest.raises(PrerequisiteError, match="no chat template"):
        ChatFraming(tiny_tokenizer())
