"""A model ready for dialogues: loaded, its rotation learnt, and the whole of it tried once.

The trial reads tokens at one place, moves them to another, reads on, and compares with the model's own reading of it
all at once. What this module does not understand is refused there and never streamed wrongly.
"""

import logging
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from pyllm.errors import PrerequisiteError
from pyllm.lm.loading import load_pretrained
from pyllm.lm.sources import ModelSource
from pyllm.stream.cache import BoundedCache
from pyllm.stream.rotation import RotationPlan, probe_rotations
from pyllm.stream.watching import WATCHED_ATTENTION, watching

_log = logging.getLogger(__name__)

_LOGIT_CELLS = 1 << 24
"""Logits held at once: 64 MiB of float32."""
_LEAST_TOKENS, _MOST_TOKENS = 16, 512
_TRIED_TOKENS, _TRIED_BEHIND, _TRIED_SHIFT = 12, 4, 7
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}
_TOLERANCE_16_BIT = 0.25
"""Of the logits' standard deviation. A key at the wrong place is off by half of it and more."""


@dataclass(frozen=True, slots=True)
class StreamModel:
    """A loaded model.

    Args:
        name: As the user named it.
        model: The transformers model, in evaluation mode.
        plan: How it rotates its keys.
        context_tokens: Most positions that it was made for, or None when it states none.
        forward_tokens: Most tokens of one forward pass, so that its logits stay small.
    """

    name: str
    model: PreTrainedModel
    plan: RotationPlan
    context_tokens: int | None
    forward_tokens: int
    device: torch.device = field(init=False)
    """Where the model is; to ask the model itself takes longer than all else that a token needs beside its pass."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.model.device)

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, " new"], cache: BoundedCache) -> Float[Tensor, "new vocab"]:
        """Read tokens behind a cache, which takes them in; what the model predicts behind each, in float32."""
        positions = cache.place(len(ids)).to(self.device)
        output = self.model(
            input_ids=ids[None].to(self.device), position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits: Tensor = output.logits[0].float()
        return logits

    def watch(self) -> None:
        """Make attention such that it can be watched; harmless when it is.

        Raises:
            PrerequisiteError: The model's attention does more than can be watched.
        """
        if self.model.config._attn_implementation == WATCHED_ATTENTION:
            return
        ids = random_ids(self.model)
        own = _whole(self.model, ids)
        before = self.model.config._attn_implementation
        try:
            self.model.set_attn_implementation(WATCHED_ATTENTION)
            with watching(len(ids)) as seen:
                worst = difference_of_logits(_whole(self.model, ids), own)
        except (ValueError, TypeError, RuntimeError):
            worst, seen = float("inf"), None
        if seen is None or not seen.layers or not worst <= tolerance(self.model):
            self.model.set_attn_implementation(before)
            reason = "it does more than weigh keys and values"
            if seen is not None and not seen.layers:
                reason = "no layer that sees the whole cache lets itself be watched"
            raise PrerequisiteError(
                f"the attention of model `{self.name}` cannot be watched: {reason}",
                hint="use a policy that does not watch attention, such as sirllm or keydiff",
            )


def load_stream_model(source: ModelSource, *, device: torch.device, dtype: torch.dtype) -> StreamModel:
    """Load a causal language model for dialogues.

    Raises:
        PrerequisiteError: It cannot be loaded, does not fit the device, or cannot forget or re-number its tokens.
    """
    model = load_pretrained(source, dtype=dtype, attention=None)
    try:
        made = stream_model(model.to(device), source.name)
    except torch.OutOfMemoryError as error:
        raise PrerequisiteError(
            f"model `{source.name}` does not fit into the memory of `{device}`", hint="use a smaller --dtype"
        ) from error
    _log.info("model: %s, %.3g parameters, %s on %s", source.name, model.num_parameters(), dtype, device)
    return made


def stream_model(model: PreTrainedModel, name: str) -> StreamModel:
    """Learn how a loaded model rotates its keys, and try whether its dialogues can be cut.

    Raises:
        PrerequisiteError: They cannot; the message says why.
    """
    config = model.config.get_text_config()
    limit = _context_tokens(config)
    plan = probe_rotations(model.eval(), name, context_tokens=limit)
    tokens = max(_LEAST_TOKENS, min(_MOST_TOKENS, _LOGIT_CELLS // int(config.vocab_size)))
    made = StreamModel(name, model, plan, limit, tokens)
    _try(made)
    return made


def _context_tokens(config: PreTrainedConfig) -> int | None:
    """Most positions that the model's frequencies are the same up to."""
    limit = getattr(config, "max_position_embeddings", None)
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [each for each in parameters.values() if isinstance(each, dict)]
    for rope in [parameters, *nested]:
        # Beyond the original limit, this kind has other frequencies for all positions.
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings")
            limit = original or getattr(config, "original_max_position_embeddings", limit)
    return None if limit is None else int(limit)


@torch.inference_mode()
def _try(made: StreamModel) -> None:
    """Compare moved keys with the model's own reading.

    Raises:
        PrerequisiteError: They differ by more than rounding.
    """
    ids = random_ids(made.model)
    shift = _TRIED_SHIFT
    if made.context_tokens is not None:
        shift = max(0, min(shift, made.context_tokens - _TRIED_TOKENS))
    cache = BoundedCache(made.plan, positions="rebase", limit_tokens=_TRIED_TOKENS + shift)
    cache.start_at(shift)
    made.read(ids[:_TRIED_TOKENS], cache)
    got = made.read(ids[_TRIED_TOKENS:], cache)
    worst = difference_of_logits(got, _whole(made.model, ids)[_TRIED_TOKENS:])
    if not worst <= tolerance(made.model):
        raise PrerequisiteError(
            f"model `{made.name}` cannot be streamed: after its keys were moved, a logit is {worst:.3g} of their"
            " standard deviation off the model's own",
            hint="its positions or its attention are of a kind not supported yet",
        )
    _log.debug("rotation: error %.2g of the keys, %.2g of the logits", made.plan.error, worst)


def random_ids(model: PreTrainedModel) -> Int[Tensor, " fed"]:
    """The tokens that a model is tried with."""
    generator = torch.Generator().manual_seed(1)
    vocabulary = int(model.config.get_text_config().vocab_size)
    count = _TRIED_TOKENS + _TRIED_BEHIND
    return torch.randint(0, min(vocabulary, 1000), (count,), generator=generator).to(model.device)


@torch.inference_mode()
def _whole(model: PreTrainedModel, ids: Int[Tensor, " fed"]) -> Float[Tensor, "fed vocab"]:
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return logits


def difference_of_logits(
    got: Float[Tensor, "fed vocab"],
    expected: Float[Tensor, "fed vocab"],
    scale: Float[Tensor, "some vocab"] | None = None,
) -> float:
    """How far the worst logit is off, in standard deviations of the expected ones, or of others."""
    return float((got - expected).abs().max() / (expected if scale is None else scale).std())


def tolerance(model: PreTrainedModel) -> float:
    """How far a logit of a trial may be off, in standard deviations: rounding of the model's type."""
    return _TOLERANCES.get(model.dtype, _TOLERANCE_16_BIT)
