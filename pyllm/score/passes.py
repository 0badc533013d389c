"""The forward passes of a run: embeddings for the anchor choice, the zero-shot pass, the one-shot pass.

Every pass reads from and writes to the ledger, so a second start does only what is missing. Pieces of work run side by
side on a CPU (`pyllm.lm.workers`); each stores its own result.
"""

import logging
import threading
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64, Int

from pyllm.lm.answers import AnswerSet
from pyllm.lm.causal import CausalLM
from pyllm.lm.embeddings import EMBEDDED_TOKENS, Encoder, mean_states
from pyllm.lm.workers import Check, run_pieces
from pyllm.progress import Progress
from pyllm.score.candidates import Candidates
from pyllm.score.ledger import Ledger, unit_name

_log = logging.getLogger(__name__)

_EMBEDDED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Passes:
    """What all passes of a run share.

    Args:
        ledger: The open run folder.
        lm: The model.
        candidates: All candidates.
        max_batch_tokens: Most tokens of one forward pass.
        at_once: Pieces that run side by side.
        progress: Listener; told of one thing at a time.
        check: Called often; raises to stop the run (the reader of stdout has gone).
    """

    ledger: Ledger
    lm: CausalLM
    candidates: Candidates
    max_batch_tokens: int
    at_once: int
    progress: Progress
    check: Check
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def embeddings(
        self, rows: Int[np.ndarray, " eligible"], encoder: Encoder | None
    ) -> Float32[np.ndarray, "eligible dim"]:
        """Embed the prompts of `rows`, by the encoder or else by the model itself."""
        parts: dict[int, np.ndarray] = {}
        self.progress.start("embedding", len(rows))

        def embed(start: int, check: Check) -> None:
            check()
            name = f"embeddings-{start:09d}.array"
            part, tokens = self.ledger.load(name), 0
            if part is None:
                prompts = self.candidates.prompt_of_row[rows[start : start + _EMBEDDED_AT_ONCE]].tolist()
                part, tokens = self._embedded(prompts, encoder)
                self.ledger.store(name, part)
            parts[start] = part
            self._advance(len(part), tokens)

        run_pieces(embed, range(0, len(rows), _EMBEDDED_AT_ONCE), at_once=self.at_once, check=self.check)
        self.progress.finish()
        return np.concatenate([parts[start] for start in sorted(parts)])

    def _embedded(self, prompts: list[int], encoder: Encoder | None) -> tuple[np.ndarray, int]:
        if encoder is not None:
            texts = [self.candidates.prompts[prompt].text for prompt in prompts]
            return encoder.mean_states(texts, max_batch_tokens=self.max_batch_tokens), 0
        cut = [min(int(self.candidates.demo_tokens[prompt]), EMBEDDED_TOKENS) for prompt in prompts]
        sequences = [self.candidates.prefix_ids(prompt)[:end] for prompt, end in zip(prompts, cut, strict=True)]
        return mean_states(self.lm, sequences, max_batch_tokens=self.max_batch_tokens), sum(cut)

    def zero_shot(self, answers: AnswerSet, prefix_ids: list[int]) -> Float64[np.ndarray, " anchors"]:
        """Sums of each anchor's answer without a demonstration."""
        sums = self.ledger.load("zero_shot.array")
        if sums is None:
            sums = answers.answer_nats(self.lm, prefix_ids, check=self.check)
            self.ledger.store("zero_shot.array", sums)
        return sums

    def one_shot(
        self, answers: AnswerSet, scored: Int[np.ndarray, " scored"], *, unit_rows: int, room: int | None
    ) -> int:
        """Score every work unit that the ledger does not hold yet.

        Args:
            answers: The anchors.
            scored: The distinct prompts to score, in order; unit u holds
                `scored[u * unit_rows : (u + 1) * unit_rows]`.
            unit_rows: Rows of a work unit.
            room: Most tokens of a demonstration, or None.

        Returns:
            Tokens that went through the model.
        """
        units = range(-(-len(scored) // unit_rows))
        missing = [unit for unit in units if self.ledger.load(unit_name(unit)) is None]
        done = len(scored) - sum(len(scored[unit * unit_rows : (unit + 1) * unit_rows]) for unit in missing)
        _log.info("scoring %d distinct rows on %d anchors; %d were scored before", len(scored), answers.count, done)
        self.progress.start("scoring", len(scored), done=done)
        spent: list[int] = []

        def score(unit: int, check: Check) -> None:
            prompts = scored[unit * unit_rows : (unit + 1) * unit_rows].tolist()
            sums = np.empty((len(prompts), answers.count), dtype=np.float64)
            for place, prompt in enumerate(prompts):
                prefix = self.candidates.prefix_ids(prompt, room)
                sums[place] = answers.answer_nats(self.lm, prefix, check=check)
                tokens = len(prefix) + answers.tokens
                spent.append(tokens)
                self._advance(1, tokens)
            self.ledger.store(unit_name(unit), sums)

        run_pieces(score, missing, at_once=self.at_once, check=self.check)
        self.progress.finish()
        return sum(spent)

    def _advance(self, units: int, tokens: int) -> None:
        with self._turn:
            self.progress.advance(units, tokens=tokens)
