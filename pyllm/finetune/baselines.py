"""Is a selection worth it? Controls trained on as many tokens from its pool, and all compared on held-out rows.

Each control and seed is a run of its own under `RUN/baselines/ARM/seed-K`, of the same kind and settings as the run
of the selection, which is the one of the first seed. Runs that are finished are not trained again, and one that was
stopped goes on where it was.

Invariants: all arms have one budget of tokens and one set of held-out rows, which none was trained on; the table is
computed from the final models alone. Where several processes train, each measures every final model, whole.
"""

import contextlib
import gc
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from pyllm.data.sealed import file_facts, read_sealed, write_sealed
from pyllm.data.tables import write_table
from pyllm.errors import SettingError
from pyllm.finetune import data
from pyllm.finetune.arms import SELECTED, Budget, Control, Pool, control_run, read_pool
from pyllm.finetune.comparison import UNTRAINED, HeldOutRows, Measured, compare, row_table, source_column
from pyllm.finetune.folder import BASELINES, FINAL, MANIFEST, locked, reopen
from pyllm.finetune.held_out import load_trained, load_untrained, row_losses
from pyllm.finetune.job import Job, on_other_rows, sequences_of
from pyllm.finetune.numerics import on_gpu
from pyllm.finetune.processes import any_process, world
from pyllm.finetune.run import FinetuneResult, finetune
from pyllm.finetune.sequences import Sequences, read_packs
from pyllm.lm.causal import CausalLM
from pyllm.progress import Progress, no_progress

_log = logging.getLogger(__name__)

TABLE = "table.json"
ROWS = "held_out.parquet"


@dataclass(frozen=True, slots=True)
class BaselineSettings:
    """Which controls, and how often.

    Args:
        controls: The controls.
        seeds: Runs of each arm, the seeds counting up from that of the selection's run.
        save_every: Steps between checkpoints of a run; None makes twenty.
        arguments: The words of the command line, kept for the record.
    """

    controls: tuple[Control, ...]
    seeds: int = 3
    save_every: int | None = None
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BaselineResult:
    """What the comparison came to.

    Args:
        stopped: It was asked to stop, and can be gone on with.
        table: What `table.json` holds, but for the digest of the losses beside it; None when it was stopped.
    """

    stopped: bool
    table: dict[str, Any] | None = None


def prepare_pool(source: str, job: Job, settings: BaselineSettings, *, progress: Progress = no_progress) -> Pool:
    """Find out before the selection is trained whether its controls can be, and read the pool.

    Args:
        source: The pool.
        job: The selection's run.
        settings: Which controls.
        progress: Told of rows.

    Raises:
        InputError: The pool cannot be read or trained on.
        SettingError: Nothing is held out, or a seed is out of range.
        PrerequisiteError: The model cannot be read in packs.
    """
    if job.held_out is None:
        raise SettingError("`--baseline` needs held-out rows", hint="add --eval-data FILE")
    replace(job.settings, seed=job.settings.seed + settings.seeds - 1)  # checks the last seed
    pool = read_pool(source, job, _held_out_ids(job.held_out), progress=progress)
    PartialState(cpu=not on_gpu(job.settings))  # gives each process its own device
    load_untrained(job)
    _free()
    return pool


def check_held_out(job: Job, source: str) -> None:
    """Check that what a run holds out is what a file names, where the run's own rows are gone on with.

    Raises:
        InputError: The file cannot be read.
        SettingError: The run holds other rows out.
    """
    if job.held_out is None or job.held_out.table is None or job.rows.table is None:
        return
    named = data.read_rows(source).table
    wanted = set() if named is None else set(data.without(named, job.rows.table)["id"].to_list())
    if wanted != set(_held_out_ids(job.held_out)):
        raise SettingError(
            f"the run holds other rows out than those of {source}", hint="name the file it began with, or a new folder"
        )


