"""Attention that can be watched: how much the queries of a forward pass look at each cached token.

Registered with transformers' `AttentionInterface`, so no model class is patched; a model whose attention does more
than this function is found out when it is first watched (`pyllm.stream.model`) and refused.

Cost: the weights of one layer at a time, heads x new x cached in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

WATCHED_ATTENTION = "pyllm_watched"


@dataclass
class Watched:
    """What was seen in one forward pass.

    Args:
        cached: Keys that each query can see, the new ones included; layers that hold another number are left out.
        total: Sum over layers of the mean over heads, a row for each query.
        layers: How many layers were seen.
    """

    cached: int
    total: Float[Tensor, "rows new cached"] | None = None
    layers: int = 0

    def rows(self) -> Float[Tensor, "rows new cached"] | None:
        """Mean over heads and layers, of every dialogue a row for each query; None when no layer was seen."""
        return None if self.total is None else self.total / self.layers


_watched: ContextVar[Watched | None] = ContextVar("pyllm_watched", default=None)


@contextmanager
def watching(cached: int) -> Iterator[Watched]:
    """Watch the forward passes inside the block, whose layers that remember hold `cached` keys."""
    seen = Watched(cached)
    token = _watched.set(seen)
    try:
        yield seen
    finally:
        _watched.reset(token)


def watched_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads new head_dim"],
    key: Float[Tensor, "rows kv_heads cached head_dim"],
    value: Float[Tensor, "rows kv_heads cached value_dim"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: object,
) -> tuple[Float[Tensor, "rows new heads value_dim"], None]:
    """The attention of one layer; called by transformers."""
    heads, new, cached = query.shape[1], query.shape[2], key.shape[2]
    share = heads // key.shape[1]
    keys, values = (part.repeat_interleave(share, 1) if share > 1 else part for part in (key, value))
    scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is None:
        # No mask is plain causal attention: the last query sees every key.
        ahead = torch.ones(new, cached, dtype=torch.bool, device=key.device).triu(cached - new + 1)
        scores = scores.masked_fill(ahead, float("-inf"))
    elif attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask[..., :cached], float("-inf"))
    else:
        scores = scores + attention_mask[..., :cached]
    if s_aux is not None:
        scores = torch.cat(
            [scores, s_aux.reshape(1, -1, 1, 1).expand(scores.shape[0], heads, new, 1).to(scores.dtype)], -1
        )
    weights = scores.softmax(-1, dtype=torch.float32)[..., :cached]
    seen = _watched.get()
    if seen is not None and cached == seen.cached and not getattr(module, "is_sliding", False):
        mean = weights.mean(1)
        seen.total = mean if seen.total is None else seen.total + mean
        seen.layers += 1
    return (weights.to(query.dtype) @ values).transpose(1, 2).contiguous(), None


AttentionInterface.register(WATCHED_ATTENTION, watched_attention)
AttentionMaskInterface.register(WATCHED_ATTENTION, sdpa_mask)
