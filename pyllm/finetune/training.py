"""One run of TRL's trainer over a schedule: events, checkpoints that count, stopping at a step's end.

What is asked of TRL and transformers is `SFTConfig`, `SFTTrainer` and callbacks, no more. Batches come from our own
schedule, one row a forward pass, so a resumed run sees the passes that an unbroken one sees.
"""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pyllm.data.tokens import MASKED
from pyllm.errors import InputError, PrerequisiteError, SettingError, reason_of
from pyllm.finetune.batches import held_out_data, training_data
from pyllm.finetune.folder import CHECKPOINTS, EVENTS, checkpoint_path, seal_checkpoint
from pyllm.finetune.processes import any_process, barrier, world
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FinetuneSettings
from pyllm.progress import Progress

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Saving:
    """When a run saves and evaluates.

    Args:
        every_steps: Steps between checkpoints, and between evaluations where rows are held out.
        keep: Checkpoints that are kept, at least 2: the newest may be half-written.
        patience: Evaluations without a better held-out loss after which the run stops, and goes back to the best;
            None runs to the end.
    """

    every_steps: int
    keep: int = 2
    patience: int | None = None


@dataclass(slots=True)
class TrainResult:
    """What training came to.

    Args:
        stopped: It was asked to stop, and did so behind a checkpoint.
        step: The last step.
        seconds: Time in the trainer.
    """

    stopped: bool = False
    step: int = 0
    seconds: float = 0.0


