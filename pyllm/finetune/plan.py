"""What a run would take, before it is run: rows, tokens, steps, memory and hours.

Counts are exact: they come from the packs and the schedule that the run would make. Memory is estimated by a formula
(`estimate_memory`) from the shape of the model; hours come from a few real steps (`pyllm.finetune.probe`).
"""

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from transformers import AutoModelForCausalLM, PreTrainedConfig

from pyllm.finetune import data
from pyllm.finetune.job import Job, make_schedule, pass_tokens, sequences_of
from pyllm.finetune.numerics import attention_of, checkpoints_activations, in_bf16, on_gpu, weight_type
from pyllm.finetune.run import steps_between_saves, store_rows
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import LoraSettings
from pyllm.progress import Progress, no_progress

_HEAD_TOKENS, _HEAD_WIDTH = 4096, 32_768
"""The head is applied to tiles of so many positions and words. Source: TRL 1.16, `kernels/chunked_logprob.py`."""
_KINDS = ("truncated", "fully_masked", "without_answer", "too_long", "refused")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides the memory that training takes.

    Args:
        parameters: All weights.
        embeddings: Those of them in the two embeddings, once where they are tied.
        adapter: Weights that an adapter adds; 0 without one.
        hidden: Width of the residual stream.
        layers: Blocks.
        inner: Width of the block's feed-forward part, over all experts that a token goes through.
        kv: Width of the keys.
        heads: Heads of attention.
        eager: Whether transformers computes its attention score by score, for want of a kernel.
        vocabulary: Words of the head.
    """

    parameters: int
    embeddings: int
    adapter: int
    hidden: int
    layers: int
    inner: int
    kv: int
    heads: int
    eager: bool
    vocabulary: int

    @property
    def trained(self) -> int:
        """Weights that training changes."""
        return self.adapter or self.parameters


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on each device at the worst moment of a step; see `estimate_memory`."""

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(asdict(self).values())


