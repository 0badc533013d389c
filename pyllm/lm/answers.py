"""Log-probabilities of answers behind a shared prefix.

`AnswerSet` holds the tokens of all anchors once, on the device, cut into packs; `answer_nats` reads them behind one
prefix. Cost per prefix: its own tokens plus the tokens of all anchors, once, without padding; the head only on answer
tokens.

Source: NUGGETS (arXiv 2312.10302), section 3: zero-shot and one-shot scores of an anchor's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pyllm.lm.attention import PackLayout, packs, starts_of
from pyllm.lm.causal import CausalLM
from pyllm.lm.workers import Check


@dataclass(frozen=True, slots=True)
class AnswerSpan:
    """An answer behind its query.

    Args:
        ids: Tokens of query and answer.
        start: First token that is scored (at least 1: a token is read from the state of the one before it).
        end: One past the last token that is scored.
    """

    ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Pack:
    members: tuple[int, ...]
    ids: Int[Tensor, " packed"]
    layout: PackLayout
    states_at: Int[Tensor, " answers"]
    targets: Int[Tensor, " answers"]
    answer_starts: tuple[int, ...]


class AnswerSet:
    """Answers that are read together behind many prefixes.

    Args:
        spans: The answers; one whose `start` is not below its `end` has nothing to score and its sum is 0.
        max_batch_tokens: Most tokens of one pack; 1 reads one answer at a time.
        device: Where the model is.
        sum_dtype: Type in which token log-probabilities are added.
    """

    def __init__(
        self,
        spans: Sequence[AnswerSpan],
        *,
        max_batch_tokens: int,
        device: torch.device,
        sum_dtype: type[np.floating] = np.float64,
    ) -> None:
        self.count = len(spans)
        scored = [number for number, span in enumerate(spans) if span.start < span.end]
        self.tokens = sum(len(spans[number].ids) for number in scored)
        self._sum_dtype = sum_dtype
        groups = packs([len(spans[number].ids) for number in scored], max_batch_tokens)
        self._packs = [_pack(spans, [scored[place] for place in group], device) for group in groups]

    @torch.inference_mode()
    def answer_nats(
        self, lm: CausalLM, prefix_ids: list[int], *, check: Check = lambda: None
    ) -> Float[np.ndarray, " anchors"]:
        """Sum of the log-probabilities of each answer's tokens behind `prefix_ids`.

        Args:
            lm: The model.
            prefix_ids: Tokens of the shared prefix; may be empty.
            check: Called before each pack.

        Returns:
            One sum for each answer, natural log, as float64; 0 where there is nothing to score.
        """
        cache = lm.prefix_cache(prefix_ids)
        sums = np.zeros(self.count, dtype=np.float64)
        for pack in self._packs:
            check()
            states = lm.pack_states(pack.ids, pack.layout, cache)
            nats = lm.target_nats(states[pack.states_at], pack.targets).cpu().numpy().astype(self._sum_dtype)
            sums[list(pack.members)] = np.add.reduceat(nats, pack.answer_starts)
        return sums


def _pack(spans: Sequence[AnswerSpan], members: Sequence[int], device: torch.device) -> _Pack:
    lengths = [len(spans[number].ids) for number in members]
    ids = torch.tensor([token for number in members for token in spans[number].ids])
    answers = [
        torch.arange(start + spans[number].start, start + spans[number].end)
        for start, number in zip(starts_of(lengths), members, strict=True)
    ]
    target_at = torch.cat(answers)
    return _Pack(
        members=tuple(members),
        ids=ids.to(device),
        layout=PackLayout(tuple(lengths), device),
        states_at=(target_at - 1).to(device),
        targets=ids[target_at].to(device),
        answer_starts=tuple(starts_of([len(answer) for answer in answers])),
    )
