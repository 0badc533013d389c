"""What caches of several sizes would take, and how fast a memory of given bandwidth lets them be: from the config.

Idea: one token is sent through the model on torch's `meta` device, where tensors have shapes and no numbers. The
shapes of what the cache then holds are those of a token's keys and values, for any architecture, and the parameters
are counted without being read.

What is counted: weights, keys, values, and the keys once more as they came, which a bounded cache keeps from its first
eviction on. A step that decodes one token for each dialogue of a batch reads all weights but an input embedding of
its own (of experts, the share that is expected to be chosen), and the working keys and values of every dialogue. The
speed is what the bandwidth allows if nothing else took time: a ceiling, of which real systems reach half or more.
Activations, logits and what the framework takes for itself are left out, so memory is a floor.

Cost: about the import of transformers; no weight is loaded.
"""

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.loading import first_line, quiet_transformers
from pyllm.stream.layers import buffer_tokens

_log = logging.getLogger(__name__)

DEFAULT_CACHES = (512, 1024, 4096)
DEFAULT_BATCHES = (1, 8, 64)


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What of a model decides memory and speed.

    Args:
        parameters: How many it has; tied ones count once.
        weights_bytes: Their memory.
        expert_bytes: That of experts of which a token takes some.
        expert_share: Share of the experts that a token takes; 1 without any.
        embedding_bytes: That of an input embedding that is not the head too: a step reads single rows of it.
        key_bytes_per_token: Keys of one token, all layers.
        value_bytes_per_token: Values of one token, all layers.
        kv_layers: Layers that keep keys and values.
        context_tokens: Most positions that the model was made for, or None when it states none.
    """

    parameters: int
    weights_bytes: int
    expert_bytes: int
    expert_share: float
    embedding_bytes: int
    key_bytes_per_token: int
    value_bytes_per_token: int
    kv_layers: int
    context_tokens: int | None

    def as_dict(self) -> dict[str, Any]:
        """The sizes as JSON holds them."""
        return asdict(self)

    def dialogue_bytes(self, cache_tokens: int) -> int:
        """Memory of one dialogue whose cache is bounded, after its first eviction."""
        return buffer_tokens(cache_tokens) * (2 * self.key_bytes_per_token + self.value_bytes_per_token)

    def whole_bytes(self, tokens: int) -> int:
        """Memory of one dialogue of which nothing is ever evicted."""
        return tokens * (self.key_bytes_per_token + self.value_bytes_per_token)

    def step_bytes(self, cache_tokens: int, batch: int) -> int:
        """What decoding one token for each of `batch` dialogues with full caches reads."""
        unread = (1.0 - self.expert_share) ** batch
        weights = self.weights_bytes - self.embedding_bytes - int(unread * self.expert_bytes)
        return weights + batch * self.whole_bytes(cache_tokens)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """One cache size with one batch size.

    Args:
        cache_tokens: Tokens that each dialogue keeps.
        bounded: Whether the cache evicts; False is a whole dialogue as long as the model's limit.
        batch: Dialogues at once.
        dialogue_bytes: Memory of one dialogue.
        total_bytes: Memory of the weights and all dialogues.
        step_bytes: What decoding one token for each dialogue reads.
        tokens_per_second: Ceiling of all dialogues together; None where no bandwidth was given.
        most_dialogues: How many fit the memory that was given; None where none was.
    """

    cache_tokens: int
    bounded: bool
    batch: int
    dialogue_bytes: int
    total_bytes: int
    step_bytes: int
    tokens_per_second: float | None
    most_dialogues: int | None

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON holds it."""
        return asdict(self)


