//! Files of log-probabilities, opened and cut into units that can be read side by side.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamReader;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::columns::{ColumnNames, Columns};
use crate::error::LogprobsError;
use crate::ipc::ArrowFile;
use crate::npy::NpyMatrix;

/// Bytes of a piece of a file that is in memory at once.
const PIECE_BYTES: usize = 1 << 20;

/// Units of one file, at most: each has a pipe of its own.
const MOST_UNITS: usize = 512;

/// Memory that stays with a thread while it reads one unit after the other.
#[derive(Debug, Default)]
pub(crate) struct Memory(Vec<u64>);

impl Memory {
    /// Reads a range of a file into memory that is taken again for the next one.
    ///
    /// The buffer begins at a multiple of 8 bytes; give it to [`Memory::take_back`] when nothing borrows it any more.
    pub(crate) fn read(
        &mut self,
        file: &File,
        path: &Path,
        offset: u64,
        bytes: usize,
    ) -> Result<Buffer, LogprobsError> {
        let mut words = std::mem::take(&mut self.0);
        words.resize(bytes.div_ceil(8), 0);
        let mut buffer = Buffer::from_vec(words).into_mutable().map_err(|_| LogprobsError::Interrupted)?;
        file.read_exact_at(&mut buffer.as_slice_mut()[..bytes], offset)
            .map_err(|error| LogprobsError::read(path, &error))?;
        Ok(buffer.into())
    }

    /// Takes memory back, if it is no longer borrowed.
    pub(crate) fn take_back(&mut self, buffer: Buffer) {
        if let Ok(words) = buffer.into_vec() {
            self.0 = words;
        }
    }
}

/// An open file of log-probabilities.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) path: PathBuf,
    pub(crate) body: Body,
    /// The columns; a `NumPy` array has rows and no ids.
    pub(crate) columns: Columns,
    /// Ids of the anchors in the order of the lists, where the file names them.
    pub(crate) anchors: Option<Vec<String>>,
    /// Provenance of the file: the value of its metadata key `pyllm`.
    pub(crate) provenance: Option<String>,
}

/// What a file is, and where its parts are.
#[derive(Debug)]
pub(crate) enum Body {
    Npy(NpyMatrix),
    Parquet(ArrowReaderMetadata),
    Arrow(Box<ArrowFile>),
    Stream(SchemaRef),
}

/// A part of one file that is read by one thread.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub(crate) input: usize,
    pub(crate) part: Part,
}

#[derive(Debug, Clone)]
pub(crate) enum Part {
    /// Rows of an array.
    Rows(Range<u64>),
    /// A row group of Parquet.
    RowGroup(usize),
    /// Record batches of an Arrow file.
    Batches(Range<usize>),
    /// A whole stream.
    Stream,
}

/// Opens a file and recognises its format by its first bytes.
pub(crate) fn open_body(path: &Path) -> Result<Body, LogprobsError> {
    let mut file = File::open(path).map_err(|error| LogprobsError::read(path, &error))?;
    let mut magic = [0_u8; 8];
    let mut seen = 0;
    while seen < magic.len() {
        match file.read(&mut magic[seen..]).map_err(|error| LogprobsError::read(path, &error))? {
            0 => break,
            more => seen += more,
        }
    }
    match &magic[..seen] {
        begin if begin.starts_with(b"\x93NUMPY") => NpyMatrix::open(path, file).map(Body::Npy),
        begin if begin.starts_with(b"PAR1") => ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map(Body::Parquet)
            .map_err(|error| LogprobsError::damaged(path, "Parquet", error)),
        begin if begin.starts_with(b"ARROW1") => {
            ArrowFile::open(path, file).map(|opened| Body::Arrow(Box::new(opened)))
        }
        begin if begin.starts_with(&[0xff; 4]) => {
            let reader = stream(path)?;
            Ok(Body::Stream(reader.schema()))
        }
        _ => Err(LogprobsError::UnknownFormat { path: path.to_owned() }),
    }
}

fn stream(path: &Path) -> Result<StreamReader<std::io::BufReader<File>>, LogprobsError> {
    let file = File::open(path).map_err(|error| LogprobsError::read(path, &error))?;
    StreamReader::try_new_buffered(file, None).map_err(|error| LogprobsError::damaged(path, "an Arrow stream", error))
}

impl Body {
    /// The columns of the file; None for an array.
    pub(crate) fn schema(&self) -> Option<SchemaRef> {
        match self {
            Self::Npy(_) => None,
            Self::Parquet(metadata) => Some(Arc::clone(metadata.schema())),
            Self::Arrow(file) => Some(file.schema()),
            Self::Stream(schema) => Some(Arc::clone(schema)),
        }
    }

    fn provenance(&self) -> Option<String> {
        match self {
            Self::Npy(_) => None,
            Self::Parquet(metadata) => {
                let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
                pairs.iter().find(|pair| pair.key == "pyllm").and_then(|pair| pair.value.clone())
            }
            Self::Arrow(_) | Self::Stream(_) => self.schema()?.metadata().get("pyllm").cloned(),
        }
    }

    /// How the format is called in messages.
    pub(crate) fn format(&self) -> &'static str {
        match self {
            Self::Npy(_) => "a NumPy array",
            Self::Parquet(_) => "Parquet",
            Self::Arrow(_) => "an Arrow file",
            Self::Stream(_) => "an Arrow stream",
        }
    }
}

