//! Tables of log-probabilities: `aggregate_logprobs`, `read_zero_shot`, `MatrixWriter`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyllm_logprobs::{ColumnNames, Keep, MatrixRows, Missing, Request, Summary, ZeroShot};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::error::{IntoPyErr, contiguous};
use crate::work;

/// Numbers of one aggregation.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct AggregateSummary {
    /// Candidates.
    rows: u64,
    /// Candidates with a score.
    rows_scored: u64,
    /// Candidates written.
    rows_written: u64,
    /// Pairs tried.
    pairs_scored: u64,
    /// Pairs not tried: null, or not there.
    pairs_left_out: u64,
    /// Pairs tried whose gain is not a number.
    nan_pairs: u64,
    /// Zero-shot sums that are not numbers.
    nan_anchors: u64,
    /// Mean of the golden scores; NaN if there is none.
    mean_golden_score: f64,
    /// Scored candidates with each number of wins, from 0 to the number of anchors.
    histogram: Py<PyArray1<u64>>,
    /// How many times the input was read.
    passes: u32,
}

type NamedSums = (Option<Vec<String>>, Py<PyArray1<f64>>);

/// The anchor names (None: numbered from 0) and the zero-shot sums of a Parquet, Arrow or `.npy` file.
#[pyfunction]
#[pyo3(signature = (path, *, anchor_column=None, value_column=None))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn read_zero_shot(
    py: Python<'_>,
    path: PathBuf,
    anchor_column: Option<String>,
    value_column: Option<String>,
) -> PyResult<NamedSums> {
    let columns = ColumnNames { candidate: None, anchor: anchor_column, value: value_column };
    let read = py.detach(|| pyllm_logprobs::read_zero_shot(&path, &columns)).map_err(IntoPyErr::into_py_err)?;
    Ok((read.names, PyArray1::from_vec(py, read.nats).unbind()))
}

/// The value of the metadata key `pyllm` of a file of log-probabilities, or None.
#[pyfunction]
#[pyo3(signature = (path, *, candidate_column=None, anchor_column=None, value_column=None))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn logprobs_metadata(
    py: Python<'_>,
    path: PathBuf,
    candidate_column: Option<String>,
    anchor_column: Option<String>,
    value_column: Option<String>,
) -> PyResult<Option<String>> {
    let columns = ColumnNames { candidate: candidate_column, anchor: anchor_column, value: value_column };
    py.detach(|| pyllm_logprobs::provenance_of(&path, &columns)).map_err(IntoPyErr::into_py_err)
}

/// Add up log-probabilities into a score table: the same bytes for any number of threads (0 for all cores).
#[pyfunction]
#[pyo3(signature = (
    inputs, zero_shot_nats, out, *, anchors=None, candidate_column=None, anchor_column=None, value_column=None,
    skip_missing=false, threshold=None, top_rows=None, top_share=None, metadata="", threads=0
))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn aggregate_logprobs(
    py: Python<'_>,
    inputs: Vec<PathBuf>,
    zero_shot_nats: PyReadonlyArray1<'_, f64>,
    out: PathBuf,
    anchors: Option<Vec<String>>,
    candidate_column: Option<String>,
    anchor_column: Option<String>,
    value_column: Option<String>,
    skip_missing: bool,
    threshold: Option<f64>,
    top_rows: Option<u64>,
    top_share: Option<(u64, u64)>,
    metadata: &str,
    threads: usize,
) -> PyResult<AggregateSummary> {
    let keep = match (threshold, top_rows, top_share) {
        (Some(limit), _, _) => Keep::Above(limit),
        (None, Some(rows), _) => Keep::Best(rows),
        (None, None, Some((numerator, denominator))) => Keep::BestShare { numerator, denominator },
        (None, None, None) => Keep::All,
    };
    let mut request = Request {
        inputs,
        columns: ColumnNames { candidate: candidate_column, anchor: anchor_column, value: value_column },
        zero_shot: ZeroShot { names: anchors, nats: contiguous("zero_shot_nats", &zero_shot_nats)?.to_vec() },
        missing: if skip_missing { Missing::Skip } else { Missing::Refuse },
        keep,
        out,
        provenance: metadata.to_owned(),
        threads,
    };
    let summary = work::run(py, threads, |interrupted| {
        request.threads = rayon::current_num_threads();
        pyllm_logprobs::aggregate(&request, &|| interrupted.load(Ordering::Relaxed))
    })?;
    Ok(summary_of(py, summary.map_err(IntoPyErr::into_py_err)?))
}

