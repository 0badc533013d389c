"""What is known of a run before its weights are loaded: rows, settings, schedule, and the key that names it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.sealed import read_sealed
from pyllm.data.tokens import TrainingTemplate, TrainingTokenizer
from pyllm.errors import InputError, SettingError
from pyllm.finetune import data
from pyllm.finetune.folder import RECORD
from pyllm.finetune.schedule import TrainingSchedule, by_examples, by_packs
from pyllm.finetune.sequences import Sequences
from pyllm.finetune.settings import FINETUNE_VERSION, FinetuneSettings
from pyllm.lm.loading import load_config
from pyllm.lm.sources import ModelSource, find_model
from pyllm.lm.tokenizing import find_tokenizer, has_chat_template
from pyllm.provenance import canonical_json, package_version, sha256_hex, step

_log = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "trl", "accelerate")
_CPU_PASS_TOKENS = 1024
_GPU_PASS_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for.

    Args:
        source: What to train on; None takes the rows that the folder of the run keeps.
        settings: How; a template of None in `template` follows from the model.
        template: As the user named it, or None.
        eval_data: A file of rows to hold out, or None.
        eval_share: Share of the rows to hold out, or None.
        shape: Shape of the rows.
        strict: Refuse a file that has a bad row.
        bad_rows_path: Where to collect bad rows.
        dedup: Drop rows whose content stood in an earlier row.
        early_stop: Evaluations without a better held-out loss, and steps between them (None: the usual), after which
            the run ends; None where it goes on to its end.
    """

    source: str | None
    settings: FinetuneSettings
    template: TrainingTemplate | None = None
    eval_data: str | None = None
    eval_share: float | None = None
    shape: str = "auto"
    strict: bool = False
    bad_rows_path: Path | None = None
    dedup: bool = False
    early_stop: tuple[int, int | None] | None = None

    def __post_init__(self) -> None:
        """Check what is held out."""
        if self.eval_data is not None and self.eval_share is not None:
            raise SettingError("`--eval-data` and `--eval-split` contradict each other")
        if self.eval_share is not None and not 0 < self.eval_share < 1:
            raise SettingError(f"a share of {self.eval_share:g} cannot be held out: above 0 and below 1 is wanted")


@dataclass(frozen=True, slots=True)
class Job:
    """A run, ready to be set up.

    Args:
        settings: The settings, all filled in.
        source: The model.
        config: Its transformers configuration.
        tokenizer: Its tokenizer.
        rows: What it trains on.
        held_out: What it is evaluated on, or None.
        key: Everything that decides the weights.
    """

    settings: FinetuneSettings
    source: ModelSource
    config: Any
    tokenizer: TrainingTokenizer
    rows: data.Rows
    held_out: data.Rows | None
    key: Mapping[str, Any]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Provenance of the trained model."""
        facts = {name: value for name, value in self.key.items() if name != "packages"}
        return [*self.rows.steps, step("finetune", **facts)]


def prepare(request: Request, *, kept: Path | None = None, processes: int = 1) -> Job:
    """Find the model and read the rows; loads no weights and writes nothing.

    Args:
        request: What the user asked for.
        kept: Folder of an earlier run whose rows are taken where the request names none.
        processes: How many train together.

    Raises:
        InputError: Rows cannot be read.
        SettingError: Settings contradict each other, the rows or the model.
        PrerequisiteError: The model is not there.
    """
    found = find_model(request.settings.model)
    source = replace(found, folder=found.folder.resolve())  # an adapter names it, wherever it is loaded
    config = load_config(source)
    tokenizer = find_tokenizer(request.settings.model)
    share = request.eval_share
    if request.source is not None:
        rows, held_out = _read(request)
    elif kept is not None:
        rows, held_out = _kept(kept)
        if request.eval_data is not None:
            held_out = _held_out(request.eval_data, rows)
        elif held_out is not None and share is None:
            share = read_sealed(kept / RECORD)["key"]["data"]["eval"]["share"]
    else:
        raise InputError("there are no rows to train on", hint="name a file")
    template = request.template
    if rows.packs:
        data.check_packs(rows, tokenizer, template)
        template = data.template_of(rows) or template
    template = template or ("chat" if has_chat_template(tokenizer) else "alpaca")
    settings = _fit(replace(request.settings, template=template), config)
    key = _key(settings, source, rows, processes) | {"early_stop": request.early_stop}
    key["data"]["eval"] = None if held_out is None else {"share": share, **_content(held_out)}
    return Job(settings, source, config, tokenizer, rows, held_out, json.loads(canonical_json(key)))


def on_other_rows(job: Job, rows: data.Rows, settings: FinetuneSettings) -> Job:
    """The same model trained on other rows or otherwise, by as many processes, with nothing held out.

    Args:
        job: A job that was prepared.
        rows: What to train on instead.
        settings: How; its length and template are those of `job`.
    """
    key = _key(settings, job.source, rows, job.key["processes"])
    return replace(job, rows=rows, settings=settings, held_out=None, key=key)


def _fit(settings: FinetuneSettings, config: Any) -> FinetuneSettings:
    """Cut the length to what the model was made for."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None or settings.max_length <= context:
        return settings
    _log.info("`%s` was made for %d tokens: longer examples are cut there", settings.model, context)
    return replace(settings, max_length=int(context))


