"""Hugging Face datasets: JSON lines to 16 Parquet shards, snappy.

Usage: shard_datasets.py IN OUT
"""

import sys
from pathlib import Path

import datasets
from _clock import timed


def main() -> None:
    """Convert, and time it; the Arrow cache of datasets goes beside the shards."""
    source, out = sys.argv[1:]
    Path(out).mkdir(parents=True)
    datasets.disable_progress_bars()

    def work() -> None:
        rows = datasets.load_dataset("json", data_files=source, split="train", cache_dir=f"{out}/cache")
        shards = min(16, len(rows))
        for index in range(shards):
            rows.shard(shards, index, contiguous=True).to_parquet(f"{out}/part-{index:05}.parquet")

    timed(work)


main()
