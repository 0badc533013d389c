"""Whether a model keeps examples apart that stand side by side in one row."""

from typing import Any

import torch

from pyllm.errors import PrerequisiteError

_LENGTHS = (7, 5)


@torch.inference_mode()
def check_packing(model: Any, name: str) -> None:
    """Compare two short random sequences side by side, told apart by their positions, with each on its own.

    Args:
        model: A transformers model, on its device; its mode is put back.
        name: What messages call it.

    Raises:
        PrerequisiteError: They differ by more than rounding: the model would learn across examples.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, vocabulary, (1, sum(_LENGTHS)), generator=generator).to(model.device)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None].to(model.device)
    was_training = model.training
    model.eval()
    try:
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits.float()
        apart = [model(input_ids=part, use_cache=False).logits.float() for part in ids.split(_LENGTHS, dim=1)]
    except (TypeError, RuntimeError) as error:
        raise PrerequisiteError(
            f"model `{name}` cannot be trained on packed rows: {error}", hint="give --padded"
        ) from error
    finally:
        model.train(was_training)
    worst = float((packed.log_softmax(-1) - torch.cat(apart, 1).log_softmax(-1)).abs().max())
    if not worst <= (1e-3 if model.dtype == torch.float32 else 0.25):
        raise PrerequisiteError(
            f"model `{name}` does not keep packed examples apart: a log-probability is {worst:.3g} nats off",
            hint="give --padded",
        )
