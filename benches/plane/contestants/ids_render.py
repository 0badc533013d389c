"""The texts that `toolkit pack --template nuggets` tokenizes, by pyllm's Python renderer.

Usage: ids_render.py SHARDS OUT.parquet
"""

import sys

import polars as pl

from pyllm.data.examples import examples_from_table
from pyllm.data.prompts import render_nuggets


def main() -> None:
    """Write a table of id and text."""
    shards, out = sys.argv[1:]
    table = pl.read_parquet(f"{shards}/*.parquet")
    texts = [render_nuggets(example).text for example in examples_from_table(table)]
    pl.DataFrame({"id": table["id"], "text": texts}).write_parquet(out, compression="zstd", compression_level=1)


main()
