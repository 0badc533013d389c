"""Tiny random models with every kind of rotary positions, and the oracle that never rotates a cached key."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from pyllm.stream.model import StreamModel, stream_model
from tests.support.tiny_models import _SIZES, CONFIGS

_LLAMA = {**_SIZES, "max_position_embeddings": 512}


def _scaled(**rope: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: transformers.LlamaConfig(**_LLAMA, rope_parameters={"rope_theta": 10_000.0, **rope})


STREAM_CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    **{kind: make for kind, make in CONFIGS.items() if kind != "gpt2"},
    "gemma3_both": lambda: transformers.Gemma3TextConfig(
        **{**_SIZES, "num_hidden_layers": 3}, head_dim=8, sliding_window=9, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "cohere": lambda: transformers.CohereConfig(**_SIZES, logit_scale=0.5),
    "cohere2": lambda: transformers.Cohere2Config(**{**_SIZES, "num_hidden_layers": 4}, sliding_window=9),
    "phi": lambda: transformers.PhiConfig(**{**_SIZES, "num_key_value_heads": None}, partial_rotary_factor=0.5),
    "glm": lambda: transformers.GlmConfig(**_SIZES, head_dim=8),
    "smollm3": lambda: transformers.SmolLM3Config(**{**_SIZES, "num_hidden_layers": 4}),
    "llama3_scaled": _scaled(
        rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=128,
    ),
    "yarn_scaled": _scaled(rope_type="yarn", factor=4.0, original_max_position_embeddings=128),
    "linear_scaled": _scaled(rope_type="linear", factor=4.0),
    "dynamic_scaled": _scaled(rope_type="dynamic", factor=4.0),
}  # fmt: skip


def model_of(make: Callable[[], PreTrainedConfig], seed: int = 0) -> PreTrainedModel:
    """A random model of a config, with weights large enough that attention matters."""
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(make())
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.1)
    return model.eval()


def streaming(kind: str = "llama", *, forward_tokens: int | None = None) -> StreamModel:
    """A tiny model that is ready for dialogues."""
    made = stream_model(model_of(STREAM_CONFIGS[kind]), kind)
    if forward_tokens is None:
        return made
    return StreamModel(made.name, made.model, made.plan, made.context_tokens, forward_tokens)


class UnrotatedLayer(DynamicLayer):
    """Holds keys as they were before rotation, and rotates all of them, every time, by the model's own function."""

    def __init__(self, rotate: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.rotate = rotate

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        raw, values = super().update(key_states, value_states)
        return self.rotate(raw, torch.arange(raw.shape[2])), values


class UnrotatedWindowLayer(DynamicSlidingWindowLayer):
    """The same of a layer that keeps its last tokens, at the positions before the one that comes next."""

    def __init__(self, rotate: Callable[[Tensor, Tensor], Tensor], window: int, now: Callable[[], int]) -> None:
        super().__init__(window)
        self.rotate = rotate
        self.now = now

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        raw, values = super().update(key_states, value_states)
        end = self.now() + key_states.shape[2]
        return self.rotate(raw, torch.arange(end - raw.shape[2], end)), values


class Oracle:
    """A dialogue that recomputes every key's rotation in every forward pass.

    Works inside `unrotated`, which hands keys to the cache before they are rotated.
    """

    def __init__(self, model: PreTrainedModel, apply: Callable[..., tuple[Tensor, Tensor]], windows: list[Any]) -> None:
        self.model, self.tokens = model, 0
        layers = [
            UnrotatedLayer(rotation_of(model, apply, number))
            if window is None
            else UnrotatedWindowLayer(rotation_of(model, apply, number), window, lambda: self.tokens)
            for number, window in enumerate(windows)
        ]
        self.cache = Cache(layers=layers)

    @torch.inference_mode()
    def read(self, ids: Tensor) -> Tensor:
        positions = torch.arange(self.tokens, self.tokens + len(ids))[None]
        output = self.model(input_ids=ids[None], position_ids=positions, past_key_values=self.cache, use_cache=True)
        self.tokens += len(ids)
        return output.logits[0]

    def keep(self, kept: Tensor) -> None:
        for layer in self.cache.layers:
            if isinstance(layer, UnrotatedLayer):
                layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
        self.tokens = len(kept)


def rotation_of(model: PreTrainedModel, apply: Callable[..., tuple[Tensor, Tensor]], layer: int) -> Any:
    """The rotation of one layer's keys, by the model's own modules."""
    decoder = model.get_decoder()
    attention = getattr(decoder.layers[layer], "self_attn", None) or decoder.layers[layer].attention
    kinds = getattr(model.config, "layer_types", None)
    # Layers without positions say so in their own ways.
    without = getattr(attention, "use_rope", True) in (False, 0)
    without = without or (type(model).__name__.startswith("Cohere2") and attention.sliding_window is None)

    def rotate(keys: Tensor, positions: Tensor) -> Tensor:
        if without:
            return keys
        table = decoder.rotary_emb
        by_kind = isinstance(model.config.rope_parameters.get(kinds[layer]) if kinds else None, dict)
        cosines, sines = table(keys, positions[None], *([kinds[layer]] if by_kind else []))
        width = cosines.shape[-1]
        part = keys[..., :width]
        return torch.cat([apply(part, part, cosines, sines)[1], keys[..., width:]], -1)

    return rotate


@contextmanager
def unrotated(model: PreTrainedModel) -> Iterator[Callable[..., tuple[Tensor, Tensor]]]:
    """Let the model hand its keys to the cache before they are rotated; gives the function that rotates."""
    module = sys.modules[type(model).__module__]
    apply = module.apply_rotary_pos_emb

    def queries_only(query: Tensor, key: Tensor, *rest: Any, **named: Any) -> tuple[Tensor, Tensor]:
        return apply(query, key, *rest, **named)[0], key

    module.apply_rotary_pos_emb = queries_only
    try:
        yield apply
    finally:
        module.apply_rotary_pos_emb = apply
