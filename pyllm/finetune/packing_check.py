"""Whether a model keeps examples apart that stand side by side in one row, and by which attention it does so best."""

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyllm.errors import PrerequisiteError
from pyllm.lm.attention import PACKED_ATTENTION_NAME

_log = logging.getLogger(__name__)

_LENGTHS = (7, 5, 7)


def choose_packed_attention(model: Any, name: str) -> str:
    """Have a model read packed rows in time that grows with the examples and not with the square of the row.

    Three short random sequences side by side, told apart by their borders, have to give what each gives on its own
    under the model's own attention. Where they do not, or the model takes no other attention, its own is kept, under
    which a mask tells them apart, if that passes the same test.

    Args:
        model: A transformers model, on its device.
        name: What messages call it.

    Returns:
        Name of the attention that the model now has.

    Raises:
        PrerequisiteError: Neither keeps them apart: the model would learn across examples.
    """
    own = str(model.config._attn_implementation)
    was_training = model.training
    model.eval()
    try:
        worst = {}
        for attention in (PACKED_ATTENTION_NAME, own):
            worst[attention] = _difference(model, attention, own)
            if worst[attention] <= (1e-3 if model.dtype == torch.float32 else 0.25):
                _log.debug("attention: %s, %.2g nats off", attention, worst[attention])
                return attention
    finally:
        model.train(was_training)
    raise PrerequisiteError(
        f"model `{name}` does not keep packed examples apart: a log-probability is {worst[own]:.3g} nats off",
        hint="give --padded",
    )


@torch.no_grad()
def _difference(model: Any, attention: str, own: str) -> float:
    """The largest difference of a log-probability in nats; infinite where the model does not take the attention."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, vocabulary, (1, sum(_LENGTHS)), generator=generator).to(model.device)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None].to(model.device)
    borders = torch.tensor([0, *_LENGTHS]).cumsum(0).to(model.device, torch.int32)
    lengths = {"max_length_q": max(_LENGTHS), "max_length_k": max(_LENGTHS)}
    try:
        model.set_attn_implementation(own)
        apart = [_nats(model, part) for part in ids.split(_LENGTHS, dim=1)]
        model.set_attn_implementation(attention)
        packed = _nats(model, ids, position_ids=positions, cu_seq_lens_q=borders, cu_seq_lens_k=borders, **lengths)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        _log.debug("attention %s is not taken: %s", attention, error)
        return float("inf")
    return float((packed - torch.cat(apart, 1)).abs().max())


def _nats(model: Any, ids: Tensor, **more: Any) -> Float[Tensor, "1 packed vocab"]:
    return model(input_ids=ids, use_cache=False, **more).logits.float().log_softmax(-1)  # type: ignore[no-any-return]
