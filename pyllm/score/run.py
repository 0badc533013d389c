"""A scoring run from examples to a score table: read it from top to bottom to understand the method.

Cost: for each distinct candidate its own tokens plus all anchor tokens once through the model.
Invariants: every row's result is in the ledger before the next unit begins; the final table is computed from the
ledger alone, so an unbroken run and a resumed one end with the same bytes.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Int

from pyllm.data.examples import examples_from_table
from pyllm.errors import InputError, PrerequisiteError
from pyllm.lm.answers import AnswerSet
from pyllm.lm.causal import CausalLM
from pyllm.lm.embeddings import Encoder
from pyllm.lm.loading import load_model
from pyllm.lm.sources import find_model
from pyllm.lm.workers import Check, piecewise
from pyllm.progress import Progress, no_progress
from pyllm.provenance import step
from pyllm.score.anchors import Anchors, eligible_rows, kmeans_rows, random_rows
from pyllm.score.golden import Aggregator, Scores, score_columns, write_score_matrix
from pyllm.score.job import Job, default_run_folder, fixed_facts, ids_sha256, run_key
from pyllm.score.ledger import Ledger, open_ledger, unit_name
from pyllm.score.passes import Passes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """What a run ends with.

    Args:
        table: The input rows plus score columns.
        steps: Provenance of `table`, oldest step first.
        anchor_table: The anchors with their zero-shot sums.
        report: Numbers of the run for `--report`.
    """

    table: pl.DataFrame
    steps: tuple[dict[str, Any], ...]
    anchor_table: pl.DataFrame
    report: dict[str, Any]


def score(
    job: Job,
    *,
    run_folder: Path | None = None,
    per_anchor: bool = False,
    matrix_out: Path | None = None,
    progress: Progress = no_progress,
    check: Check = lambda: None,
) -> ScoreResult:
    """Score all rows of a job.

    Args:
        job: What `prepare` returned.
        run_folder: Where the ledger is kept; None derives a folder under the user's cache from everything that
            decides the numbers.
        per_anchor: Add the columns `anchor_wins` and `one_shot_nats`.
        matrix_out: Write the one-shot sums of all pairs to this matrix file (`docs/formats.md`).
        progress: Listener.
        check: Called between rows; may raise to stop.

    Raises:
        SettingError: The run folder belongs to other work, or settings contradict the data.
        InputError: No anchor can be won, or embeddings are not finite.
        PrerequisiteError: The model cannot be loaded, memory is short, or the run folder is in use.
    """
    began = time.monotonic()
    key = run_key(job)
    folder = run_folder or default_run_folder(key)
    scored = np.flatnonzero(np.array(job.candidates.scorable, dtype=bool))
    _log.info("run folder %s", folder)
    with open_ledger(folder, key, fixed_facts(job, len(scored))) as ledger, piecewise(job.device) as at_once:
        lm = _load(job)
        max_batch_tokens = int(ledger.facts["max_batch_tokens"])
        side_by_side = 1 if lm.changes_while_reading else at_once
        passes = Passes(ledger, lm, job.candidates, max_batch_tokens, side_by_side, progress, check)
        try:
            anchors = _anchors(job, passes)
            answers = AnswerSet(
                anchors.spans,
                max_batch_tokens=max_batch_tokens,
                device=lm.device,
                sum_dtype=np.float32 if job.settings.reference else np.float64,
            )
            room = _room(job, anchors, lm)
            zero = passes.zero_shot(answers, job.framing.zero_shot_prefix())
            winnable = _winnable(job, anchors, zero)
            tokens = passes.one_shot(answers, scored, unit_rows=int(ledger.facts["unit_rows"]), room=room)
        except torch.OutOfMemoryError as error:
            raise PrerequisiteError(
                f"out of memory on `{lm.device}`: what is done is kept in {folder}",
                hint=f"give --max-batch-tokens below {max_batch_tokens}",
            ) from error
        keep_pairs = per_anchor or matrix_out is not None
        scores = _aggregate(job, ledger, anchors, zero, winnable=winnable, scored=scored, keep_pairs=keep_pairs)
    table = job.examples.table.with_columns(score_columns(scores, job.candidates, zero, per_anchor=per_anchor))
    facts = _facts(job, anchors, scores, winnable, room) | {"anchors_sha256": ids_sha256(anchors.table)}
    cost = {"model_tokens": tokens, "seconds": round(time.monotonic() - began, 3), "run_folder": str(folder)}
    fixed = {name: ledger.facts[name] for name in ("max_batch_tokens", "unit_rows")}
    report = {"command": "score", **facts, **_distribution(table), **fixed, **cost, "key": key}
    steps = (*job.examples.provenance, step("score", **facts, key=key))
    if matrix_out is not None:
        ids, names = table["id"].to_list(), anchors.table["id"].to_list()
        write_score_matrix(matrix_out, scores, job.candidates, ids=ids, anchors=names, steps=steps)
    return ScoreResult(table, steps, anchors.table_with(zero, winnable), report)


def _load(job: Job) -> CausalLM:
    if job.settings.reference:
        torch.set_float32_matmul_precision("highest")  # the published numbers are plain float32, without TF32
    lm = load_model(job.source, device=job.device, dtype=job.dtype, pad_row=job.pad_row)
    biggest = int(job.candidates.flat_ids.max(initial=0))
    if biggest >= lm.vocabulary:
        raise PrerequisiteError(
            f"model `{job.source.name}` and its tokenizer do not belong together: token {biggest} is beyond the"
            f" model's vocabulary of {lm.vocabulary}"
        )
    return lm


def _anchors(job: Job, passes: Passes) -> Anchors:
    """The anchors of the file, or those chosen from the input; a choice is kept in the ledger."""
    if job.anchors is not None:
        return job.anchors
    rows = passes.ledger.load("anchor_rows.array")
    if rows is None:
        eligible = eligible_rows(job.candidates, job.max_anchor_tokens)
        count, seed = job.settings.anchors.count, job.settings.seed
        if job.settings.anchors.kind == "random":
            rows = random_rows(examples_from_table(job.examples.table), eligible, count, seed)
        else:
            named = job.settings.encoder
            encoder = None if named is None else Encoder(find_model(named), job.device)
            rows = kmeans_rows(passes.embeddings(eligible, encoder), eligible, count, seed)
        passes.ledger.store("anchor_rows.array", rows)
        _log.info("anchors: %d rows of the input, chosen by %s", len(rows), job.settings.anchors.kind)
    return job.chosen_anchors(rows)


def _room(job: Job, anchors: Anchors, lm: CausalLM) -> int | None:
    """Most tokens of a demonstration, so that the longest anchor still fits behind it."""
    longest = int(job.candidates.prefix_tokens().max(initial=0))
    if job.context_tokens is not None:
        return job.context_tokens - anchors.longest()
    learned = [name for name, _ in lm.decoder.named_parameters() if "wpe" in name or "position" in name]
    if learned and lm.context_tokens is not None and longest + anchors.longest() > lm.context_tokens:
        raise InputError(
            f"a demonstration of {longest} tokens and an anchor of {anchors.longest()} exceed the model's"
            f" {lm.context_tokens} learned positions; --compat reference cuts nothing",
            hint="leave out long rows, or drop --compat reference",
        )
    return None


def _winnable(job: Job, anchors: Anchors, zero: np.ndarray) -> Bool[np.ndarray, " anchors"]:
    winnable: np.ndarray = (np.array(anchors.scored_tokens()) > 0) & np.isfinite(zero)
    lost = [str(name)[:12] for name, good in zip(anchors.table["id"], winnable, strict=True) if not good]
    if lost:
        _log.warning("%d of %d anchors cannot be won: %s", len(lost), len(winnable), ", ".join(lost[:5]))
    if not winnable.any() and not job.settings.reference:
        raise InputError(
            f"none of the {len(winnable)} anchors can be won: nothing of their answers is left to score",
            hint=f"give anchors with answers that begin within their first {job.max_anchor_tokens} tokens",
        )
    return winnable


def _aggregate(
    job: Job,
    ledger: Ledger,
    anchors: Anchors,
    zero: np.ndarray,
    *,
    winnable: Bool[np.ndarray, " anchors"],
    scored: Int[np.ndarray, " scored"],
    keep_pairs: bool,
) -> Scores:
    aggregator = Aggregator(len(job.candidates.prompts), zero, keep_pairs=keep_pairs)
    unit_rows = int(ledger.facts["unit_rows"])
    for start in range(0, len(scored), unit_rows):
        prompts = scored[start : start + unit_rows]
        sums = ledger.load(unit_name(start // unit_rows))
        if sums is None:
            raise PrerequisiteError(f"`{ledger.folder / unit_name(start // unit_rows)}` vanished while the run ended")
        aggregator.add(prompts, sums, _left_out(job, anchors, winnable, prompts))
    return aggregator.scores()


def _left_out(
    job: Job, anchors: Anchors, winnable: Bool[np.ndarray, " anchors"], prompts: Int[np.ndarray, " unit"]
) -> Bool[np.ndarray, "unit anchors"]:
    """Pairs that are not tried: anchors nobody can win, and a candidate on itself. The published code tries all."""
    out = np.zeros((len(prompts), len(winnable)), dtype=bool)
    if job.settings.reference:
        return out
    out[:, ~winnable] = True
    for place, prompt in enumerate(prompts.tolist()):
        text = job.candidates.prompts[prompt]
        out[place] |= [anchor == text for anchor in anchors.prompts]
    return out


def _facts(job: Job, anchors: Anchors, scores: Scores, winnable: np.ndarray, room: int | None) -> dict[str, Any]:
    """Counts that are the same for equal work."""
    rows = job.candidates.prompt_of_row
    lengths = job.candidates.prefix_tokens()
    cut = 0 if room is None else int((lengths[rows][scores.scored[rows]] > room).sum())
    if cut:
        _log.warning("%d demonstrations were cut to %d tokens: the model's context is full", cut, room)
    if scores.nan_pairs:
        _log.warning("%d pairs gave no number and count as lost", scores.nan_pairs)
    refused = len(job.candidates.refused)
    unscored = int((~np.array([bool(prompt.answer) for prompt in job.candidates.prompts])[rows]).sum())
    if unscored and not job.settings.reference:
        _log.warning("%d rows have no answer and get no score", unscored)
    return {
        "rows": len(rows),
        "distinct_prompts": len(lengths),
        "rows_without_answer": unscored,
        "prompts_refused_by_template": refused,
        "demonstrations_cut": cut,
        "nan_pairs": scores.nan_pairs,
        "anchors": len(anchors.spans),
        "anchors_truncated": sum(
            whole > len(span.ids) for whole, span in zip(anchors.whole_tokens, anchors.spans, strict=True)
        ),
        "anchors_not_winnable": [
            str(name) for name, good in zip(anchors.table["id"], winnable, strict=True) if not good
        ],
    }


def _distribution(table: pl.DataFrame) -> dict[str, Any]:
    scores = table["golden_score"].drop_nulls()
    mean = scores.mean()
    _log.info("%d rows scored, mean golden score %s", len(scores), f"{mean:.3f}" if isinstance(mean, float) else "-")
    return {"rows_scored": len(scores), "mean_golden_score": mean}
