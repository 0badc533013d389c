"""`toolkit shard`: instruction files of any size to canonical Parquet shards."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyllm.cli import _pipes
from pyllm.cli._console import QuietOption, VerboseOption, open_console
from pyllm.errors import SettingError

if TYPE_CHECKING:
    from pyllm.data.sharding import ShardReport

EXAMPLES = """\b
Examples:
  toolkit shard train.jsonl --out shards
  toolkit shard data/*.jsonl.gz --out shards --shards 16 --dedup exact --bad-rows bad.jsonl
  toolkit shard 'data/**/*.parquet' --out shards --rows-per-shard 50000 --compression zstd:3
  zcat rows.jsonl.gz | toolkit shard - --out shards --strict
  toolkit shard train.json --out shards && toolkit score shards/part-00000.parquet --model nano --out scores.parquet
"""


class Dedup(StrEnum):
    """Which rows count as equal."""

    EXACT = "exact"


def shard(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Files, quoted patterns or folders, in the order of their rows; `-` is stdin, the default in a pipe.",
            show_default=False,
        ),
    ] = None,
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder that gets the shards.", show_default=False)],
    rows_per_shard: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rows in every shard but the last. Default: 100000, some 20 MB: small enough to copy and to redo,"
            " large enough to read at full speed.",
            show_default=False,
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Number of shards; sizes differ by one row at most. With fewer rows, one shard a row.",
            show_default=False,
        ),
    ] = None,
    compression: Annotated[
        _pipes.Compression, typer.Option(help="zstd:3 is a tenth smaller and takes twice the time.")
    ] = (_pipes.Compression.ZSTD_1),
    threads: Annotated[
        int, typer.Option(metavar="N", min=0, help="Threads, 0 for all cores; the shards do not depend on it.")
    ] = 0,
    dedup: Annotated[
        Dedup | None,
        typer.Option(help="Drop rows whose content stood in an earlier row; the first stays.", show_default=False),
    ] = None,
    shape: _pipes.ShapeOption = _pipes.Shape.AUTO,
    bad_rows: _pipes.BadRowsOption = None,
    strict: _pipes.StrictOption = False,
    report: _pipes.ReportOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Turn instruction files into Parquet shards.

    Reads JSON, JSON lines, CSV, Parquet and Arrow, plain or packed with gzip or zstd, in bounded memory, and writes
    part-00000.parquet, ... in the schema of examples and, last, manifest.json: what each shard holds and where it
    came from. The same inputs and settings give the same bytes. Run the same command again after an interruption and
    it goes on.
    """
    console = open_console(quiet=quiet, verbose=verbose)
    if rows_per_shard is not None and shards is not None:
        raise SettingError("`--rows-per-shard` and `--shards` contradict each other", hint="give one of them")
    origins = [_pipes.input_argument(source) for source in sources] if sources else [_pipes.input_argument(None)]
    named = {f"the input {origin}": origin for origin in origins}
    _pipes.ensure_distinct({"--report": report, "--bad-rows": bad_rows}, named)
    _pipes.ensure_writable(report, "--report")
    _pipes.ensure_writable(bad_rows, "--bad-rows")

    # Blocks follow each other in milliseconds: the allocator of the Rust module is to keep their memory that long.
    os.environ.setdefault("MIMALLOC_PURGE_DELAY", "1000")

    from pyllm.data.sharding import shard_files

    try:
        done = shard_files(
            origins,
            out,
            rows_per_shard=rows_per_shard,
            shards=shards,
            compression=compression.value,
            threads=threads,
            dedup=dedup is Dedup.EXACT,
            shape=shape.value,
            strict=strict,
            bad_rows_path=bad_rows,
        )
    except KeyboardInterrupt as interrupt:
        how = f"run the same command again to go on; finished shards are kept in {out}"
        raise KeyboardInterrupt(how) from interrupt
    console.say(describe(done))
    _pipes.write_report(report, done.as_dict())


def describe(done: "ShardReport") -> str:
    """The report of a run as lines for people."""
    counts = ", ".join(f"{name} {count:,}" for name, count in done.shapes.items())
    left_out = [f"{done.bad_rows:,} bad"] if done.bad_rows else []
    if done.duplicate_rows is not None:
        left_out.append(f"{done.duplicate_rows:,} duplicate")
    rest = f"; left out: {', '.join(left_out)}" if left_out else ""
    lines = [f"{done.rows:,} of {done.rows_read:,} rows ({counts}){rest}"]
    if done.finished_before:
        lines.append(f"  {done.folder} holds this very work already: nothing was written")
        return "\n".join(lines)
    resumed = f", {done.resumed_parts:,} of them from before" if done.resumed_parts else ""
    sizes = sorted({part.rows for part in done.parts})
    each = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    lines.append(f"  shards   {len(done.parts):,} in {done.folder}, {each} rows each{resumed}")
    lines.append(f"  bytes    {_size(done.bytes_read)} -> {_size(done.bytes_written)}")
    lines.append(f"  time     {done.seconds:.1f} s, {_pace(done)}")
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _pace(done: "ShardReport") -> str:
    return f"{done.rows_read / max(done.seconds, 1e-3):,.0f} rows/s"
