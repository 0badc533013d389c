"""`pyllm.score.aggregate` equals numpy on every layout, whoever wrote the file."""

import io
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyllm.data.top import Top
from pyllm.score.aggregate import ZeroShot, aggregate, write_matrix
from pyllm.select import Rules, select_rows
from tests.support import oracles

_NATS = st.one_of(
    st.sampled_from([-1.0, -0.5, -0.1, 0.0, float("nan"), float("-inf")]),
    st.floats(min_value=-1e6, max_value=0.0, width=32),
)
_DTYPES = st.sampled_from([np.float32, np.float64])


@st.composite
def _matrices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rows, anchors = draw(st.integers(0, 12)), draw(st.integers(1, 19))
    one_shot = draw(hnp.arrays(draw(_DTYPES), (rows, anchors), elements=_NATS))
    zero_shot = draw(hnp.arrays(draw(_DTYPES), anchors, elements=_NATS))
    return one_shot, zero_shot


def ids_of(rows: int) -> list[str]:
    """Names that are not in rising order."""
    return [f"row-{row * 7 % 10}-{row}" for row in range(rows)]


def lists(one_shot: np.ndarray, left_out: np.ndarray | None, kind: str) -> pa.Array:
    values = pa.array(one_shot.reshape(-1), mask=None if left_out is None else left_out.reshape(-1), from_pandas=False)
    anchors = one_shot.shape[1]
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, anchors)
    offsets = np.arange(0, one_shot.size + 1, anchors)
    large = kind == "large"
    return (pa.LargeListArray if large else pa.ListArray).from_arrays(
        pa.array(offsets, pa.int64() if large else pa.int32()), values
    )


def pairs(one_shot: np.ndarray, ids: list[str], order: np.ndarray | None = None, *, text: bool = True) -> pa.Table:
    rows, anchors = one_shot.shape
    candidate, anchor = np.repeat(np.arange(rows), anchors), np.tile(np.arange(anchors), rows)
    at = np.arange(one_shot.size) if order is None else order
    return pa.table(
        {
            "anchor": pa.array(anchor[at].astype(np.int16)),
            "candidate": pa.array([ids[row] for row in candidate[at]], pa.string())
            if text
            else pa.array(candidate[at]),
            "logprob": pa.array(one_shot.reshape(-1)[at], from_pandas=False),
        }
    )


def arrow_file(table: pa.Table, path: Path, *, stream: bool = False, codec: str | None = None, rows: int = 5) -> None:
    options = pa.ipc.IpcWriteOptions(compression=codec)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


def scored(path: Path | list[Path], zero_shot: np.ndarray, folder: Path, **settings: object) -> pl.DataFrame:
    inputs = path if isinstance(path, list) else [path]
    out = folder / "out.parquet"
    sums = ZeroShot(zero_shot.astype(np.float64), settings.pop("anchors", None))  # type: ignore[arg-type]
    aggregate(inputs, sums, out, **settings)  # type: ignore[arg-type]
    return pl.read_parquet(out)


def check(table: pl.DataFrame, one_shot: np.ndarray, zero_shot: np.ndarray, left_out: np.ndarray | None = None) -> None:
    wins, tried, mean, _ = oracles.golden_scores(one_shot, zero_shot, left_out)
    assert table["wins"].to_list() == wins
    if left_out is None:
        assert table["wins"].to_list() == np.count_nonzero(one_shot > zero_shot, axis=1).tolist()
    assert table["anchors_scored"].to_list() == tried
    golden = [won / of if of else None for won, of in zip(wins, tried, strict=True)]
    assert table["golden_score"].to_list() == golden
    assert table["mean_gain_nats"].to_list() == [None if math.isnan(each) else each for each in mean]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("aggregate")


@given(matrix=_matrices(), data=st.data())
def test_every_layout_equals_numpy(folder: Path, matrix: tuple[np.ndarray, np.ndarray], data: st.DataObject) -> None:
    one_shot, zero_shot = matrix
    rows = len(one_shot)
    ids = ids_of(rows)
    threads = data.draw(st.integers(1, 2))
    # NumPy arrays.
    np.save(folder / "matrix.npy", one_shot)
    table = scored(folder / "matrix.npy", zero_shot, folder, threads=threads)
    assert table["id"].to_list() == list(range(rows))
    check(table, one_shot, zero_shot)
    # Our own file, with pairs left out.
    left_out = data.draw(st.none() | hnp.arrays(np.bool_, one_shot.shape))
    write_matrix(folder / "own.arrow", ids, one_shot, range(one_shot.shape[1]), left_out=left_out)
    table = scored(folder / "own.arrow", zero_shot, folder, threads=threads)
    assert table["id"].to_list() == ids
    check(table, one_shot, zero_shot, left_out)
    # Lists of others.
    kind = data.draw(st.sampled_from(["list", "large", "fixed"]))
    listed = pa.table({"id": pa.array(ids, pa.string()), "x": lists(one_shot, left_out, kind)})
    codec = data.draw(st.sampled_from([None, "lz4", "zstd"]))
    arrow_file(listed, folder / "lists.arrow", codec=codec, stream=data.draw(st.booleans()))
    check(scored(folder / "lists.arrow", zero_shot, folder), one_shot, zero_shot, left_out)
    pq.write_table(listed, folder / "lists.parquet", row_group_size=max(1, data.draw(st.integers(1, 12))))
    table = scored(folder / "lists.parquet", zero_shot, folder, threads=threads)
    assert table["id"].to_list() == ids
    check(table, one_shot, zero_shot, left_out)


