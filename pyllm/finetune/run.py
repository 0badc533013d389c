"""A finetuning run from its first row to its manifest, begun or gone on with."""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from pyllm.data.packing import left_out
from pyllm.data.sealed import mismatches, read_sealed
from pyllm.data.tables import write_json_atomically
from pyllm.errors import InputError, SettingError
from pyllm.finetune import data
from pyllm.finetune.callbacks import TrainResult
from pyllm.finetune.events import read_events
from pyllm.finetune.folder import (
    CHECKPOINTS,
    DATA,
    EVENTS,
    FINAL,
    MANIFEST,
    RECORD,
    RunFolder,
    begin,
    finish,
    is_run,
    newest_whole_checkpoint,
    reopen,
    withdrawn_on_failure,
)
from pyllm.finetune.job import Job, make_schedule, sequences_of
from pyllm.finetune.numerics import attention_of, on_gpu, weight_type
from pyllm.finetune.packing_check import choose_packed_attention
from pyllm.finetune.processes import from_first, world
from pyllm.finetune.schedule import TrainingSchedule
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.training import Saving, train
from pyllm.lm.loading import load_pretrained, load_tokenizer
from pyllm.lm.sources import is_hub_id
from pyllm.lm.templates import give_template
from pyllm.progress import Progress, no_progress

_log = logging.getLogger(__name__)