class Events:
    """The event stream of a run: one JSON object a line, on disk as it happens.

    Args:
        path: The file, which is appended to; None writes nothing (processes other than the first).
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._began = time.monotonic()

    def write(self, event: str, **facts: Any) -> None:
        """Append an event.

        Raises:
            PrerequisiteError: The file cannot be written.
        """
        if self._path is None:
            return
        seconds = round(time.monotonic() - self._began, 3)
        line = json.dumps({"event": event, "seconds": seconds, **facts}, allow_nan=False)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise PrerequisiteError(f"cannot write {self._path}: {reason_of(error)}") from error


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run in which each step stands once: what was done again after a resumption replaces the first.

    Raises:
        InputError: A line that is not the last cannot be read; the last may be torn by a kill.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    events: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            if number == len(lines) or '"event": "resume"' in lines[number]:
                continue
            raise InputError(f"{path}: line {number} is not an event") from error
        if event["event"] in ("start", "resume"):
            events = [each for each in events if each["step"] <= event["step"]]
        events.append(event)
    return events


def configuration(
    folder: Path,
    settings: FinetuneSettings,
    schedule: TrainingSchedule,
    saving: Saving,
    *,
    evaluates: bool,
    resumed: bool = False,
) -> SFTConfig:
    """What TRL is told."""
    _, processes = world()
    on_gpu = torch.cuda.is_available() and settings.device != "cpu"
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and on_gpu)
    checkpointing = on_gpu if settings.activation_checkpointing is None else settings.activation_checkpointing
    sharded: dict[str, Any] = {}
    if settings.fsdp:
        sharded = {"fsdp": True, "fsdp_config": {"version": 2, "activation_checkpointing": checkpointing}}
        checkpointing = False
    best: dict[str, Any] = {}
    if saving.patience is not None:
        best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
    return SFTConfig(
        output_dir=str(folder / CHECKPOINTS),
        num_train_epochs=1.0,  # the schedule holds all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=schedule.passes_per_step // processes,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=math.ceil(settings.warmup * schedule.steps),
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=bf16,
        use_cpu=not on_gpu,
        seed=settings.seed,
        data_seed=settings.seed,
        packing=False,
        padding_free=not settings.padded,
        max_length=None,
        shuffle_dataset=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        activation_checkpointing=checkpointing,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=saving.every_steps if evaluates else None,
        eval_on_start=evaluates and not resumed,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=saving.every_steps,
        save_total_limit=max(2, saving.keep),
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=0,
        **best,
        **sharded,
    )


class _Trainer(SFTTrainer):
    """SFTTrainer whose held-out loss is the mean over tokens, not over batches."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean loss over the trained tokens of the held-out rows, in nats."""
        del eval_dataset, ignore_keys
        rank, processes = world()
        rows: Any = self.eval_dataset
        totals = torch.zeros(2, dtype=torch.float64)
        model = self.model_wrapped
        model.eval()
        for first in range(0, len(rows), processes):
            # Every process makes the same number of forward passes; one without a row repeats the first in vain.
            place = first + rank
            batch = self._prepare_inputs(self.data_collator([rows[place if place < len(rows) else 0]]))
            with torch.no_grad(), self.compute_loss_context_manager():
                output = model(**batch, use_cache=False, fused_lm_head=True)
            if place < len(rows):
                trained = output.label_mask.sum()
                totals += torch.stack([-output.log_probs.double().sum(), trained.double()]).cpu()
        nats, tokens = self.accelerator.reduce(totals.to(self.accelerator.device, torch.float64)).tolist()
        metrics = {f"{metric_key_prefix}_loss": nats / max(tokens, 1.0)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Watch(TrainerCallback):
    """Tells of steps, seals checkpoints, and ends the run at the end of a step when asked to."""

    def __init__(
        self,
        schedule: TrainingSchedule,
        events: Events,
        result: TrainResult,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self._schedule = schedule
        self._events = events
        self._result = result
        self._progress = progress
        self._should_stop = should_stop

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002  (the framework's signature, here and below)
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> TrainerControl:
        """Count the step; stop if asked to."""
        self._result.step = state.global_step
        self._progress.advance(1, tokens=int(self._schedule.step_tokens[state.global_step - 1]))
        if any_process(self._should_stop()):
            self._result.stopped = state.global_step < self._schedule.steps
            control.should_save = control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Write the events of steps."""
        logs: dict[str, float] = kwargs["logs"]
        if "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            raise SettingError(f"the loss of step {step} is not finite", hint="lower --learning-rate")
        self._progress.note(f"loss {loss:.3f}, lr {logs['learning_rate']:.2g}")
        self._events.write(
            "step",
            step=step,
            loss=loss,
            learning_rate=logs["learning_rate"],
            gradient_norm=_finite(logs.get("grad_norm")),
            tokens=int(self._schedule.step_tokens[step - 1]),
            trained_tokens=int(self._schedule.trained_tokens[step - 1]),
        )

    def on_evaluate(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,
    ) -> None:
        """Write the events of evaluations."""
        loss, step = kwargs["metrics"]["eval_loss"], state.global_step
        self._events.write("evaluation", step=step, held_out_loss=_finite(loss))
        _log.info("held-out loss %.4f at step %s of %s", loss, f"{step:,}", f"{self._schedule.steps:,}")

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Make the checkpoint count, once every process has written its part."""
        barrier()
        if world()[0] == 0:
            path = checkpoint_path(Path(str(args.output_dir)), state.global_step)
            seal_checkpoint(path, state.global_step)
            self._events.write("checkpoint", step=state.global_step)
        barrier()


class _Patience(TrainerCallback):
    """Ends a run whose held-out loss no longer falls.

    The callback of transformers counts in memory; this one counts in the history that a checkpoint keeps, so that a
    resumed run ends where an unbroken one does.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Find the best checkpoint again where the folder of the run was moved."""
        if state.best_global_step:
            best = checkpoint_path(Path(str(args.output_dir)), state.best_global_step)
            state.best_model_checkpoint = str(best) if best.is_dir() else None

    def on_evaluate(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Stop where patience has run out."""
        if _evaluations_since_best(state.log_history) >= self._patience:
            control.should_training_stop = True


def _evaluations_since_best(history: list[dict[str, float]]) -> int:
    """Evaluations behind the best one; that of the untrained model does not count, for it has no checkpoint."""
    best, since = math.inf, 0
    for entry in history:
        if "eval_loss" in entry and entry["step"] > 0:
            since = 0 if entry["eval_loss"] < best else since + 1
            best = min(best, entry["eval_loss"])
    return since


def _was_over(checkpoint: Path, patience: int) -> bool:
    """Whether patience had run out when a checkpoint was written."""
    history = json.loads((checkpoint / "trainer_state.json").read_bytes())["log_history"]
    return _evaluations_since_best(history) >= patience


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)


class _PaddingCollator:
    """The examples of a forward pass below each other, padded to the longest."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad one forward pass."""
        (row,) = rows
        lengths = row["seq_lengths"]
        ids = torch.tensor(row["input_ids"]).split(lengths)
        labels = torch.tensor(row["labels"]).split(lengths)
        masks = [torch.ones(length, dtype=torch.long) for length in lengths]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self._pad_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=MASKED),
            "attention_mask": pad_sequence(masks, batch_first=True, padding_value=0),
        }


def make_trainer(
    config: SFTConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: Sequences,
    schedule: TrainingSchedule,
    settings: FinetuneSettings,
    held_out: Sequences | None = None,
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """The trainer of a run, which prints nothing; see `train`.

    Raises:
        PrerequisiteError: peft is wanted and not installed.
    """
    logging.getLogger("trl").setLevel(logging.ERROR)
    collator = None
    if settings.padded:
        pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        collator = _PaddingCollator(0 if pad_id is None else pad_id)
    trainer = _Trainer(
        model=model,
        args=config,
        data_collator=collator,
        train_dataset=training_data(sequences, schedule),
        eval_dataset=None if held_out is None else held_out_data(held_out),
        processing_class=tokenizer,
        peft_config=None if settings.lora is None else _lora(settings),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout
    return trainer


def train(
    folder: Path,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    sequences: Sequences,
    schedule: TrainingSchedule,
    settings: FinetuneSettings,
    saving: Saving,
    held_out: Sequences | None = None,
    resume_step: int | None = None,
    progress: Progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Any, TrainResult]:
    """Train a model over a schedule.

    Args:
        folder: The run's; its checkpoints and events go there.
        model: The transformers model; changed in place.
        tokenizer: Saved with each checkpoint.
        sequences: What it is trained on.
        schedule: In which order.
        settings: How.
        saving: When checkpoints are written.
        held_out: Packs to evaluate on; None evaluates nothing.
        resume_step: Go on from the checkpoint of this step, which is whole.
        progress: Told of steps.
        should_stop: Asked after each step; when it says so, the run stops behind a checkpoint.

    Returns:
        The trainer, which holds the trained model, and what happened.

    Raises:
        SettingError: The loss is not finite.
        PrerequisiteError: Memory runs out, or peft is not installed.
    """
    rank, _ = world()
    events = Events(folder / EVENTS if rank == 0 else None)
    result = TrainResult()
    callbacks: list[TrainerCallback] = [_Watch(schedule, events, result, progress, should_stop)]
    if saving.patience is not None:
        callbacks.append(_Patience(saving.patience))
    evaluates, resumed = held_out is not None, resume_step is not None
    config = configuration(folder, settings, schedule, saving, evaluates=evaluates, resumed=resumed)
    trainer = make_trainer(
        config,
        model,
        tokenizer,
        sequences=sequences,
        schedule=schedule,
        settings=settings,
        held_out=held_out,
        callbacks=callbacks,
    )
    began = time.monotonic()
    events.write("start" if resume_step is None else "resume", step=resume_step or 0, steps=schedule.steps)
    progress.start("training", schedule.steps, done=resume_step or 0, unit="steps")
    checkpoint = None if resume_step is None else str(checkpoint_path(folder / CHECKPOINTS, resume_step))
    result.step = resume_step or 0
    if checkpoint is not None and saving.patience is not None and _was_over(Path(checkpoint), saving.patience):
        config.num_train_epochs = 0.0  # nothing is left but to take the best checkpoint
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        raise PrerequisiteError(
            "the memory of the device ran out",
            hint="lower --micro-batch-tokens or --max-length, or give --activation-checkpointing, --lora or --fsdp",
        ) from error
    finally:
        progress.finish()
    result.seconds = time.monotonic() - began
    events.write("stop" if result.stopped else "end", step=result.step)
    return trainer, result


def _lora(settings: FinetuneSettings) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise PrerequisiteError("`--lora` needs the package peft", hint="pip install 'pyllm[peft]'") from error
    lora = settings.lora
    if lora is None:
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        bias="none",
    )
