"""The next token of many answers at once, the same whatever the batch.

Sums of floats depend on the shape of a matrix product, so logits of the same tokens differ in their last digits from
one batch to another. A choice between two tokens that lie closer than that is `doubtful`: the caller settles it by
logits that are computed in one way only. Everything else is decided alike in every batch.

Sampling adds Gumbel noise to the logits and takes the largest sum, which draws from the softmax exactly, and makes a
sampled choice a greedy one with the same notion of doubt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pyllm.lm.backends.contract import Decoding

_DOUBT = 3e-5
"""Share of the largest logit under which a difference may be rounding: ten times what was seen in float32."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for each row.

    Args:
        tokens: The token.
        doubtful: Whether rounding could have chosen another.
    """

    tokens: Int[Tensor, " batch"]
    doubtful: Bool[Tensor, " batch"]


def gumbel_noise(generators: Sequence[torch.Generator], vocabulary: int) -> Float[Tensor, "batch vocab"]:
    """A row of noise from each generator, on its device."""
    rows = [torch.rand(vocabulary, generator=each, device=each.device, dtype=torch.float64) for each in generators]
    uniform = torch.stack(rows).clamp_(1e-300, 1.0 - 1e-16)
    return -torch.log(-torch.log(uniform))


def choose_tokens(
    logits: Float[Tensor, "batch vocab"], decoding: Decoding, noise: Float[Tensor, "batch vocab"] | None
) -> Choice:
    """The next token of each row.

    Args:
        logits: In float32; minus infinity forbids a token.
        decoding: How to choose, the same for all rows.
        noise: From `gumbel_noise`; None where the temperature is 0.
    """
    finite = logits.masked_fill(logits.isinf(), 0.0)
    doubt = finite.abs().amax(-1).double() * _DOUBT
    if noise is None:
        best = logits.topk(2, -1)
        return Choice(best.indices[:, 0], best.values[:, 0].double() - best.values[:, 1] < doubt)
    scores = (logits.double() - logits.amax(-1, keepdim=True)) / decoding.temperature
    doubt /= decoding.temperature
    border = torch.zeros_like(doubt, dtype=torch.bool)
    if decoding.top_p < 1.0:
        ranked = scores.softmax(-1).sort(dim=-1, descending=True, stable=True)
        before = ranked.values.cumsum(-1) - ranked.values
        scores = scores.scatter(
            -1, ranked.indices, scores.gather(-1, ranked.indices).masked_fill(before >= decoding.top_p, -torch.inf)
        )
        # A token whose place in the nucleus hangs on rounding, if it is likely enough to matter.
        near = (before - decoding.top_p).abs() < doubt[:, None].clamp(max=0.01)
        border = (near & (ranked.values > 1e-6)).any(-1)
    best = (scores + noise).topk(2, -1)
    return Choice(best.indices[:, 0], (best.values[:, 0] - best.values[:, 1] < doubt) | border)
