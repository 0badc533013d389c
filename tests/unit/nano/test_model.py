"""The shipped model: its tokenizer, its size, what it finds, and that the recorded recipe is the one that made it."""

import hashlib
import json
import re
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from pyllm.data.framing import ChatFraming, TextFraming
from pyllm.data.prompts import Prompt
from pyllm.demo import words, world
from pyllm.lm.sources import find_model
from pyllm.stream.model import load_stream_model
from pyllm.stream.recall import RecallSettings, measure_recall


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
    built = vocabulary.build_tokenizer(1_280)
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template
    shipped, fresh = (json.loads(one.backend_tokenizer.to_str()) for one in (tokenizer, built))
    assert shipped["model"] == fresh["model"]
    assert shipped["pre_tokenizer"] == fresh["pre_tokenizer"]


def test_every_word_of_the_world_is_one_token(tokenizer: PreTrainedTokenizerBase, texts: ModuleType) -> None:
    assert all(len(ids(tokenizer, f" {word}")) == 1 for word in words.all_words())
    for fact in world.facts():
        assert len(ids(tokenizer, f" {fact.name}")) == 1
        assert len(ids(tokenizer, fact.answer)) == fact.answer_words
    row = world.ask(world.facts()[0], 2, "pale green")
    pieces = [tokenizer.decode([token]) for token in ids(tokenizer, texts.prompt_of(row).text)]
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
    tokenizer: PreTrainedTokenizerBase, writers: ModuleType, texts: ModuleType
) -> None:
    rows = texts.Texts(tokenizer, 3).rows("writers", 7, 20, 200)
    writer = writers.Writers(Random("3 7 writers"))
    framing = TextFraming(tokenizer)
    for line, weights in zip(rows.ids, rows.weights, strict=True):
        prompts = [texts.prompt_of(row) for row in writer.document()]
        whole = [*ids(tokenizer, "\n\n".join(prompt.text for prompt in prompts)), tokenizer.eos_token_id]
        document = [token for token in line.tolist() if token != tokenizer.pad_token_id]
        assert document == [tokenizer.bos_token_id, *whole]
        prefix = framing.demonstrations(prompts[:1])[0].prefix_ids
        anchor = framing.anchors(prompts[1:2])[0]
        assert document[: len(prefix) + len(anchor.ids)] == prefix + anchor.ids
        said = tokenizer.decode(line[weights > 0])
        assert said == "\n\n".join(prompt.answer for prompt in prompts) + "</s>"


def test_training_dialogues_are_what_streaming_reads(tokenizer: PreTrainedTokenizerBase, texts: ModuleType) -> None:
    rows = texts.Texts(tokenizer, 3).rows("names", 7, 6, 192)
    for line, weights in zip(rows.ids, rows.weights, strict=True):
        document = line[line != tokenizer.pad_token_id]
        text = tokenizer.decode(document)
        turns = re.findall(r"Instruction:\n(.+?)\nResponse:\n(.+?)\n\n", text)
        messages = [
            {"role": role, "content": said}
            for turn in turns
            for role, said in zip(("user", "assistant"), turn, strict=True)
        ]
        assert tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"] == document.tolist()
        values = tokenizer.decode(line[weights > 1]).split()
        assert values
        assert all(text.count(value) >= 2 for value in values)


def test_spread_positions_have_gaps_between_exchanges_only(
    tokenizer: PreTrainedTokenizerBase, texts: ModuleType, network: ModuleType
) -> None:
    rows = texts.Texts(tokenizer, 3).rows("spread", 7, 20, 256)
    opening = ids(tokenizer, "Instruction:\n")[0]
    gaps = rows.positions.diff(dim=1)
    assert (gaps >= 1).all()
    assert rows.positions.max() < network.CONTEXT_TOKENS
    assert (rows.ids[:, 1:][gaps > 1] == opening).all()
    assert (rows.positions[:, -1] > 400).sum() >= 5


def test_text_depends_on_seed_and_step_alone(
    tokenizer: PreTrainedTokenizerBase, train: ModuleType, texts: ModuleType
) -> None:
    one, other = texts.Texts(tokenizer, 3), texts.Texts(tokenizer, 3)
    one.rows("skills", 1, 2, 64)
    for kind in {kind for stage in train.STAGES for kind in stage.parts}:
        length = 448 if kind.endswith("tagged") else 128
        assert torch.equal(one.rows(kind, 5, 2, length).ids, other.rows(kind, 5, 2, length).ids)
        assert not torch.equal(one.rows(kind, 5, 2, length).ids, other.rows(kind, 6, 2, length).ids)


def test_the_plain_forward_pass_is_that_of_transformers(
    tokenizer: PreTrainedTokenizerBase, network: ModuleType
) -> None:
    model = network.build_model(tokenizer, 3)
    for layer in model.model.layers:  # the upper layers add nothing before they are trained
        layer.self_attn.o_proj.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
        layer.mlp.down_proj.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    tokens = torch.arange(2 * 60).reshape(2, 60) + 5
    positions = torch.arange(60).repeat(2, 1)
    with torch.inference_mode():
        ours = network.hidden_states(model, tokens, positions, network.LAYERS)
        theirs = model.model(tokens).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_new_layers_add_nothing_before_they_are_trained(
    tokenizer: PreTrainedTokenizerBase, network: ModuleType
) -> None:
    model = network.build_model(tokenizer, 3)
    tokens, positions = torch.arange(60)[None] + 5, torch.arange(60)[None]
    with torch.inference_mode():
        few, every = (network.hidden_states(model, tokens, positions, layers) for layers in (2, 4))
    assert torch.equal(few, every)


