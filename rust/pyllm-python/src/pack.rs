//! `pack_best_fit`, `RowTokenizer` and `Packer`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyReadonlyArray1};
use pyllm_pack::{Layout, Named, PackError, Settings, Table, Template, Tokenized, TooLong};
use pyo3::prelude::*;

use crate::error::{IntoPyErr, contiguous};
use crate::work;

/// Which sequence goes into which bin.
#[pyclass(frozen, module = "pyllm._core")]
pub(crate) struct Packing {
    packing: pyllm_pack::Packing,
}

#[pymethods]
impl Packing {
    /// Where each bin begins in `sequences`, and at last where all end.
    #[getter]
    fn offsets<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, &self.packing.offsets)
    }

    /// Places of the sequences, bin after bin.
    #[getter]
    fn sequences<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, &self.packing.sequences)
    }

    /// How many bins there are.
    fn __len__(&self) -> usize {
        self.packing.bins()
    }

    /// The ids of all sequences, bin after bin, from those in their own order; `ends` says where each ends.
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn gather<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'_, u32>,
        ends: PyReadonlyArray1<'_, u64>,
    ) -> PyResult<Bound<'py, PyArray1<u32>>> {
        let (ids, ends) = (contiguous("ids", &ids)?, contiguous("ends", &ends)?);
        let moved = py.detach(|| self.packing.gather(ids, ends)).map_err(IntoPyErr::into_py_err)?;
        Ok(PyArray1::from_vec(py, moved))
    }
}

/// Pack sequences into bins of `capacity` tokens.
#[pyfunction]
#[pyo3(signature = (lengths, capacity, *, open_bins=0))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn pack_best_fit(
    py: Python<'_>,
    lengths: PyReadonlyArray1<'_, u32>,
    capacity: u32,
    open_bins: usize,
) -> PyResult<Packing> {
    let lengths = contiguous("lengths", &lengths)?;
    let pack = || {
        let capacity = capacity.try_into().map_err(|_| PackError::Length { length: capacity })?;
        match open_bins {
            0 => pyllm_pack::pack_best_fit(lengths, capacity),
            open => pyllm_pack::pack_online(lengths, capacity, open),
        }
    };
    let packing = py.detach(pack).map_err(IntoPyErr::into_py_err)?;
    Ok(Packing { packing })
}

/// A tokenizer, and the tokens that stand around a row.
#[pyclass(frozen, module = "pyllm._core")]
pub(crate) struct RowTokenizer {
    tokenizer: pyllm_pack::RowTokenizer,
}

#[pymethods]
impl RowTokenizer {
    #[new]
    #[pyo3(signature = (json, *, start=None, end=None))]
    fn new(py: Python<'_>, json: &str, start: Option<u32>, end: Option<u32>) -> PyResult<Self> {
        let made = py.detach(|| pyllm_pack::RowTokenizer::from_json(json, start, end));
        Ok(Self { tokenizer: made.map_err(IntoPyErr::into_py_err)? })
    }

    /// The ids of each text with nothing around them, and where those of each end.
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn encode<'py>(&self, py: Python<'py>, texts: Vec<String>) -> PyResult<EncodedTexts<'py>> {
        let encoded = py.detach(|| self.tokenizer.encode_all(&texts));
        let (ids, ends) = encoded.map_err(IntoPyErr::into_py_err)?;
        Ok((PyArray1::from_vec(py, ids), PyArray1::from_vec(py, ends)))
    }
}

type EncodedTexts<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u64>>);

/// What a run of packing did.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct PackSummary {
    /// Rows that came in.
    rows_in: u64,
    /// Rows that are packed.
    rows_packed: u64,
    /// Packed rows.
    bins: u64,
    /// Tokens in them.
    tokens: u64,
    /// Tokens that are trained.
    trained_tokens: u64,
    /// Rows of each kind that did not go through as they were: its name, how many, and the first few.
    kinds: Vec<(&'static str, u64, Vec<String>)>,
    /// The files: name, rows, bytes and SHA-256.
    parts: Vec<(String, u64, u64, String)>,
}

/// A run of packing into a folder.
#[pyclass(frozen, module = "pyllm._core")]
pub(crate) struct Packer {
    state: Mutex<State>,
}

struct State {
    /// None once it is finished, has failed or was given up.
    packer: Option<pyllm_pack::Packer>,
    table: Option<Table>,
}

