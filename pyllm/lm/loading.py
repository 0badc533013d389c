"""Loading a tokenizer and a causal language model with the type and device that make results comparable."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from pyllm.errors import PrerequisiteError, SettingError
from pyllm.lm.causal import CausalLM, causal_lm
from pyllm.lm.sources import ModelSource

_log = logging.getLogger(__name__)

PAD_TOKEN = "[PAD]"


@dataclass(frozen=True, slots=True)
class PadRow:
    """The extra class that the published NUGGETS code puts into the softmax (`docs/methods/nuggets.md`).

    Args:
        vocabulary: Size of the tokenizer's vocabulary after `[PAD]` was added; both embeddings are resized to it.
        added: New tokens: 1, or 0 when the tokenizer had a `[PAD]` before.
    """

    vocabulary: int
    added: int


def quiet_transformers() -> None:
    """Stop transformers from drawing progress bars and logging what users can do nothing about."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, else the CPU.

    Raises:
        SettingError: There is no device of that kind of name.
        PrerequisiteError: The device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingError(f"device `{name}` is unknown", hint="use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError(f"device `{name}` is not there: no GPU is visible")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PrerequisiteError(f"device `{name}` is not there: {torch.cuda.device_count()} visible")
    return device


def choose_dtype(name: str, device: torch.device, config: PreTrainedConfig) -> torch.dtype:
    """The type to compute in; `auto` is the checkpoint's own on a GPU and float32 on the CPU.

    Raises:
        SettingError: There is no such type.
    """
    if name == "auto":
        own = getattr(config, "dtype", None)
        return own if device.type != "cpu" and isinstance(own, torch.dtype) else torch.float32
    types = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in types:
        raise SettingError(f"dtype `{name}` is unknown", hint=f"use auto, {', '.join(types)}")
    return types[name]


def load_config(source: ModelSource) -> PreTrainedConfig:
    """The model's configuration.

    Raises:
        PrerequisiteError: transformers does not know it.
    """
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError) as error:
        raise PrerequisiteError(f"model `{source.name}` cannot be configured: {first_line(error)}") from error
    return config


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        PrerequisiteError: There is none, or it cannot be read.
    """
    quiet_transformers()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise PrerequisiteError(f"model `{source.name}` has no usable tokenizer: {first_line(error)}") from error
    if len(tokenizer) == 0:
        raise PrerequisiteError(f"model `{source.name}` has no usable tokenizer: its vocabulary is empty")
    return tokenizer


def add_pad_token(tokenizer: PreTrainedTokenizerBase) -> PadRow:
    """Add `[PAD]` to a tokenizer in place, as the published NUGGETS code does; what the model needs to follow."""
    added = tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return PadRow(len(tokenizer), added)


def load_model(
    source: ModelSource, *, device: torch.device, dtype: torch.dtype, pad_row: PadRow | None = None
) -> CausalLM:
    """Load a causal language model from safetensors (or a plain weight file), never from remote code.

    Args:
        source: The model.
        device: Where to put it.
        dtype: Type of its weights; the head is always applied in float32.
        pad_row: Give both embeddings the row of `[PAD]`: the mean of the other rows, as in the published NUGGETS
            code. None leaves the model as it is.

    Raises:
        PrerequisiteError: It is no causal LM, weights are missing, or it does not fit the device.
    """
    model = load_pretrained(source, dtype=dtype, attention="eager")
    try:
        if pad_row is not None:
            _fit_vocabulary(model, pad_row)
        wrapped = causal_lm(model.to(device))
    except torch.OutOfMemoryError as error:
        raise PrerequisiteError(
            f"model `{source.name}` does not fit into the memory of `{device}`", hint="use a smaller --dtype"
        ) from error
    _log.info("model: %s, %.3g parameters, %s on %s", source.name, model.num_parameters(), dtype, device)
    return wrapped


def load_pretrained(source: ModelSource, *, dtype: torch.dtype, attention: str | None) -> Any:
    """The transformers model itself, whole, on the CPU.

    Args:
        source: The model.
        dtype: Type of its weights.
        attention: Name of the implementation of attention; None leaves the choice to transformers.

    Raises:
        PrerequisiteError: It cannot be loaded, is no causal LM, or weights are missing.
    """
    quiet_transformers()
    source.weights()
    try:
        both: Any = AutoModelForCausalLM.from_pretrained(
            source.folder, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PrerequisiteError(f"model `{source.name}` cannot be loaded: {first_line(error)}") from error
    model, loaded = both
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise PrerequisiteError(
            f"model `{source.name}` is no whole causal language model: weight `{missing[0]}` is missing"
            f" ({len(missing)} in all)"
        )
    return model


@torch.no_grad()
def _fit_vocabulary(model: Any, pad_row: PadRow) -> None:
    model.resize_token_embeddings(pad_row.vocabulary, mean_resizing=False)
    if pad_row.added == 0:
        return
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if embedding is not None:
            embedding.weight[-pad_row.added :] = embedding.weight[: -pad_row.added].mean(0)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
