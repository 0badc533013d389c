"""Masks for a batch whose rows stand at places of their own.

transformers makes the mask of each kind of layer from a rule of query and key, asked for one range of queries that
all rows share. Here the same rule is asked for the place that each query has in its own row, so that windows and
whatever else a model's layers have hold by the model's own code. The makers are registered with transformers'
`AttentionMaskInterface`; outside of `masks_by` they do what they did before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jaxtyping import Int
from torch import Tensor
from transformers import AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from pyllm.stream.watching import WATCHED_ATTENTION

_own_places: ContextVar[Int[Tensor, "batch new"] | None] = ContextVar("pyllm_own_places", default=None)


def _by_own_places(make: Callable[..., Any]) -> Callable[..., Any]:
    """A maker of masks that goes by each row's own places while a pass of a pool runs."""

    def made(*arguments: Any, **named: Any) -> Any:
        places = _own_places.get()
        if places is None:
            return make(*arguments, **named)
        rule = named["mask_function"]

        def shifted(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            allowed: Tensor = rule(batch, head, places[batch, query], key)
            return allowed

        return make(*arguments, **{**named, "mask_function": shifted, "q_offset": 0, "allow_is_causal_skip": False})

    return made


for _name, _make in (("sdpa", sdpa_mask), ("eager", eager_mask), (WATCHED_ATTENTION, sdpa_mask)):
    AttentionMaskInterface.register(_name, _by_own_places(_make))


@contextmanager
def masks_by(places: Int[Tensor, "batch new"]) -> Iterator[None]:
    """Let masks go by these places inside the block, in this thread."""
    token = _own_places.set(places)
    try:
        yield
    finally:
        _own_places.reset(token)
