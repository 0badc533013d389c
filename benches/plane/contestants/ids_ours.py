"""Ours: examples in Parquet to packed rows of ids and labels in Parquet.

Usage: ids_ours.py SHARDS TOKENIZER.json OUT LENGTH THREADS
"""

import sys
from pathlib import Path
from typing import Any

from _clock import timed

from pyllm import _core


def main() -> None:
    """Render, encode, pack and write, and time it; the tokenizer is loaded before, as the peer's is."""
    shards, tokenizer_file, out, length, threads = sys.argv[1:]
    tokenizer = _core.RowTokenizer(Path(tokenizer_file).read_text(encoding="utf-8"))

    Path(out).mkdir(parents=True)

    def work() -> Any:
        packer = _core.Packer(
            Path(out),
            length=int(length),
            window_rows=100_000,
            open_bins=0,
            too_long="error",
            rows_per_shard=16_384,
            compression="zstd:1",
            wide=False,
            provenance="{}",
        )
        for file in sorted(Path(shards).glob("*.parquet")):
            packer.open(file, file.name)
            while packer.step(tokenizer, "nuggets", threads=int(threads)):
                pass
        return packer.finish(threads=int(threads))

    timed(work, lambda summary: {"tokens": summary.tokens})


main()
