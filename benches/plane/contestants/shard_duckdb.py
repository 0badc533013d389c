"""duckdb: JSON lines to Parquet files of about 16 MB.

Usage: shard_duckdb.py IN OUT COMPRESSION[:LEVEL] THREADS
"""

import sys
from pathlib import Path

import duckdb
from _clock import timed


def main() -> None:
    """Convert, and time it."""
    source, out, compression, threads = sys.argv[1:]
    codec, _, level = compression.partition(":")
    level_option = f", COMPRESSION_LEVEL {level}" if level else ""
    Path(out).mkdir(parents=True)

    def work() -> None:
        duckdb.execute(f"SET threads = {int(threads)}")
        duckdb.execute(
            f"COPY (SELECT * FROM read_json('{source}', format = 'newline_delimited')) TO '{out}'"
            f" (FORMAT parquet, COMPRESSION {codec}{level_option}, FILE_SIZE_BYTES '16MB', OVERWRITE_OR_IGNORE)"
        )

    timed(work)


main()
