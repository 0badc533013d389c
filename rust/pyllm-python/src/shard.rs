//! `shard`.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use pyllm_shard::{BadInput, Compression, Division, InputFile, Settings, ShardError};
use pyo3::prelude::*;

use crate::error::IntoPyErr;
use crate::work;

/// What a sharding run did.
#[pyclass(frozen, get_all, module = "pyllm._core")]
pub(crate) struct ShardSummary {
    /// The folder held this very work already; nothing in it was touched.
    finished_before: bool,
    /// Parts that a killed run had finished and that were not written again.
    resumed_parts: usize,
    /// How often all inputs were read.
    passes: u32,
    /// The manifest as it stands in the folder: JSON.
    manifest: String,
    /// For each input with bad rows: its name, their number, and the first five.
    bad: Vec<(String, u64, Vec<String>)>,
    /// Columns whose names were taken: name in the data, name in the shards.
    renamed: Vec<(String, String)>,
    /// Score columns of an earlier run, which are left out.
    left_out: Vec<String>,
    /// Columns that hold values of different types and are kept as JSON text.
    mixed: Vec<String>,
}

/// Write the good rows of the inputs as Parquet shards with a manifest.
#[pyfunction]
#[pyo3(signature = (inputs, out, *, rows_per_shard=None, shards=None, compression="zstd:1", threads=0, dedup=false,
    shape="auto", strict=false, bad_rows=None, step="{}"))]
#[expect(clippy::too_many_arguments, reason = "they are the settings by name")]
pub(crate) fn shard(
    py: Python<'_>,
    inputs: Vec<(String, String, PathBuf, bool)>,
    out: PathBuf,
    rows_per_shard: Option<u64>,
    shards: Option<u64>,
    compression: &str,
    threads: usize,
    dedup: bool,
    shape: &str,
    strict: bool,
    bad_rows: Option<PathBuf>,
    step: &str,
) -> PyResult<ShardSummary> {
    let input = |(shown, file_name, path, piped)| InputFile { shown, file_name, path, piped };
    let settings = Settings {
        inputs: inputs.into_iter().map(input).collect(),
        out,
        division: division(rows_per_shard, shards).map_err(IntoPyErr::into_py_err)?,
        compression: compression.parse::<Compression>().map_err(IntoPyErr::into_py_err)?,
        threads,
        dedup,
        shape: shape.parse().map_err(|_| ShardError::Setting(format!("`{shape}` is no known shape")).into_py_err())?,
        strict,
        bad_rows,
        step: step.to_owned(),
    };
    // The crate starts its own threads: the pool is for the one that waits for them.
    let done = work::run(py, 1, |interrupted| pyllm_shard::shard(&settings, &|| interrupted.load(Ordering::Relaxed)))?;
    let summary = done.map_err(IntoPyErr::into_py_err)?;
    Ok(ShardSummary {
        finished_before: summary.finished_before,
        resumed_parts: summary.resumed_parts,
        passes: summary.passes,
        manifest: summary.manifest,
        bad: summary.bad.into_iter().map(|BadInput { shown, bad_rows, named }| (shown, bad_rows, named)).collect(),
        renamed: summary.renamed,
        left_out: summary.left_out,
        mixed: summary.mixed,
    })
}

fn division(rows_per_shard: Option<u64>, shards: Option<u64>) -> Result<Division, ShardError> {
    match (rows_per_shard, shards) {
        (Some(rows), None) => Ok(Division::RowsPerShard(rows)),
        (None, Some(shards)) => Ok(Division::Shards(shards)),
        (None, None) | (Some(_), Some(_)) => {
            Err(ShardError::Setting("exactly one of `rows_per_shard` and `shards` has to be given".to_owned()))
        }
    }
}
