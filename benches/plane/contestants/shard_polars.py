"""polars: JSON lines to 16 Parquet files or so.

Usage: shard_polars.py IN OUT COMPRESSION[:LEVEL] ROWS_PER_FILE
"""

import sys
from pathlib import Path

import polars as pl
from _clock import timed


def main() -> None:
    """Convert, and time it."""
    source, out, compression, rows = sys.argv[1:]
    codec, _, level = compression.partition(":")
    Path(out).mkdir(parents=True)

    def work() -> None:
        pl.scan_ndjson(source).sink_parquet(
            pl.PartitionBy(out, max_rows_per_file=int(rows)),
            compression=codec,
            compression_level=int(level) if level else None,
        )

    timed(work)


main()
