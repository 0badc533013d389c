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
import transformers
from jaxtyping import Bool, Int

from pyllm.data.examples import examples_from_table
from pyllm.data.framing import ChatFraming, Framing, TextFraming
from pyllm.data.reading import ExampleTable, read_examples
from pyllm.errors import InputError, PrerequisiteError
from pyllm.lm.answers import AnswerSet
from pyllm.lm.causal import CausalLM
from pyllm.lm.embeddings import Encoder
from pyllm.lm.loading import (
    PadRow,
    add_pad_token,
    choose_device,
    choose_dtype,
    load_config,
    load_model,
    load_tokenizer,
)
from pyllm.lm.sources import ModelSource, find_model
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, package_version, sha256_hex, step
from pyllm.score import passes
from pyllm.score.anchors import Anchors, eligible_rows, kmeans_rows, random_rows, read_anchors
from pyllm.score.candidates import Candidates, read_candidates
from pyllm.score.golden import Aggregator, Scores, score_columns
from pyllm.score.ledger import Ledger, open_ledger, unit_name
from pyllm.score.runs import cache_folder
from pyllm.score.settings import SCORING_VERSION, ScoreSettings

_log = logging.getLogger(__name__)

_CPU_BATCH_TOKENS = 4096
_UNIT_FLOPS = {"cpu": 1e11, "cuda": 2e13}
_MOST_UNITS = 20_000


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


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that is known of a run before the weights are loaded.

    Args:
        settings: The user's settings.
        source: The model.
        config: Its transformers configuration.
        framing: How prompts become tokens.
        pad_row: The extra class of the reference mode; None otherwise.
        device: Where to compute.
        dtype: In which type.
        examples: The input rows.
        candidates: The input rows, tokenized.
        anchors: The anchors of a file; None when they are chosen from the input.
        max_anchor_tokens: Where anchors are cut.
        context_tokens: Positions that the model was made for; None when unknown or in reference mode.
    """

    settings: ScoreSettings
    source: ModelSource
    config: Any
    framing: Framing
    pad_row: PadRow | None
    device: torch.device
    dtype: torch.dtype
    examples: ExampleTable
    candidates: Candidates
    anchors: Anchors | None
    max_anchor_tokens: int
    context_tokens: int | None

    def chosen_anchors(self, rows: Int[np.ndarray, " anchors"]) -> Anchors:
        """Anchors that are rows of the input."""
        return read_anchors(
            self.examples.table[rows.tolist()],
            self.framing,
            max_tokens=self.max_anchor_tokens,
            reference=self.settings.reference,
        )


def prepare(examples: ExampleTable, settings: ScoreSettings, *, progress: Progress = no_progress) -> Job:
    """Find the model, tokenize the input and read the anchor file; loads no weights.

    Raises:
        SettingError: Settings contradict the data or the tokenizer.
        InputError: The anchor file is wrong.
        PrerequisiteError: Model, tokenizer or device are not there.
    """
    source = find_model(settings.model)
    config = load_config(source)
    device = choose_device(settings.device)
    dtype = torch.float32 if settings.reference else choose_dtype(settings.dtype, device, config)
    tokenizer = load_tokenizer(source)
    pad_row = add_pad_token(tokenizer) if settings.reference else None
    framing: Framing = (
        ChatFraming(tokenizer) if settings.template == "chat" else TextFraming(tokenizer, reference=settings.reference)
    )
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    context = None if settings.reference else context
    max_tokens = settings.anchor_tokens
    if context is not None and max_tokens > context // 2:
        _log.warning("anchors are cut to %d tokens, half of the model's context of %d", context // 2, context)
        max_tokens = context // 2
    anchors = None
    if settings.anchors.kind == "file":
        read = read_examples(settings.anchors.path)
        anchors = read_anchors(read.table, framing, max_tokens=max_tokens, reference=settings.reference)
    rows = examples_from_table(examples.table)
    candidates = read_candidates(rows, framing, reference=settings.reference, progress=progress)
    return Job(
        settings=settings,
        source=source,
        config=config,
        framing=framing,
        pad_row=pad_row,
        device=device,
        dtype=dtype,
        examples=examples,
        candidates=candidates,
        anchors=anchors,
        max_anchor_tokens=max_tokens,
        context_tokens=context,
    )


def run_key(job: Job) -> dict[str, Any]:
    """Everything that decides the numbers: the ledger is keyed by it."""
    settings = job.settings
    anchors: dict[str, Any] = {"kind": settings.anchors.kind}
    if job.anchors is not None:
        anchors["sha256"] = _ids_sha256(job.anchors.table)
    else:
        anchors |= {"count": settings.anchors.count, "seed": settings.seed}
    if settings.encoder is not None:
        anchors["encoder_sha256"] = find_model(settings.encoder).weights_sha256()
    return {
        "input": {"rows": job.examples.table.height, "sha256": _ids_sha256(job.examples.table)},
        "model": {"weights_sha256": job.source.weights_sha256(), "config_sha256": job.source.config_sha256()},
        "tokenizer_sha256": job.source.tokenizer_sha256(),
        "template": "reference" if settings.reference else settings.template,
        "anchors": anchors,
        "max_anchor_tokens": job.max_anchor_tokens,
        "max_batch_tokens": settings.max_batch_tokens or "auto",
        "dtype": str(job.dtype).removeprefix("torch."),
        "device": job.device.type,
        "code": {
            "scoring": SCORING_VERSION,
            "pyllm": package_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def default_run_folder(key: dict[str, Any]) -> Path:
    """The run folder under the user's cache that belongs to this key."""
    digest = sha256_hex(canonical_json(key))[:16]
    return cache_folder() / f"score-{digest}"


