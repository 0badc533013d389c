"""Sizes from a config against the model and its cache themselves, and the arithmetic of ceilings."""

import json

import pytest
import torch
import transformers

from pyllm.cli.app import main
from pyllm.errors import PrerequisiteError, SettingError
from pyllm.stream.dialogue import Dialogue
from pyllm.stream.plan import ModelSizes, model_sizes, plan_rows
from pyllm.stream.settings import Budget, StreamSettings
from tests.support.stream_models import STREAM_CONFIGS, streaming

LLAMA_8B = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
SMALL = ModelSizes(
    parameters=500, weights_bytes=1000, expert_bytes=0, expert_share=1.0, embedding_bytes=100, key_bytes_per_token=2,
    value_bytes_per_token=3, kv_layers=1, context_tokens=640,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt_neox", "gemma3_both", "cohere", "dynamic_scaled"])
def test_sizes_are_those_of_the_model_and_its_cache(kind):
    model = streaming(kind)
    sizes = model_sizes(STREAM_CONFIGS[kind](), kind, torch.float32)
    assert sizes.parameters == model.model.num_parameters()
    assert sizes.weights_bytes == 4 * sizes.parameters
    assert sizes.context_tokens == model.context_tokens
    dialogue = Dialogue(model, StreamSettings(budget=Budget(4, 80, 16)))
    for _ in range(4):
        dialogue.read_turn(range(3, 60))
    assert dialogue.memory.evictions
    assert dialogue.cache.bytes_held() == sizes.dialogue_bytes(100)
    whole = Dialogue(model, StreamSettings(policy="full", budget=Budget(4, 80, 16)))
    whole.read_turn(range(3, 67))
    assert whole.cache.bytes_held() == sizes.whole_bytes(64)


def test_layers_without_positions_are_overstated_and_never_understated():
    model = streaming("smollm3")
    dialogue = Dialogue(model, StreamSettings(budget=Budget(4, 50, 10)))
    for _ in range(4):
        dialogue.read_turn(range(3, 40))
    sizes = model_sizes(STREAM_CONFIGS["smollm3"](), "smollm3", torch.float32)
    assert 0.7 * sizes.dialogue_bytes(64) < dialogue.cache.bytes_held() < sizes.dialogue_bytes(64)


def test_a_large_model_without_its_weights():
    sizes = model_sizes(transformers.LlamaConfig(**LLAMA_8B), "large", torch.bfloat16)
    assert sizes.parameters == 8_030_261_248
    assert sizes.whole_bytes(1) == 128 * 1024
    assert sizes.dialogue_bytes(1024) == 192 * 2**20
    rows = {(row.cache_tokens, row.batch): row for row in plan_rows(sizes, bandwidth_bytes=3.35e12)}
    # Weights less the table of embeddings, and 4,096 tokens of 64 dialogues.
    read = 2 * (8_030_261_248 - 128_256 * 4096) + 64 * 4096 * 131_072
    assert rows[4096, 64].step_bytes == read
    assert rows[4096, 64].tokens_per_second == pytest.approx(64 * 3.35e12 / read)
    assert rows[512, 1].tokens_per_second == pytest.approx(222.2, abs=0.1)


def test_tied_embeddings_are_read_whole_and_counted_once():
    config = transformers.Qwen3Config(**{**LLAMA_8B, "num_hidden_layers": 1}, tie_word_embeddings=True)
    tied = model_sizes(config, "tied", torch.bfloat16)
    config.tie_word_embeddings = False
    untied = model_sizes(config, "untied", torch.bfloat16)
    assert untied.weights_bytes - tied.weights_bytes == 2 * 128_256 * 4096
    assert (tied.embedding_bytes, untied.embedding_bytes) == (0, 2 * 128_256 * 4096)
    assert tied.step_bytes(16, 1) == untied.step_bytes(16, 1)


def test_a_step_reads_the_experts_that_are_chosen():
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    sizes = model_sizes(config, "experts", torch.float32)
    assert sizes.expert_bytes == 4 * 2 * 8 * 3 * 16 * 24
    rest = sizes.weights_bytes - sizes.embedding_bytes - sizes.expert_bytes
    assert sizes.step_bytes(0, 1) == pytest.approx(rest + sizes.expert_bytes / 4, abs=1)
    assert sizes.step_bytes(0, 2) == pytest.approx(rest + sizes.expert_bytes * (1 - 0.75**2), abs=1)
    assert sizes.step_bytes(0, 500) == rest + sizes.expert_bytes


def test_rows_and_what_fits():
    rows = plan_rows(SMALL, caches=[64, 64, 100], batches=[1, 3], memory_bytes=2000.0)
    assert [(row.cache_tokens, row.bounded, row.batch) for row in rows] == [
        (64, True, 1), (64, True, 3), (100, True, 1), (100, True, 3), (640, False, 1), (640, False, 3),
    ]  # fmt: skip
    # Buffers have places for a multiple of 64 tokens, and keys are there twice; a step reads them once.
    assert [row.dialogue_bytes for row in rows[::2]] == [64 * 7, 128 * 7, 640 * 5]
    assert [row.step_bytes for row in rows[:2]] == [900 + 64 * 5, 900 + 3 * 64 * 5]
    assert [row.most_dialogues for row in rows[::2]] == [2, 1, 0]
    assert all(row.tokens_per_second is None for row in rows)
    assert plan_rows(SMALL, caches=[64], batches=[1], memory_bytes=10.0)[0].most_dialogues == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"caches": [8, 0]}, "cache is 0: it must be 1 or more"),
        ({"batches": [-1]}, "batch is -1: it must be 1 or more"),
        ({"bandwidth_bytes": 0.0}, "bandwidth is 0: it must be above 0"),
        ({"memory_bytes": float("inf")}, "memory is inf: it must be above 0"),
    ],
)
def test_numbers_that_make_no_sense(words, message):
    with pytest.raises(SettingError, match=message):
        plan_rows(SMALL, **words)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            transformers.Qwen3NextConfig(vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=2),
            "layer 0 keeps a state from which no token can be taken out",
        ),
        (transformers.MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1), "it keeps no keys and values"),
        (transformers.T5Config(), "cannot be planned from its config: Unrecognized configuration class"),
    ],
    ids=["linear", "mamba", "t5"],
)
def test_models_that_cannot_be_streamed(config, message):
    with pytest.raises(PrerequisiteError, match=message):
        model_sizes(config, "odd", torch.float32)