fn summary_of(py: Python<'_>, summary: Summary) -> AggregateSummary {
    AggregateSummary {
        rows: summary.rows,
        rows_scored: summary.rows_scored,
        rows_written: summary.rows_written,
        pairs_scored: summary.pairs_scored,
        pairs_left_out: summary.pairs_left_out,
        nan_pairs: summary.nan_pairs,
        nan_anchors: summary.nan_anchors,
        mean_golden_score: summary.mean_golden_score,
        histogram: PyArray1::from_vec(py, summary.histogram).unbind(),
        passes: summary.passes,
    }
}

/// Writes a matrix file some rows at a time; it appears under its name when it is finished.
#[pyclass(frozen, module = "pyllm._core")]
pub(crate) struct MatrixWriter {
    /// None once finished.
    writer: Mutex<Option<pyllm_logprobs::MatrixWriter>>,
}

#[pymethods]
impl MatrixWriter {
    /// Begin a file for rows of `anchors` values, float64 if `wide` and else float32.
    #[new]
    #[pyo3(signature = (path, anchors, *, wide=false, metadata=""))]
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn new(py: Python<'_>, path: PathBuf, anchors: usize, wide: bool, metadata: &str) -> PyResult<Self> {
        let created = py.detach(|| pyllm_logprobs::MatrixWriter::create(&path, anchors, wide, metadata));
        Ok(Self { writer: Mutex::new(Some(created.map_err(IntoPyErr::into_py_err)?)) })
    }

    /// Append rows; pairs in `left_out` were not tried and become null.
    #[pyo3(signature = (ids, logprobs, left_out=None))]
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn write(
        &self,
        py: Python<'_>,
        ids: Vec<String>,
        logprobs: &Bound<'_, PyAny>,
        left_out: Option<PyReadonlyArray2<'_, bool>>,
    ) -> PyResult<()> {
        let left_out = left_out.as_ref().map(|mask| contiguous("left_out", mask)).transpose()?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        if let Ok(narrow) = logprobs.extract::<PyReadonlyArray2<'_, f32>>() {
            let rows = MatrixRows::Narrow(contiguous("logprobs", &narrow)?);
            self.append(py, &ids, rows, narrow.shape()[1], left_out)
        } else {
            let wide = logprobs.extract::<PyReadonlyArray2<'_, f64>>()?;
            let rows = MatrixRows::Wide(contiguous("logprobs", &wide)?);
            self.append(py, &ids, rows, wide.shape()[1], left_out)
        }
    }

    /// Sync the file and give it its name.
    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let writer = writer.ok_or_else(already_finished)?;
            writer.finish().map_err(IntoPyErr::into_py_err)
        })
    }
}

impl MatrixWriter {
    fn append(
        &self,
        py: Python<'_>,
        ids: &[&str],
        rows: MatrixRows<'_>,
        anchors: usize,
        left_out: Option<&[bool]>,
    ) -> PyResult<()> {
        py.detach(|| {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let writer = writer.as_mut().ok_or_else(already_finished)?;
            writer.write(ids, anchors, rows, left_out).map_err(IntoPyErr::into_py_err)
        })
    }
}

fn already_finished() -> PyErr {
    PyTypeError::new_err("the matrix file is finished")
}
