"""What happens between the steps of a run: events, sealed checkpoints, and good moments to stop."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pyllm.errors import SettingError
from pyllm.finetune.events import Events
from pyllm.finetune.folder import checkpoint_path, seal_checkpoint
from pyllm.finetune.processes import any_process, barrier, world
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.progress import Progress

_log = logging.getLogger(__name__)


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


class Watch(TrainerCallback):
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


class Patience(TrainerCallback):
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


def patience_was_over(checkpoint: Path, patience: int) -> bool:
    """Whether patience had run out when a checkpoint was written."""
    history = json.loads((checkpoint / "trainer_state.json").read_bytes())["log_history"]
    return _evaluations_since_best(history) >= patience


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(float(value)) else float(value)
