"""What a scoring run would cost, before any weight is loaded.

Tokens are counted, not guessed, from the tokenized input (anchors that K-Means would choose are stood in for by a
random draw of the same size). Time comes from a probe: one decoder layer and the head of the model's shape, with
random weights, read a pack behind a prefix as the run would; the layer's time is multiplied by the number of layers.
"""

import copy
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from pyllm.data.examples import examples_from_table
from pyllm.errors import PrerequisiteError
from pyllm.lm.answers import AnswerSet, AnswerSpan
from pyllm.lm.causal import causal_lm
from pyllm.lm.loading import load_config, quiet_transformers
from pyllm.lm.sources import find_model
from pyllm.lm.workers import piecewise
from pyllm.score.anchors import eligible_rows, random_rows
from pyllm.score.job import Job, batch_tokens

_log = logging.getLogger(__name__)

_PROBE_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """The cost of a run.

    Args:
        rows: Rows of the input.
        scored_prompts: Distinct rows that would be scored.
        anchors: Anchors.
        anchor_tokens: Tokens of all anchors after cutting.
        demo_tokens: Tokens of all scored demonstrations.
        model_tokens: Tokens through the model, zero-shot pass included.
        head_tokens: Answer tokens through the head.
        embedding_tokens: Tokens through the model for K-Means; 0 for other anchors.
        parameters: Weights of the model.
        flops: Floating-point operations: 2 for each weight and token, the head on answers only, plus attention.
        memory_bytes: Weights, one pack and one block of logits.
        disk_bytes: The ledger.
        seconds: By the probe.
        at_once: Rows that are scored side by side.
        device: Where.
        dtype: In which type.
        max_batch_tokens: Tokens of one pack.
    """

    rows: int
    scored_prompts: int
    anchors: int
    anchor_tokens: int
    demo_tokens: int
    model_tokens: int
    head_tokens: int
    embedding_tokens: int
    parameters: int
    flops: float
    memory_bytes: int
    disk_bytes: int
    seconds: float
    at_once: int
    device: str
    dtype: str
    max_batch_tokens: int

    def as_dict(self) -> dict[str, Any]:
        """For `--report`."""
        return {"command": "score --plan", **asdict(self), "hours": self.seconds / 3600}

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"plan: {self.scored_prompts:,} distinct rows (of {self.rows:,}) x {self.anchors:,} anchors"
            f" = {self.scored_prompts * self.anchors:,} pairs",
            f"  tokens through the model  {self.model_tokens:,}"
            f" ({self.embedding_tokens:,} of them to choose anchors), {self.head_tokens:,} through the head",
            f"  arithmetic                {self.flops:.3g} FLOPs, {self.parameters:,} parameters",
            f"  memory                    {_bytes(self.memory_bytes)} on {self.device}, {self.dtype},"
            f" packs of {self.max_batch_tokens:,} tokens",
            f"  disk                      {_bytes(self.disk_bytes)} for the run folder",
            f"  time                      {_time(self.seconds)}, {self.at_once} rows at once (one layer timed here)",
        ]