def run_baselines(
    job: Job,
    out: Path,
    pool: Pool,
    settings: BaselineSettings,
    *,
    progress: Progress = no_progress,
    should_stop: Callable[[], bool] = lambda: False,
) -> BaselineResult:
    """Train what is missing, measure everything, and write the table.

    Args:
        job: The selection's run, which is finished.
        out: Its folder, locked by this process.
        pool: What the selection was made from.
        settings: Which controls.
        progress: Listener.
        should_stop: Asked after each step and between runs.

    Raises:
        InputError: The data of a run was changed, or the selection's run is not finished.
        SettingError: A folder holds another run, such as one from another pool; or a loss is not finite.
        PrerequisiteError: A model cannot be loaded or trained, or memory runs out.
    """
    sequences = _distinct(sequences_of(out, data.EVAL, job.settings, job.config))
    selection = sequences_of(out, data.TRAIN, job.settings, job.config)
    reopen(out, job.key)
    main = FinetuneResult(out, stopped=False, report=read_sealed(out / MANIFEST)["result"])
    budget = Budget(selection.tokens, int(main.report["tokens"]))
    if int(pool.tokens.sum()) <= budget.rows_tokens:
        _log.warning("the pool has no more tokens than the selection: `random` and `longest` are the whole pool")
    arms = [(job.settings.seed + number, arm) for number in range(settings.seeds) for arm in _arms(settings)]
    _free()
    _log.info("comparing %d runs of about %s tokens each", len(arms), f"{budget.run_tokens:,}")
    measured = [Measured(UNTRAINED, None, 0, 0, 0, row_losses(load_untrained(job), sequences))]
    _log.info("before training: held-out loss %.4f", measured[0].losses.per_token)
    for number, (seed, arm) in enumerate(arms, start=1):
        if any_process(should_stop()):
            return BaselineResult(stopped=True)
        is_main = arm == SELECTED and seed == job.settings.seed
        folder = out if is_main else out / BASELINES / arm / f"seed-{seed}"
        arm_job = job if is_main else _arm_job(job, pool, arm, seed, budget)
        named = _Named(progress, f"{arm}, seed {seed} ({number} of {len(arms)})")
        result = main if is_main else _train(arm_job, folder, settings, named, should_stop)
        if result.stopped:
            return BaselineResult(stopped=True)
        found = _measure(load_trained(arm_job, folder / FINAL), arm, seed, result, sequences)
        _log.info(
            "%s, seed %d: %s rows, %s tokens in %s steps, held-out loss %.4f",
            *(arm, seed, f"{found.rows:,}", f"{found.tokens:,}", f"{found.steps:,}", found.losses.per_token),
        )
        measured.append(found)
        _free()
    return BaselineResult(stopped=False, table=_write(out, job, pool, measured, sequences))


def _arms(settings: BaselineSettings) -> Sequence[str]:
    return (SELECTED, *settings.controls)


def _arm_job(job: Job, pool: Pool, arm: str, seed: int, budget: Budget) -> Job:
    settings = replace(job.settings, seed=seed)
    if arm == SELECTED:
        return on_other_rows(job, job.rows, settings)
    control: Any = arm
    return on_other_rows(job, *control_run(pool, control, settings, budget))


def _train(
    job: Job, folder: Path, settings: BaselineSettings, progress: Progress, should_stop: Callable[[], bool]
) -> FinetuneResult:
    # Only the first process writes; the others wait for what it has written.
    with locked(folder) if world()[0] == 0 else contextlib.nullcontext():
        return finetune(
            job,
            folder,
            save_every=settings.save_every,
            keep=0,
            arguments=settings.arguments,
            progress=progress,
            should_stop=should_stop,
        )


def _measure(lm: CausalLM, arm: str, seed: int, result: FinetuneResult, sequences: Sequences) -> Measured:
    report = result.report
    losses = row_losses(lm, sequences)
    return Measured(arm, seed, int(report["examples"]), int(report["tokens"]), int(report["steps"]), losses)


def _free() -> None:
    """Give memory of the last model back before the next one is made: trainers hold themselves in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _held_out_ids(rows: data.Rows) -> Collection[str]:
    if rows.table is not None:
        ids: list[str] = rows.table["id"].to_list()
        return ids
    return read_packs(rows.packs).row_ids


def _distinct(sequences: Sequences) -> Sequences:
    """One example of each content that has something to predict."""
    first = {row_id: place for place, row_id in reversed(list(enumerate(sequences.row_ids)))}
    trained = sequences.trained_tokens
    return sequences.take(sorted(place for place in first.values() if trained[place]))


def _write(out: Path, job: Job, pool: Pool, measured: Sequence[Measured], sequences: Sequences) -> dict[str, Any]:
    rows = _held_out_rows(out, sequences)
    table = {
        **compare(measured, rows, seed=job.settings.seed),
        "key": dict(job.key),
        "pool": {"rows": len(pool), "sha256": pool.rows.sha256, "tokens": int(pool.tokens.sum())},
    }
    if world()[0] == 0:
        folder = out / BASELINES
        folder.mkdir(exist_ok=True)
        write_table(row_table(measured, rows), folder / ROWS, format="parquet")
        write_sealed(folder / TABLE, {**table, "files": {ROWS: file_facts(folder / ROWS)}})
    return table


def _held_out_rows(out: Path, sequences: Sequences) -> HeldOutRows:
    table = data.rows_of(out, data.EVAL)
    if table is None:
        sources = ("packs",) * len(sequences)
    else:
        column = source_column(table)
        by_id = dict(zip(table["id"].to_list(), table[column].cast(str).fill_null("(none)").to_list(), strict=True))
        sources = tuple(by_id[row_id] for row_id in sequences.row_ids)
    return HeldOutRows(sequences.row_ids, sources, sequences.trained_tokens.astype("int64"))


class _Named:
    """A listener whose stages carry the name of the run they belong to."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name

    def start(self, stage: str, total: int, *, done: int = 0, unit: str = "rows") -> None:
        self._progress.start(f"{stage} {self._name}", total, done=done, unit=unit)

    def advance(self, units: int, *, tokens: int = 0) -> None:
        self._progress.advance(units, tokens=tokens)

    def note(self, text: str) -> None:
        self._progress.note(text)

    def finish(self) -> None:
        self._progress.finish()
