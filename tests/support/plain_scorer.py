"""The slow, obvious twin of packed scoring: one pair at a time, whole concatenation, no cache, no packing."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def plain_answer_nats(
    model: PreTrainedModel, prefix_ids: Sequence[int], ids: Sequence[int], start: int, end: int
) -> float:
    """Sum of log-probabilities of `ids[start:end]` behind `prefix_ids`, by the model's own forward pass."""
    model.set_attn_implementation("eager")
    whole = torch.tensor([[*prefix_ids, *ids]], device=model.device)
    log_probs = model(whole, use_cache=False).logits[0].double().log_softmax(-1)
    offset = len(prefix_ids)
    return float(sum(log_probs[offset + at - 1, ids[at]] for at in range(start, end)))
