"""Embeddings of texts: the masked mean of a model's last hidden states.

The mean runs over real tokens only. (The published NUGGETS script averages over padding as well, so that its
clusters follow length.)
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32
from transformers import AutoModel

from pyllm.errors import PrerequisiteError
from pyllm.lm.attention import PackLayout, packs
from pyllm.lm.causal import CausalLM
from pyllm.lm.loading import first_line, load_tokenizer, quiet_transformers
from pyllm.lm.sources import ModelSource

EMBEDDED_TOKENS = 512
"""Texts are cut to this many tokens before they are embedded."""


@torch.inference_mode()
def mean_states(
    lm: CausalLM, sequences: Sequence[Sequence[int]], *, max_batch_tokens: int
) -> Float32[np.ndarray, "rows dim"]:
    """Mean over tokens of the last hidden states of each sequence, read in packs without padding.

    Args:
        lm: The model.
        sequences: Token ids of each text, at least one each.
        max_batch_tokens: Most tokens of one pack.
    """
    lengths = [len(sequence) for sequence in sequences]
    result = np.empty((len(sequences), lm.head.shape[1]), dtype=np.float32)
    for members in packs(lengths, max_batch_tokens):
        sizes = [lengths[number] for number in members]
        ids = torch.tensor([token for number in members for token in sequences[number]], device=lm.device)
        states = lm.pack_states(ids, PackLayout(tuple(sizes), lm.device)).float()
        means = torch.stack([part.mean(0) for part in states.split(sizes)])
        result[list(members)] = means.cpu().numpy()
    return result


class Encoder:
    """Any transformers encoder, by folder or hub id, with the masked mean of its last hidden states.

    Args:
        source: The encoder.
        device: Where to put it.

    Raises:
        PrerequisiteError: It cannot be loaded.
    """

    def __init__(self, source: ModelSource, device: torch.device) -> None:
        quiet_transformers()
        self._tokenizer = load_tokenizer(source)
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        try:
            self._model = AutoModel.from_pretrained(source.folder, dtype=torch.float32).to(device).eval()
        except (OSError, ValueError, KeyError) as error:
            raise PrerequisiteError(f"encoder `{source.name}` cannot be loaded: {first_line(error)}") from error

    @torch.inference_mode()
    def mean_states(self, texts: Sequence[str], *, max_batch_tokens: int) -> Float32[np.ndarray, "rows dim"]:
        """Mean over tokens of the last hidden states of each text."""
        limit = min(EMBEDDED_TOKENS, getattr(self._model.config, "max_position_embeddings", None) or EMBEDDED_TOKENS)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        parts: dict[int, np.ndarray] = {}
        for members in packs([len(ids) for ids in encoded], max_batch_tokens):
            batch = self._tokenizer.pad({"input_ids": [encoded[number] for number in members]}, return_tensors="pt")
            batch = batch.to(self._model.device)
            states = self._model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][:, :, None].to(states.dtype)
            means = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
            parts.update(zip(members, means, strict=True))
        return np.stack([parts[number] for number in range(len(texts))]).astype(np.float32)
