//! The score table: rows stream into Parquet under a temporary name, and appear under their own when all is done.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use pyllm_golden::{GoldenScores, golden_score};

use crate::error::LogprobsError;
use crate::ids::Ids;

/// Rows of a row group: fixed, so that equal tables have equal bytes.
const GROUP_ROWS: usize = 65_536;

/// A file under a temporary name; removed unless it is finished.
#[derive(Debug)]
pub(crate) struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
}

impl NewFile {
    pub(crate) fn create(target: &Path) -> Result<(Self, File), LogprobsError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let short: String = name.chars().take(50).collect();
        let chance = RandomState::new().hash_one(std::process::id());
        let temporary = target.with_file_name(format!(".{short}.{chance:016x}.partial"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|error| LogprobsError::write(target, &error))?;
        Ok((Self { target: target.to_owned(), temporary }, file))
    }

    /// Syncs the file and gives it its name.
    pub(crate) fn finish(self, file: &File) -> Result<(), LogprobsError> {
        let failed = |error: std::io::Error| LogprobsError::write(&self.target, &error);
        file.sync_all().map_err(failed)?;
        std::fs::rename(&self.temporary, &self.target).map_err(failed)?;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // After `finish` it is not there any more.
        drop(std::fs::remove_file(&self.temporary));
    }
}

/// Writes a score table row by row.
pub(crate) struct TableWriter {
    file: NewFile,
    target: PathBuf,
    schema: Arc<Schema>,
    writer: ArrowWriter<File>,
}

impl TableWriter {
    /// Begins a table.
    ///
    /// # Arguments
    /// * `provenance` - the value of the metadata key `pyllm`.
    pub(crate) fn create(target: &Path, id_kind: &DataType, provenance: &str) -> Result<Self, LogprobsError> {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", id_kind.clone(), false),
            Field::new("golden_score", DataType::Float64, true),
            Field::new("wins", DataType::UInt32, false),
            Field::new("anchors_scored", DataType::UInt32, false),
            Field::new("mean_gain_nats", DataType::Float64, true),
        ]));
        // Ids and mean gains hardly repeat, so codes for them would only be tried and dropped; the bits of a mean gain
        // do not get smaller either.
        let properties = WriterProperties::builder()
            .set_created_by("pyllm".to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_column_dictionary_enabled(ColumnPath::from("id"), false)
            .set_column_dictionary_enabled(ColumnPath::from("mean_gain_nats"), false)
            .set_column_compression(ColumnPath::from("mean_gain_nats"), Compression::UNCOMPRESSED)
            .set_key_value_metadata(Some(vec![KeyValue::new("pyllm".to_owned(), provenance.to_owned())]))
            .build();
        let (new, file) = NewFile::create(target)?;
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties))
            .map_err(|error| failed(target, &error))?;
        Ok(Self { file: new, target: target.to_owned(), schema, writer })
    }

    /// Appends rows.
    pub(crate) fn write(&mut self, ids: Ids, scores: &GoldenScores) -> Result<(), LogprobsError> {
        let pairs = scores.wins.iter().zip(&scores.anchors_scored);
        let numbers = |values: &mut dyn Iterator<Item = f64>| -> ArrayRef {
            Arc::new(values.map(|value| (!value.is_nan()).then_some(value)).collect::<Float64Array>())
        };
        let columns: Vec<ArrayRef> = vec![
            ids.into_array(),
            numbers(&mut pairs.map(|(&wins, &scored)| golden_score(wins, scored))),
            Arc::new(UInt32Array::from(scores.wins.clone())),
            Arc::new(UInt32Array::from(scores.anchors_scored.clone())),
            numbers(&mut scores.mean_gain_nats.iter().copied()),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| failed(&self.target, &error.into()))?;
        self.writer.write(&batch).map_err(|error| failed(&self.target, &error))
    }

    /// Ends the table and gives it its name.
    pub(crate) fn finish(self) -> Result<(), LogprobsError> {
        let Self { file, target, mut writer, .. } = self;
        writer.finish().map_err(|error| failed(&target, &error))?;
        file.finish(writer.inner())
    }
}

fn failed(target: &Path, error: &parquet::errors::ParquetError) -> LogprobsError {
    if let parquet::errors::ParquetError::External(source) = error
        && let Some(error) = source.downcast_ref::<std::io::Error>()
    {
        return LogprobsError::write(target, error);
    }
    LogprobsError::Write { path: target.to_owned(), reason: error.to_string() }
}
