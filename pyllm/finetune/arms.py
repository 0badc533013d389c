"""Which rows the controls of a selection train on: as many tokens from the same pool, drawn without the scores.

`random` takes rows by a hash of seed and row id, `longest` those whose answers have the most tokens (the strongest
simple rule: "Long is more for alignment", ICML 2024), each as far as the tokens of the selection go, whole rows only.
`all` takes every row in a shuffled order and is stopped at the tokens of the selection's whole run.

Invariants: a row's content counts once, wherever it stands in the pool; no control sees a held-out row; which rows a
control takes does not depend on their order in the pool.
"""

import hashlib
import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.rows import counted
from pyllm.data.tables import write_table
from pyllm.errors import InputError, SettingError
from pyllm.finetune import data
from pyllm.finetune.job import Job
from pyllm.finetune.sequences import read_packs
from pyllm.finetune.settings import FinetuneSettings
from pyllm.lm.tokenizing import chat_tokenizer
from pyllm.progress import Progress, no_progress
from pyllm.provenance import step

_log = logging.getLogger(__name__)

Control = Literal["random", "longest", "all"]
CONTROLS: tuple[Control, ...] = get_args(Control)
SELECTED = "selected"


@dataclass(frozen=True, slots=True)
class Pool:
    """What a selection was made from, ready to be drawn from.

    Args:
        rows: The rows: distinct, with an answer, none of them held out.
        ids: The id of each.
        tokens: Tokens of each as it is trained, its prompt included.
        answer_tokens: Trained tokens of each.
    """

    rows: data.Rows
    ids: tuple[str, ...]
    tokens: Int[ndarray, " rows"]
    answer_tokens: Int[ndarray, " rows"]

    def __len__(self) -> int:
        """Rows."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Budget:
    """What the selection's own run took.

    Args:
        rows_tokens: Tokens of its rows, each once.
        run_tokens: Tokens of the run, each as often as it was seen.
    """

    rows_tokens: int
    run_tokens: int


def controls_of(text: str) -> tuple[Control, ...]:
    """The controls named in a list with commas, in the order of `CONTROLS`.

    Raises:
        SettingError: One is unknown, or none is named.

    Example:
        >>> controls_of("all, random")
        ('random', 'all')
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in CONTROLS:
            raise SettingError(f"baseline `{name}` is unknown", hint=f"use one or more of {','.join(CONTROLS)}")
    if not names:
        raise SettingError("no baseline is named", hint=f"use one or more of {','.join(CONTROLS)}")
    return tuple(name for name in CONTROLS if name in names)


def read_pool(source: str, job: Job, held_out_ids: Collection[str], *, progress: Progress = no_progress) -> Pool:
    """Read the pool of a selection and count its tokens under the template and length of its run.

    Args:
        source: Any instruction file, or a folder of shards.
        job: The selection's run.
        held_out_ids: Rows that no control may see.
        progress: Told of rows.

    Raises:
        InputError: The pool cannot be read, holds packs, or has no row that can be trained on.
    """
    rows = data.read_rows(source)
    if rows.table is None:
        raise InputError(f"{source} holds packs: a pool is a table of rows", hint="name the table that was packed")
    distinct = rows.table.unique(subset="id", keep="first", maintain_order=True)
    kept = distinct.filter(~distinct["id"].is_in(list(held_out_ids)))
    if held_out := distinct.height - kept.height:
        _log.warning("%s: %s held out and left out of every baseline", source, _are(held_out))
    if not kept.height:
        raise InputError(f"{source}: every row of the pool is held out")
    with tempfile.TemporaryDirectory(prefix="pyllm-pool-") as folder:
        table, packs = Path(folder) / "pool.parquet", Path(folder) / "packs"
        write_table(kept, table, format="parquet")
        settings = PackSettings(length=job.settings.max_length, template=job.settings.template)
        chat = chat_tokenizer(job.tokenizer) if job.settings.template == "chat" else None
        try:
            pack_examples([table], packs, job.tokenizer, settings, chat_tokenizer=chat, progress=progress)
        except InputError as error:
            raise InputError(f"the pool {source}: {error.message}", hint=error.hint) from error
        sequences = read_packs(sorted(packs.glob("part-*.parquet")))
    place = {row_id: number for number, row_id in enumerate(sequences.row_ids)}
    trained = kept.filter(kept["id"].is_in(list(place)))
    if without := kept.height - trained.height:
        _log.info("%s: %s without an answer to train and left out of every baseline", source, _are(without))
    ids = tuple(trained["id"].to_list())
    order = [place[row_id] for row_id in ids]
    pool = Pool(
        replace(rows, table=trained), ids, sequences.lengths[order], sequences.trained_tokens[order].astype(np.int64)
    )
    _warn_of_strangers(job, distinct["id"].to_list(), source)
    return pool


def _are(rows: int) -> str:
    return f"{counted(rows, 'row')} {'is' if rows == 1 else 'are'}"


def _warn_of_strangers(job: Job, pool_ids: Sequence[str], source: str) -> None:
    if job.rows.table is None:
        return
    selected = set(job.rows.table["id"].to_list())
    strangers = len(selected.difference(pool_ids))
    if strangers:
        _log.warning("%s of %d selected rows are not in the pool %s", f"{strangers:,}", len(selected), source)


def ranking(pool: Pool, control: Control, seed: int) -> Int[ndarray, " rows"]:
    """The pool's rows in the order in which a control would take them.

    Args:
        pool: The pool.
        control: `longest` ranks by answer tokens, the most first, ties by row id; the others by a hash of seed and
            row id. The hash is not the one that draws anchors and held-out rows, so that an equal seed does not draw
            the same rows.
        seed: Of the draw.
    """
    places = range(len(pool))
    if control == "longest":
        order = sorted(places, key=lambda place: (-int(pool.answer_tokens[place]), pool.ids[place]))
    else:
        order = sorted(places, key=lambda place: hashlib.sha256(f"{seed}:random:{pool.ids[place]}".encode()).digest())
    return np.array(order, dtype=np.int64)


def nearest_prefix(tokens: Int[ndarray, " ranked"], budget: int) -> int:
    """How many of the first rows have a number of tokens nearest to a budget; at least one, of two the fewer.

    Example:
        >>> nearest_prefix(np.array([5, 5, 5]), 12)
        2
    """
    sums = np.cumsum(tokens)
    return int(np.argmin(np.abs(sums - budget))) + 1


def control_run(
    pool: Pool, control: Control, settings: FinetuneSettings, budget: Budget
) -> tuple[data.Rows, FinetuneSettings]:
    """What a control trains on, and how.

    Args:
        pool: What the selection was made from.
        control: Which control.
        settings: Those of the selection's run, with the control's own seed.
        budget: What the selection's run took.

    Returns:
        Its rows, in the order of the pool and with their provenance, and its settings.
    """
    table = pool.rows.table
    if table is None:
        raise SettingError("a pool of packs cannot be drawn from")
    facts = {"baseline": control, "pool_sha256": pool.rows.sha256, "seed": settings.seed}
    if control == "all":
        epochs = max(1, ceil(budget.run_tokens / int(pool.tokens.sum())))
        settings = replace(settings, epochs=float(epochs), max_tokens=budget.run_tokens)
        chosen = table
    else:
        order = ranking(pool, control, settings.seed)
        order = order[: nearest_prefix(pool.tokens[order], budget.rows_tokens)]
        chosen = table[np.sort(order).tolist()]
    steps = (*pool.rows.steps, step("finetune-baseline", **facts, rows=chosen.height))
    return replace(pool.rows, table=chosen, steps=steps), settings
