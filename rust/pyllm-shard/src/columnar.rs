//! Parquet and Arrow files, a bounded number of rows at a time.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::ArrowError;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use crate::error::ShardError;
use crate::sources::BLOCK_BYTES;

const ARROW_STREAM_END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
const MOST_ROWS: usize = 65_536;

enum Batches {
    Parquet(ParquetRecordBatchReader),
    ArrowFile(FileReader<BufReader<File>>),
    ArrowStream(Box<StreamReader<BufReader<File>>>),
}

/// A columnar file that is being read.
pub(crate) struct Columnar {
    batches: Batches,
    /// What is left of a batch that was larger than a block.
    rest: Option<RecordBatch>,
    shown: String,
    kind: &'static str,
}

impl Columnar {
    pub(crate) fn parquet(path: &Path, shown: &str) -> Result<Self, ShardError> {
        let mut file = open(path, shown)?;
        if !ends_with(&mut file, shown, 12, b"PAR1")? {
            return Err(ShardError::Damaged {
                shown: shown.to_owned(),
                problem: "is a truncated Parquet file: its end is missing".to_owned(),
                hint: Some("write it again; a failed command may have left it behind".to_owned()),
            });
        }
        let reader = guarded(shown, "parquet", || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
            let groups = builder.metadata().row_groups();
            let bytes: i64 = groups.iter().map(|group| group.total_byte_size().max(0)).sum();
            let rows: i64 = groups.iter().map(|group| group.num_rows().max(0)).sum();
            let row_bytes = usize::try_from(bytes / rows.max(1)).unwrap_or(0).max(1);
            let rows_a_batch = (BLOCK_BYTES / row_bytes).clamp(1, MOST_ROWS);
            Ok(builder.with_batch_size(rows_a_batch).build()?)
        })?;
        Ok(Self { batches: Batches::Parquet(reader), rest: None, shown: shown.to_owned(), kind: "parquet" })
    }

    pub(crate) fn arrow_file(path: &Path, shown: &str) -> Result<Self, ShardError> {
        let mut file = open(path, shown)?;
        if !ends_with(&mut file, shown, 12, b"ARROW1")? {
            return Err(ShardError::damaged(shown, "is a truncated Arrow file: its end is missing"));
        }
        let reader = guarded(shown, "arrow file", || FileReader::try_new(BufReader::new(file), None))?;
        Ok(Self { batches: Batches::ArrowFile(reader), rest: None, shown: shown.to_owned(), kind: "arrow file" })
    }

    pub(crate) fn arrow_stream(path: &Path, shown: &str) -> Result<Self, ShardError> {
        let file = open(path, shown)?;
        let reader = guarded(shown, "arrow stream", || StreamReader::try_new(BufReader::new(file), None));
        let reader = reader.map_err(|error| torn_stream(path, shown).unwrap_or(error))?;
        let batches = Batches::ArrowStream(Box::new(reader));
        Ok(Self { batches, rest: None, shown: shown.to_owned(), kind: "arrow stream" })
    }

    /// The next rows, about a block of them.
    pub(crate) fn next(&mut self, path: &Path) -> Result<Option<RecordBatch>, ShardError> {
        loop {
            if let Some(batch) = self.rest.take() {
                let rows = rows_in_a_block(&batch);
                if rows < batch.num_rows() {
                    self.rest = Some(batch.slice(rows, batch.num_rows() - rows));
                    return Ok(Some(batch.slice(0, rows)));
                }
                return Ok(Some(batch));
            }
            let batches = &mut self.batches;
            let next = guarded(&self.shown, self.kind, || {
                let next = match batches {
                    Batches::Parquet(reader) => reader.next(),
                    Batches::ArrowFile(reader) => reader.next(),
                    Batches::ArrowStream(reader) => reader.next(),
                };
                next.transpose()
            });
            let stream = matches!(self.batches, Batches::ArrowStream(_));
            let torn = |error| if stream { torn_stream(path, &self.shown).unwrap_or(error) } else { error };
            match next.map_err(torn)? {
                None => {
                    let torn = if stream { torn_stream(path, &self.shown) } else { None };
                    return torn.map_or(Ok(None), Err);
                }
                Some(batch) if batch.num_rows() == 0 => {}
                Some(batch) => self.rest = Some(batch),
            }
        }
    }
}

/// Rows of a Parquet file by its footer, and the provenance steps that its metadata holds.
pub(crate) fn parquet_footer(path: &Path, shown: &str) -> Result<(u64, Vec<Value>), ShardError> {
    let file = open(path, shown)?;
    guarded(shown, "parquet", || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let about = builder.metadata().file_metadata();
        let stored = about.key_value_metadata().into_iter().flatten().find(|pair| pair.key == "pyllm");
        let steps = stored.and_then(|pair| pair.value.as_deref()).map(steps_of).unwrap_or_default();
        Ok((u64::try_from(about.num_rows()).unwrap_or(0), steps))
    })
}

fn steps_of(text: &str) -> Vec<Value> {
    let stored: Value = serde_json::from_str(text).unwrap_or_default();
    let steps = stored.get("steps").and_then(Value::as_array).cloned().unwrap_or_default();
    if steps.iter().all(Value::is_object) { steps } else { Vec::new() }
}

fn open(path: &Path, shown: &str) -> Result<File, ShardError> {
    File::open(path).map_err(|error| ShardError::read(shown, &error))
}

fn ends_with(file: &mut File, shown: &str, least: u64, end: &[u8]) -> Result<bool, ShardError> {
    let mut look = || {
        let bytes = file.seek(SeekFrom::End(0))?;
        if bytes < least {
            return Ok(false);
        }
        file.seek(SeekFrom::End(-i64::try_from(end.len()).unwrap_or(0)))?;
        let mut found = vec![0; end.len()];
        file.read_exact(&mut found)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(found == end)
    };
    look().map_err(|error| ShardError::read(shown, &error))
}

fn torn_stream(path: &Path, shown: &str) -> Option<ShardError> {
    let whole = open(path, shown).and_then(|mut file| ends_with(&mut file, shown, 8, &ARROW_STREAM_END));
    match whole {
        Ok(true) => None,
        Ok(false) => Some(ShardError::damaged(shown, "is a truncated Arrow stream: its end mark is missing")),
        Err(error) => Some(error),
    }
}

/// Reads; a damaged file may make its reader fail in any way.
fn guarded<T>(shown: &str, kind: &str, read: impl FnOnce() -> Result<T, ArrowError>) -> Result<T, ShardError> {
    let problem = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "its parts contradict each other".to_owned(),
    };
    let first_line = problem.lines().next().unwrap_or_default();
    Err(ShardError::damaged(shown, format!("is damaged and cannot be read as {kind}: {first_line}")))
}

fn rows_in_a_block(batch: &RecordBatch) -> usize {
    (BLOCK_BYTES / (batch_bytes(batch) / batch.num_rows().max(1)).max(1)).max(1)
}

/// About how much the rows of a batch hold; of a slice, its own rows only.
pub(crate) fn batch_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.len())).sum()
}
