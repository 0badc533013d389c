"""The shipped model: its tokenizer, its size, what it finds, and that the recorded recipe is the one that made it."""

import hashlib
import json
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pyllm.data.framing import ChatFraming, TextFraming
from pyllm.data.prompts import Prompt


@pytest.fixture(scope="module")
def tokenizer(nano_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(nano_folder)


@pytest.fixture(scope="module")
def model(nano_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(nano_folder, dtype=torch.float32).eval()


def ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_tokenizer_is_the_one_that_the_script_builds(
    tokenizer: PreTrainedTokenizerBase, vocabulary: ModuleType
) -> None:
    built = vocabulary.build_tokenizer(1_024)
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template
    shipped, fresh = (json.loads(one.backend_tokenizer.to_str()) for one in (tokenizer, built))
    assert shipped["model"] == fresh["model"]
    assert shipped["pre_tokenizer"] == fresh["pre_tokenizer"]


def test_every_word_of_the_world_is_one_token(
    tokenizer: PreTrainedTokenizerBase, world: ModuleType, evaluate: ModuleType
) -> None:
    for fact in world.facts():
        assert len(ids(tokenizer, f" {fact.name}")) == 1
        assert len(ids(tokenizer, fact.answer)) == fact.answer_words
    row = world.ask(world.facts()[0], 2, "pale green")
    pieces = [tokenizer.decode([token]) for token in ids(tokenizer, evaluate.prompt_of(row).text)]
    assert [piece for piece in pieces if "\n" in piece] == ["Instruction:\n", "\nInput:\n", "\nResponse:\n"]


@given(text=st.text())
def test_any_text_goes_there_and_back(text: str, nano_folder: Path) -> None:
    tokenizer = shared_tokenizer(nano_folder)
    # The names of special tokens inside a text are taken for them, as in every such tokenizer.
    assert tokenizer.decode(ids(tokenizer, text.replace("<", "("))) == text.replace("<", "(")


@given(instruction=st.text(), given_input=st.text(), output=st.text())
def test_tokens_of_a_query_begin_those_of_query_and_answer(
    instruction: str, given_input: str, output: str, nano_folder: Path
) -> None:
    tokenizer = shared_tokenizer(nano_folder)
    middle = f"Input:\n{given_input.strip()}\n" if given_input.strip() else ""
    query = f"Instruction:\n{instruction.strip()}\n{middle}Response:\n"
    whole = ids(tokenizer, query + output.strip())
    assert whole[: len(ids(tokenizer, query))] == ids(tokenizer, query)


_tokenizers: dict[Path, PreTrainedTokenizerBase] = {}


def shared_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return _tokenizers.setdefault(folder, AutoTokenizer.from_pretrained(folder))


def test_training_documents_are_what_scoring_puts_together(
    tokenizer: PreTrainedTokenizerBase, world: ModuleType, train: ModuleType, evaluate: ModuleType
) -> None:
    batch = train.Batches(tokenizer, 3).next()
    writers = world.Writers(3)
    framing = TextFraming(tokenizer)
    for line, scored in zip(batch.ids, batch.scored, strict=True):
        prompts = [evaluate.prompt_of(row) for row in writers.document()]
        whole = [*ids(tokenizer, "\n\n".join(prompt.text for prompt in prompts)), tokenizer.eos_token_id]
        document = [token for token in line.tolist() if token != tokenizer.pad_token_id]
        assert document == [tokenizer.bos_token_id, *whole]
        prefix = framing.demonstrations(prompts[:1])[0].prefix_ids
        anchor = framing.anchors(prompts[1:2])[0]
        assert document[: len(prefix) + len(anchor.ids)] == prefix + anchor.ids
        said = tokenizer.decode(line[scored])
        assert said == "\n\n".join(prompt.answer for prompt in prompts) + "</s>"


def test_the_chat_template_lets_demonstrations_stand_before_anchors(tokenizer: PreTrainedTokenizerBase) -> None:
    framing = ChatFraming(tokenizer)
    prompt = Prompt("", "pale green", (("user", "What colour is the stone Balbek?"),))
    query = "Instruction:\nWhat colour is the stone Balbek?\nResponse:\n"
    assert framing.zero_shot_prefix() == [tokenizer.bos_token_id]
    demonstration = framing.demonstrations([prompt])[0].prefix_ids
    assert demonstration == [tokenizer.bos_token_id, *ids(tokenizer, f"{query}pale green\n\n")]
    assert framing.anchors([prompt])[0].ids == ids(tokenizer, f"{query}pale green")


def test_sizes_stay_within_what_is_promised(nano_folder: Path, model: PreTrainedModel) -> None:
    assert model.num_parameters() < 1_000_000
    assert (nano_folder / "model.safetensors").stat().st_size <= 4_000_000
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 1_024
    assert model.config.tie_word_embeddings


def test_the_model_card_is_about_these_weights(repository_root: Path, nano_folder: Path) -> None:
    digest = hashlib.sha256((nano_folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (repository_root / "examples" / "nano" / "README.md").read_text(encoding="utf-8")


def test_golden_scores_find_wrong_answers_and_length_does_not(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluate: ModuleType
) -> None:
    found = evaluate.separation(model, tokenizer, seed=77, rows=160, anchors=20)
    assert found.golden >= 0.9
    assert found.golden_near >= 0.9
    assert found.longest == pytest.approx(0.5, abs=0.12)
    assert found.random == pytest.approx(0.5, abs=0.12)


def test_a_trained_model_is_what_finds_them(
    tokenizer: PreTrainedTokenizerBase, train: ModuleType, evaluate: ModuleType
) -> None:
    untrained = train.build_model(tokenizer, 0).eval()
    assert evaluate.separation(untrained, tokenizer, seed=77, rows=160, anchors=20).golden < 0.75


def test_the_model_answers_in_words_of_its_own(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: ModuleType, evaluate: ModuleType
) -> None:
    known = 0
    for fact in world.facts()[::12]:
        prompt = evaluate.prompt_of(world.ask(fact, 0, fact.answer))
        start = torch.tensor([[tokenizer.bos_token_id, *ids(tokenizer, prompt.query)]])
        said = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=4, do_sample=False)
        known += tokenizer.decode(said[0, start.shape[1] :]).startswith(f"{fact.answer}\n\n")
    assert known >= 27


@pytest.mark.slow
def test_the_recorded_command_begins_with_the_recorded_losses(
    repository_root: Path, tokenizer: PreTrainedTokenizerBase, train: ModuleType
) -> None:
    curve = json.loads((repository_root / "examples" / "nano" / "curve.json").read_text(encoding="utf-8"))
    seed, steps = curve["settings"]["seed"], curve["settings"]["steps"]
    run = train.train(train.build_model(tokenizer, seed), train.Batches(tokenizer, seed), steps)
    losses = [loss for loss, _ in islice(run, 20)]
    # Rounding differs between machines and thread counts, and grows from step to step.
    assert losses == pytest.approx(curve["first_losses"][:20], abs=0.02)
    assert losses[-1] < losses[0] - 0.5
