"""What is packed: shards and tables of ours as they are, any other instruction file by way of its reader."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pyllm.data.examples import CANONICAL_COLUMNS, CANONICAL_SCHEMA
from pyllm.data.packing_folder import MANIFEST, SPOOLED
from pyllm.data.reading import read_examples
from pyllm.errors import InputError, PrerequisiteError, reason_of

_ROW_GROUP_ROWS = 16_384


@dataclass(slots=True)
class PackInput:
    """A table in the canonical schema.

    Args:
        name: Name of its file, without the folder; `-` for standard input.
        path: Where it is.
        rows: How many it has.
        sha256: Digest of the file's bytes.
        steps: Its provenance.
        bad_rows: Rows that were left out when it was read.
        table: Its rows, if the file itself is not such a table.
    """

    name: str
    path: Path
    rows: int
    sha256: str
    steps: list[dict[str, Any]]
    bad_rows: int = 0
    table: pl.DataFrame | None = None


def pack_inputs(source: str) -> list[PackInput]:
    """The tables of a source: the shards of a folder, in the order of its manifest or of their names, or one file.

    Raises:
        InputError: It cannot be read, or the folder has no Parquet files.
    """
    path = Path(source)
    if source == "-" or not path.is_dir():
        return [_input(source)]
    parts = sorted(each for each in path.glob("*.parquet") if not each.name.startswith("."))
    manifest = path / MANIFEST
    if manifest.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            parts = [path / part["name"] for part in json.loads(manifest.read_bytes())["parts"]]
    if not parts:
        raise InputError(f"{source} holds no Parquet files", hint="give a folder that `toolkit shard` wrote, or files")
    return [_input(str(each)) for each in parts]


def _input(source: str) -> PackInput:
    path = Path(source)
    steps = None if source == "-" else _own_steps(path)
    if steps is None:
        read = read_examples(source)
        name = "-" if source == "-" else path.name
        table = read.table.select(CANONICAL_COLUMNS)
        bad = len(read.bad_rows)
        return PackInput(name, path, table.height, read.source_sha256, list(read.provenance), bad, table)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rows = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
    return PackInput(path.name, path, int(rows), digest, steps)


def _own_steps(path: Path) -> list[dict[str, Any]] | None:
    """Provenance of a Parquet file that we wrote in the canonical schema; None for any other file."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                return None
        schema = pl.scan_parquet(path, glob=False).collect_schema()
        steps = json.loads(pl.read_parquet_metadata(path)["pyllm"])["steps"]
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        return None
    fits = all(schema.get(name) == dtype for name, dtype in CANONICAL_SCHEMA.items())
    return list(steps) if fits and isinstance(steps, list) else None


@contextlib.contextmanager
def readable(each: PackInput, folder: Path) -> Iterator[Path]:
    """The input as a Parquet file: one that is none of ours is spooled beside the output."""
    if each.table is None:
        yield each.path
        return
    path = folder / SPOOLED
    try:
        try:
            each.table.write_parquet(path, compression="lz4", row_group_size=_ROW_GROUP_ROWS)
        except OSError as error:
            raise PrerequisiteError(f"cannot write {path}: {reason_of(error)}") from error
        yield path
    finally:
        path.unlink(missing_ok=True)