@dataclass(frozen=True, slots=True)
class Numerics:
    """What of the settings and the machine decides bytes.

    Args:
        weight_bytes: Of a weight that is not an adapter's.
        compute_bytes: Of a number in a matrix product.
        checkpointing: Activations are computed twice instead of kept.
        masked_attention: A matrix of position pairs says which of them see each other.
        on_gpu: Computed on a GPU.
    """

    weight_bytes: int
    compute_bytes: int
    checkpointing: bool
    masked_attention: bool
    on_gpu: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would take, but for the time.

    Args:
        rows: What becomes of the rows; None where packs do not say.
        sequences: The examples.
        schedule: The order of the run.
        pass_sizes: Tokens that each forward pass computes, padding included.
        pass_limit: Most tokens of a forward pass.
        evaluated_tokens: Tokens of held-out rows over all evaluations.
        shape: Of the model.
        numerics: Of the run.
        memory: The estimate.
        processes: How many train together.
    """

    rows: dict[str, int | None]
    sequences: Sequences
    schedule: TrainingSchedule
    pass_sizes: Int[ndarray, " passes"]
    pass_limit: int
    evaluated_tokens: int
    shape: ModelShape
    numerics: Numerics
    memory: Memory
    processes: int

    @property
    def fill(self) -> float:
        """How full the forward passes are, of what may be in them."""
        return self.schedule.tokens / (len(self.pass_sizes) * self.pass_limit)

    def numbers(self) -> dict[str, Any]:
        """The plan for a report."""
        step_tokens, sizes = self.schedule.step_tokens, self.pass_sizes
        return {
            "evaluated_tokens": self.evaluated_tokens,
            "memory": {**{f"{name}_bytes": value for name, value in asdict(self.memory).items()},
                       "total_bytes": self.memory.total},
            "parameters": {"all": self.shape.parameters + self.shape.adapter, "trained": self.shape.trained},
            "passes": {
                "fill": round(self.fill, 6),
                "largest_tokens": int(sizes.max()),
                "limit_tokens": self.pass_limit,
                "median_tokens": int(np.median(sizes)),
                "number": len(sizes),
                "padding": round(1 - self.schedule.tokens / int(sizes.sum()), 6),
                "per_step": self.schedule.passes_per_step,
            },
            "processes": self.processes,
            "rows": self.rows,
            "step_tokens": {"largest": int(step_tokens.max()), "median": int(np.median(step_tokens))},
            "steps": self.schedule.steps,
            "tokens": self.schedule.tokens,
            "trained_tokens": int(self.schedule.trained_tokens.sum()),
        }  # fmt: skip


def make_plan(
    job: Job, folder: Path, *, processes: int = 1, save_every: int | None = None, progress: Progress = no_progress
) -> Plan:
    """Count what a run would do, and estimate its memory; no weights are loaded.

    Args:
        job: The run.
        folder: An empty folder for packs.
        processes: How many train together.
        save_every: Steps between evaluations; None makes twenty in a run.
        progress: Told of rows.

    Raises:
        InputError: No row can be trained on.
    """
    settings = job.settings
    packed = store_rows(folder, data.TRAIN, job.rows, job, progress)
    sequences = sequences_of(folder, data.TRAIN, settings, job.config)
    schedule = make_schedule(sequences, settings, on_gpu=on_gpu(settings), processes=processes)
    sizes = _pass_sizes(sequences, schedule, padded=settings.padded)
    limit = max(pass_tokens(settings, on_gpu=on_gpu(settings)), int(sequences.lengths.max()))
    shape, numerics = model_shape(job.config, settings.lora), numerics_of(job)
    memory = estimate_memory(shape, numerics, largest_pass=int(sizes.max()), processes=processes, sharded=settings.fsdp)
    held_out = 0
    if job.held_out is not None:
        store_rows(folder, data.EVAL, job.held_out, job, progress)
        evaluations = 1 + schedule.steps // steps_between_saves(schedule.steps, save_every)
        held_out = evaluations * sequences_of(folder, data.EVAL, settings, job.config).tokens
    rows = _rows(packed, sequences, schedule)
    return Plan(rows, sequences, schedule, sizes, limit, held_out, shape, numerics, memory, processes)


def _rows(packed: dict[str, Any], sequences: Sequences, schedule: TrainingSchedule) -> dict[str, int | None]:
    trained = len({place for examples in schedule.passes for place in examples})
    if not packed:  # packs were given: what became of their rows is not known here
        masked = int((sequences.trained_tokens == 0).sum())
        return {"in": None, "trained": trained, **dict.fromkeys(_KINDS), "fully_masked": masked}
    kinds = packed["rows"]
    return {"in": kinds["in"], "trained": trained, **{kind: kinds[kind]["rows"] for kind in _KINDS}}


def _pass_sizes(sequences: Sequences, schedule: TrainingSchedule, *, padded: bool) -> Int[ndarray, " passes"]:
    lengths = sequences.lengths
    sizes = []
    for examples in schedule.passes:
        inside = lengths[list(examples)] if examples else np.ones(1, np.int64)
        sizes.append(int(len(inside) * inside.max() if padded else inside.sum()))
    return np.array(sizes)


def numerics_of(job: Job) -> Numerics:
    """The numerics of a run."""
    settings = job.settings
    return Numerics(
        weight_bytes=weight_type(settings).itemsize,
        compute_bytes=2 if in_bf16(settings) else 4,
        checkpointing=checkpoints_activations(settings),
        masked_attention=settings.padded and attention_of(settings) is None,  # packs have no matrix over the whole row
        on_gpu=on_gpu(settings),
    )


def empty_model(config: PreTrainedConfig) -> Any:
    """A model without storage, to count in."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config))


