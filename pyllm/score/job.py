"""What is known of a scoring run before the weights are loaded, and the key that names it."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import transformers
from jaxtyping import Int

from pyllm.data.examples import examples_from_table
from pyllm.data.framing import ChatFraming, Framing, TextFraming
from pyllm.data.reading import ExampleTable, read_examples
from pyllm.lm.loading import (
    PadRow,
    add_pad_token,
    choose_device,
    choose_dtype,
    load_config,
    load_tokenizer,
)
from pyllm.lm.sources import ModelSource, find_model
from pyllm.progress import Progress, no_progress
from pyllm.provenance import canonical_json, package_version, sha256_hex
from pyllm.score.anchors import Anchors, check_count, eligible_rows, read_anchors
from pyllm.score.candidates import Candidates, read_candidates
from pyllm.score.runs import cache_folder
from pyllm.score.settings import SCORING_VERSION, ScoreSettings

_log = logging.getLogger(__name__)

_CPU_BATCH_TOKENS = 1024
_UNIT_FLOPS = {"cpu": 1e11, "cuda": 2e13}
_MOST_UNITS = 20_000


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


def prepare(
    examples: ExampleTable, settings: ScoreSettings, *, strict: bool = False, progress: Progress = no_progress
) -> Job:
    """Find the model, tokenize the input and read the anchor file; loads no weights.

    Args:
        examples: The input.
        settings: The settings of the run.
        strict: Refuse an anchor file with bad rows.
        progress: Listener.

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
        read = read_examples(settings.anchors.path, strict=strict)
        anchors = read_anchors(read.table, framing, max_tokens=max_tokens, reference=settings.reference)
    rows = examples_from_table(examples.table)
    candidates = read_candidates(rows, framing, reference=settings.reference, progress=progress)
    if anchors is None:
        check_count(settings.anchors.count, len(eligible_rows(candidates, max_tokens)), max_tokens)
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
        anchors["sha256"] = ids_sha256(job.anchors.table)
    else:
        anchors |= {"count": settings.anchors.count, "seed": settings.seed}
    if settings.encoder is not None:
        encoder = find_model(settings.encoder)
        anchors["encoder"] = [encoder.weights_sha256(), encoder.config_sha256(), encoder.tokenizer_sha256()]
    return {
        "input": {"rows": job.examples.table.height, "sha256": ids_sha256(job.examples.table)},
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


def ids_sha256(table: pl.DataFrame) -> str:
    """Digest of the row ids of a table, in order: it names its content."""
    return sha256_hex("\n".join(table["id"].to_list()))


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


def fixed_facts(job: Job, rows: int) -> dict[str, Any]:
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