def score(
    job: Job,
    *,
    run_folder: Path | None = None,
    per_anchor: bool = False,
    progress: Progress = no_progress,
    check: passes.Check = lambda: None,
) -> ScoreResult:
    """Score all rows of a job.

    Args:
        job: What `prepare` returned.
        run_folder: Where the ledger is kept; None derives a folder under the user's cache from everything that
            decides the numbers.
        per_anchor: Add the columns `anchor_wins` and `one_shot_nats`.
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
    with open_ledger(folder, key, _fixed(job, len(scored))) as ledger:
        lm = _load(job)
        try:
            anchors = _anchors(job, ledger, lm, progress, check)
            answers = AnswerSet(
                anchors.spans,
                max_batch_tokens=int(ledger.facts["max_batch_tokens"]),
                device=lm.device,
                sum_dtype=np.float32 if job.settings.reference else np.float64,
            )
            room = _room(job, anchors, lm)
            zero = passes.zero_shot(ledger, lm, answers, job.framing.zero_shot_prefix())
            winnable = _winnable(anchors, zero)
            tokens = passes.one_shot(
                ledger,
                lm,
                answers,
                job.candidates,
                scored,
                unit_rows=int(ledger.facts["unit_rows"]),
                room=room,
                progress=progress,
                check=check,
            )
        except torch.OutOfMemoryError as error:
            raise PrerequisiteError(
                f"out of memory on `{lm.device}`: what is done is kept in {folder}",
                hint=f"give --max-batch-tokens below {ledger.facts['max_batch_tokens']}",
            ) from error
        scores = _aggregate(job, ledger, anchors, zero, winnable=winnable, scored=scored, keep_pairs=per_anchor)
    table = job.examples.table.with_columns(score_columns(scores, job.candidates, zero))
    facts = _facts(job, anchors, scores, winnable, room) | {"anchors_sha256": _ids_sha256(anchors.table)}
    cost = {"model_tokens": tokens, "seconds": round(time.monotonic() - began, 3), "run_folder": str(folder)}
    fixed = {name: ledger.facts[name] for name in ("max_batch_tokens", "unit_rows")}
    report = {"command": "score", **facts, **_distribution(table), **fixed, **cost, "key": key}
    steps = (*job.examples.provenance, step("score", **facts, key=key))
    return ScoreResult(table, steps, anchors.table_with(zero, winnable), report)


def _ids_sha256(table: pl.DataFrame) -> str:
    return sha256_hex("\n".join(table["id"].to_list()))


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


def batch_tokens(job: Job) -> int:
    """Most anchor tokens of one forward pass: the user's choice, or one that fits the device."""
    if job.settings.max_batch_tokens is not None:
        return job.settings.max_batch_tokens
    if job.device.type != "cuda":
        return _CPU_BATCH_TOKENS
    free, _ = torch.cuda.mem_get_info(job.device)
    free -= _weight_bytes(job.source)
    config = job.config.get_text_config()
    width = config.hidden_size * 16 + (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) * 4
    tokens = int(0.4 * free / (width * job.dtype.itemsize))
    return max(1024, min(65_536, tokens // 1024 * 1024))


def _weight_bytes(source: ModelSource) -> int:
    return sum(path.stat().st_size for path in source.weights())


def _fixed(job: Job, rows: int) -> dict[str, Any]:
    """What a first start chooses and later starts keep."""
    mean_tokens = float(job.candidates.demo_tokens.mean()) if len(job.candidates.demo_tokens) else 0.0
    if job.anchors is not None:
        anchor_tokens = float(sum(len(span.ids) for span in job.anchors.spans))
    else:
        anchor_tokens = job.settings.anchors.count * min(mean_tokens, job.max_anchor_tokens)
    # Two bytes a weight is a guess; only the size of the work units hangs on it.
    row_flops = _weight_bytes(job.source) * (mean_tokens + anchor_tokens) + 1.0
    unit_rows = round(_UNIT_FLOPS.get(job.device.type, 1e11) / row_flops)
    unit_rows = max(1, min(64, unit_rows), -(-rows // _MOST_UNITS))
    return {
        "model": job.source.name,
        "rows": rows,
        "max_batch_tokens": batch_tokens(job),
        "unit_rows": unit_rows,
    }


def _anchors(job: Job, ledger: Ledger, lm: CausalLM, progress: Progress, check: passes.Check) -> Anchors:
    """The anchors of the file, or those chosen from the input; a choice is kept in the ledger."""
    if job.anchors is not None:
        return job.anchors
    rows = ledger.load("anchor_rows.array")
    if rows is None:
        eligible = eligible_rows(job.candidates, job.max_anchor_tokens)
        count, seed = job.settings.anchors.count, job.settings.seed
        if job.settings.anchors.kind == "random":
            rows = random_rows(examples_from_table(job.examples.table), eligible, count, seed)
        else:
            encoder = None
            if job.settings.encoder is not None:
                encoder = Encoder(find_model(job.settings.encoder), job.device)
            vectors = passes.embeddings(
                ledger,
                lm,
                encoder,
                job.candidates,
                eligible,
                max_batch_tokens=int(ledger.facts["max_batch_tokens"]),
                progress=progress,
                check=check,
            )
            rows = kmeans_rows(vectors, eligible, count, seed)
        ledger.store("anchor_rows.array", rows)
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


def _winnable(anchors: Anchors, zero: np.ndarray) -> Bool[np.ndarray, " anchors"]:
    winnable: np.ndarray = (np.array(anchors.scored_tokens()) > 0) & np.isfinite(zero)
    lost = [str(name)[:12] for name, good in zip(anchors.table["id"], winnable, strict=True) if not good]
    if lost:
        _log.warning("%d of %d anchors cannot be won: %s", len(lost), len(winnable), ", ".join(lost[:5]))
    if not winnable.any():
        raise InputError(
            f"none of the {len(winnable)} anchors can be won: nothing of their answers is left to score",
            hint="give anchors with answers, or raise --max-anchor-tokens",
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
    unscored = int((~scores.scored[rows]).sum())
    if unscored:
        _log.warning("%d rows have no answer and get no score", unscored)
    return {
        "rows": len(rows),
        "distinct_prompts": len(lengths),
        "rows_without_answer": unscored,
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
