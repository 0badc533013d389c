"""The rows of a run: read, split, kept in its folder, and made into token ids.

Rows are kept as they were read, so that a run can be verified when its input is gone; packs are made from the kept
rows by the code behind `toolkit pack`. Packs that are given are kept as they are.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.packing import PackSettings, pack_examples
from pyllm.data.packing_inputs import pack_inputs
from pyllm.data.reading import read_examples
from pyllm.data.sealed import file_facts, folder_facts, write_sealed
from pyllm.data.tables import read_table, write_table
from pyllm.data.tokens import TrainingTemplate, TrainingTokenizer
from pyllm.errors import InputError, SettingError
from pyllm.finetune.folder import DATA, MANIFEST
from pyllm.finetune.sequences import Sequences, is_packs, read_packs
from pyllm.lm.tokenizing import chat_tokenizer
from pyllm.progress import Progress, no_progress
from pyllm.provenance import sha256_hex

_log = logging.getLogger(__name__)

TRAIN = "train"
EVAL = "eval"


@dataclass(frozen=True, slots=True)
class Rows:
    """What a run trains on, as it was given.

    Args:
        name: The source as the user named it.
        sha256: Digest of its bytes; of a folder, of the digests of its files in order.
        steps: Its provenance.
        table: Its rows; None when packs were given.
        packs: Files of packed rows; none when rows were given.
    """

    name: str
    sha256: str
    steps: tuple[dict[str, Any], ...]
    table: pl.DataFrame | None = None
    packs: tuple[Path, ...] = ()

    @property
    def content_sha256(self) -> str:
        """Digest of the digests of its packs."""
        return sha256_hex("".join(file_facts(path)["sha256"] for path in self.packs))


def read_rows(
    source: str, *, shape: str = "auto", strict: bool = False, bad_rows_path: Path | None = None, dedup: bool = False
) -> Rows:
    """Read what a run trains on.

    Args:
        source: Any instruction file, `-` for standard input, a folder of shards, or packs: the folder of
            `toolkit pack` or a Parquet file with the same columns.
        shape: Shape of the rows; see `pyllm.data.reading.read_examples`.
        strict: Refuse a file that has a bad row.
        bad_rows_path: Where to collect bad rows.
        dedup: Drop rows whose content stood in an earlier row.

    Raises:
        InputError: It cannot be read.
    """
    path = Path(source)
    if source != "-" and path.is_dir():
        return _read_folder(path)
    if source != "-" and is_packs(path):
        return Rows(source, file_facts(path)["sha256"], _steps_in(path), packs=(path,))
    read = read_examples(source, shape=shape, strict=strict, bad_rows_path=bad_rows_path, dedup=dedup)
    return Rows(source, read.source_sha256, read.provenance, table=read.table)


def _read_folder(folder: Path) -> Rows:
    manifest = _json(folder / MANIFEST)
    if manifest.get("kind") == "pack":
        parts = tuple(folder / part["name"] for part in manifest["parts"])
        for path, part in zip(parts, manifest["parts"], strict=True):
            if file_facts(path)["sha256"] != part["sha256"]:
                raise InputError(f"{path} was changed after it was packed: its SHA-256 is not the recorded one")
        steps = manifest.get("provenance") or []
        digest = sha256_hex("".join(part["sha256"] for part in manifest["parts"]))
        return Rows(str(folder), digest, tuple(steps), packs=parts)
    parts_in = pack_inputs(str(folder))
    tables = [each.table if each.table is not None else read_table(each.path)[0] for each in parts_in]
    steps = parts_in[0].steps if all(each.steps == parts_in[0].steps for each in parts_in) else []
    digest = sha256_hex("".join(each.sha256 for each in parts_in))
    return Rows(str(folder), digest, tuple(steps), table=pl.concat(tables, how="diagonal_relaxed"))


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _steps_in(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        return tuple(json.loads(pl.read_parquet_metadata(path)["pyllm"])["steps"])
    except (ValueError, KeyError, TypeError):
        return ()


def check_packs(rows: Rows, tokenizer: TrainingTokenizer, template: TrainingTemplate | None) -> None:
    """Compare packs with the model that is to be trained on them.

    Args:
        rows: The packs.
        tokenizer: The model's.
        template: What the user asked for, or None.

    Raises:
        SettingError: They were made with another tokenizer or template.
    """
    made = _packing_step(rows)
    if made is None:
        _log.warning("%s does not say which tokenizer made it: its ids are taken as the model's", rows.name)
        return
    if made["tokenizer_sha256"] != tokenizer.sha256:
        raise SettingError(
            f"{rows.name} was packed with another tokenizer than that of `{tokenizer.name}`",
            hint=f"pack it again with --tokenizer {tokenizer.name}",
        )
    if template is not None and template != made["template"]:
        raise SettingError(f"{rows.name} was packed under the template `{made['template']}`, not `{template}`")


def template_of(rows: Rows) -> TrainingTemplate | None:
    """The template that packs were made with; None when they do not say."""
    made = _packing_step(rows)
    return None if made is None else made["template"]


def _packing_step(rows: Rows) -> dict[str, Any] | None:
    return next((step for step in reversed(rows.steps) if step.get("command") == "pack"), None)


def split(table: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Hold out a share of the rows, drawn by a hash of seed and row id: rows of equal content stay together.

    Raises:
        SettingError: Nothing would be left on one side.
    """
    ids = table["id"].unique(maintain_order=True).to_list()
    held_out = max(1, round(share * len(ids)))
    if held_out >= len(ids):
        raise SettingError(f"holding out {share:.0%} of {len(ids)} different rows leaves nothing to train on")
    ranked = sorted(ids, key=lambda row_id: hashlib.sha256(f"{seed}:{row_id}".encode()).digest())
    is_held_out = table["id"].is_in(ranked[:held_out])
    return table.filter(~is_held_out), table.filter(is_held_out)


