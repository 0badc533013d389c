"""How long a run would take, from a few of its own forward passes with random weights.

The steps are made by the trainer of the run, on its device and in its types: one to warm up, then one of median size
and one of the largest, which is also when memory is scarcest. No weights are loaded and nothing is kept.
"""

import copy
import logging
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, TrainerCallback
from transformers.trainer_utils import SaveStrategy

from pyllm.errors import PrerequisiteError
from pyllm.finetune.job import Job
from pyllm.finetune.numerics import attention_of, on_gpu, weight_type
from pyllm.finetune.plan import Plan
from pyllm.finetune.run import give_attention, trained_tokenizer
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.training import Saving, configuration, make_trainer
from pyllm.lm.loading import quiet_transformers

_log = logging.getLogger(__name__)

_HINT = "lower --micro-batch-tokens or --max-length, or give --activation-checkpointing, --lora or --fsdp"


@dataclass(frozen=True, slots=True)
class Probe:
    """A few measured steps.

    Args:
        device: Where they ran.
        pass_tokens: Tokens of each timed forward pass.
        pass_seconds: Time of each, forward and backward.
        optimizer_seconds: Time of an optimizer step.
        peak_bytes: Most memory that they took; None where it did not rise above what had been used before.
    """

    device: str
    pass_tokens: tuple[int, ...]
    pass_seconds: tuple[float, ...]
    optimizer_seconds: float
    peak_bytes: int | None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of forward passes a second, on one device and without the optimizer."""
        return sum(self.pass_tokens) / sum(self.pass_seconds)


@dataclass(frozen=True, slots=True)
class Hours:
    """How long a run would take.

    Args:
        training: Forward and backward passes, and the optimizer.
        evaluation: Passes over the held-out rows.
    """

    training: float
    evaluation: float

    @property
    def total(self) -> float:
        """Both."""
        return self.training + self.evaluation


def hours_of(plan: Plan, probe: Probe) -> Hours:
    """Extrapolate measured steps by tokens.

    A forward pass alone is taken as a third of one that trains, as the backward pass costs two more; as a quarter
    where activations are computed twice. Loading, packing and saving are not in it.
    """
    rate = probe.tokens_per_second * plan.processes
    training = int(plan.pass_sizes.sum()) / rate + plan.schedule.steps * probe.optimizer_seconds
    evaluation = plan.evaluated_tokens / rate / (4 if plan.numerics.checkpointing else 3)
    return Hours(training / 3600, evaluation / 3600)


def run_probe(job: Job, plan: Plan, folder: Path) -> Probe:
    """Run and time three steps of one forward pass each.

    Args:
        job: The run.
        plan: Its plan.
        folder: A folder for what the trainer leaves behind.

    Raises:
        PrerequisiteError: Memory runs out, or would.
    """
    gpu = on_gpu(job.settings)
    needed, there = plan.memory.total * int(os.environ.get("LOCAL_WORLD_SIZE", "1")), host_memory()
    if not gpu and needed > there:
        # Where the kernel ends what takes too much, nothing could be said any more.
        raise PrerequisiteError(
            f"a run would take about {gib(needed)} of memory, and the machine has {gib(there)}", hint=_HINT
        )
    PartialState(cpu=not gpu)
    order = np.argsort(plan.pass_sizes, kind="stable")
    median, largest = int(order[len(order) // 2]), int(order[-1])
    timed = (median, largest)
    schedule = _schedule(plan, (largest, *timed))
    clock = _Clock(on_gpu=gpu)
    before = _memory_now(on_gpu=gpu)
    _log.info(
        "trying %d forward passes of up to %s tokens with random weights", 3, f"{int(plan.pass_sizes[largest]):,}"
    )
    try:
        config = configuration(folder, job.settings, schedule, Saving(every_steps=schedule.steps), evaluates=False)
        config.save_strategy = SaveStrategy.NO
        trainer = make_trainer(
            config,
            _random_model(job),
            trained_tokenizer(job),
            sequences=plan.sequences,
            schedule=schedule,
            settings=job.settings,
            callbacks=[clock],
        )
        device = str(trainer.accelerator.device)
        trainer.train()
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise PrerequisiteError(
            f"memory ran out in a forward pass of {int(plan.pass_sizes[largest]):,} tokens", hint=_HINT
        ) from error
    peak = _peak_since(before, on_gpu=gpu)
    sizes = tuple(int(plan.pass_sizes[place]) for place in timed)
    return Probe(device, sizes, tuple(clock.passes[1:]), min(clock.optimizer[1:]), peak)


def gib(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def host_memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _schedule(plan: Plan, places: tuple[int, ...]) -> TrainingSchedule:
    """Steps of one forward pass on each process, every process the same."""
    passes = tuple(plan.schedule.passes[place] for place in places for _ in range(plan.processes))
    tokens = np.array([int(plan.pass_sizes[place]) * plan.processes for place in places])
    return TrainingSchedule(passes, plan.processes, tokens, tokens)


def _random_model(job: Job) -> Any:
    quiet_transformers()
    # Sharding begins on the CPU, as in the run: the whole model may not fit one device.
    device = "cuda" if on_gpu(job.settings) and not job.settings.fsdp else "cpu"
    used = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=used), torch.device(device):
        torch.default_generator.manual_seed(job.settings.seed)
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(job.config), dtype=weight_type(job.settings), attn_implementation=attention_of(job.settings)
        )
    give_attention(model, job)
    return model


class _Clock(TrainerCallback):
    """Times the forward and backward pass of each step, and its optimizer."""

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._mark = 0.0
        self.passes: list[float] = []
        self.optimizer: list[float] = []

    def _lap(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self._lap()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """The gradients are there."""
        self.passes.append(self._lap())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The weights have changed."""
        self.optimizer.append(self._lap())


def _peak() -> int:
    """Most memory that this process ever held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _memory_now(*, on_gpu: bool) -> tuple[int, int]:
    """What is held now, and the most that was ever held."""
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return 0, 0
    most = _peak()
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return most, most
    return resident * os.sysconf("SC_PAGE_SIZE"), most


def _peak_since(before: tuple[int, int], *, on_gpu: bool) -> int | None:
    if on_gpu:
        return int(torch.cuda.max_memory_allocated())
    held, most = before
    peak = _peak()
    return peak - held if peak > most else None
