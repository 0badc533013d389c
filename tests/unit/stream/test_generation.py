"""Answers: how tokens are chosen, what of them enters the memory, and text that never cuts a character."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pyllm.errors import InputError, PrerequisiteError, SettingError
from pyllm.stream.chat import Chat
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.generation import Sampling, TextDecoder, Voice, choose, generate, generator_of
from pyllm.stream.session import LOG, Session
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.stream_models import streaming
from tests.support.tiny_models import tiny_tokenizer

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

SMALL = StreamSettings(budget=Budget(2, 40, 10), decay=0.9)
WARM = Sampling(temperature=1.0, top_p=0.9, max_new_tokens=30)
CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
    "{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}"
    "{% endif %}"
)
MIXED = "{% for m in messages %}{{ m['role'] + ' ' + messages[0]['content'] + ': ' + m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def model():
    return streaming("llama")


@pytest.fixture(scope="module")
def voice(model):
    return Voice(tiny_tokenizer(), model)


def ids_of(text):
    return tiny_tokenizer()([text], add_special_tokens=False)["input_ids"][0]


def most_tokens(dialogue):
    """The largest number of tokens that the cache has with those of a forward pass, growing as it is used."""
    most, place = [0], dialogue.cache.place

    def watched(count):
        positions = place(count)
        most[0] = max(most[0], dialogue.cache.tokens)
        return positions

    dialogue.cache.place = watched
    return most


# Text


def byte_fallback_tokenizer():
    """As sentencepiece has it: words with the space before them, and bytes for what is no word."""
    words = ["▁Hello", "▁there", "▁", "日", "!"]
    vocabulary = {name: place for place, name in enumerate(["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))])}
    vocabulary |= {word: len(vocabulary) + place for place, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"), vocabulary


def test_a_character_of_many_tokens_comes_out_whole(voice):
    text = "a日本 née 👩‍👩‍👧 Ж\n\tz 𝄞"
    decoder = TextDecoder(voice.decode)
    ids = ids_of(text)
    pieces = [decoder.add(token) for token in ids]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert decoder.rest() == ""
    assert len(ids) == len(text.encode())
    # As soon as it is whole, a character is there.
    assert [piece for piece in pieces if piece] == list(text)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_half_a_character_at_the_end_is_shown_as_such(voice, cut):
    decoder = TextDecoder(voice.decode)
    assert [decoder.add(token) for token in ids_of("x𝄞")[: 1 + cut]] == ["x"] + [""] * cut
    assert decoder.rest() == "\ufffd"


def test_spaces_and_bytes_as_sentencepiece_has_them():
    tokenizer, vocabulary = byte_fallback_tokenizer()
    words = ["▁Hello", "▁there", "▁", *(f"<0x{byte:02X}>" for byte in "👋é".encode()), "日", "!", "▁there"]
    decoder = TextDecoder(lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    ids = [vocabulary[word] for word in words]
    pieces = [decoder.add(token) for token in ids]
    assert pieces == ["Hello", " there", " ", "", "", "", "👋", "", "é", "日", "!", " there"]
    assert "".join(pieces) == tokenizer.decode(ids)


def test_special_tokens_are_no_text(voice):
    decoder = TextDecoder(voice.decode)
    assert "".join(decoder.add(token) for token in [*ids_of("a"), 1, 2, *ids_of("b")]) == "ab"


# Choice


def test_zero_takes_the_likeliest():
    logits = torch.tensor([0.0, 3.0, 2.9])
    assert {choose(logits, Sampling(), generator_of(seed, 0)) for seed in range(20)} == {1}


def test_chances_are_those_of_temperature_and_top_p():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.4]))
    generator = generator_of(0, 0)

    def shares(sampling):
        drawn = [choose(logits, sampling, generator) for _ in range(2000)]
        return [drawn.count(token) / 2000 for token in range(3)]

    np.testing.assert_allclose(shares(Sampling(temperature=1.0)), [0.1, 0.5, 0.4], atol=0.04)
    # Of 0.5 and 0.4, 0.9 is the least that reaches 0.6; the third has no chance.
    np.testing.assert_allclose(shares(Sampling(temperature=1.0, top_p=0.6)), [0, 5 / 9, 4 / 9], atol=0.04)
    assert shares(Sampling(temperature=1.0, top_p=0.49)) == [0, 1, 0]
    squared = np.array([0.01, 0.25, 0.16])
    np.testing.assert_allclose(shares(Sampling(temperature=0.5)), squared / squared.sum(), atol=0.04)
    assert shares(Sampling(temperature=1e-300)) == [0, 1, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.01}, "top-p is 1.01"),
        ({"max_new_tokens": 0}, "max new tokens is 0"),
    ],
)
def test_wrong_sampling(values, message):
    with pytest.raises(SettingError, match=message):
        Sampling(**values)


# Tokens


def test_every_token_enters_with_its_surprisal_under_the_unmodified_logits(model):
    dialogue = Dialogue(model, StreamSettings(policy="full"))
    dialogue.begin_turn()
    asked = ids_of("hello")
    dialogue.feed(asked)
    strange = Sampling(temperature=3.0, top_p=0.5, max_new_tokens=40)
    said = list(generate(dialogue, strange, generator_of(1, 0), end_ids=frozenset()))
    assert len(said) == 40
    # The twin: the whole text read at once by the model itself.
    with torch.inference_mode():
        logits = model.model(torch.tensor([asked + said]), use_cache=False).logits[0].float()
    whole = -logits.log_softmax(-1)[:-1].gather(1, torch.tensor((asked + said)[1:])[:, None])[:, 0]
    np.testing.assert_allclose(dialogue.memory.nats[1:], whole.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("block", [1, 5, 32, 1000])
@pytest.mark.parametrize("settings", [SMALL, StreamSettings(policy="tova", budget=Budget(0, 0, 33))], ids=["s", "t"])
def test_the_budget_is_never_exceeded(model, settings, block):
    dialogue = Dialogue(model, settings)
    most = most_tokens(dialogue)
    dialogue.begin_turn()
    dialogue.feed(ids_of("a question of some length, to begin with"))
    held = dialogue.memory.evictions
    sampling = Sampling(temperature=1.0, max_new_tokens=200)
    said = list(generate(dialogue, sampling, generator_of(0, 0), end_ids=frozenset(), block=block))
    assert len(said) == 200
    assert most[0] == settings.budget.tokens
    evictions = dialogue.memory.evictions - held
    # The first block is part of the budget still.
    room = min(block, settings.budget.room)
    assert 200 / room - 2 - settings.budget.tokens / room <= evictions <= 200 / room + 1


def test_an_answer_ends_with_its_token_or_when_asked_to(model):
    def answer(**named):
        dialogue = Dialogue(model, SMALL)
        dialogue.begin_turn()
        dialogue.feed(ids_of("so?"))
        return dialogue, list(generate(dialogue, WARM, generator_of(4, 0), **named))

    _, free = answer(end_ids=frozenset())
    last = free[7]
    first = free.index(last)
    dialogue, said = answer(end_ids=frozenset([last]))
    assert said == free[: first + 1]
    assert dialogue.memory.seen == 3 + len(said)
    calls = iter([False, False, True])
    _, said = answer(end_ids=frozenset(), stopped=lambda: next(calls))
    assert said == free[:2]
    with pytest.raises(SettingError, match="nothing was read"):
        next(generate(Dialogue(model, SMALL), WARM, generator_of(0, 0), end_ids=frozenset()))


# Voices


def test_the_forms_of_questions(model):
    plain = Voice(tiny_tokenizer(), model)
    assert plain.template == "vicuna"
    assert plain.question("Hi") == ids_of("USER: Hi\n\nASSISTANT:")
    assert plain.opening(None) == []
    assert plain.opening("Be brief.") == ids_of("Be brief.\n\n")
    assert plain.closing == [1]
    assert plain.ending(1) == []
    assert plain.ending(77) == [1]
    chat = Voice(tiny_tokenizer(chat_template=CHATML), model)
    assert chat.template == "chat"
    whole = [*chat.opening(None), *chat.question("Hi"), *ids_of("Yo"), *chat.closing, *chat.question("Bye")]
    said = [("user", "Hi"), ("assistant", "Yo"), ("user", "Bye")]
    conversation = [{"role": role, "content": text} for role, text in said]
    rendered = tiny_tokenizer(chat_template=CHATML).apply_chat_template(conversation, add_generation_prompt=True)
    assert whole == list(rendered["input_ids"])
    assert chat.opening("Be brief.") == [0, *ids_of("<system>Be brief."), 1]
    assert chat.end_ids == {1}
    assert chat.ending(1) == []
    assert chat.ending(77) == [1]
    # What a template writes behind the token that ends an answer is fed as well.
    lined = Voice(tiny_tokenizer(chat_template=CHATML.replace("+ eos_token", "+ eos_token + '\\n'")), model)
    assert lined.closing == [1, *ids_of("\n")]
    assert lined.ending(1) == ids_of("\n")
    assert lined.ending(77) == [1, *ids_of("\n")]


def test_what_a_template_does_not_take(model):
    with pytest.raises(SettingError, match="takes no system text: no system"):
        Voice(tiny_tokenizer(chat_template=NO_SYSTEM), model).opening("x")
    with pytest.raises(PrerequisiteError, match="has no chat template"):
        Voice(tiny_tokenizer(), model, "chat")
    refuses = "{% if 'bad' in messages[-1]['content'] %}{{ raise_exception('bad') }}{% endif %}" + CHATML
    with pytest.raises(InputError, match="refuses the question: bad"):
        Voice(tiny_tokenizer(chat_template=refuses), model).question("a bad one")


# Conversations


def test_a_conversation_is_what_its_tokens_are(model, voice):
    chat = Chat(model, StreamSettings(policy="full"), voice, WARM, seed=3)
    shown = []
    answers = [chat.ask(text, show=shown.append) for text in ("Hi", "And?", "So")]
    assert "".join(shown) == "".join(answer.text for answer in answers)
    assert chat.turns == 3
    parts = []
    for text, answer in zip(("Hi", "And?", "So"), answers, strict=True):
        parts += [*voice.question(text), *answer.token_ids, *voice.ending(answer.token_ids[-1])]
    assert chat.seen_tokens == chat.cache_tokens == len(parts) == answers[-1].cache_tokens
    with torch.inference_mode():
        whole = model.model(torch.tensor([parts]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(chat.dialogue.logits, whole, rtol=0, atol=1e-4)
    assert [turn.text for turn in chat.past.held_turns()][1].startswith("USER: And?\n\nASSISTANT:")
    assert [turn.held for turn in chat.past.held_turns()] == [turn.tokens for turn in chat.past.held_turns()]


def test_seeds_repeat_and_turns_draw_anew(model, voice):
    def talk(seed):
        chat = Chat(model, SMALL, voice, WARM, seed=seed)
        return [chat.ask("again").token_ids for _ in range(2)]

    first = talk(7)
    assert talk(7) == first
    assert talk(8) != first
    assert generator_of(7, 0).initial_seed() != generator_of(7, 1).initial_seed()


def test_what_is_held_and_what_went(model, voice):
    chat = Chat(model, SMALL, voice, WARM, system="Be brief.")
    most = most_tokens(chat.dialogue)
    opening = len(voice.opening("Be brief."))
    assert len(chat.past.gone) == 0
    for number in range(4):
        chat.ask(f"question {number}")
    assert most[0] == SMALL.budget.tokens
    memory = chat.dialogue.memory
    assert memory.positions[:opening].tolist() == list(range(opening))
    assert memory.pinned[:opening].all()
    assert memory.pinned.sum() == opening
    held = chat.past.held_turns()
    assert held[0].turn == 1
    assert held[0].text.startswith("Be brief.\n\n")
    assert held[0].pinned == opening
    assert sum(turn.held for turn in held) == chat.cache_tokens
    tops = chat.past.most_surprising(5)
    decayed = dict(zip(memory.positions.tolist(), memory.decayed.tolist(), strict=True))
    assert [decayed[token.position] for token in tops] == sorted(decayed.values(), reverse=True)[:5]
    gone = chat.past.last_gone(1000)
    assert len(gone) == len(chat.past.gone) > 0
    assert not {token.position for token in gone} & set(memory.positions.tolist())
    assert [token.nats for token in gone] == sorted((token.nats for token in gone), reverse=True)


def test_pins_and_what_is_forgotten(model, voice):
    chat = Chat(model, SMALL, voice, Sampling(max_new_tokens=5))
    chat.ask("Hi")
    there = chat.cache_tokens
    assert chat.pin([0, 1, 5, 900]) == 3
    assert chat.forget([1, 6, 7, 900]) == 3
    assert chat.cache_tokens == there - 3
    for _ in range(5):
        chat.ask("more of it")
    assert {0, 5} <= set(chat.dialogue.memory.positions.tolist())
    assert {1, 6, 7}.isdisjoint(chat.dialogue.memory.positions.tolist())
    chat.unpin()
    assert not chat.dialogue.memory.pinned.any()
    with pytest.raises(SettingError, match="there is no turn 9: there were 6"):
        chat.past.positions_of(9)


def test_a_system_text_that_leaves_no_room(model, voice):
    with pytest.raises(SettingError, match="a system text of 62 tokens leaves no room in a cache of 52"):
        Chat(model, SMALL, voice, WARM, system="x" * 60)


@pytest.mark.parametrize("sampling", [WARM, Sampling(max_new_tokens=30)], ids=["sampled", "greedy"])
def test_a_conversation_goes_on_from_disk_to_the_bit(model, voice, tmp_path, sampling):
    def chat(session):
        return Chat(model, SMALL, voice, sampling, seed=5, session=session)

    whole = chat(None)
    for number in range(5):
        whole.ask(f"question {number}")
        if number == 2:
            whole.pin([7, 8])
    said = []
    for number in range(5):
        with Session(tmp_path, {}) as session:
            part = chat(session)
            assert part.turns == number
            said.append(part.ask(f"question {number}"))
            if number == 2:
                part.pin([7, 8])
    assert torch.equal(part.dialogue.logits, whole.dialogue.logits)
    left, right = part.dialogue.state(), whole.dialogue.state()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert part.past.last_gone(100) == whole.past.last_gone(100)
    assert part.past.held_turns() == whole.past.held_turns()
    records = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [record["kind"] for record in records] == ["turn", "turn", "turn", "pin", "turn", "turn"]
    assert [record["answer"] for record in records if record["kind"] == "turn"] == [answer.text for answer in said]
    gone = [position for record in records for position in record.get("gone", [])]
    held = whole.dialogue.memory.positions.tolist()
    assert sorted(gone + held) == list(range(whole.seen_tokens))


def test_saving_elsewhere_and_the_text_of_a_session(model, voice, tmp_path):
    chat = Chat(model, SMALL, voice, WARM, system="Be brief.")
    with Session(tmp_path / "early", {}) as session, pytest.raises(SettingError, match="nothing was said yet"):
        chat.save_to(session)
    chat.ask("Hi")
    first = Session(tmp_path / "talk", {})
    chat.save_to(first)
    chat.ask("And?")
    first.close()
    with Session(tmp_path / "talk", {}) as session:
        again = Chat(model, SMALL, voice, WARM, session=session)
        assert again.turns == 2
        assert again.past.held_turns() == chat.past.held_turns()
        Chat(model, SMALL, voice, WARM, system="Be brief.", session=session)
        with pytest.raises(SettingError, match="was begun with another system text"):
            Chat(model, SMALL, voice, WARM, system="Be long.", session=session)
        with pytest.raises(InputError, match="holds a dialogue already"):
            chat.save_to(session)