def make_plan(job: Job) -> Plan:
    """Count tokens and time a probe.

    Raises:
        PrerequisiteError: The model's shape cannot be built.
        SettingError: More anchors are wanted than there are rows.
    """
    spans = _anchor_spans(job)
    scored = np.flatnonzero(np.array(job.candidates.scorable, dtype=bool))
    demo_lengths = job.candidates.prefix_tokens()[scored]
    anchor_lengths = np.array([len(span.ids) for span in spans])
    head_tokens = sum(max(0, span.end - span.start) for span in spans)
    embedding_tokens = 0
    if job.settings.anchors.kind == "kmeans" and job.settings.encoder is None:
        embedding_tokens = int(np.minimum(job.candidates.demo_tokens, 512).sum())
    embedding_bytes = 0
    if job.settings.anchors.kind == "kmeans":
        encoder = job.settings.encoder
        shape = job.config if encoder is None else load_config(find_model(encoder))
        rows = len(eligible_rows(job.candidates, job.max_anchor_tokens))
        embedding_bytes = 4 * rows * int(shape.get_text_config().hidden_size)
        if encoder is not None:
            _log.warning("the passes of the encoder are not in this plan")
    packed = int(anchor_lengths.sum())
    demo_tokens = int(demo_lengths.sum())
    model_tokens = demo_tokens + packed * (len(scored) + 1) + embedding_tokens
    parameters, head_parameters, embedding_parameters = _parameters(job)
    body = parameters - head_parameters - embedding_parameters
    pairs_attended = float(
        len(scored) * (anchor_lengths.astype(float) ** 2).sum() / 2
        + demo_lengths.sum() * float(packed)
        + (demo_lengths.astype(float) ** 2).sum() / 2
    )
    config = job.config.get_text_config()
    attention = 4.0 * config.num_hidden_layers * config.hidden_size * pairs_attended
    rows_of_head = head_tokens * (len(scored) + 1)
    flops = 2.0 * body * model_tokens + 2.0 * head_parameters * rows_of_head + attention
    pack = batch_tokens(job)
    mean_demo = int(demo_lengths.mean()) if len(demo_lengths) else 1
    with piecewise(job.device) as at_once:
        seconds = _probe_seconds(job, spans, mean_demo, pack) / at_once
    per_token = 16 * config.hidden_size + 4 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    return Plan(
        rows=job.examples.table.height,
        scored_prompts=len(scored),
        anchors=len(spans),
        anchor_tokens=packed,
        demo_tokens=demo_tokens,
        model_tokens=model_tokens,
        head_tokens=rows_of_head,
        embedding_tokens=embedding_tokens,
        parameters=parameters,
        flops=flops,
        memory_bytes=int(
            parameters * job.dtype.itemsize
            + (4 * head_parameters if job.dtype != torch.float32 else 0)
            + at_once * (min(pack, packed) * per_token * job.dtype.itemsize + (1 << 27))
        ),
        disk_bytes=len(scored) * len(spans) * 8 + embedding_bytes,
        seconds=seconds * (len(scored) + (embedding_tokens / max(1, packed + mean_demo))),
        at_once=at_once,
        device=str(job.device),
        dtype=str(job.dtype).removeprefix("torch."),
        max_batch_tokens=pack,
    )


def _anchor_spans(job: Job) -> tuple[AnswerSpan, ...]:
    if job.anchors is not None:
        return job.anchors.spans
    rows = random_rows(
        examples_from_table(job.examples.table),
        eligible_rows(job.candidates, job.max_anchor_tokens),
        job.settings.anchors.count,
        job.settings.seed,
    )
    return job.chosen_anchors(rows).spans


def _empty_model(config: Any, device: str, dtype: torch.dtype) -> Any:
    quiet_transformers()
    try:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    except (ValueError, KeyError, ImportError) as error:
        raise PrerequisiteError(f"no causal language model of this shape can be built: {error}") from error


def _parameters(job: Job) -> tuple[int, int, int]:
    """Parameters in all, of the head, and of input embeddings that are not the head; counted without memory."""
    model = _empty_model(job.config, "meta", torch.float32)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None:
        raise PrerequisiteError(f"model `{job.source.name}` has no language-model head")
    tied = head.weight is embedding.weight
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, head.weight.numel(), 0 if tied else embedding.weight.numel()


def _probe_seconds(job: Job, spans: tuple[AnswerSpan, ...], demo_tokens: int, pack: int) -> float:
    """Seconds for one candidate: layers times the time of one layer, plus everything outside the layers."""
    layers = job.config.get_text_config().num_hidden_layers
    one, two = (_timed(job, spans, demo_tokens, pack, count) for count in (1, min(2, layers)))
    per_layer = max(0.0, two - one)
    return one + per_layer * float(layers - 1)


def _timed(job: Job, spans: tuple[AnswerSpan, ...], demo_tokens: int, pack: int, layers: int) -> float:
    config = copy.deepcopy(job.config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types[:layers])
    lm = causal_lm(_empty_model(config, str(job.device), job.dtype))
    limit = lm.vocabulary
    fitting = [AnswerSpan(tuple(token % limit for token in span.ids), span.start, span.end) for span in spans]
    answers = AnswerSet(fitting, max_batch_tokens=pack, device=lm.device)
    prefix = [token % limit for token in range(max(1, demo_tokens))]
    best = float("inf")
    for _ in range(_PROBE_REPEATS):
        began = time.perf_counter()
        answers.answer_nats(lm, prefix)
        best = min(best, time.perf_counter() - began)
    return best


def _bytes(count: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"