def model_sizes(config: PreTrainedConfig, name: str, dtype: torch.dtype) -> ModelSizes:
    """Sizes of a model, from its config alone.

    Args:
        config: The model's.
        name: What messages call it.
        dtype: Type of weights, keys and values.

    Raises:
        PrerequisiteError: It is no causal language model, or a layer keeps something else than keys and values.

    Example:
        >>> config = AutoConfig.from_pretrained("path/to/model")  # doctest: +SKIP
        >>> model_sizes(config, "model", torch.bfloat16).key_bytes_per_token  # doctest: +SKIP
        65536
    """
    if getattr(config, "quantization_config", None) is not None:
        _log.warning("model `%s` is quantised: its weights are counted as if they were %s", name, dtype)
    quiet_transformers()
    plain = _without_scaling(config)
    try:
        with torch.device("meta"), torch.inference_mode():
            model = AutoModelForCausalLM.from_config(plain, dtype=dtype).eval()
            token = torch.zeros(1, 1, dtype=torch.int64)
            cache = getattr(model(input_ids=token, position_ids=token, use_cache=True), "past_key_values", None)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
        raise PrerequisiteError(f"model `{name}` cannot be planned from its config: {first_line(error)}") from error
    key_bytes, value_bytes, holding = 0, 0, 0
    for number, layer in enumerate([] if cache is None else cache.layers):
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None and "Dummy" in type(layer).__name__:  # it looks into the cache of another layer
            continue
        if keys is None or values is None:
            raise PrerequisiteError(
                f"model `{name}` cannot be streamed: layer {number} keeps a state from which no token can be taken"
                f" out again ({type(layer).__name__})",
                hint="give a model whose layers are all attention",
            )
        key_bytes += keys.numel() * keys.element_size()
        value_bytes += values.numel() * values.element_size()
        holding += 1
    if not holding:
        raise PrerequisiteError(f"model `{name}` cannot be streamed: it keeps no keys and values")
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return _sizes(model, key_bytes, value_bytes, holding, None if limit is None else int(limit))


def _sizes(
    model: PreTrainedModel, key_bytes: int, value_bytes: int, kv_layers: int, context_tokens: int | None
) -> ModelSizes:
    named = [(name, each.numel(), each.numel() * each.element_size()) for name, each in model.named_parameters()]
    embedding: Any = model.get_input_embeddings()
    head: Any = model.get_output_embeddings()
    own = head is None or head.weight is not embedding.weight
    config: Any = model.config.get_text_config()
    chosen = getattr(config, "num_experts_per_tok", None)
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    share = min(1.0, chosen / experts) if isinstance(chosen, int) and isinstance(experts, int) else 1.0
    return ModelSizes(
        parameters=sum(count for _, count, _ in named),
        weights_bytes=sum(size for _, _, size in named),
        expert_bytes=sum(size for name, _, size in named if ".experts." in name) if share < 1.0 else 0,
        expert_share=share,
        embedding_bytes=embedding.weight.numel() * embedding.weight.element_size() if own else 0,
        key_bytes_per_token=key_bytes,
        value_bytes_per_token=value_bytes,
        kv_layers=kv_layers,
        context_tokens=context_tokens,
    )


def plan_rows(
    sizes: ModelSizes,
    *,
    caches: Sequence[int] = DEFAULT_CACHES,
    batches: Sequence[int] = DEFAULT_BATCHES,
    bandwidth_bytes: float | None = None,
    memory_bytes: float | None = None,
) -> list[PlanRow]:
    """Memory and speed of every cache size with every batch size, and of whole dialogues at the model's limit.

    Args:
        sizes: Of the model.
        caches: Tokens that a dialogue keeps.
        batches: Dialogues at once.
        bandwidth_bytes: Bytes a second that the memory gives.
        memory_bytes: How much memory there is.

    Raises:
        SettingError: A number is not above 0.
    """
    for name, values in (("cache", caches), ("batch", batches)):
        if any(value < 1 for value in values):
            raise SettingError(f"{name} is {min(values)}: it must be 1 or more")
    for name, value in (("bandwidth", bandwidth_bytes), ("memory", memory_bytes)):
        if value is not None and not 0 < value < float("inf"):
            raise SettingError(f"{name} is {value:g}: it must be above 0")
    wanted = [(tokens, True) for tokens in dict.fromkeys(caches)]
    if sizes.context_tokens is not None:
        wanted.append((sizes.context_tokens, False))
    rows = []
    for tokens, bounded in wanted:
        one = sizes.dialogue_bytes(tokens) if bounded else sizes.whole_bytes(tokens)
        most = None if memory_bytes is None else max(0, int((memory_bytes - sizes.weights_bytes) // one))
        for batch in dict.fromkeys(batches):
            step = sizes.step_bytes(tokens, batch)
            speed = None if bandwidth_bytes is None else batch * bandwidth_bytes / step
            rows.append(PlanRow(tokens, bounded, batch, one, sizes.weights_bytes + batch * one, step, speed, most))
    return rows


def _without_scaling(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config with plain rotations: some scaled ones look at numbers, and none has a part in any size."""
    plain = copy.deepcopy(config)

    def simple(rope: Any) -> None:
        if isinstance(rope, dict):
            if rope.get("rope_type") in ("dynamic", "longrope"):
                rope["rope_type"] = "default"
            for each in rope.values():
                simple(each)

    simple(getattr(plain.get_text_config(), "rope_parameters", None))
    return plain
