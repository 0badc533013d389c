"""Rows and an order-free digest of instruction, input and output.

Usage: shard_check.py SOURCE.jsonl DIR...
"""

import json
import sys

import polars as pl


def counted(rows: pl.LazyFrame) -> list[int]:
    """How many rows, and the sum of their digests."""
    text = pl.concat_str("instruction", pl.lit("\0"), pl.col("input").fill_null(""), pl.lit("\0"), "output")
    return list(rows.select(rows=pl.len(), digest=text.hash().sum()).collect(engine="streaming").row(0))


def main() -> None:
    """Print one line of JSON: what the source and what every folder holds."""
    source, *folders = sys.argv[1:]
    found = {"source": counted(pl.scan_ndjson(source))}
    found |= {folder: counted(pl.scan_parquet(f"{folder}/*.parquet")) for folder in folders}
    sys.stdout.write(json.dumps({"found": found}) + "\n")


main()