#[pymethods]
impl Packer {
    #[new]
    #[pyo3(signature = (folder, *, length, window_rows, open_bins, too_long, rows_per_shard, compression, wide, provenance))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn new(
        folder: PathBuf,
        length: u32,
        window_rows: usize,
        open_bins: usize,
        too_long: &str,
        rows_per_shard: usize,
        compression: &str,
        wide: bool,
        provenance: String,
    ) -> PyResult<Self> {
        let make = || {
            let compression = pyllm_pack::compression(compression)?;
            let too_long = match too_long {
                "drop" => TooLong::Drop,
                "error" => TooLong::Error,
                _ => TooLong::Truncate,
            };
            let layout = Layout { length, rows_per_part: rows_per_shard, wide, compression, provenance };
            pyllm_pack::Packer::new(&folder, Settings { too_long, window_rows, open_bins, layout })
        };
        let packer = make().map_err(IntoPyErr::into_py_err)?;
        Ok(Self { state: Mutex::new(State { packer: Some(packer), table: None }) })
    }

    /// Begin to read a table of examples in Parquet; how many rows it has.
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    fn open(&self, py: Python<'_>, path: PathBuf, name: &str) -> PyResult<u64> {
        let table = py.detach(|| Table::open(&path, name)).map_err(IntoPyErr::into_py_err)?;
        let rows = table.rows();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).table = Some(table);
        Ok(rows)
    }

    /// Take the next rows of the open table; how many, 0 at its end.
    #[pyo3(signature = (tokenizer, template, *, threads=0))]
    fn step(&self, py: Python<'_>, tokenizer: &RowTokenizer, template: &str, threads: usize) -> PyResult<u64> {
        let template = template.parse::<Template>().map_err(|()| {
            PackError::Tokenizer { reason: format!("template `{template}` is not rendered here") }.into_py_err()
        })?;
        self.go_on(py, threads, |packer, table, interrupted| match table {
            Some(table) => packer.read(table, &tokenizer.tokenizer, template, interrupted),
            None => Ok(0),
        })
    }

    /// Take rows that were tokenized elsewhere; those without ids have no answer.
    #[pyo3(signature = (name, *, ids, ends, spans, span_ends, row_ids, rows, threads=0))]
    #[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn push(
        &self,
        py: Python<'_>,
        name: &str,
        ids: PyReadonlyArray1<'_, u32>,
        ends: PyReadonlyArray1<'_, u64>,
        spans: PyReadonlyArray1<'_, u32>,
        span_ends: PyReadonlyArray1<'_, u64>,
        row_ids: Vec<String>,
        rows: PyReadonlyArray1<'_, u64>,
        threads: usize,
    ) -> PyResult<()> {
        let rows = Tokenized {
            ids: contiguous("ids", &ids)?,
            ends: contiguous("ends", &ends)?,
            spans: contiguous("spans", &spans)?,
            span_ends: contiguous("span_ends", &span_ends)?,
            names: &row_ids,
            places: contiguous("rows", &rows)?,
        };
        self.go_on(py, threads, |packer, _, interrupted| packer.push(name, &rows, interrupted))
    }

    /// Pack and write what is left, and give the files their names.
    #[pyo3(signature = (*, threads=0))]
    fn finish(&self, py: Python<'_>, threads: usize) -> PyResult<PackSummary> {
        let Some(packer) = self.state.lock().unwrap_or_else(PoisonError::into_inner).packer.take() else {
            return Err(over());
        };
        let done = work::run(py, threads, |flag| packer.finish(&|| flag.load(Ordering::Relaxed)))?;
        Ok(summary(done.map_err(IntoPyErr::into_py_err)?))
    }

    /// Give up: unfinished files are taken away. Harmless when there are none.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.state.lock().unwrap_or_else(PoisonError::into_inner).packer.take());
    }
}

impl Packer {
    /// Some work on the run, which is over when that fails.
    fn go_on<T: Send>(
        &self,
        py: Python<'_>,
        threads: usize,
        work: impl FnOnce(&mut pyllm_pack::Packer, Option<&mut Table>, &(dyn Fn() -> bool + Sync)) -> Result<T, PackError>
        + Send,
    ) -> PyResult<T> {
        let (packer, mut table) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.packer.take(), state.table.take())
        };
        let Some(mut packer) = packer else { return Err(over()) };
        let done = work::run(py, threads, |flag: &AtomicBool| {
            work(&mut packer, table.as_mut(), &|| flag.load(Ordering::Relaxed))
        })?;
        let value = done.map_err(IntoPyErr::into_py_err)?;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State { packer: Some(packer), table };
        Ok(value)
    }
}

fn over() -> PyErr {
    pyo3::exceptions::PyRuntimeError::new_err("the run is over")
}

fn summary(done: pyllm_pack::Summary) -> PackSummary {
    let tally = done.tally;
    let kind = |name, named: Named| (name, named.rows, named.first);
    PackSummary {
        rows_in: tally.rows_in,
        rows_packed: tally.rows_packed,
        bins: done.bins,
        tokens: tally.tokens,
        trained_tokens: tally.trained_tokens,
        kinds: vec![
            kind("truncated", tally.truncated),
            kind("too_long", tally.too_long),
            kind("without_answer", tally.without_answer),
            kind("fully_masked", tally.fully_masked),
        ],
        parts: done.parts.into_iter().map(|part| (part.name, part.rows, part.bytes, part.sha256)).collect(),
    }
}
