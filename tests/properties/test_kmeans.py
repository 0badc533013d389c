"""`pyllm._core.kmeans` equals its slow, obvious twins, whatever the threads."""

import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyllm import _core
from pyllm.errors import InputError, SettingError
from tests.support import oracles

_COARSE = st.sampled_from([np.float32(value) for value in (-1.0, 0.0, 1.0)])
_FINE = st.floats(-1e6, 1e6, width=32)
_SIZES = st.tuples(st.integers(1, 25), st.integers(1, 11))


@st.composite
def _problem(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Rows on a coarse grid, where ties and duplicates are common, or anywhere."""
    data = draw(hnp.arrays(np.float32, draw(_SIZES), elements=draw(st.sampled_from([_COARSE, _FINE]))))
    return data, draw(st.integers(1, len(data)))


def _bytes(result: _core.KMeansResult) -> tuple[bytes, ...]:
    arrays = (
        result.centroids,
        result.labels,
        result.squared_distances,
        result.cluster_sizes,
        result.nearest_rows,
        result.nearest_distances,
        np.array([result.inertia, result.iterations]),
    )
    return tuple(array.tobytes() for array in arrays)


@given(_problem(), st.integers(0, 2**64 - 1), st.integers(0, 5), st.integers(0, 25))
def test_labels_and_nearest_rows_equal_the_oracles(
    problem: tuple[np.ndarray, int], seed: int, max_iterations: int, sample_rows: int
) -> None:
    data, k = problem
    result = _core.kmeans(data, k, seed=seed, max_iterations=max_iterations, sample_rows=sample_rows, threads=1)
    assert result.centroids.shape == (k, data.shape[1])
    measured = [[oracles.squared_distance(row, centroid) for centroid in result.centroids] for row in data]
    for row, label in enumerate(result.labels.tolist()):
        # The oracle rounds once and the kernel at every sum: only distances that close may be told apart otherwise.
        assert measured[row][label] <= min(measured[row]) * (1 + 1e-14)
    labels, squared = oracles.nearest_centroids(data, result.centroids)
    if np.isin(data, (-1, 0, 1)).all() and result.iterations == 0:
        # Here every sum is exact, so ties are ties for both, and the lowest index has them.
        assert result.labels.tolist() == labels
        rows, distances = oracles.nearest_distinct_rows(data, result.centroids)
        assert result.nearest_rows.tolist() == rows
        assert result.nearest_distances.tolist() == distances
    assert result.cluster_sizes.tolist() == np.bincount(result.labels, minlength=k).tolist()
    assert result.inertia == pytest.approx(sum(squared), rel=1e-12)
    assert len(set(result.nearest_rows.tolist())) == k


@given(_problem(), st.integers(0, 9))
def test_nearest_rows_are_real_distinct_and_nearest(problem: tuple[np.ndarray, int], seed: int) -> None:
    data, k = problem
    result = _core.kmeans(data, k, seed=seed, threads=1)
    taken: set[int] = set()
    for centroid, row, distance in zip(
        result.centroids, result.nearest_rows.tolist(), result.nearest_distances.tolist(), strict=True
    ):
        squared = {at: oracles.squared_distance(data[at], centroid) for at in range(len(data)) if at not in taken}
        assert squared[row] <= min(squared.values()) * (1 + 1e-14)
        assert distance == pytest.approx(squared[row] ** 0.5, rel=1e-12)
        taken.add(row)


@given(_problem(), st.integers(0, 9))
def test_one_and_two_threads_give_the_same_bytes(problem: tuple[np.ndarray, int], seed: int) -> None:
    data, k = problem
    one, two = (_core.kmeans(data, k, seed=seed, threads=threads) for threads in (1, 2))
    assert _bytes(one) == _bytes(two)


def test_threads_change_no_byte_where_there_are_many_blocks() -> None:
    data = np.random.default_rng(5).normal(size=(3_000, 70)).astype(np.float32)
    one, two, cores = (_core.kmeans(data, 40, seed=8, sample_rows=700, threads=threads) for threads in (1, 2, 0))
    assert one.iterations > 0
    assert _bytes(one) == _bytes(two) == _bytes(cores)


def test_far_from_the_origin_labels_are_still_exact() -> None:
    # In float32 the dot products here are off by more than the distances: only the direct distance can tell.
    data = (10_000 + np.random.default_rng(2).normal(size=(300, 16))).astype(np.float32)
    result = _core.kmeans(data, 12, seed=0)
    labels, squared = oracles.nearest_centroids(data, result.centroids)
    assert result.labels.tolist() == labels
    assert result.inertia == pytest.approx(sum(squared), rel=1e-12)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_as_many_clusters_as_distinct_rows_leave_nothing_over(distinct: int, copies: int, seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(np.repeat(np.arange(distinct, dtype=np.float32), copies))
    data = np.ascontiguousarray(np.stack([rows, -rows], axis=1))
    result = _core.kmeans(data, distinct, seed=seed, sample_rows=1)
    assert result.inertia == 0.0
    assert result.cluster_sizes.tolist() == [copies] * distinct
    assert {tuple(row) for row in data[result.nearest_rows.astype(int)].tolist()} == {
        tuple(row) for row in data.tolist()
    }
    # More clusters than distinct rows: some stay empty, and every anchor is still a row of its own.
    every = _core.kmeans(data, len(data), seed=seed)
    assert sorted(every.nearest_rows.tolist()) == list(range(len(data)))
    assert (every.cluster_sizes > 0).sum() == distinct


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(bad: float) -> None:
    data = np.zeros((50, 4), dtype=np.float32)
    data[17, 2] = data[30, 0] = bad
    with pytest.raises(InputError, match=r"row 17 is not finite: column 2 is (NaN|-?inf)") as caught:
        _core.kmeans(data, 3, seed=0)
    assert caught.value.exit_code == 3


def test_settings_that_do_not_fit_the_rows_are_named() -> None:
    data = np.zeros((3, 2), dtype=np.float32)
    with pytest.raises(SettingError, match=r"`k` is 0, but at least one cluster is wanted"):
        _core.kmeans(data, 0, seed=0)
    with pytest.raises(SettingError, match=r"`k` is 4, but there are only 3 rows"):
        _core.kmeans(data, 4, seed=0)
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(SettingError, match=r"`tolerance` is (-1|NaN), but"):
            _core.kmeans(data, 1, seed=0, tolerance=tolerance)


def test_rows_without_columns_or_in_another_order_are_refused() -> None:
    with pytest.raises(InputError, match=r"the rows have no columns"):
        _core.kmeans(np.zeros((3, 0), dtype=np.float32), 1, seed=0)
    for data in (np.zeros((4, 3), dtype=np.float32, order="F"), np.zeros((8, 3), dtype=np.float32)[::2]):
        with pytest.raises(InputError, match=r"array `data` is not C-contiguous"):
            _core.kmeans(data, 1, seed=0)
    for data, found in ((np.zeros((4, 3)), "2-dimensional float64"), (np.zeros(4, dtype=np.float32), "1-dimensional")):
        with pytest.raises(InputError, match=rf"array `data` is {found}.*, but 2-dimensional float32 or float16"):
            _core.kmeans(data, 1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"array `data` is list, but"):
        _core.kmeans([[1.0]], 1, seed=0)  # type: ignore[arg-type]


@given(_problem(), st.integers(0, 9))
def test_half_precision_gives_what_the_same_numbers_give_in_single(problem: tuple[np.ndarray, int], seed: int) -> None:
    data, k = problem
    half = np.clip(data, -6e4, 6e4).astype(np.float16)
    assert _bytes(_core.kmeans(half, k, seed=seed)) == _bytes(_core.kmeans(half.astype(np.float32), k, seed=seed))


@given(_problem(), st.integers(0, 9))
def test_chosen_rows_give_what_a_matrix_of_them_gives(problem: tuple[np.ndarray, int], seed: int) -> None:
    data, k = problem
    between = np.repeat(data, 2, axis=0)
    between[1::2] = np.nan
    chosen = np.arange(0, 2 * len(data), 2, dtype=np.uint32)
    assert _bytes(_core.kmeans(between, k, seed=seed, rows=chosen)) == _bytes(_core.kmeans(data, k, seed=seed))


def test_a_chosen_row_that_is_bad_or_missing_is_named() -> None:
    data = np.zeros((5, 2), dtype=np.float32)
    data[3, 1] = np.inf
    with pytest.raises(InputError, match=r"row 3 is not finite: column 1 is inf"):
        _core.kmeans(data, 1, seed=0, rows=np.array([0, 3], dtype=np.uint32))
    with pytest.raises(InputError, match=r"row 5 was chosen, but there are only 5 rows"):
        _core.kmeans(data, 1, seed=0, rows=np.array([0, 5], dtype=np.uint32))


@given(_problem(), st.integers(0, 3))
def test_given_centroids_are_where_it_begins(problem: tuple[np.ndarray, int], max_iterations: int) -> None:
    data, k = problem
    centroids = data[:k].copy()
    result = _core.kmeans(data, k, seed=0, initial_centroids=centroids, max_iterations=max_iterations, tolerance=0.0)
    if max_iterations == 0:
        assert result.centroids.tobytes() == centroids.tobytes()
    else:
        start = _core.kmeans(data, k, seed=5, initial_centroids=centroids, max_iterations=0)
        spread = 1e-6 * float((data.astype(np.float64) ** 2).sum())
        assert result.inertia <= start.inertia + spread
    measured = [
        oracles.squared_distance(row, result.centroids[label]) for row, label in zip(data, result.labels, strict=True)
    ]
    assert result.squared_distances == pytest.approx(measured, rel=1e-12)


def test_given_centroids_that_do_not_fit_are_refused() -> None:
    data = np.zeros((4, 3), dtype=np.float32)
    with pytest.raises(InputError, match=r"6 values do not make 3 initial centroids of 3 columns"):
        _core.kmeans(data, 3, seed=0, initial_centroids=data[:2])
    bad = data[:2].copy()
    bad[1, 2] = np.nan
    with pytest.raises(InputError, match=r"initial centroid 1 is not finite: column 2 is NaN"):
        _core.kmeans(data, 2, seed=0, initial_centroids=bad)


def test_pruned_rounds_label_as_distances_do() -> None:
    """Large enough that bounds rule centroids out: near the origin, far from it, and in half precision."""
    random = np.random.default_rng(9)
    centres = random.normal(size=(60, 6)) @ random.normal(size=(6, 64))
    data = (centres[random.integers(0, 60, 60_000)] + 0.3 * random.normal(size=(60_000, 64))).astype(np.float32)
    for rows in (data, data + np.float32(100), data.astype(np.float16)):
        result = _core.kmeans(rows, 60, seed=1, max_iterations=3, tolerance=0.0)
        wide, centroids = rows.astype(np.float64), result.centroids.astype(np.float64)
        squared = (wide**2).sum(1)[:, None] - 2 * wide @ centroids.T + (centroids**2).sum(1)
        best = np.sort(squared, axis=1)[:, :2]
        clear = best[:, 1] - best[:, 0] > 1e-8
        assert clear.mean() > 0.99
        assert (squared.argmin(axis=1) == result.labels)[clear].all()
        assert result.inertia == pytest.approx(best[:, 0].sum(), rel=1e-9)
        for column, (row, distance) in enumerate(zip(result.nearest_rows, result.nearest_distances, strict=True)):
            assert distance**2 == pytest.approx(squared[:, column].min(), rel=1e-6, abs=1e-6)
            squared[row] = np.inf  # no later centroid may have it


def test_ctrl_c_is_answered_while_the_work_runs() -> None:
    """About a minute of work is interrupted in its first second."""
    program = textwrap.dedent(
        """
        import numpy as np
        from pyllm import _core

        data = np.random.default_rng(0).random((60_000, 256), dtype=np.float32)
        print("ready", flush=True)
        try:
            _core.kmeans(data, 500, seed=0, tolerance=0.0, max_iterations=1_000, threads=1)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        answered = time.monotonic() - asked
    assert process.returncode == 0
    # Twenty signals would fit in here; the rest is for a machine with other work.
    assert answered < 10
