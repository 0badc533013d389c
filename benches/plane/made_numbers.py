"""Embeddings with a steep and with a flat spectrum, log-probs in the layouts that others write, and lengths to pack.

Rows are drawn in chunks of fixed size from one stream of random numbers, so a smaller file is the beginning of a
larger one.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from made_rows import SEED

DIM = 384
ANCHORS = 100
LONGEST = 2048

_CHUNK_ROWS = 20_000
_MATRIX_BATCH_ROWS = 2_500
_TOPICS, _SUPER_TOPICS, _INNER_DIM = 500, 25, 48

Floats = npt.NDArray[np.float32]


def write_embeddings(path: Path, rows: int) -> None:
    """Unit rows around 500 topics in 25 groups; 64 of the 384 directions hold about 86 % of the variance."""
    rng = np.random.default_rng(SEED + 1)
    groups = rng.standard_normal((_SUPER_TOPICS, DIM), np.float32)
    topics = rng.standard_normal((_TOPICS, DIM), np.float32)
    centres = 0.9 * np.repeat(groups, _TOPICS // _SUPER_TOPICS, axis=0) + 0.7 * topics
    shares = np.cumsum((np.arange(_TOPICS) + 5.0) ** -0.8)
    shares /= shares[-1]
    rng.shuffle(centres)
    basis = rng.standard_normal((_INNER_DIM, DIM), np.float32)
    basis /= np.sqrt(np.arange(1, _INNER_DIM + 1, dtype=np.float32))[:, None]
    out = np.lib.format.open_memmap(path, "w+", np.float32, (rows, DIM))
    for start in range(0, rows, _CHUNK_ROWS):
        topic = np.searchsorted(shares, rng.random(_CHUNK_ROWS)).clip(max=_TOPICS - 1)
        inner = rng.standard_normal((_CHUNK_ROWS, _INNER_DIM), np.float32)
        x = centres[topic] + 0.9 * inner @ basis
        x += 0.5 * rng.standard_normal((_CHUNK_ROWS, DIM), np.float32)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        out[start : start + _CHUNK_ROWS] = x[: rows - start]
    out.flush()


def write_flat_embeddings(path: Path, rows_file: Path, rows: int) -> None:
    """TF-IDF of the instructions cut down to 384 directions: a spectrum without a knee, hard to prune by."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    with rows_file.open(encoding="utf-8") as file:
        texts = [json.loads(line)["instruction"] for _, line in zip(range(rows), file, strict=False)]
    counts = TfidfVectorizer(min_df=min(2, rows), sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    dim = min(DIM, *(side - 1 for side in counts.shape))
    reduced = TruncatedSVD(dim, random_state=SEED % 2**32, n_iter=2).fit_transform(counts)
    reduced = np.pad(reduced, ((0, 0), (0, DIM - dim))).astype(np.float32)
    # A row of rare words only is zero, which no unit vector is: it becomes the first direction.
    reduced[~reduced.any(axis=1), 0] = 1
    np.save(path, reduced / np.linalg.norm(reduced, axis=1, keepdims=True))


def write_lengths(path: Path, rows: int) -> None:
    """Token counts of examples: log-normal, 179.53 tokens on average, 2,048 at most."""
    rng = np.random.default_rng(SEED + 3)
    drawn = np.rint(rng.lognormal(np.log(180) - 0.405, 0.9, rows)).clip(1, LONGEST)
    np.save(path, drawn.astype(np.uint32))


def _log_probs(rows: int) -> tuple[Floats, Iterator[Floats]]:
    """The zero-shot vector, and the matrix in blocks of rows."""
    rng = np.random.default_rng(SEED + 2)
    zero_shot = rng.normal(-1.5, 0.6, ANCHORS).clip(max=-0.05).astype(np.float32)

    def blocks() -> Iterator[Floats]:
        for start in range(0, rows, _CHUNK_ROWS):
            quality = rng.normal(-0.03, 0.18, _CHUNK_ROWS).astype(np.float32)
            noise = rng.standard_normal((_CHUNK_ROWS, ANCHORS), np.float32) * np.float32(0.25)
            block = np.minimum(zero_shot + quality[:, None] + noise, np.float32(-1e-4))
            yield block[: rows - start]

    return zero_shot, blocks()


def write_log_probs(folder: Path, rows: int) -> None:
    """One matrix as .npy, as our matrix file, as long Parquet and as Parquet of lists; and the zero-shot vector."""
    zero_shot, blocks = _log_probs(rows)
    anchors = np.arange(ANCHORS)
    np.save(folder / "zero_shot.npy", zero_shot)
    pq.write_table(pa.table({"anchor": anchors, "logprob": zero_shot}), folder / "zero_shot.parquet")
    # As docs/formats.md describes our matrix file.
    facts = {"format": "pyllm.logprobs/1", "anchors": [str(anchor) for anchor in anchors], "steps": []}
    matrix_schema = pa.schema(
        {"id": pa.string(), "logprob": pa.list_(pa.field("item", pa.float32(), nullable=False), ANCHORS)},
        metadata={"pyllm": json.dumps(facts, sort_keys=True, separators=(",", ":"))},
    )
    long_schema = pa.schema({"candidate": pa.int64(), "anchor": pa.int64(), "logprob": pa.float32()})
    list_schema = pa.schema({"candidate": pa.int64(), "logprob": pa.list_(pa.float32(), ANCHORS)})
    npy = np.lib.format.open_memmap(folder / "logprob.npy", "w+", np.float32, (rows, ANCHORS))
    settings = {"compression": "zstd", "compression_level": 1}
    with (
        pa.ipc.new_file(folder / "logprob.arrow", matrix_schema) as matrix,
        pq.ParquetWriter(
            folder / "logprob_long.parquet", long_schema, use_dictionary=["candidate", "anchor"], **settings
        ) as long,
        pq.ParquetWriter(
            folder / "logprob_list.parquet", list_schema, use_dictionary=["candidate"], **settings
        ) as lists,
    ):
        start = 0
        for block in blocks:
            candidates = np.arange(start, start + len(block))
            npy[start : start + len(block)] = block
            start += len(block)
            values = pa.array(block.reshape(-1))
            rows_of = pa.FixedSizeListArray.from_arrays(values, ANCHORS)
            ids = pa.array([str(candidate) for candidate in candidates])
            rows_table = pa.table([ids, rows_of.cast(matrix_schema.field(1).type)], schema=matrix_schema)
            matrix.write_table(rows_table, max_chunksize=_MATRIX_BATCH_ROWS)
            lists.write_table(pa.table([pa.array(candidates), rows_of], schema=list_schema))
            pairs = [np.repeat(candidates, ANCHORS), np.tile(anchors, len(block)), values]
            long.write_table(pa.table(pairs, schema=long_schema), row_group_size=1_000_000)
    npy.flush()
