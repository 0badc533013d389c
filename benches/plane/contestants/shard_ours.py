"""Ours: JSON lines to Parquet shards, start-up left out.

Usage: shard_ours.py IN OUT COMPRESSION THREADS ROWS_PER_SHARD
"""

import sys

from _clock import timed

from pyllm.data.sharding import shard_files


def main() -> None:
    """Convert, and time it."""
    source, out, compression, threads, rows = sys.argv[1:]
    timed(lambda: shard_files([source], out, compression=compression, threads=int(threads), rows_per_shard=int(rows)))


main()
