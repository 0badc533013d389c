"""The loss of each held-out row under a model, row by row, so that models can be compared on the same rows.

Rows are read in packs by the code that scores answers: the decoder runs once over the tokens of a pack, and the head,
in float32, only over the trained positions, a block at a time. What a row adds up to does not depend on which rows
share its pack, beyond rounding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int
from numpy import ndarray

from pyllm.data.tokens import MASKED
from pyllm.errors import PrerequisiteError
from pyllm.finetune.job import Job
from pyllm.finetune.sequences import Sequences
from pyllm.lm.attention import PackLayout, packs
from pyllm.lm.causal import CausalLM, causal_lm
from pyllm.lm.loading import choose_device, first_line, load_model, load_pretrained
from pyllm.lm.sources import ModelSource

_PASS_TOKENS = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True, slots=True)
class RowLosses:
    """What a model makes of held-out rows.

    Args:
        nats: Sum over each row's trained tokens of the negative log-probability.
        tokens: Trained tokens of each row.
    """

    nats: Float64[ndarray, " rows"]
    tokens: Int[ndarray, " rows"]

    @property
    def per_token(self) -> float:
        """All nats over all tokens."""
        return float(self.nats.sum() / max(1, int(self.tokens.sum())))

    @property
    def per_row(self) -> float:
        """Mean of the rows' own means."""
        return float((self.nats / np.maximum(self.tokens, 1)).mean())


def load_untrained(job: Job) -> CausalLM:
    """The model that a run begins with.

    Raises:
        PrerequisiteError: It cannot be loaded, or not read in packs.
    """
    return load_model(job.source, device=choose_device(job.settings.device), dtype=_dtype(job))


def load_trained(job: Job, final: Path) -> CausalLM:
    """The model that a run ended with; an adapter is put on the model that it was trained on, and not merged.

    Args:
        job: The run, or one of the same model and settings.
        final: Its folder of the trained model.

    Raises:
        PrerequisiteError: It cannot be loaded, or not read in packs.
    """
    device = choose_device(job.settings.device)
    if job.settings.lora is None:
        return load_model(ModelSource(str(final), final), device=device, dtype=_dtype(job))
    try:
        from peft import PeftModel
    except ImportError as error:
        raise PrerequisiteError("an adapter needs the package peft", hint="pip install 'pyllm[peft]'") from error
    model = load_pretrained(job.source, dtype=_dtype(job), attention="eager")
    try:
        adapted: Any = PeftModel.from_pretrained(model, str(final), autocast_adapter_dtype=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise PrerequisiteError(f"the adapter in {final} cannot be loaded: {first_line(error)}") from error
    return causal_lm(adapted.get_base_model().to(device))


def _dtype(job: Job) -> torch.dtype:
    """The type that a run holds its weights in: float32, but bfloat16 beneath an adapter on a GPU."""
    on_cpu = choose_device(job.settings.device).type == "cpu"
    whole = on_cpu or job.settings.lora is None or job.settings.precision == "fp32"
    return torch.float32 if whole else torch.bfloat16


@torch.inference_mode()
def row_losses(lm: CausalLM, sequences: Sequences, *, pass_tokens: int | None = None) -> RowLosses:
    """Loss of each row, in nats, and how many tokens it is over.

    Args:
        lm: The model.
        sequences: The rows; a row without trained tokens has loss 0 over 0 tokens.
        pass_tokens: Most tokens of a forward pass; None chooses by device.
    """
    limit = pass_tokens or _PASS_TOKENS.get(lm.device.type, 1024)
    nats, tokens = np.zeros(len(sequences)), np.zeros(len(sequences), dtype=np.int64)
    lengths = sequences.lengths.tolist()
    for members in packs(lengths, limit):
        parts = [sequences.example(place) for place in members]
        ids = torch.from_numpy(np.concatenate([ids for ids, _ in parts]).astype(np.int64))
        trained = np.concatenate([labels for _, labels in parts]) != MASKED
        # A row's first token has nothing before it that could predict it.
        trained[np.cumsum([0, *(len(ids) for ids, _ in parts[:-1])])] = False
        at = torch.from_numpy(np.flatnonzero(trained))
        layout = PackLayout(tuple(lengths[place] for place in members), lm.device)
        states = lm.pack_states(ids.to(lm.device), layout)
        found = lm.target_nats(states[(at - 1).to(lm.device)], ids[at].to(lm.device)).double().cpu().numpy()
        owner = np.repeat(members, [lengths[place] for place in members])[trained]
        np.subtract.at(nats, owner, found)
        np.add.at(tokens, owner, 1)
    return RowLosses(nats, tokens)
