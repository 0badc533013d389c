"""Anchors chosen by a model: the rows of a table embedded as a scoring run with K-Means anchors embeds them.

Which rows can be anchors and what they are cut to is decided by the model's tokenizer, as in `pyllm.score.run`.
Embeddings are kept in a run folder as they come, so an interrupted choice goes on where it stopped.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int

from pyllm.errors import PrerequisiteError
from pyllm.lm.embeddings import Encoder
from pyllm.lm.loading import load_model
from pyllm.lm.sources import find_model
from pyllm.lm.workers import Check, piecewise
from pyllm.progress import Progress, no_progress
from pyllm.score.anchors import eligible_rows
from pyllm.score.job import Job, batch_tokens, default_run_folder, run_key
from pyllm.score.ledger import open_ledger
from pyllm.score.passes import Passes


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """The rows that can be anchors, embedded.

    Args:
        rows: Their numbers in the table, ascending.
        vectors: Their embeddings.
    """

    rows: Int[np.ndarray, " eligible"]
    vectors: Float32[np.ndarray, "eligible dim"]


def embed_rows(job: Job, *, progress: Progress = no_progress, check: Check = lambda: None) -> EmbeddedRows:
    """Embed the rows that can be anchors: the masked mean of last hidden states, of the model or of the encoder.

    Args:
        job: What `pyllm.score.job.prepare` returned.
        progress: Listener.
        check: Called between rows; may raise to stop.

    Raises:
        PrerequisiteError: The model cannot be loaded, memory is short, or another process embeds the same rows.
    """
    key = run_key(job) | {"work": "anchors"}
    facts = {"model": job.source.name, "max_batch_tokens": batch_tokens(job)}
    eligible = eligible_rows(job.candidates, job.max_anchor_tokens)
    with open_ledger(default_run_folder(key), key, facts) as ledger, piecewise(job.device) as at_once:
        lm = load_model(job.source, device=job.device, dtype=job.dtype, pad_row=None)
        biggest = int(job.candidates.flat_ids.max(initial=0))
        if biggest >= lm.vocabulary:
            raise PrerequisiteError(
                f"model `{job.source.name}` and its tokenizer do not belong together: token {biggest} is beyond the"
                f" model's vocabulary of {lm.vocabulary}"
            )
        named = job.settings.encoder
        encoder = None if named is None else Encoder(find_model(named), job.device)
        side_by_side = 1 if lm.changes_while_reading else at_once
        max_batch_tokens = int(ledger.facts["max_batch_tokens"])
        passes = Passes(ledger, lm, job.candidates, max_batch_tokens, side_by_side, progress, check)
        try:
            return EmbeddedRows(eligible, passes.embeddings(eligible, encoder))
        except torch.OutOfMemoryError as error:
            raise PrerequisiteError(
                f"out of memory on `{lm.device}`: what is done is kept in {ledger.folder}",
                hint="give a smaller --model, or --embeddings from elsewhere",
            ) from error