_CHECKPOINTS_OF_A_RUN = 20


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a run came to.

    Args:
        folder: Its folder.
        stopped: It was asked to stop, and can be gone on with.
        report: Its numbers.
    """

    folder: Path
    stopped: bool
    report: dict[str, Any]


def steps_between_saves(steps: int, save_every: int | None) -> int:
    """Steps between checkpoints, and between evaluations: what was asked, else so that a run makes twenty."""
    return save_every or -(-steps // _CHECKPOINTS_OF_A_RUN)


def finetune(
    job: Job,
    out: Path,
    *,
    save_every: int | None = None,
    keep: int = 2,
    patience: int | None = None,
    arguments: Sequence[str] = (),
    progress: Progress = no_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> FinetuneResult:
    """Run a job, or go on with it where its folder holds the same one.

    Args:
        job: What to run.
        out: Its folder; this process holds its lock.
        save_every: Steps between checkpoints, and between evaluations; None makes twenty in a run.
        keep: Checkpoints to keep; 0 keeps them only until the run is finished.
        patience: Evaluations without a better held-out loss after which to stop; None goes on to the end.
        arguments: The words of the command line, kept for the record.
        progress: Listener.
        should_stop: Asked after each step.

    Raises:
        InputError: The data of the run was changed, or no row can be trained on.
        SettingError: The folder holds another run; or the loss is not finite.
        PrerequisiteError: The model cannot be loaded or trained, or memory runs out.
    """
    options = _Options(save_every, keep, patience, tuple(arguments), progress, should_stop)
    with withdrawn_on_failure(out) if world()[0] == 0 else contextlib.nullcontext():
        return _finetune(job, out, options)


@dataclass(frozen=True, slots=True)
class _Options:
    save_every: int | None
    keep: int
    patience: int | None
    arguments: tuple[str, ...]
    progress: Progress
    should_stop: Callable[[], bool]


def _finetune(job: Job, out: Path, options: _Options) -> FinetuneResult:
    rank, processes = world()
    state = PartialState(cpu=not on_gpu(job.settings))
    if rank == 0:
        started = reopen(out, job.key) if is_run(out) else begin(out, job.key, _facts(job, options.arguments))
        if not started.is_finished:
            _set_up_data(started, job, options.progress)
    state.wait_for_everyone()
    run = reopen(out, job.key)
    if run.is_finished:
        _log.info("the run in %s is finished already", out)
        return FinetuneResult(out, stopped=False, report=read_sealed(out / MANIFEST)["result"])
    sequences = sequences_of(out, data.TRAIN, job.settings, job.config)
    held_out = sequences_of(out, data.EVAL, job.settings, job.config) if job.held_out is not None else None
    schedule = make_schedule(sequences, job.settings, on_gpu=on_gpu(job.settings), processes=processes)
    saving = Saving(steps_between_saves(schedule.steps, options.save_every), options.keep, options.patience)
    resume_step = newest_whole_checkpoint(run.checkpoints) if rank == 0 else None
    resume_step = from_first(resume_step)
    _describe(sequences, schedule, resume_step)
    trainer, result = train(
        out,
        _model(job),
        trained_tokenizer(job),
        sequences=sequences,
        schedule=schedule,
        settings=job.settings,
        saving=saving,
        held_out=held_out,
        resume_step=resume_step,
        progress=options.progress,
        should_stop=options.should_stop,
    )
    report = _report(run, job, sequences, schedule, result)
    if result.stopped:
        return FinetuneResult(out, stopped=True, report=report)
    _save_final(trainer, run, job)
    if rank == 0:
        if options.keep == 0:
            shutil.rmtree(run.checkpoints)
        finish(run, report)
    state.wait_for_everyone()
    return FinetuneResult(out, stopped=False, report=report)


def _facts(job: Job, arguments: Sequence[str]) -> dict[str, Any]:
    sources = [_source("rows", job.rows)]
    if job.held_out is not None:
        sources.append(_source("held-out rows", job.held_out))
    sources += [
        {"what": "model", "path": str(path.resolve()), "sha256": digest}
        for path, digest in job.source.file_digests().items()
    ]
    return {"arguments": list(arguments), "sources": sources, "steps": job.steps}


def _source(what: str, rows: data.Rows) -> dict[str, Any]:
    path = None if rows.name == "-" else str(Path(rows.name).resolve())
    return {"what": what, "path": path, "sha256": rows.sha256}


def _set_up_data(run: RunFolder, job: Job, progress: Progress) -> None:
    """Make the data of a run whole, and check it where it was made before."""
    sealed = run.path / DATA / MANIFEST
    if sealed.is_file():
        manifest = read_sealed(sealed)
        faults = mismatches(run.path / DATA, manifest["files"])
        if faults:
            raise InputError(f"the data of the run was changed: {faults[0]}", hint="name a new folder")
        return
    shutil.rmtree(run.path / DATA, ignore_errors=True)
    numbers = {}
    for name, rows in ((data.TRAIN, job.rows), (data.EVAL, job.held_out)):
        if rows is not None:
            packed = store_rows(run.path, name, rows, job, progress)
            numbers[name] = {each: packed[each] for each in ("rows", "tokens", "trained_tokens") if each in packed}
            _warn(name, packed)
    data.seal(run.path, {"numbers": numbers})


def store_rows(folder: Path, name: str, rows: data.Rows, job: Job, progress: Progress) -> dict[str, Any]:
    """Keep rows in a folder and make them into token ids, as a job has it; see `data.store`."""
    return data.store(
        folder,
        name,
        rows,
        tokenizer=job.tokenizer,
        template=job.settings.template,
        max_length=job.settings.max_length,
        progress=progress,
    )


def _warn(name: str, packed: dict[str, Any]) -> None:
    for line in left_out(packed) if packed else []:
        _log.warning("%s rows: %s", "training" if name == data.TRAIN else "held-out", line)


def _describe(sequences: Sequences, schedule: TrainingSchedule, resume_step: int | None) -> None:
    _log.info(
        "%s examples, %s tokens, %.1f %% of them trained; %s steps of up to %d forward passes%s",
        f"{len(sequences):,}",
        f"{sequences.tokens:,}",
        100 * float(sequences.trained_tokens.sum()) / sequences.tokens,
        f"{schedule.steps:,}",
        schedule.passes_per_step,
        "" if resume_step is None else f"; going on behind step {resume_step:,}",
    )


def _model(job: Job) -> Any:
    model = load_pretrained(job.source, dtype=weight_type(job.settings), attention=attention_of(job.settings))
    give_attention(model, job)
    return model


def give_attention(model: Any, job: Job) -> None:
    """Have a model tell apart the examples of a row; flash attention and padding do so by themselves.

    Raises:
        PrerequisiteError: The model does not do it.
    """
    if not job.settings.padded and attention_of(job.settings) is None:
        choose_packed_attention(model, job.source.name)


def trained_tokenizer(job: Job) -> Any:
    """The model's tokenizer with the template that is trained.

    Raises:
        PrerequisiteError: It cannot be read.
        SettingError: It has no token to pad with.
    """
    tokenizer: Any = load_tokenizer(job.source)
    give_template(tokenizer, job.settings.template, job.tokenizer)
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise SettingError(
            f"the tokenizer of `{job.source.name}` names neither a padding token nor an end token",
            hint="name one in its tokenizer_config.json",
        )
    return tokenizer


def _save_final(trainer: Any, run: RunFolder, job: Job) -> None:
    """Write the trained model and its tokenizer under another name, and rename it."""
    partial = run.path / f"{FINAL}.partial"
    if world()[0] == 0:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(run.final, ignore_errors=True)
    PartialState().wait_for_everyone()
    trainer.save_model(str(partial))
    PartialState().wait_for_everyone()
    if world()[0] != 0:
        return
    (partial / "training_args.bin").unlink(missing_ok=True)  # settings of this machine, pickled
    (run.path / CHECKPOINTS / "README.md").unlink(missing_ok=True)
    (partial / "README.md").unlink(missing_ok=True)
    _name_base(partial / "adapter_config.json", job.settings.model)
    mode = (run.path / RECORD).stat().st_mode
    for path in partial.iterdir():
        path.chmod(mode)  # weights come readable for their owner alone
    partial.replace(run.final)


def _name_base(path: Path, model: str) -> None:
    """Have an adapter name its base by hub id, not by where the hub's cache has it on this machine."""
    if path.is_file() and is_hub_id(model):
        facts = json.loads(path.read_bytes())
        write_json_atomically(path, {**facts, "base_model_name_or_path": model})


def _report(
    run: RunFolder, job: Job, sequences: Sequences, schedule: TrainingSchedule, result: TrainResult
) -> dict[str, Any]:
    events = read_events(run.path / EVENTS)
    return {
        "command": "finetune",
        "data": read_sealed(run.path / DATA / MANIFEST)["numbers"],
        "examples": len(sequences),
        "held_out_loss": [
            {"loss": each["held_out_loss"], "step": each["step"]} for each in events if each["event"] == "evaluation"
        ],
        "key": dict(job.key),
        "loss": [
            {"learning_rate": each["learning_rate"], "loss": each["loss"], "step": each["step"]}
            for each in events
            if each["event"] == "step"
        ],
        "seconds": round(result.seconds, 3),
        "step": result.step,
        "steps": schedule.steps,
        "stopped": result.stopped,
        "tokens": schedule.tokens,
        "trained_tokens": int(schedule.trained_tokens.sum()),
    }
