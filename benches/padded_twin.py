"""The padded method: what packed scoring is compared with.

One batch of anchors at a time behind a cached demonstration, every anchor padded to the cut length, the prefix copied
for each anchor, the head and a log-softmax over the whole vocabulary at every position. This is how the published
NUGGETS code works (facts: `docs/methods/nuggets.md`), here on today's transformers with its own attention.
"""

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pyllm.lm.answers import AnswerSpan


def pad_anchors(spans: list[AnswerSpan], length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Anchors as rows of `length` tokens, and which of them are real."""
    ids = torch.full((len(spans), length), pad_id)
    for row, span in enumerate(spans):
        ids[row, : len(span.ids)] = torch.tensor(span.ids)
    real = torch.arange(length)[None, :] < torch.tensor([len(span.ids) for span in spans])[:, None]
    return ids, real.long()


@torch.inference_mode()
def padded_answer_nats(
    model: PreTrainedModel, prefix_ids: list[int], spans: list[AnswerSpan], *, length: int, pad_id: int, batch: int
) -> list[float]:
    """Sum of each anchor's answer log-probabilities behind `prefix_ids`."""
    cache = DynamicCache()
    if prefix_ids:
        model(torch.tensor([prefix_ids]), past_key_values=cache, use_cache=True)
    sums: list[float] = []
    for start in range(0, len(spans), batch):
        group = spans[start : start + batch]
        ids, real = pad_anchors(group, length, pad_id)
        copied = DynamicCache()
        for number, layer in enumerate(cache.layers):
            copied.update(
                layer.keys.expand(len(group), -1, -1, -1), layer.values.expand(len(group), -1, -1, -1), number
            )
        mask = torch.cat([torch.ones(len(group), len(prefix_ids), dtype=torch.long), real], dim=1)
        positions = torch.arange(len(prefix_ids), len(prefix_ids) + length)[None].expand(len(group), -1)
        logits = model(ids, attention_mask=mask, position_ids=positions, past_key_values=copied, use_cache=True).logits
        log_probs = logits.float().log_softmax(-1)
        for row, span in enumerate(group):
            at = torch.arange(span.start, span.end)
            sums.append(float(log_probs[row, at - 1, ids[row, at]].sum()))
    return sums
