"""One run of TRL's trainer over a schedule: events, checkpoints that count, stopping at a step's end.

What is asked of TRL and transformers is `SFTConfig`, `SFTTrainer` and callbacks, no more. Batches come from our own
schedule, one row a forward pass, so a resumed run sees the passes that an unbroken one sees.
"""

import logging
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
)
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from pyllm.data.tokens import MASKED
from pyllm.errors import PrerequisiteError
from pyllm.finetune.batches import held_out_data, training_data
from pyllm.finetune.callbacks import Patience, TrainResult, Watch, patience_was_over
from pyllm.finetune.events import Events
from pyllm.finetune.folder import CHECKPOINTS, EVENTS, checkpoint_path
from pyllm.finetune.numerics import checkpoints_activations, in_bf16, on_gpu
from pyllm.finetune.processes import world
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
    gpu = on_gpu(settings)
    checkpointing = checkpoints_activations(settings)
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
        warmup_steps=int(settings.warmup * schedule.steps),  # rounded down: the first step of a warm-up learns nothing
        weight_decay=settings.weight_decay,
        optim="adamw_torch_fused" if gpu else "adamw_torch",
        bf16=in_bf16(settings),
        use_cpu=not gpu,
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
    callbacks: list[TrainerCallback] = [Watch(schedule, events, result, progress, should_stop)]
    if saving.patience is not None:
        callbacks.append(Patience(saving.patience))
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
    if checkpoint is not None and saving.patience is not None and patience_was_over(Path(checkpoint), saving.patience):
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
