"""The forward passes of a run: embeddings for the anchor choice, the zero-shot pass, the one-shot pass.

Every pass reads from and writes to the ledger, so a second start does only what is missing.
"""

import logging
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, Float64, Int

from pyllm.lm.answers import AnswerSet
from pyllm.lm.causal import CausalLM
from pyllm.lm.embeddings import EMBEDDED_TOKENS, Encoder, mean_states
from pyllm.progress import Progress
from pyllm.score.candidates import Candidates
from pyllm.score.ledger import Ledger, unit_name

_log = logging.getLogger(__name__)

_EMBEDDED_AT_ONCE = 512

Check = Callable[[], None]
"""Called between rows; raises to stop the run (the reader of stdout has gone)."""


def embeddings(
    ledger: Ledger,
    lm: CausalLM,
    encoder: Encoder | None,
    candidates: Candidates,
    rows: Int[np.ndarray, " eligible"],
    *,
    max_batch_tokens: int,
    progress: Progress,
    check: Check,
) -> Float32[np.ndarray, "eligible dim"]:
    """Embed the prompts of `rows`, by the encoder or else by the model itself."""
    parts = []
    progress.start("embedding", len(rows))
    for start in range(0, len(rows), _EMBEDDED_AT_ONCE):
        check()
        name = f"embeddings-{start:09d}.array"
        part = ledger.load(name)
        prompts = candidates.prompt_of_row[rows[start : start + _EMBEDDED_AT_ONCE]].tolist()
        tokens = 0
        if part is None and encoder is not None:
            texts = [candidates.prompts[prompt].text for prompt in prompts]
            part = encoder.mean_states(texts, max_batch_tokens=max_batch_tokens)
        elif part is None:
            cut = [min(int(candidates.demo_tokens[prompt]), EMBEDDED_TOKENS) for prompt in prompts]
            sequences = [candidates.prefix_ids(prompt)[:end] for prompt, end in zip(prompts, cut, strict=True)]
            tokens = sum(cut)
            part = mean_states(lm, sequences, max_batch_tokens=max_batch_tokens)
        ledger.store(name, part)
        parts.append(part)
        progress.advance(len(part), tokens=tokens)
    progress.finish()
    return np.concatenate(parts)


def zero_shot(
    ledger: Ledger, lm: CausalLM, answers: AnswerSet, prefix_ids: list[int]
) -> Float64[np.ndarray, " anchors"]:
    """Sums of each anchor's answer without a demonstration."""
    sums = ledger.load("zero_shot.array")
    if sums is None:
        sums = answers.answer_nats(lm, prefix_ids)
        ledger.store("zero_shot.array", sums)
    return sums


def one_shot(
    ledger: Ledger,
    lm: CausalLM,
    answers: AnswerSet,
    candidates: Candidates,
    scored: Int[np.ndarray, " scored"],
    *,
    unit_rows: int,
    room: int | None,
    progress: Progress,
    check: Check,
) -> int:
    """Score every work unit that the ledger does not hold yet.

    Args:
        ledger: The open run folder.
        lm: The model.
        answers: The anchors.
        candidates: All candidates.
        scored: The distinct prompts to score, in order; unit u holds `scored[u * unit_rows : (u + 1) * unit_rows]`.
        unit_rows: Rows of a work unit.
        room: Most tokens of a demonstration, or None.
        progress: Listener.
        check: Called before each row.

    Returns:
        Tokens that went through the model.
    """
    units = range(-(-len(scored) // unit_rows))
    missing = [unit for unit in units if ledger.load(unit_name(unit)) is None]
    sizes = {unit: len(scored[unit * unit_rows : (unit + 1) * unit_rows]) for unit in units}
    done = len(scored) - sum(sizes[unit] for unit in missing)
    _log.info("scoring %d distinct rows on %d anchors; %d were scored before", len(scored), answers.count, done)
    progress.start("scoring", len(scored), done=done)
    total_tokens = 0
    for unit in missing:
        sums = np.empty((sizes[unit], answers.count), dtype=np.float64)
        for place, prompt in enumerate(scored[unit * unit_rows : (unit + 1) * unit_rows].tolist()):
            check()
            prefix = candidates.prefix_ids(prompt, room)
            sums[place] = answers.answer_nats(lm, prefix)
            total_tokens += len(prefix) + answers.tokens
            progress.advance(1, tokens=len(prefix) + answers.tokens)
        ledger.store(unit_name(unit), sums)
    progress.finish()
    return total_tokens