def test_a_stopped_training_ends_as_an_unbroken_one(
    tokenizer: PreTrainedTokenizerBase,
    train: ModuleType,
    texts: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {"few repeats": (2, 32, 1.0)}, {"repeats": (1, 32, 0.5), "names": (1, 96, 1.0)}
    plan = tuple(
        train.Stage(str(number), 3, layers, parts)
        for number, (layers, parts) in enumerate(zip((2, 4), small, strict=True))
    )
    monkeypatch.setattr(train, "STAGES", plan)
    whole = train.begin(tokenizer, 5)
    list(train.train(whole, texts.Texts(tokenizer, 5)))
    first = train.begin(tokenizer, 5)
    list(islice(train.train(first, texts.Texts(tokenizer, 5)), 4))
    first.save(tmp_path / "state.pt")
    second = train.begin(tokenizer, 5)
    second.load(tmp_path / "state.pt")
    list(train.train(second, texts.Texts(tokenizer, 5)))
    assert second.losses == whole.losses
    assert all(map(torch.equal, second.model.state_dict().values(), whole.model.state_dict().values()))


def test_the_chat_template_lets_demonstrations_stand_before_anchors(tokenizer: PreTrainedTokenizerBase) -> None:
    framing = ChatFraming(tokenizer)
    prompt = Prompt("", "pale green", (("user", "What colour is the stone Balbek?"),))
    query = "Instruction:\nWhat colour is the stone Balbek?\nResponse:\n"
    assert framing.zero_shot_prefix() == [tokenizer.bos_token_id]
    demonstration = framing.demonstrations([prompt])[0].prefix_ids
    assert demonstration == [tokenizer.bos_token_id, *ids(tokenizer, f"{query}pale green\n\n")]
    assert framing.anchors([prompt])[0].ids == ids(tokenizer, f"{query}pale green")


def test_sizes_stay_within_what_is_promised(nano_folder: Path, model: PreTrainedModel) -> None:
    assert 1_000_000 < model.num_parameters() < 3_000_000
    assert (nano_folder / "model.safetensors").stat().st_size <= 16_000_000
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 1_024
    assert model.config.tie_word_embeddings


def test_the_model_card_is_about_these_weights(repository_root: Path, nano_folder: Path) -> None:
    digest = hashlib.sha256((nano_folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (repository_root / "examples" / "nano" / "README.md").read_text(encoding="utf-8")


def test_golden_scores_find_wrong_answers_and_length_does_not(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluate: ModuleType
) -> None:
    found = evaluate.separation(model, tokenizer, seed=77, rows=120, anchors=16)
    assert found.golden >= 0.9
    assert found.golden_near >= 0.9
    assert found.longest == pytest.approx(0.5, abs=0.12)
    assert found.random == pytest.approx(0.5, abs=0.12)


def test_styles_grade_golden_scores(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluate: ModuleType
) -> None:
    found = evaluate.separation(model, tokenizer, seed=77, rows=60, anchors=16, styles=True)
    assert found.middling >= 0.5
    assert 0.65 <= found.golden <= 0.95


def test_a_trained_model_is_what_finds_them(
    tokenizer: PreTrainedTokenizerBase, network: ModuleType, evaluate: ModuleType
) -> None:
    untrained = network.build_model(tokenizer, 0).eval()
    assert evaluate.separation(untrained, tokenizer, seed=77, rows=60, anchors=10).golden < 0.75


def test_the_model_answers_in_words_of_its_own(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: ModuleType
) -> None:
    known = 0
    for fact in world.facts()[::12]:
        prompt = texts.prompt_of(world.ask(fact, 0, fact.answer))
        start = torch.tensor([[tokenizer.bos_token_id, *ids(tokenizer, prompt.query)]])
        said = model.generate(start, attention_mask=torch.ones_like(start), max_new_tokens=4, do_sample=False)
        known += tokenizer.decode(said[0, start.shape[1] :]).startswith(f"{fact.answer}\n\n")
    assert known >= 27


def test_a_quarter_of_the_cache_remembers_what_was_told_early(nano_folder: Path, tmp_path: Path) -> None:
    source = find_model(str(nano_folder))
    model = load_stream_model(source, device=torch.device("cpu"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(nano_folder)
    settings = RecallSettings(arms=("full", "streaming", "sirllm+4"), tokens=600, dialogues=2, seed=4)
    found = measure_recall(
        model, tokenizer, settings, tmp_path / "lines.jsonl", identity={}, decode=lambda ids: str(tokenizer.decode(ids))
    )
    recall = {row["arm"]: row["recall"] for row in found.report["arms"]}
    assert recall["full"] >= 0.8
    assert recall["sirllm+4"] >= 0.8
    assert recall["streaming"] <= 0.2


@pytest.mark.slow
def test_the_recorded_command_begins_with_the_recorded_losses(
    repository_root: Path, tokenizer: PreTrainedTokenizerBase, train: ModuleType, texts: ModuleType
) -> None:
    curve = json.loads((repository_root / "examples" / "nano" / "curve.json").read_text(encoding="utf-8"))
    training = train.begin(tokenizer, curve["settings"]["seed"])
    steps = round(0.01 * curve["steps"])
    list(islice(train.train(training, texts.Texts(tokenizer, curve["settings"]["seed"])), steps))
    losses = [each["few repeats"] for each in training.losses]
    # Rounding differs between machines and thread counts, and grows from step to step.
    assert losses == pytest.approx(curve["first_losses"][:steps], abs=0.02)
