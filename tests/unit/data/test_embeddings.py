"""Embeddings from every kind of file, and what is said of those that cannot be used."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pyllm.data.embeddings import read_embeddings
from pyllm.errors import InputError

ROWS, DIM = 40, 6
VECTORS = np.random.default_rng(3).normal(size=(ROWS, DIM)).astype(np.float32)
TABLE = pl.DataFrame({"id": [f"{row:032x}" for row in range(ROWS)]})
ORDER = np.random.default_rng(1).permutation(ROWS).tolist()


def arrays(dtype: type[pl.Float32 | pl.Float64 | pl.Float16] = pl.Float32) -> pl.DataFrame:
    return pl.DataFrame({"vector": pl.Series(VECTORS.tolist(), dtype=pl.Array(dtype, DIM))})


def lists() -> pl.DataFrame:
    return pl.DataFrame({"vector": pl.Series(VECTORS.tolist(), dtype=pl.List(pl.Float32))})


def test_a_matrix_is_mapped_and_not_copied(tmp_path: Path) -> None:
    for dtype in ("f4", "f2"):
        np.save(tmp_path / "e.npy", VECTORS.astype(dtype))
        found = read_embeddings(tmp_path / "e.npy", TABLE)
        assert isinstance(found.vectors.base, np.memmap)
        assert found.vectors.dtype == np.dtype(dtype)
        assert (found.vectors == VECTORS.astype(dtype)).all()
        assert not found.joined
    np.save(tmp_path / "e.npy", np.asfortranarray(VECTORS.astype(">f4")))
    turned = read_embeddings(tmp_path / "e.npy", TABLE).vectors
    assert turned.flags.c_contiguous
    assert turned.dtype == np.float32
    assert turned.tobytes() == VECTORS.tobytes()


@pytest.mark.parametrize(
    ("frame", "joined"),
    [
        (lists(), False),
        (arrays(), False),
        (arrays(pl.Float64), False),
        (pl.concat([TABLE, arrays()], how="horizontal")[ORDER], True),
        (pl.concat([TABLE, lists()], how="horizontal")[ORDER], True),
    ],
)
def test_a_column_of_lists_gives_the_matrix(tmp_path: Path, frame: pl.DataFrame, joined: bool) -> None:
    frame.write_parquet(tmp_path / "e.parquet")
    found = read_embeddings(tmp_path / "e.parquet", TABLE)
    assert found.vectors.tobytes() == VECTORS.tobytes()
    assert found.joined is joined


def test_rows_of_equal_content_share_the_first_embedding_of_their_id(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", "b", "a"], "vector": [[1.0], [2.0], [3.0]]})
    frame.write_parquet(tmp_path / "e.parquet")
    found = read_embeddings(tmp_path / "e.parquet", pl.DataFrame({"id": ["b", "a", "a", "b"]}))
    assert found.vectors.tolist() == [[2.0], [1.0], [1.0], [2.0]]


def _saved(path: Path, content: object) -> Path:
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, pl.DataFrame):
        content.write_parquet(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    return path


BAD = [
    (VECTORS[:-2], "has 38 rows, but the input has 40"),
    (lists()[:-2], "has 38 rows, but the input has 40"),
    (VECTORS.astype("f8"), "is a 2-dimensional array of float64, but a matrix of float32 or float16 is wanted"),
    (VECTORS.ravel(), "is a 1-dimensional array"),
    (np.array([["a"]]), "is a 2-dimensional array of <U1"),
    (b"\x93NUMPY\x01\x00", "is a torn or unusable NumPy file"),
    (b"PAR1 and no more", "is torn or no Parquet"),
    (b"{}", "holds no embeddings: it is neither a NumPy matrix nor Parquet"),
    (None, "cannot read .*: no such file or directory"),
    (TABLE, "has 0 columns of lists of floats, but one is wanted"),
    (lists().with_columns(other=pl.col("vector")), "has 2 columns of lists of floats"),
    (
        pl.concat([TABLE, arrays()], how="horizontal")[:30],
        "none for 10 of the 40 rows of the input; the first is row 30",
    ),
    (pl.DataFrame({"id": range(ROWS)}).hstack(arrays()), "column `id` of .* is Int64, but text is wanted"),
    (pl.DataFrame({"vector": [[1.0], [1.0, 2.0]] * 20}), "row 0: 1 numbers in `vector`, but other rows have 2"),
    (pl.DataFrame({"vector": [[1.0], None] * 20}), "row 1: no numbers in `vector`"),
    (pl.DataFrame({"vector": [[1.0, 2.0], [1.0, None]] * 20}), "row 1: a number in `vector` is missing"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_files_that_cannot_be_used_are_named_with_the_reason(tmp_path: Path, content: object, message: str) -> None:
    saved = _saved(tmp_path / "e.npy", content)
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(saved, TABLE)
    assert str(tmp_path) in caught.value.message
