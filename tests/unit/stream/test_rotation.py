"""Rotations are learnt from the model, and models without any are refused."""

import pytest
import torch
import transformers

from pyllm.errors import PrerequisiteError
from pyllm.stream.model import stream_model
from pyllm.stream.rotation import probe_rotations
from tests.support.stream_models import STREAM_CONFIGS, model_of, streaming
from tests.support.tiny_models import _SIZES, CONFIGS


@pytest.mark.parametrize(
    ("kind", "pairs", "width"),
    [
        ("llama", "half", 8),
        ("gpt_neox", "half", 2),
        ("phi", "half", 4),
        ("cohere", "interleaved", 8),
        ("glm", "interleaved", 4),
    ],
)
def test_what_is_found(kind, pairs, width):
    for layer in streaming(kind).plan.layers:
        assert layer.keys is not None
        assert (layer.keys.pairs, layer.keys.first, layer.keys.width) == (pairs, 0, width)
        assert layer.values is None


def test_frequencies_are_the_layers_own():
    plan = streaming("gemma3_both").plan
    assert [layer.window for layer in plan.layers] == [9, None, 9]
    sliding, full, again = (layer.keys.frequencies for layer in plan.layers)
    assert sliding == again != full
    assert [layer.keys is None for layer in streaming("smollm3").plan.layers] == [False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_enough_to_see_it(dtype):
    model = model_of(STREAM_CONFIGS["llama"])
    expected = probe_rotations(model, "it", context_tokens=256)
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model.to(dtype)
    model.model.rotary_emb.inv_freq = frequencies  # as loading in this type leaves them
    found = probe_rotations(model, "it", context_tokens=256)
    assert found.as_dict() == expected.as_dict()
    assert 1e-5 < found.error < 0.03


OPT = transformers.OPTConfig(
    vocab_size=320, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=256,
    word_embed_proj_dim=32,
)  # fmt: skip
BLOOM = transformers.BloomConfig(vocab_size=320, hidden_size=32, n_layer=2, n_head=4)
QWEN3_NEXT = transformers.Qwen3NextConfig(
    **{**_SIZES, "num_hidden_layers": 2}, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
    linear_key_head_dim=8, linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
    shared_expert_intermediate_size=16, layer_types=["linear_attention", "full_attention"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (CONFIGS["gpt2"], "the keys of layer 0 follow the position in a way that no rotation explains"),
        (lambda: OPT, "the keys of layer 0 follow the position in a way that no rotation explains"),
        (lambda: BLOOM, "it takes no positions"),
        (lambda: QWEN3_NEXT, "layer 0 keeps a state from which no token can be taken out again"),
    ],
    ids=["gpt2", "opt", "bloom", "qwen3_next"],
)
def test_refused_with_the_reason(make, reason):
    with pytest.raises(PrerequisiteError, match="model `it` cannot be streamed: ") as caught:
        stream_model(model_of(make), "it")
    assert reason in caught.value.message


def test_a_wrong_rotation_is_found_out_when_the_model_is_loaded(monkeypatch):
    from pyllm.stream.rotation import Rotation

    right = Rotation.turned
    # Right for the probe's single tokens, wrong for the many of a cache.
    monkeypatch.setattr(
        Rotation,
        "turned",
        lambda self, numbers, cosines, sines: right(
            self, numbers, cosines, sines if numbers.shape[-2] == 1 else -sines
        ),
    )
    with pytest.raises(PrerequisiteError, match=r"after its keys were moved, a logit is .* off the model's own"):
        stream_model(model_of(STREAM_CONFIGS["llama"]), "it")