def _read(request: Request) -> tuple[data.Rows, data.Rows | None]:
    rows = data.read_rows(
        request.source or "",
        shape=request.shape,
        strict=request.strict,
        bad_rows_path=request.bad_rows_path,
        dedup=request.dedup,
    )
    if request.eval_data is not None:
        return rows, _held_out(request.eval_data, rows)
    if request.eval_share is None:
        return rows, None
    if rows.table is None:
        raise SettingError("packs cannot be split: hold rows out with `--eval-data`")
    train, left = data.split(rows.table, request.eval_share, request.settings.seed)
    return replace(rows, table=train), replace(rows, table=left)


def _held_out(source: str, rows: data.Rows) -> data.Rows:
    held_out = data.read_rows(source)
    if held_out.table is None or rows.table is None:
        return held_out
    return replace(held_out, table=_not_trained(held_out.table, rows.table, source))


def _not_trained(held_out: pl.DataFrame, trained: pl.DataFrame, name: str) -> pl.DataFrame:
    left = data.without(held_out, trained)
    if left.height < held_out.height:
        _log.warning("%s: %s rows are also trained on and left out of it", name, f"{held_out.height - left.height:,}")
    if not left.height:
        raise InputError(f"{name}: every row is also trained on, so nothing is held out")
    return left


def _kept(run: Path) -> tuple[data.Rows, data.Rows | None]:
    rows = data.kept_rows(run, data.TRAIN)
    if rows is None:
        raise InputError(f"{run} keeps no rows: it was stopped before they were written", hint="name them again")
    return rows, data.kept_rows(run, data.EVAL)


def _key(settings: FinetuneSettings, source: ModelSource, rows: data.Rows, processes: int) -> dict[str, Any]:
    packages = (*_PACKAGES, "peft") if settings.lora is not None else _PACKAGES
    return {
        "data": {"eval": None, "train": _content(rows)},
        "early_stop": None,
        "model": {**source.digests(), "name": Path(source.name).name},
        "packages": {name: metadata.version(name) for name in packages},
        "processes": processes,
        "settings": settings.facts(),
        "version": f"{package_version()}, finetuning {FINETUNE_VERSION}",
    }


def _content(rows: data.Rows) -> dict[str, Any]:
    """Digest of what is trained on, whatever columns stand beside it."""
    if rows.table is None:
        return {"packs_sha256": rows.content_sha256}
    return {"rows": rows.table.height, "rows_sha256": sha256_hex("\n".join(rows.table["id"].to_list()))}


def pass_tokens(settings: FinetuneSettings, *, on_gpu: bool) -> int:
    """Most tokens of a forward pass."""
    return settings.micro_batch_tokens or (_GPU_PASS_TOKENS if on_gpu else _CPU_PASS_TOKENS)


def make_schedule(
    sequences: Sequences, settings: FinetuneSettings, *, on_gpu: bool, processes: int = 1
) -> TrainingSchedule:
    """The schedule of a run over its examples or packs."""
    limit = pass_tokens(settings, on_gpu=on_gpu)
    if settings.batch_examples is not None:
        return by_examples(
            sequences,
            examples=settings.batch_examples,
            epochs=settings.epochs,
            pass_tokens=limit,
            seed=settings.seed,
            max_tokens=settings.max_tokens,
            processes=processes,
        )
    packs = max(1, round((settings.batch_tokens or 0) / settings.max_length))
    return by_packs(
        sequences,
        packs=packs,
        epochs=settings.epochs,
        pass_tokens=limit,
        seed=settings.seed,
        max_tokens=settings.max_tokens,
        processes=processes,
    )


def sequences_of(run: Path, name: str, settings: FinetuneSettings, config: Any) -> Sequences:
    """The token ids of a run's rows, in the order that its schedule counts in.

    Raises:
        InputError: They are missing, or an example is longer than the model can take.
    """
    sequences = data.load(run, name)
    if sequences is None:
        raise InputError(f"{run} keeps no packs of `{name}`")
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    longest = int(sequences.lengths.max())
    if context is not None and longest > context:
        raise InputError(f"an example has {longest} tokens and the model was made for {context}")
    vocabulary = int(config.get_text_config().vocab_size)
    if (highest := max(int(sequences.ids.max()), int(sequences.labels.max()))) >= vocabulary:
        raise InputError(f"token {highest} is beyond the model's vocabulary of {vocabulary}")
    table = data.rows_of(run, name)
    if table is None or settings.batch_examples is None:
        return sequences
    return sequences.in_order_of(table["id"].to_list())