def model_shape(config: PreTrainedConfig, lora: LoraSettings | None) -> ModelShape:
    """Count a model's weights, and those of an adapter on every linear layer but the head."""
    text: Any = config.get_text_config()
    model = empty_model(config)
    head = model.get_output_embeddings()
    both = {id(each.weight): each.weight.numel() for each in (model.get_input_embeddings(), head) if each is not None}
    adapter = 0
    if lora is not None:
        weights = [
            module.weight.shape
            for module in model.modules()
            if module is not head and type(module).__name__ in ("Linear", "Conv1D")
        ]
        adapter = lora.rank * sum(first + second for first, second in weights)
    heads = int(text.num_attention_heads)
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    inner = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None)
    experts = getattr(text, "num_experts_per_tok", None) or 1
    return ModelShape(
        parameters=sum(each.numel() for each in model.parameters()),
        embeddings=sum(both.values()),
        adapter=adapter,
        hidden=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        inner=int(inner or 4 * text.hidden_size) * int(experts),
        kv=int(kv_heads * head_dim),
        heads=heads,
        eager=model.config.get_text_config()._attn_implementation == "eager",
        vocabulary=int(text.vocab_size),
    )


def estimate_memory(
    shape: ModelShape, numerics: Numerics, *, largest_pass: int, processes: int = 1, sharded: bool = False
) -> Memory:
    """Estimate what training holds on each device at its worst moment.

    With P weights of w bytes, T of them trained, N tokens in the largest forward pass, c bytes of a number in a
    matrix product, and a model of L layers, width h, feed-forward width i and key width k:

    - weights: P w, and 4 bytes for each weight of an adapter;
    - gradients 4 T, twice that where processes exchange them whole;
    - Adam's two moments 8 T;
    - copies: 2 P where bf16 is computed from fp32 weights; under FSDP c bytes for the embeddings and two layers, which
      are gathered whole;
    - activations of a layer: N (5 h w + c (5 h + 2 k + 4 i)), 2 h c N more where inputs are cast, and c N² for
      the mask of padded examples where attention takes one, or (4 + 2 c) N² for each head where it has no
      kernel. All L layers are kept; with activation checkpointing only N h w of each, and one layer whole; 2 N h w
      stand in front of and behind them;
    - head: a tile of logits of 4096 x 32768 at most, in c bytes (and four copies of it in fp32 on a CPU), the
      gradient of what goes into it, and, where the head is trained, the fp32 gradient of its weights.

    Under FSDP weights, gradients and moments are divided by the processes. What a library allocates for itself (a CUDA
    context is about half a GiB) is not in it.

    Args:
        shape: The model.
        numerics: Types, and what is kept.
        largest_pass: Tokens of the largest forward pass, padding included.
        processes: How many train together.
        sharded: Under FSDP.
    """
    w, c, n, h = numerics.weight_bytes, numerics.compute_bytes, largest_pass, shape.hidden
    share = processes if sharded else 1
    layer = n * (5 * h * w + c * (5 * h + 2 * shape.kv + 4 * shape.inner))
    if c < w:
        layer += 2 * h * c * n
    if numerics.masked_attention:
        layer += n * n * (shape.heads * (4 + 2 * c) if shape.eager else c)
    kept = n * h * w * shape.layers + layer if numerics.checkpointing else layer * shape.layers
    copies = 2 * shape.parameters if c < w else 0
    if sharded:
        block = (shape.parameters - shape.embeddings) // max(shape.layers, 1)
        copies = c * (shape.embeddings + 2 * block)
    positions = min(n, _HEAD_TOKENS)
    tile = positions * _HEAD_WIDTH * c if numerics.on_gpu else positions * min(shape.vocabulary, _HEAD_WIDTH) * (c + 16)
    head_gradient = 0 if shape.adapter else 4 * shape.vocabulary * h
    exchanged = 2 if processes > 1 and not sharded else 1
    return Memory(
        weights=(shape.parameters * w + shape.adapter * 4) // share,
        gradients=4 * shape.trained * exchanged // share,
        moments=8 * shape.trained // share,
        copies=copies,
        activations=2 * n * h * w + kept,
        head=tile + 4 * n * h + head_gradient,
    )
