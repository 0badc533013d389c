//! Our matrix file: an Arrow IPC file with an `id` and a list of log-probabilities a row (`docs/formats.md`).

use std::collections::HashMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array, Float64Array, RecordBatch, StringArray};
use arrow_buffer::NullBuffer;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{DataType, Field, Schema};

use crate::error::LogprobsError;
use crate::table::NewFile;

/// Values of a record batch, about: small enough to stay in the cache of a processor between reading and counting.
const BATCH_VALUES: usize = 1 << 18;

/// Log-probabilities of some rows, row after row.
#[derive(Debug, Clone, Copy)]
pub enum MatrixRows<'a> {
    /// In 32 bits.
    Narrow(&'a [f32]),
    /// In 64 bits.
    Wide(&'a [f64]),
}

/// Writes a matrix file, some rows at a time.
pub struct MatrixWriter {
    path: PathBuf,
    new: NewFile,
    writer: FileWriter<BufWriter<File>>,
    schema: Arc<Schema>,
    anchors: usize,
    wide: bool,
}

impl MatrixWriter {
    /// Begins a file; it appears under its name when it is finished.
    ///
    /// # Arguments
    /// * `wide` - whether log-probabilities are float64.
    /// * `metadata` - the value of the metadata key `pyllm`: JSON with the ids of the anchors and the provenance.
    ///
    /// # Errors
    /// The file cannot be written, or there are no anchors or more than a list can hold.
    pub fn create(path: &Path, anchors: usize, wide: bool, metadata: &str) -> Result<Self, LogprobsError> {
        let length = i32::try_from(anchors).ok().filter(|&length| length > 0);
        let length = length.ok_or_else(|| LogprobsError::NoAnchors { path: path.to_owned() })?;
        let item = Field::new_list_field(if wide { DataType::Float64 } else { DataType::Float32 }, true);
        let fields = vec![
            Field::new("id", DataType::Utf8, false),
            Field::new("logprob", DataType::FixedSizeList(Arc::new(item), length), false),
        ];
        let metadata = HashMap::from([("pyllm".to_owned(), metadata.to_owned())]);
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
        let (new, file) = NewFile::create(path)?;
        let writer = FileWriter::try_new(BufWriter::with_capacity(1 << 16, file), &schema);
        let writer = writer.map_err(|error| failed(path, &error))?;
        Ok(Self { path: path.to_owned(), new, writer, schema, anchors, wide })
    }

    /// Appends rows.
    ///
    /// # Arguments
    /// * `anchors` - values of a row.
    /// * `left_out` - for each value, whether its pair was not tried; such values are null.
    ///
    /// # Errors
    /// The values are not `ids x anchors` of the right width, or the file cannot be written.
    pub fn write(
        &mut self,
        ids: &[&str],
        anchors: usize,
        rows: MatrixRows<'_>,
        left_out: Option<&[bool]>,
    ) -> Result<(), LogprobsError> {
        let (found, wide) = match rows {
            MatrixRows::Narrow(values) => (values.len(), false),
            MatrixRows::Wide(values) => (values.len(), true),
        };
        if wide != self.wide {
            let name = |wide| if wide { "float64" } else { "float32" };
            let (found, wanted) = (format!("{} values", name(self.wide)), if wide { "float64" } else { "float32" });
            return Err(LogprobsError::Array { path: self.path.clone(), found, wanted });
        }
        if anchors != self.anchors
            || found != ids.len() * self.anchors
            || left_out.is_some_and(|mask| mask.len() != found)
        {
            let wanted = "a row of log-probabilities for each id";
            let found = format!("{found} values for {} rows x {}", ids.len(), self.anchors);
            return Err(LogprobsError::Array { path: self.path.clone(), found, wanted });
        }
        let step = (BATCH_VALUES / self.anchors).clamp(16, 8192);
        for first in (0..ids.len()).step_by(step) {
            let end = ids.len().min(first + step);
            let span = first * self.anchors..end * self.anchors;
            let nulls = left_out.map(|mask| mask[span.clone()].iter().map(|&out| !out).collect::<NullBuffer>());
            let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
            let values: ArrayRef = match rows {
                MatrixRows::Narrow(values) => Arc::new(Float32Array::new(values[span].to_vec().into(), nulls)),
                MatrixRows::Wide(values) => Arc::new(Float64Array::new(values[span].to_vec().into(), nulls)),
            };
            let batch = self.batch(&ids[first..end], values).map_err(|error| failed(&self.path, &error))?;
            self.writer.write(&batch).map_err(|error| failed(&self.path, &error))?;
        }
        Ok(())
    }

    fn batch(&self, ids: &[&str], values: ArrayRef) -> Result<RecordBatch, arrow_schema::ArrowError> {
        let DataType::FixedSizeList(item, length) = self.schema.field(1).data_type() else {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.schema)));
        };
        let lists = FixedSizeListArray::try_new(Arc::clone(item), *length, values, None)?;
        let ids = StringArray::from_iter_values(ids);
        RecordBatch::try_new(Arc::clone(&self.schema), vec![Arc::new(ids), Arc::new(lists)])
    }

    /// Ends the file and gives it its name.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<(), LogprobsError> {
        self.writer.finish().map_err(|error| failed(&self.path, &error))?;
        self.writer.flush().map_err(|error| failed(&self.path, &error))?;
        self.new.finish(self.writer.get_ref().get_ref())
    }
}

fn failed(path: &Path, error: &arrow_schema::ArrowError) -> LogprobsError {
    match error {
        arrow_schema::ArrowError::IoError(_, source) => LogprobsError::write(path, source),
        other => LogprobsError::Write { path: path.to_owned(), reason: other.to_string() },
    }
}
