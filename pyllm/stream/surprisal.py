"""What every token of a turn is worth: its surprisal, or what the published code computes under that name.

Surprisal is -log p(token | what stands before it), in nats. The published code attaches to token i the value
-log p(token i-1 | tokens up to i-1), how unlikely a repetition of the token before was there. Both come from
log-sum-exp less one logit, in float32, a forward pass at a time: no table of turn times vocabulary exists for a long
turn. Source: SirLLM, arXiv 2405.12528, equation 1, and its code; `docs/methods/sirllm.md` has the difference.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from pyllm.errors import PrerequisiteError
from pyllm.stream.settings import FirstToken, Score

MOST_NATS = 1e4
"""A token of probability 0 counts as this surprising: infinity would never fade."""


def negative_log(
    logits: Float[Tensor, "new vocab"], targets: Int[Tensor, " new"], log_sums: Float[Tensor, " new"]
) -> Float[Tensor, " new"]:
    """-log softmax of one target in each row, given each row's log-sum-exp."""
    return log_sums - logits.gather(1, targets[:, None])[:, 0]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model predicts next.

    Args:
        logits: In float32.
        log_sum: Their log-sum-exp.
        likeliest: The token of the largest, and that logit, where they are known already.
    """

    logits: Float[Tensor, " vocab"]
    log_sum: Float[Tensor, ""]
    likeliest: tuple[int, Float[Tensor, ""]] | None = None

    def negative_log_of(self, token: int) -> Float[Tensor, ""]:
        """-log p of a token."""
        if self.likeliest is not None and self.likeliest[0] == token:
            return self.log_sum - self.likeliest[1]
        return self.log_sum - self.logits[token].to(self.log_sum.device)


def predictions(logits: Float[Tensor, "rows vocab"]) -> list[Prediction]:
    """Predictions of many rows at once; their numbers come to the CPU together."""
    log_sums, tokens = logits.logsumexp(-1), logits.argmax(-1)
    largest = logits.gather(1, tokens[:, None])[:, 0]
    sums, values = torch.stack([log_sums, largest]).cpu().unbind()
    likeliest = zip(tokens.tolist(), values.unbind(), strict=True)
    return [
        Prediction(row, log_sum, best)
        for row, log_sum, best in zip(logits.unbind(), sums.unbind(), likeliest, strict=True)
    ]


@dataclass
class TurnScores:
    """The scores of one turn, growing with each forward pass.

    Args:
        score: Which one.
        first_takes_largest: Whether the turn's first token takes its largest score. As the largest grows with a long
            turn, so does that token's score.
        nats: Scores so far.
    """

    score: Score
    first_takes_largest: bool
    nats: Float[ndarray, " fed"] = field(default_factory=lambda: np.empty(0))
    _largest: float = -np.inf
    _next: float = 0.0

    def add(
        self,
        ids: Int[Tensor, " new"],
        logits: Float[Tensor, "new vocab"],
        before: Prediction | None,
        place: str,
        after: Prediction | None = None,
    ) -> tuple[Float[ndarray, " new"], Prediction]:
        """Score the tokens of a forward pass.

        Args:
            ids: The tokens.
            logits: What the model predicts behind each, in float32.
            before: What it predicted behind the token before the first of them; None where nothing stood before.
            place: Where they are, for messages.
            after: What it predicts behind the last of them, where that is known already.

        Returns:
            Their scores, and what is predicted behind the last of them.

        Raises:
            PrerequisiteError: A score is no number.
        """
        if after is None:
            # A copy of one row: a view would keep the whole table.
            last = logits[-1].clone() if len(ids) > 1 else logits[0]
            after = Prediction(last, last.logsumexp(-1))
        if self.score == "as-published":
            own = _numbers(negative_log(logits, ids, logits.logsumexp(-1)), place)
            self._largest = max(self._largest, float(own.max()))
            fresh = np.concatenate([[self._next], own[:-1]])
            self._next = float(own[-1])
            known = own[:0]
        else:
            known = np.empty(0)
            if len(ids) > 1:
                known = _numbers(negative_log(logits[:-1], ids[1:], logits[:-1].logsumexp(-1)), place)
            if before is None or (not len(self.nats) and self.first_takes_largest):
                fresh = np.concatenate([[0.0], known])
            else:
                first = _number(float(before.negative_log_of(int(ids[0]))), place)
                known = fresh = np.concatenate([[first], known])
        if len(known):
            self._largest = max(self._largest, float(known.max()))
        self.nats = np.concatenate([self.nats, fresh])
        if self.first_takes_largest:
            # The float itself is copied: ties with the token that it comes from must be exact.
            self.nats[0] = max(self._largest, 0.0)
        return self.nats[len(self.nats) - len(ids) :], after


def takes_largest(score: Score, first_token: FirstToken, *, first_turn: bool) -> bool:
    """Whether a turn's first token takes the turn's largest score: always, where nothing stood before it."""
    return score == "as-published" or first_token == "max" or first_turn


def _numbers(nats: Float[Tensor, " new"], place: str) -> Float[ndarray, " new"]:
    """As float64, with infinity cut to `MOST_NATS`."""
    numbers: ndarray = nats.double().cpu().numpy()
    if np.isnan(numbers).any():
        raise _no_number(place)
    # Rounding can make a sure token minus nothing.
    clipped: ndarray = np.clip(numbers, 0.0, MOST_NATS)
    return clipped


def _number(nats: float, place: str) -> float:
    """The same of one; arrays would cost more than the rest of what a generated token needs."""
    if math.isnan(nats):
        raise _no_number(place)
    return min(max(nats, 0.0), MOST_NATS)


def _no_number(place: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"the model gives no number for a token of {place}", hint="use another --dtype, such as float32"
    )
