"""`pyllm._core.golden_scores` and `golden_wins` equal their slow, obvious twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pyllm import _core
from pyllm.errors import InputError
from tests.support import oracles

# Few values, so that ties are common, and everything that is not a number.
_NATS = st.one_of(
    st.sampled_from([-1.0, -0.5, 0.0, float("nan"), float("-inf")]),
    st.floats(min_value=-1e6, max_value=0.0),
)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    rows, anchors = draw(st.integers(0, 12)), draw(st.integers(0, 9))
    one_shot = draw(hnp.arrays(np.float64, (rows, anchors), elements=_NATS))
    zero_shot = draw(hnp.arrays(np.float64, anchors, elements=_NATS))
    return one_shot, zero_shot, draw(st.none() | hnp.arrays(np.bool_, (rows, anchors)))


def _bytes(scores: _core.GoldenScores) -> tuple[bytes, bytes, bytes, int]:
    return scores.wins.tobytes(), scores.anchors_scored.tobytes(), scores.mean_gain_nats.tobytes(), scores.nan_pairs


@given(_pairs())
def test_scores_equal_the_oracle(pairs: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    scores = _core.golden_scores(*pairs)
    wins, anchors_scored, mean_gain_nats, nan_pairs = oracles.golden_scores(*pairs)
    assert (scores.wins.dtype, scores.anchors_scored.dtype) == (np.uint32, np.uint32)
    assert scores.wins.tolist() == wins
    assert scores.anchors_scored.tolist() == anchors_scored
    np.testing.assert_array_equal(scores.mean_gain_nats, np.array(mean_gain_nats, dtype=np.float64))
    assert scores.nan_pairs == nan_pairs


@given(_pairs(), st.sampled_from([np.float32, np.float64]))
def test_wins_alone_equal_the_oracle(pairs: tuple[np.ndarray, np.ndarray, object], dtype: type) -> None:
    one_shot, zero_shot = pairs[0].astype(dtype), pairs[1]
    wins, nan_pairs = _core.golden_wins(one_shot, zero_shot)
    expected, _, _, expected_nan_pairs = oracles.golden_scores(one_shot, zero_shot, None)
    assert (wins.dtype, wins.tolist(), nan_pairs) == (np.uint32, expected, expected_nan_pairs)


def test_many_blocks_of_wins_equal_numpy() -> None:
    generator = np.random.default_rng(4)
    one_shot, zero_shot = -generator.random((3_000, 101), dtype=np.float32), -generator.random(101)
    one_shot[5, 100] = one_shot[2_999, 0] = np.nan
    for threads in (1, 2):
        wins, nan_pairs = _core.golden_wins(one_shot, zero_shot, threads=threads)
        np.testing.assert_array_equal(wins, (one_shot > zero_shot).sum(axis=1))
        assert nan_pairs == 2


def test_threads_and_blocks_change_no_byte() -> None:
    generator = np.random.default_rng(3)
    one_shot, zero_shot = -generator.random((3_000, 97)), -generator.random(97)
    one_shot[7, 3] = np.nan
    left_out = generator.random(one_shot.shape) < 0.1
    left_out[7, 3] = False
    one, two = (_core.golden_scores(one_shot, zero_shot, left_out, threads=threads) for threads in (1, 2))
    assert _bytes(one) == _bytes(two)
    tried = ~left_out
    np.testing.assert_array_equal(one.wins, ((one_shot > zero_shot) & tried).sum(axis=1))
    np.testing.assert_array_equal(one.anchors_scored, tried.sum(axis=1))
    expected = np.nanmean(np.where(tried, one_shot - zero_shot, np.nan), axis=1)
    np.testing.assert_allclose(one.mean_gain_nats, expected, rtol=1e-12, atol=1e-12)
    assert one.nan_pairs == 1


def test_arrays_are_borrowed_and_left_as_they_are() -> None:
    one_shot, zero_shot = np.full((2, 2), -1.0), np.full(2, -2.0)
    for array in (one_shot, zero_shot):
        array.setflags(write=False)
    assert _core.golden_scores(one_shot, zero_shot).wins.tolist() == [2, 2]


def test_shapes_that_do_not_fit_are_named() -> None:
    one_shot = np.zeros((2, 3))
    with pytest.raises(InputError, match=r"`one_shot_nats` has 6 values, but 2 rows x 2 anchors are wanted"):
        _core.golden_scores(one_shot, np.zeros(2))
    with pytest.raises(InputError, match=r"`one_shot_nats` has 6 values, but 2 rows x 2 anchors are wanted"):
        _core.golden_wins(one_shot, np.zeros(2))
    # As many values as wanted, in another shape.
    with pytest.raises(InputError, match=r"`left_out` is \[3, 2\], but `one_shot_nats` is \[2, 3\]"):
        _core.golden_scores(one_shot, np.zeros(3), np.zeros((3, 2), dtype=bool))


def test_arrays_in_another_order_are_refused() -> None:
    fortran = np.asfortranarray(np.zeros((2, 3)))
    with pytest.raises(InputError, match=r"array `one_shot_nats` is not C-contiguous"):
        _core.golden_scores(fortran, np.zeros(3))
    with pytest.raises(InputError, match=r"array `zero_shot_nats` is not C-contiguous"):
        _core.golden_scores(np.zeros((2, 3)), np.zeros(6)[::2])
    with pytest.raises(TypeError):
        _core.golden_scores(np.zeros((2, 3), dtype=np.float16), np.zeros(3))  # type: ignore[arg-type]


def test_the_errors_are_the_classes_of_the_package() -> None:
    with pytest.raises(InputError) as caught:
        _core.golden_scores(np.zeros((1, 1)), np.zeros(2))
    assert (caught.value.exit_code, caught.value.hint) == (3, None)
    assert caught.value.message == str(caught.value)


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_single_precision_compares_as_numpy_does(seed: int, anchors: int) -> None:
    random = np.random.default_rng(seed)
    zero_shot = random.normal(size=anchors)
    one_shot = (zero_shot + random.integers(-2, 3, (7, anchors)) * 1e-8).astype(np.float32)
    scores = _core.golden_scores(one_shot, zero_shot)
    assert scores.wins.tolist() == (one_shot > zero_shot).sum(axis=1).tolist()
    wide = _core.golden_scores(one_shot.astype(np.float64), zero_shot)
    assert (scores.wins.tolist(), scores.mean_gain_nats.tolist()) == (wide.wins.tolist(), wide.mean_gain_nats.tolist())
