"""Reading as an exchange between who has tokens and who has the model: the seam that lets dialogues share a pass.

A dialogue that must read yields the tokens of its next forward pass and is sent what the pass gave; it never runs the
model itself. So one and the same code of a turn runs alone (`read_alone`) or beside many others (`pyllm.stream.many`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from pyllm.stream.surprisal import Prediction


@dataclass(frozen=True, slots=True)
class Forward:
    """What a forward pass gave one dialogue.

    Args:
        logits: What the model predicts behind each token, in float32.
        attention: How much each token looked at every cached one, the new ones included: mean over heads and layers;
            None where nobody watched.
        after: What it predicts behind the last token, where that was worked out for many dialogues at once.
    """

    logits: Float[Tensor, "new vocab"]
    attention: Float[ndarray, "new cached"] | None = None
    after: Prediction | None = None


Result = TypeVar("Result")
Reads: TypeAlias = Generator[Int[Tensor, " new"], Forward, Result]
"""A piece of work that reads: yields the tokens of each forward pass, is sent what it gave, and returns its result."""


def read_alone(steps: Reads[Result], read: Callable[[Int[Tensor, " new"]], Forward]) -> Result:
    """Do a piece of work with a forward pass for each of its parts."""
    try:
        part = next(steps)
        while True:
            part = steps.send(read(part))
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        steps.close()
