//! `read_rows`: a file's bytes to one table.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pyllm_examples::{
    Cutter, FrameError, Layout, Place, Reader, Rows, RowsError, Shape, TextFormat, UnknownShape, plain,
};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::error::IntoPyErr;
use crate::work;

/// Text is read in blocks of about this size, or of one record where that is longer.
const BLOCK_BYTES: usize = 8 << 20;
/// Rows of a block of a columnar file.
const BLOCK_ROWS: usize = 16_384;

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadRowsError {
    /// No format of that name.
    #[error("`{0}` is no format of rows")]
    Format(String),
    /// Neither `examples` nor `table`.
    #[error("`{0}` is no mode of reading rows")]
    Mode(String),
    /// No shape of that name.
    #[error(transparent)]
    Shape(#[from] UnknownShape),
    /// Text whose frame is damaged.
    #[error("{source_name} {damage}")]
    Frame {
        /// The source as it was named.
        source_name: String,
        /// What is wrong with it.
        damage: FrameError,
    },
    /// A columnar file that cannot be decoded.
    #[error("{source_name} is damaged and cannot be read as {format}: {reason}")]
    Damaged {
        /// The source as it was named.
        source_name: String,
        /// What it looks like.
        format: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// Rows that no table can hold.
    #[error("{source_name}: {error}")]
    Rows {
        /// The source as it was named.
        source_name: String,
        /// What is wrong with it.
        error: RowsError,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// A bad row: its row and line (counted from 1), field, reason, text, and whether it is of another kind of data.
type Bad = (u64, Option<u64>, Option<String>, String, String, bool);

/// The rows of a file.
#[pyclass(frozen, module = "pyllm._core")]
pub(crate) struct ReadRows {
    ipc: Vec<u8>,
    #[pyo3(get)]
    records: u64,
    #[pyo3(get)]
    bad: Vec<Bad>,
    #[pyo3(get)]
    shapes: Vec<(String, u64)>,
    #[pyo3(get)]
    own: bool,
    #[pyo3(get)]
    marked: bool,
    #[pyo3(get)]
    renamed: Vec<(String, String)>,
    #[pyo3(get)]
    left_out: Vec<String>,
    #[pyo3(get)]
    mixed: Vec<String>,
}

#[pymethods]
impl ReadRows {
    /// The table as an Arrow IPC stream.
    #[getter]
    fn ipc<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.ipc)
    }
}

/// Read the rows of a whole file that is in memory.
#[pyfunction]
#[pyo3(signature = (data, format, *, source, file_name, shape="auto", mode="examples"))]
#[expect(clippy::needless_pass_by_value, reason = "pyo3 hands over arguments by value")]
pub(crate) fn read_rows(
    py: Python<'_>,
    data: PyBackedBytes,
    format: &str,
    source: &str,
    file_name: &str,
    shape: &str,
    mode: &str,
) -> PyResult<ReadRows> {
    let read = |interrupted: &AtomicBool| {
        let shape = match mode {
            "examples" => Some(shape.parse()?),
            "table" => None,
            other => return Err(ReadRowsError::Mode(other.to_owned())),
        };
        let file = File { data: &data, source, file_name, shape, interrupted };
        match format {
            "json_lines" => file.text(TextFormat::JsonLines),
            "json_array" => file.text(TextFormat::JsonArray),
            "csv" => file.text(TextFormat::Csv),
            "parquet" => file.columnar("parquet", parquet_batches),
            "arrow_file" => file.columnar("arrow file", arrow_file_batches),
            "arrow_stream" => file.columnar("arrow stream", arrow_stream_batches),
            other => Err(ReadRowsError::Format(other.to_owned())),
        }
    };
    work::run(py, 1, read)?.map_err(IntoPyErr::into_py_err)
}

/// What is read.
#[expect(clippy::struct_field_names, reason = "a file's name is not the path it came from")]
struct File<'a> {
    data: &'a [u8],
    source: &'a str,
    file_name: &'a str,
    /// None for a table as it is.
    shape: Option<Shape>,
    interrupted: &'a AtomicBool,
}

/// Part of the text, and where it begins.
type Block<'a> = (Place, &'a [u8]);

/// The header of a CSV, the blocks, and what ended them early.
type Blocks<'a> = (Vec<String>, Vec<Block<'a>>, Option<ReadRowsError>);