impl Input {
    /// Opens a file and finds its columns.
    pub(crate) fn open(path: &Path, names: &ColumnNames) -> Result<Self, LogprobsError> {
        let body = open_body(path)?;
        let columns = match body.schema() {
            None => Columns::Rows { candidate: None, value: 0 },
            Some(schema) => Columns::of(path, &schema, names)?,
        };
        let provenance = body.provenance();
        let anchors = provenance.as_deref().and_then(anchors_in);
        let body = match body {
            Body::Parquet(metadata) => Body::Parquet(with_coded_text(path, metadata, columns)?),
            other => other,
        };
        Ok(Self { path: path.to_owned(), body, columns, anchors, provenance })
    }

    /// How many rows the file has, where that is known before it is read.
    pub(crate) fn rows(&self) -> Option<u64> {
        match &self.body {
            Body::Npy(matrix) => Some(matrix.rows),
            Body::Parquet(metadata) => u64::try_from(metadata.metadata().file_metadata().num_rows()).ok(),
            Body::Arrow(file) => Some(file.rows()),
            Body::Stream(_) => None,
        }
    }

    /// The parts of the file, in order.
    pub(crate) fn units(&self, input: usize) -> Vec<Unit> {
        let parts: Vec<Part> = match &self.body {
            Body::Npy(matrix) => {
                let step = matrix.rows.div_ceil(MOST_UNITS as u64).max(matrix.rows_in(PIECE_BYTES) as u64);
                let cuts = (0..matrix.rows).step_by(step as usize);
                cuts.map(|first| Part::Rows(first..matrix.rows.min(first + step))).collect()
            }
            Body::Parquet(metadata) => (0..metadata.metadata().num_row_groups()).map(Part::RowGroup).collect(),
            Body::Arrow(file) => {
                let batches = file.batches();
                let step = batches.div_ceil(MOST_UNITS).max(1);
                (0..batches).step_by(step).map(|first| Part::Batches(first..batches.min(first + step))).collect()
            }
            Body::Stream(_) => vec![Part::Stream],
        };
        parts.into_iter().map(|part| Unit { input, part }).collect()
    }

    /// Reads a part of a table, batch after batch: the columns of [`Columns::projection`].
    ///
    /// The memory that a batch borrows is taken again for the next, so `take` keeps nothing of it.
    pub(crate) fn read_batches(
        &self,
        part: &Part,
        batch_rows: usize,
        memory: &mut Memory,
        take: &mut dyn FnMut(&RecordBatch) -> Result<(), LogprobsError>,
    ) -> Result<(), LogprobsError> {
        let damaged = |error: &dyn std::fmt::Display| LogprobsError::damaged(&self.path, self.body.format(), error);
        let projection = self.columns.projection();
        match (&self.body, part) {
            (Body::Parquet(metadata), Part::RowGroup(group)) => {
                // Opened again: a position in the file belongs to one thread.
                let file = File::open(&self.path).map_err(|error| LogprobsError::read(&self.path, &error))?;
                let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
                    .with_row_groups(vec![*group])
                    .with_projection(ProjectionMask::roots(metadata.parquet_schema(), projection))
                    .with_batch_size(batch_rows)
                    .build()
                    .map_err(|error| damaged(&error))?;
                for batch in reader {
                    take(&batch.map_err(|error| damaged(&error))?)?;
                }
                Ok(())
            }
            (Body::Arrow(file), Part::Batches(batches)) => {
                for place in batches.clone() {
                    file.read_batch(&self.path, place, &projection, batch_rows, memory, take)?;
                }
                Ok(())
            }
            (Body::Stream(_), Part::Stream) => {
                for batch in stream(&self.path)? {
                    let batch = batch.and_then(|batch| batch.project(&projection)).map_err(|error| damaged(&error))?;
                    for first in (0..batch.num_rows()).step_by(batch_rows) {
                        take(&batch.slice(first, batch_rows.min(batch.num_rows() - first)))?;
                    }
                }
                Ok(())
            }
            // Parts are made by `units` of the same file.
            _ => Ok(()),
        }
    }
}

/// The anchors that our own metadata names.
fn anchors_in(provenance: &str) -> Option<Vec<String>> {
    let value: serde_json::Value = serde_json::from_str(provenance).ok()?;
    value.get("anchors")?.as_array()?.iter().map(|id| id.as_str().map(str::to_owned)).collect()
}

/// Reads the text columns of pairs as codes: a candidate's id then stands in memory once and not once an anchor.
fn with_coded_text(
    path: &Path,
    metadata: ArrowReaderMetadata,
    columns: Columns,
) -> Result<ArrowReaderMetadata, LogprobsError> {
    let Columns::Pairs { candidate, anchor, .. } = columns else { return Ok(metadata) };
    let coded = |place: usize, field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if place == candidate || place == anchor => {
            let codes = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            Arc::new(field.as_ref().clone().with_data_type(codes))
        }
        _ => Arc::clone(field),
    };
    let schema = metadata.schema();
    let fields: Vec<Arc<Field>> =
        schema.fields().iter().enumerate().map(|(place, field)| coded(place, field)).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    ArrowReaderMetadata::try_new(Arc::clone(metadata.metadata()), ArrowReaderOptions::new().with_schema(schema))
        .map_err(|error| LogprobsError::damaged(path, "Parquet", error))
}
