"""What a run computes on, and in which types: decided here alone, for the run, its plan and its probe."""

import torch

from pyllm.finetune.settings import FinetuneSettings


def on_gpu(settings: FinetuneSettings) -> bool:
    """Whether a run computes on a GPU."""
    return settings.device != "cpu" and torch.cuda.is_available()


def in_bf16(settings: FinetuneSettings) -> bool:
    """Whether matrix products are computed in bfloat16."""
    return settings.precision == "bf16" or (settings.precision == "auto" and on_gpu(settings))


def checkpoints_activations(settings: FinetuneSettings) -> bool:
    """Whether activations are computed twice instead of kept."""
    return on_gpu(settings) if settings.activation_checkpointing is None else settings.activation_checkpointing


def weight_type(settings: FinetuneSettings) -> torch.dtype:
    """Type that weights are loaded in: half only where an adapter is trained beside them."""
    half = on_gpu(settings) and settings.lora is not None and settings.precision != "fp32"
    return torch.bfloat16 if half else torch.float32


def attention_of(settings: FinetuneSettings) -> str | None:
    """Name of the implementation of attention; None leaves the choice to transformers."""
    return "flash_attention_2" if on_gpu(settings) and _has_flash_attention() else None


def _has_flash_attention() -> bool:
    from transformers.utils.import_utils import is_flash_attn_2_available

    return bool(is_flash_attn_2_available())
