//! `golden_scores` and `golden_wins`.

use numpy::{Element, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyllm_golden::Nats;
use pyo3::prelude::*;

use crate::error::{BindingError, IntoPyErr, contiguous};
use crate::work;

/// Wins, anchors scored and mean gain of each row.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct GoldenScores {
    /// Anchors won by each row.
    wins: Py<PyArray1<u32>>,
    /// Anchors tried by each row: all but those left out.
    anchors_scored: Py<PyArray1<u32>>,
    /// Mean of one-shot minus zero-shot sums over the pairs tried that are numbers; NaN if there is none.
    mean_gain_nats: Py<PyArray1<f64>>,
    /// Pairs tried whose gain is not a number: they are lost and not in the mean.
    nan_pairs: u64,
}

/// Sums of 32 or of 64 bits.
#[derive(FromPyObject)]
pub(crate) enum OneShot<'py> {
    Single(PyReadonlyArray2<'py, f32>),
    Double(PyReadonlyArray2<'py, f64>),
}

/// Aggregate the sums of `rows x anchors` pairs: an anchor is won when one-shot is strictly above zero-shot.
#[pyfunction]
#[pyo3(signature = (one_shot_nats, zero_shot_nats, left_out=None, *, threads=0))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn golden_scores(
    py: Python<'_>,
    one_shot_nats: OneShot<'_>,
    zero_shot_nats: PyReadonlyArray1<'_, f64>,
    left_out: Option<PyReadonlyArray2<'_, bool>>,
    threads: usize,
) -> PyResult<GoldenScores> {
    let (zero_shot, left_out) = (&zero_shot_nats, left_out.as_ref());
    match one_shot_nats {
        OneShot::Single(sums) => scores_of(py, &sums, zero_shot, left_out, threads),
        OneShot::Double(sums) => scores_of(py, &sums, zero_shot, left_out, threads),
    }
}

fn scores_of<T: Nats + Element>(
    py: Python<'_>,
    one_shot_nats: &PyReadonlyArray2<'_, T>,
    zero_shot_nats: &PyReadonlyArray1<'_, f64>,
    left_out: Option<&PyReadonlyArray2<'_, bool>>,
    threads: usize,
) -> PyResult<GoldenScores> {
    let shape = [one_shot_nats.shape()[0], one_shot_nats.shape()[1]];
    if let Some(mask) = left_out
        && mask.shape() != shape
    {
        let found = [mask.shape()[0], mask.shape()[1]];
        return Err(BindingError::LeftOutShape { found, wanted: shape }.into_py_err());
    }
    let one_shot = contiguous("one_shot_nats", one_shot_nats)?;
    let zero_shot = contiguous("zero_shot_nats", zero_shot_nats)?;
    let left_out = left_out.map(|mask| contiguous("left_out", mask)).transpose()?;
    let score = || pyllm_golden::golden_scores(shape[0], one_shot, zero_shot, left_out);
    let scores = run_blocks(py, one_shot.len(), threads, score)?.map_err(IntoPyErr::into_py_err)?;
    Ok(GoldenScores {
        wins: PyArray1::from_vec(py, scores.wins).unbind(),
        anchors_scored: PyArray1::from_vec(py, scores.anchors_scored).unbind(),
        mean_gain_nats: PyArray1::from_vec(py, scores.mean_gain_nats).unbind(),
        nan_pairs: scores.nan_pairs,
    })
}

type Wins<'py> = (Bound<'py, PyArray1<u32>>, u64);

/// Count the wins of each row, and all pairs that gave no number: `golden_scores` without the gains.
#[pyfunction]
#[pyo3(signature = (one_shot_nats, zero_shot_nats, *, threads=0))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn golden_wins<'py>(
    py: Python<'py>,
    one_shot_nats: OneShot<'py>,
    zero_shot_nats: PyReadonlyArray1<'py, f64>,
    threads: usize,
) -> PyResult<Wins<'py>> {
    match one_shot_nats {
        OneShot::Single(sums) => wins_of(py, &sums, &zero_shot_nats, threads),
        OneShot::Double(sums) => wins_of(py, &sums, &zero_shot_nats, threads),
    }
}

fn wins_of<'py, T: Nats + Element>(
    py: Python<'py>,
    one_shot_nats: &PyReadonlyArray2<'py, T>,
    zero_shot_nats: &PyReadonlyArray1<'py, f64>,
    threads: usize,
) -> PyResult<Wins<'py>> {
    let one_shot = contiguous("one_shot_nats", one_shot_nats)?;
    let zero_shot = contiguous("zero_shot_nats", zero_shot_nats)?;
    let rows = one_shot_nats.shape()[0];
    let count = || pyllm_golden::golden_wins(rows, one_shot, zero_shot);
    let counted = run_blocks(py, one_shot.len(), threads, count)?.map_err(IntoPyErr::into_py_err)?;
    Ok((PyArray1::from_vec(py, counted.wins), counted.nan_pairs))
}

/// Runs what splits itself into blocks of pairs.
fn run_blocks<T: Send>(py: Python<'_>, pairs: usize, threads: usize, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    if pairs <= pyllm_golden::BLOCK_PAIRS {
        // One block: a pool would only cost.
        Ok(py.detach(work))
    } else {
        work::run(py, threads, |_| work())
    }
}