impl File<'_> {
    fn text(&self, format: TextFormat) -> Result<ReadRows, ReadRowsError> {
        let (header, blocks, torn) = self.blocks(format)?;
        let marked = self.shape.is_some() && blocks.iter().any(|(_, block)| Reader::looks_own(format, &header, block));
        let read = |reader: Reader| {
            let mut read = Vec::with_capacity(blocks.len());
            let mut first_row = 0;
            for &(place, block) in &blocks {
                self.check()?;
                let rows = reader.text(format, &header, block);
                if let Some(damage) = rows.damage() {
                    return Err(self.frame(damage.clone().at(first_row, place)));
                }
                let records = rows.records();
                read.push((first_row, place.line, rows));
                first_row += records;
            }
            Ok(read)
        };
        let found = self.own_or_not(marked, read);
        match torn {
            // The damage that comes first is the one that is named.
            Some(torn) => found.and(Err(torn)),
            None => found,
        }
    }

    /// The text in blocks, with the header of a CSV file, and damage to the frame behind them.
    fn blocks(&self, format: TextFormat) -> Result<Blocks<'_>, ReadRowsError> {
        if let (TextFormat::JsonArray | TextFormat::Csv, Err(misfit)) = (format, std::str::from_utf8(self.data)) {
            let (sound, rest) = self.data.split_at(misfit.valid_up_to());
            let line = memchr::memchr_iter(b'\n', sound).count() as u64 + 1;
            let byte = rest.first().copied().unwrap_or_default();
            return Err(self.frame(FrameError::NotUtf8 { line, byte }));
        }
        let mut cutter = Cutter::new(format);
        let mut blocks = Vec::new();
        let (mut start, mut size) = (0_usize, BLOCK_BYTES);
        loop {
            self.check()?;
            let end = start.saturating_add(size).min(self.data.len());
            match cutter.cut(&self.data[start..end], end == self.data.len()) {
                Ok(Some(cut)) => {
                    blocks.push((cut.place, &self.data[start + cut.block.start..start + cut.block.end]));
                    start += cut.taken;
                    size = BLOCK_BYTES;
                }
                Ok(None) if end == self.data.len() => break,
                Ok(None) => size *= 2,
                Err(damage) => return Ok((cutter.header().to_vec(), blocks, Some(self.frame(damage)))),
            }
        }
        Ok((cutter.header().to_vec(), blocks, None))
    }

    fn columnar(
        &self,
        format: &'static str,
        decode: impl Fn(&[u8]) -> Result<Vec<RecordBatch>, ArrowError>,
    ) -> Result<ReadRows, ReadRowsError> {
        let damaged = |reason: &str| ReadRowsError::Damaged {
            source_name: self.source.to_owned(),
            format,
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        };
        // Damage may lead a decoder to places where it does not look before it leaps.
        let batches = catch_unwind(AssertUnwindSafe(|| decode(self.data)))
            .map_err(|_| damaged("its decoder gave up"))?
            .map_err(|error| damaged(&error.to_string()))?;
        let plain_batches: Result<Vec<_>, _> = batches.iter().map(plain).collect();
        drop(batches);
        let batches = plain_batches.map_err(|error| self.rows_error(error))?;
        let marked = self.shape.is_some() && batches.first().is_some_and(Reader::looks_own_batch);
        self.own_or_not(marked, |reader| {
            let mut read = Vec::with_capacity(batches.len());
            let mut first_row = 0;
            for batch in &batches {
                self.check()?;
                let rows = reader.batch(batch);
                let records = rows.records();
                read.push((first_row, 0, rows));
                first_row += records;
            }
            Ok(read)
        })
    }

    /// Reads as a table of ours as long as that holds, else as any other.
    fn own_or_not<'b>(
        &self,
        marked: bool,
        read: impl Fn(Reader) -> Result<Vec<(u64, u64, Rows<'b>)>, ReadRowsError>,
    ) -> Result<ReadRows, ReadRowsError> {
        let Some(shape) = self.shape else { return self.finished(&read(Reader::table())?, marked, false) };
        if marked {
            let rows = read(Reader::new(shape, true))?;
            let good: usize = rows.iter().map(|(_, _, rows)| rows.ids().len()).sum();
            if good > 0 && rows.iter().all(|(_, _, rows)| rows.own_holds()) {
                return self.finished(&rows, marked, true);
            }
        }
        self.finished(&read(Reader::new(shape, false))?, marked, false)
    }

    fn finished(&self, read: &[(u64, u64, Rows<'_>)], marked: bool, own: bool) -> Result<ReadRows, ReadRowsError> {
        let mut layout = Layout::default();
        let mut bad: Vec<Bad> = Vec::new();
        let mut shapes: Vec<(String, u64)> = Vec::new();
        for (first_row, first_line, rows) in read {
            layout.join(rows.layout());
            for row in rows.bad() {
                let line = row.line.map(|line| line + first_line + 1);
                let (field, reason, raw) = (row.field.clone(), row.reason.clone(), row.raw.clone());
                bad.push((first_row + row.row, line, field, reason, raw, row.wrong_kind));
            }
            for &(shape, count) in rows.shapes() {
                match shapes.iter_mut().find(|(name, _)| name == shape) {
                    Some((_, so_far)) => *so_far += count,
                    None => shapes.push((shape.to_owned(), count)),
                }
            }
        }
        // Stable: of equal counts the shape that came first stands first.
        shapes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let ipc = self.ipc(read, &layout).map_err(|error| self.rows_error(error))?;
        Ok(ReadRows {
            ipc,
            records: read.iter().map(|(_, _, rows)| rows.records()).sum(),
            bad,
            shapes,
            own,
            marked,
            renamed: layout.renamed(),
            left_out: layout.left_out(),
            mixed: layout.mixed(),
        })
    }

    fn ipc(&self, read: &[(u64, u64, Rows<'_>)], layout: &Layout) -> Result<Vec<u8>, RowsError> {
        let mut writer = StreamWriter::try_new(Vec::new(), &layout.schema())?;
        for (first_row, _, rows) in read {
            writer.write(&rows.to_batch(layout, self.file_name, *first_row, None)?)?;
        }
        Ok(writer.into_inner()?)
    }

    fn check(&self) -> Result<(), ReadRowsError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(ReadRowsError::Interrupted) } else { Ok(()) }
    }

    fn frame(&self, damage: FrameError) -> ReadRowsError {
        ReadRowsError::Frame { source_name: self.source.to_owned(), damage }
    }

    fn rows_error(&self, error: RowsError) -> ReadRowsError {
        ReadRowsError::Rows { source_name: self.source.to_owned(), error }
    }
}

fn parquet_batches(data: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(data))?;
    builder.with_batch_size(BLOCK_ROWS).build()?.collect()
}

fn arrow_file_batches(data: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    FileReader::try_new(Cursor::new(data), None)?.collect()
}

fn arrow_stream_batches(data: &[u8]) -> Result<Vec<RecordBatch>, ArrowError> {
    StreamReader::try_new(Cursor::new(data), None)?.collect()
}
