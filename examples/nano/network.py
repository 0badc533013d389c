"""A Llama model's forward pass as one plain function: what training needs and nothing else.

It computes what `transformers` computes (a test compares them), with positions given token by token and only as many
layers as wanted; without the checks of a general library it is a third faster on one core.
"""

import math

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

CONTEXT_TOKENS = 1_280
LAYERS, FIRST_LAYERS = 4, 2
ROPE_THETA = 100_000.0


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A fresh model: normal weights of standard deviation 0.02, smaller where a layer adds to the residual stream.

    The layers above the first two add nothing at first: they are identities until they are trained.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                scale = 0.02 / math.sqrt(2 * FIRST_LAYERS) if adds else 0.02
                parameter.normal_(0.0, scale, generator=generator)
        for layer in model.model.layers[FIRST_LAYERS:]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def hidden_states(model: LlamaForCausalLM, ids: torch.Tensor, positions: torch.Tensor, layers: int) -> torch.Tensor:
    """States behind the last norm, `[batch, seq, dim]`.

    Args:
        model: The model.
        ids: Tokens, `[batch, seq]`.
        positions: Where they stand, `[batch, seq]`, ascending in a row.
        layers: How many of the layers are used, from the bottom.
    """
    config, body = model.config, model.model
    batch, seq = ids.shape
    heads, epsilon, dim = config.num_attention_heads, config.rms_norm_eps, config.hidden_size
    shape = (batch, seq, heads, dim // heads)
    frequencies = ROPE_THETA ** (-torch.arange(0, shape[-1], 2, dtype=torch.float32) / shape[-1])
    angles = positions[:, None, :, None].float() * frequencies
    cosine, sine = (torch.cat((each, each), dim=-1) for each in (angles.cos(), angles.sin()))
    states = body.embed_tokens(ids)
    for layer in body.layers[:layers]:
        attention = layer.self_attn
        normed = rms_norm(states, (dim,), layer.input_layernorm.weight, epsilon)
        queries, keys, values = (
            linear(normed, each.weight).view(shape).transpose(1, 2)
            for each in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        queries, keys = (each * cosine + _turned(each) * sine for each in (queries, keys))
        read = scaled_dot_product_attention(queries, keys, values, is_causal=True)
        states = states + linear(read.transpose(1, 2).reshape(batch, seq, dim), attention.o_proj.weight)
        normed = rms_norm(states, (dim,), layer.post_attention_layernorm.weight, epsilon)
        gated = silu(linear(normed, layer.mlp.gate_proj.weight)) * linear(normed, layer.mlp.up_proj.weight)
        states = states + linear(gated, layer.mlp.down_proj.weight)
    return rms_norm(states, (dim,), body.norm.weight, epsilon)


def _turned(each: torch.Tensor) -> torch.Tensor:
    first, second = each.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