def test_the_command_reads_no_weights(tmp_path, capsys):
    transformers.LlamaConfig(**LLAMA_8B, dtype="bfloat16").save_pretrained(tmp_path / "model")
    report = tmp_path / "plan.json"
    words = ["--cache", "1024", "--batch", "1", "--batch", "64", "--bandwidth", "3350", "--memory", "80"]
    assert main(["stream", "plan", "--model", str(tmp_path / "model"), *words, "--report", str(report)]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "8,030,261,248 parameters, 15.0 GiB in bfloat16" in shown.err
    assert "a token: 128.0 KiB of keys and values in 32 layers" in shown.err
    lines = [line.split() for line in shown.err.splitlines()]
    assert ["1,024", "64", "192.0", "MiB", "27.0", "GiB", "22.0", "GiB", "9,085", "346"] in lines
    numbers = json.loads(report.read_text())
    assert numbers["dtype"] == "bfloat16"
    assert [row["batch"] for row in numbers["rows"]] == [1, 64, 1, 64]
    assert numbers["rows"][1]["dialogue_bytes"] == 192 * 2**20
    assert main(["stream", "plan", "--model", str(tmp_path / "model"), "--dtype", "float32", "--cache", "64"]) == 0
    shown = capsys.readouterr().err
    assert "29.9 GiB in float32" in shown
    assert "tokens/s" not in shown


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--cache", "0"], 2, "invalid value for '--cache'"),
        (["--bandwidth", "-1"], 2, "invalid value for '--bandwidth'"),
        (["--bandwidth", "0"], 2, "bandwidth is 0: it must be above 0"),
        (["--model", "no/where/at/all"], 4, "model folder `no/where/at/all` does not exist"),
    ],
)
def test_wrong_command_lines(capsys, words, code, message):
    assert main(["stream", "plan", *words]) == code
    assert message in capsys.readouterr().err
