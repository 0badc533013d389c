"""Hugging Face tokenizers: Parquet text to Parquet ids in batches of a thousand.

Usage: ids_hf.py TEXT.parquet TOKENIZER.json OUT THREADS
"""

import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _clock import timed
from tokenizers import Tokenizer


def main() -> None:
    """Encode, and time it; the tokenizer is loaded before the clock starts."""
    source, tokenizer_file, out, threads = sys.argv[1:]
    os.environ["RAYON_NUM_THREADS"] = threads
    tokenizer = Tokenizer.from_file(tokenizer_file)

    schema = pa.schema({"id": pa.string(), "input_ids": pa.list_(pa.uint16())})

    def work() -> int:
        tokens = 0
        with pq.ParquetWriter(out, schema, compression="zstd", compression_level=1) as writer:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=1_000):
                texts = batch.column("text").to_pylist()
                encoded = [row.ids for row in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
                ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
                ids = np.concatenate([np.asarray(row, np.uint16) for row in encoded])
                lists = pa.ListArray.from_arrays(pa.array(ends), pa.array(ids))
                writer.write_table(pa.table([batch.column("id").cast(pa.string()), lists], schema=schema))
                tokens += int(ends[-1])
        return tokens

    timed(work, lambda tokens: {"tokens": tokens})


main()