@given(matrix=_matrices(), data=st.data())
def test_pairs_in_any_order_equal_numpy(
    folder: Path, matrix: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    one_shot, zero_shot = matrix
    rows = len(one_shot)
    ids = ids_of(rows)
    text = data.draw(st.booleans())
    path = folder / "pairs.parquet"
    pq.write_table(pairs(one_shot, ids, text=text), path, row_group_size=data.draw(st.integers(1, 40)))
    table = scored(path, zero_shot, folder, threads=data.draw(st.integers(1, 2)))
    assert table["id"].to_list() == (ids if text else list(range(rows)))
    check(table, one_shot, zero_shot)
    order = np.array(data.draw(st.permutations(range(one_shot.size))), dtype=np.int64)
    mixed = pairs(one_shot, ids, order, text=text)
    arrow_file(mixed, folder / "pairs.arrow", rows=7)
    table = scored(folder / "pairs.arrow", zero_shot, folder)
    first = list(dict.fromkeys((order // one_shot.shape[1]).tolist()))
    assert table["id"].to_list() == [ids[row] if text else row for row in first]
    wins, _, mean, _ = oracles.golden_scores(one_shot[first], zero_shot, None)
    assert table["wins"].to_list() == wins
    # Scattered pairs are added up in the order of the file.
    found = [math.nan if each is None else each for each in table["mean_gain_nats"].to_list()]
    np.testing.assert_allclose(found, mean, rtol=1e-9, atol=1e-9)


@given(matrix=_matrices(), cut=st.integers(0, 12), rows=st.integers(1, 12), percent=st.integers(1, 100))
def test_the_best_rows_are_those_of_select(
    folder: Path, matrix: tuple[np.ndarray, np.ndarray], cut: int, rows: int, percent: int
) -> None:
    one_shot, zero_shot = matrix
    ids = [f"{row % 3}" for row in range(len(one_shot))]
    parts = [folder / "first.arrow", folder / "second.arrow"]
    for part, span in zip(parts, (slice(None, cut), slice(cut, None)), strict=True):
        write_matrix(part, ids[span], one_shot[span], range(len(zero_shot)))
    whole = scored(parts, zero_shot, folder)
    check(whole, one_shot, zero_shot)
    for rule in (Top(rows=rows), Top(percent=Fraction(percent))):
        wanted = whole[select_rows(whole, Rules(top=rule)).rows]
        found = scored(parts, zero_shot, folder, top=rule)
        # Rows that are equal in everything can stand for each other.
        assert found.equals(wanted), (found, wanted)
    above = scored(parts, zero_shot, folder, threshold=percent / 100)
    assert above.equals(whole[select_rows(whole, Rules(threshold=percent / 100)).rows])


def test_threads_change_no_byte_and_batches_no_score(folder: Path) -> None:
    generator = np.random.default_rng(11)
    one_shot = -generator.random((30_000, 33)).astype(np.float32)
    zero_shot = -generator.random(33).astype(np.float32)
    np.save(folder / "big.npy", one_shot)
    listed = pa.table({"x": lists(one_shot, None, "list")})
    pq.write_table(listed, folder / "big.parquet", row_group_size=4_000)
    pq.write_table(pairs(one_shot, [], text=False), folder / "long.parquet", row_group_size=70_001)
    shuffled = generator.permutation(one_shot.size)
    pq.write_table(pairs(one_shot, [], shuffled, text=False), folder / "mixed.parquet", row_group_size=70_001)
    seen: dict[str, set[bytes]] = {}
    for name in ("big.npy", "big.parquet", "long.parquet", "mixed.parquet"):
        for threads in (1, 2, 3):
            table = scored(folder / name, zero_shot, folder, threads=threads)
            seen.setdefault(name, set()).add((folder / "out.parquet").read_bytes())
            if name != "mixed.parquet":
                np.testing.assert_array_equal(table["wins"], (one_shot > zero_shot).sum(axis=1))
    assert [len(bytes_seen) for bytes_seen in seen.values()] == [1, 1, 1, 1]
    tables = [pl.read_parquet(next(iter(seen[name]))) for name in ("big.npy", "big.parquet", "long.parquet")]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_a_matrix_is_compared_by_the_names_of_its_anchors(folder: Path) -> None:
    one_shot = np.array([[-1.0, -2.0, -3.0], [-3.0, -2.0, -1.0]])
    write_matrix(folder / "named.arrow", ["a", "b"], one_shot, ["x", "y", "z"])
    table = scored(folder / "named.arrow", np.array([-2.5, -9.0, -0.5]), folder, anchors=("z", "x", "y"))
    # x against -9.0, y against -0.5, z against -2.5.
    assert table["wins"].to_list() == [1, 2]
    assert pa.ipc.open_file(io.BytesIO((folder / "named.arrow").read_bytes())).read_all()["logprob"].to_pylist() == [
        [-1.0, -2.0, -3.0],
        [-3.0, -2.0, -1.0],
    ]