def without(table: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Rows whose content does not stand in another table."""
    return table.filter(~pl.col("id").is_in(others["id"].implode()))


def store(
    run: Path,
    name: str,
    rows: Rows,
    *,
    tokenizer: TrainingTokenizer,
    template: TrainingTemplate,
    max_length: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Keep rows in the folder of a run, and their token ids beside them.

    Args:
        run: The folder of the run.
        name: `train` or `eval`.
        rows: What to keep.
        tokenizer: Makes the ids.
        template: How an example becomes text.
        max_length: Most tokens of an example.
        progress: Told of rows.

    Returns:
        The manifest of the packs; empty when packs were given.

    Raises:
        InputError: No row can be trained on.
        PrerequisiteError: The folder cannot be written.
    """
    folder = run / DATA
    packs = folder / name
    shutil.rmtree(packs, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    if rows.table is None:
        packs.mkdir()
        for number, path in enumerate(rows.packs):
            shutil.copyfile(path, packs / f"part-{number:05d}.parquet")
        return {}
    write_table(rows.table, folder / f"{name}.parquet", format="parquet", steps=rows.steps)
    chat = chat_tokenizer(tokenizer) if template == "chat" else None
    settings = PackSettings(length=max_length, template=template)
    report = pack_examples(
        [folder / f"{name}.parquet"], packs, tokenizer, settings, chat_tokenizer=chat, progress=progress
    )
    return report.manifest


def seal(run: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of a run's data, which makes it count.

    Raises:
        PrerequisiteError: It cannot be written.
    """
    folder = run / DATA
    write_sealed(folder / MANIFEST, {"files": folder_facts(folder, leave_out=[MANIFEST]), **facts})


def load(run: Path, name: str) -> Sequences | None:
    """The token ids that a run keeps, in the order of its rows; None when it has none of that name."""
    folder = run / DATA
    parts: Sequence[Path] = sorted((folder / name).glob("part-*.parquet"))
    if not parts:
        return None
    return read_packs(parts)


def rows_of(run: Path, name: str) -> pl.DataFrame | None:
    """The rows that a run keeps; None when it was given packs."""
    path = run / DATA / f"{name}.parquet"
    return read_table(path)[0] if path.is_file() else None


def kept_rows(run: Path, name: str) -> Rows | None:
    """What a run keeps under a name, as it was given; None when there is nothing."""
    path = run / DATA / f"{name}.parquet"
    if path.is_file():
        table, steps = read_table(path)
        return Rows(str(path), file_facts(path)["sha256"], steps, table=table)
    parts = tuple(sorted((run / DATA / name).glob("part-*.parquet")))
    return Rows(str(run / DATA / name), "", _steps_in(parts[0]), packs=parts) if parts else None
