"""The chat template that a trained model carries gives the ids that it was trained on."""

import logging
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pyllm.data.examples import Example, Message
from pyllm.data.framing import common_prefix
from pyllm.data.tokens import TrainingTokenizer, render_training, text_rows
from pyllm.lm.templates import chat_template, give_template
from tests.support import slow_packer
from tests.support.tiny_models import tiny_tokenizer


def merged_tokenizer(*, bos=True):
    """Byte-level BPE with merges, some of them across the borders of turns."""
    texts = [*slow_packer.ODD_TEXTS, "### Response:Yes, it is.\n\n### Instruction:\nIs it?\nResponse:\nNo\n" * 20]
    backend = slow_packer.byte_level_bpe(texts)
    names = {"eos_token": "</s>"} | ({"bos_token": "<s>"} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def sentencepiece_tokenizer():
    """Begins a text, and nothing else, with a mark of a space."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:#\n\u2581"
    vocabulary = {"<s>": 0, "</s>": 1} | {letter: place + 2 for place, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {
    "bytes": tiny_tokenizer(),
    "bytes without a start": tiny_tokenizer(bos=False),
    "merges": merged_tokenizer(),
    "merges without a start": merged_tokenizer(bos=False),
}


def described(tokenizer, **ids):
    ids = {"start_id": tokenizer.bos_token_id, "end_id": tokenizer.eos_token_id} | ids
    text = tokenizer.backend_tokenizer.to_str()
    return TrainingTokenizer("t", Path("folder"), text, "0" * 64, vocabulary=len(tokenizer), **ids)


@cache
def carrying(name, template):
    tokenizer = deepcopy(TOKENIZERS[name])
    give_template(tokenizer, template, described(tokenizer))
    return tokenizer


def trained_row(example, template, tokenizer):
    (row,) = text_rows(
        [example],
        template,
        lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"],
        start_id=tokenizer.bos_token_id,
        end_id=tokenizer.eos_token_id,
    )
    return row


def asked(tokenizer, turns, **how):
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **how)["input_ids"])


def conversation(turns):
    messages = tuple(Message(turn["role"], turn["content"], turn["role"] == "assistant") for turn in turns)
    return Example("0" * 32, "a", 0, None, None, None, messages, None)


def check(example, turns, template, tokenizer):
    row = trained_row(example, template, tokenizer)
    assert asked(tokenizer, turns) == row.ids
    if len(turns) == 1:
        return  # nothing to ask with
    prompt = asked(tokenizer, turns[:-1], add_generation_prompt=True)
    assert common_prefix(prompt, row.ids) == row.trained[-1][0]
    rendered = render_training(example, template)
    start = "" if tokenizer.bos_token is None else tokenizer.bos_token
    said = tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True)
    assert said == start + rendered.text[: rendered.answers[-1][0]]


SPACED = st.builds(
    "".join,
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
        | st.sampled_from(["\n", "  ", "\t", "\u3000", "\x1c", "\x85", "é", "中", "{{ x }}", "{%", "### ", "</s>"]),
        max_size=6,
    ),
)
ANSWERS = SPACED.filter(lambda text: text.strip())
CONVERSATIONS = st.builds(
    lambda system, turns, answer: [*system, *turns, {"role": "assistant", "content": answer}],
    st.lists(st.fixed_dictionaries({"role": st.just("system"), "content": SPACED}), max_size=1),
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool"]), "content": SPACED}), max_size=5
    ),
    ANSWERS,
)


@pytest.mark.parametrize("template", ["alpaca", "nuggets"])
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25)
@given(turns=CONVERSATIONS)
def test_a_conversation_is_asked_as_it_was_trained(name, template, turns):
    check(conversation(turns), turns, template, carrying(name, template))


@pytest.mark.parametrize("template", ["alpaca", "nuggets"])
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=25)
@given(instruction=SPACED, given_input=SPACED | st.just("1, 2"), answer=ANSWERS)
def test_a_single_turn_is_asked_as_it_was_trained(name, template, instruction, given_input, answer):
    fields = [text.strip() for text in (instruction, given_input, answer)]
    turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": answer}]
    if fields[1]:
        turns.insert(1, {"role": "input", "content": given_input})
    check(Example("0" * 32, "a", 0, *fields, None, None), turns, template, carrying(name, template))


@pytest.mark.parametrize("template", ["alpaca", "nuggets"])
def test_a_prompt_is_not_ended_and_an_empty_turn_is_no_word(template):
    tokenizer = carrying("bytes", template)
    user = {"role": "user", "content": "Hi"}
    assert tokenizer.eos_token_id not in asked(tokenizer, [user])
    assert tokenizer.eos_token_id not in asked(tokenizer, [user], add_generation_prompt=True)
    empty = tokenizer.apply_chat_template([user, {"role": "assistant", "content": None}, user], tokenize=False)
    assert "None" not in empty


def test_the_own_template_of_a_model_stays():
    tokenizer = tiny_tokenizer(chat_template="{{ messages }}")
    give_template(tokenizer, "chat", described(tokenizer))
    assert tokenizer.chat_template == "{{ messages }}"
    assert chat_template("chat", described(tokenizer)) is None


def test_only_tokens_that_were_trained_stand_around_a_conversation():
    tokenizer = tiny_tokenizer()
    give_template(tokenizer, "nuggets", described(tokenizer, start_id=None, end_id=None))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "Instruction:\na\nResponse:\nb"


def test_a_saved_template_is_there_again(tmp_path):
    tokenizer = carrying("merges", "alpaca")
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "Yes"}]
    assert asked(again, turns) == asked(tokenizer, turns) == trained_row(conversation(turns), "alpaca", tokenizer).ids


def test_a_tokenizer_that_joins_text_to_its_start_otherwise_is_told_of(caplog):
    tokenizer = sentencepiece_tokenizer()
    with caplog.at_level(logging.WARNING):
        give_template(tokenizer, "alpaca", described(tokenizer))
    assert "the tokenizer of `t` begins a conversation with other tokens than training does" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        give_template(tiny_tokenizer(), "alpaca", described(tiny_tokenizer()))
    assert not caplog.text
