//! Packed rows to Parquet files, under temporary names until all are whole.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, ListArray, StringArray, UInt16Array, UInt32Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{PackError, reason};
use crate::plan::Packing;
use crate::rows::TokenRows;

/// The label of a token that is not trained.
pub const MASKED: i32 = -100;

/// About as many tokens stand in a row group.
const GROUP_TOKENS: usize = 1 << 20;

/// Row groups that are encoded at once, for each thread.
const GROUPS_PER_THREAD: usize = 2;

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name in the folder.
    pub name: String,
    /// Packed rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: String,
}

/// How packed rows are written.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Tokens of a packed row, which decides the size of row groups.
    pub length: u32,
    /// Packed rows in each file; the last has what is left.
    pub rows_per_part: usize,
    /// Ids above 65,535 are possible.
    pub wide: bool,
    /// How pages are compressed.
    pub compression: Compression,
    /// The provenance of the table, as JSON.
    pub provenance: String,
}

/// A compression as the command line names it: `zstd:1` and so on, `lz4`, `snappy`, `none`.
///
/// # Errors
/// It has no such name.
pub fn compression(name: &str) -> Result<Compression, PackError> {
    let unknown = || PackError::Compression { name: name.to_owned() };
    match name.split_once(':') {
        None if name == "lz4" => Ok(Compression::LZ4_RAW),
        None if name == "snappy" => Ok(Compression::SNAPPY),
        None if name == "none" => Ok(Compression::UNCOMPRESSED),
        Some(("zstd", level)) => {
            let level = level.parse().ok().and_then(|level| ZstdLevel::try_new(level).ok()).ok_or_else(unknown)?;
            Ok(Compression::ZSTD(level))
        }
        _ => Err(unknown()),
    }
}

/// The files of one run. Dropped before it is finished, it takes them away.
pub(crate) struct PartWriter {
    folder: PathBuf,
    layout: Layout,
    schema: SchemaRef,
    properties: WriterPropertiesPtr,
    open: Option<OpenPart>,
    finished: Vec<Part>,
}

struct OpenPart {
    name: String,
    writer: SerializedFileWriter<Hashing>,
    factory: ArrowRowGroupWriterFactory,
    rows: usize,
}

impl PartWriter {
    pub(crate) fn new(folder: &Path, layout: Layout) -> Result<Self, PackError> {
        if layout.rows_per_part == 0 {
            return Err(PackError::NoRows);
        }
        let schema = schema(layout.wide);
        let properties = Arc::new(properties(&layout));
        Ok(Self { folder: folder.to_owned(), layout, schema, properties, open: None, finished: Vec::new() })
    }

    /// Adds packed rows. Row groups end with a call and with a file, and are else of equal size.
    pub(crate) fn write(
        &mut self,
        rows: &TokenRows,
        packing: &Packing,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), PackError> {
        let group_rows = (GROUP_TOKENS / self.layout.length as usize).max(1);
        let at_once = rayon::current_num_threads() * GROUPS_PER_THREAD;
        let mut done = 0;
        while done < packing.bins() {
            if interrupted() {
                return Err(PackError::Interrupted);
            }
            let mut part = match self.open.take() {
                Some(part) => part,
                None => self.open_part()?,
            };
            let end = packing.bins().min(done + self.layout.rows_per_part - part.rows);
            let groups: Vec<_> =
                (done..end).step_by(group_rows).map(|from| from..end.min(from + group_rows)).take(at_once).collect();
            let encoded: Vec<_> =
                groups.par_iter().map(|bins| self.encode(&part.factory, rows, packing, bins.clone())).collect();
            for (bins, columns) in groups.into_iter().zip(encoded) {
                append(&mut part.writer, columns).map_err(|error| self.failed(&part.name, &error))?;
                part.rows += bins.len();
                done = bins.end;
            }
            if part.rows == self.layout.rows_per_part {
                self.close_part(part)?;
            } else {
                self.open = Some(part);
            }
        }
        Ok(())
    }

    /// Ends the last file and gives all of them their names.
    pub(crate) fn finish(mut self) -> Result<Vec<Part>, PackError> {
        if let Some(part) = self.open.take() {
            self.close_part(part)?;
        }
        for (place, part) in self.finished.iter().enumerate() {
            if let Err(error) = fs::rename(self.temporary(&part.name), self.folder.join(&part.name)) {
                for named in &self.finished[..place] {
                    // Nothing more can be done about one that stays.
                    drop(fs::remove_file(self.folder.join(&named.name)));
                }
                return Err(self.failed(&part.name, &error));
            }
        }
        if let Ok(folder) = File::open(&self.folder) {
            folder.sync_all().map_err(|error| self.failed("", &error))?;
        }
        Ok(std::mem::take(&mut self.finished))
    }

    fn encode(
        &self,
        factory: &ArrowRowGroupWriterFactory,
        rows: &TokenRows,
        packing: &Packing,
        bins: Range<usize>,
    ) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
        let columns = columns(rows, packing, bins, &self.schema);
        let mut chunks = Vec::with_capacity(columns.len());
        let mut writers = factory.create_column_writers(0)?.into_iter();
        for (field, column) in self.schema.fields().iter().zip(&columns) {
            for (leaf, mut writer) in compute_leaves(field, column)?.iter().zip(&mut writers) {
                writer.write(leaf)?;
                chunks.push(writer.close()?);
            }
        }
        Ok(chunks)
    }

    fn open_part(&self) -> Result<OpenPart, PackError> {
        let name = format!("part-{:05}.parquet", self.finished.len());
        let file = File::create(self.temporary(&name)).map_err(|error| self.failed(&name, &error))?;
        let make = || {
            let parquet = ArrowSchemaConverter::new().convert(&self.schema)?;
            SerializedFileWriter::new(Hashing::new(file), parquet.root_schema_ptr(), Arc::clone(&self.properties))
        };
        let writer = make().map_err(|error| self.failed(&name, &error))?;
        let factory = ArrowRowGroupWriterFactory::new(&writer, Arc::clone(&self.schema));
        Ok(OpenPart { name, writer, factory, rows: 0 })
    }

    fn close_part(&mut self, part: OpenPart) -> Result<(), PackError> {
        let OpenPart { name, writer, rows, .. } = part;
        let written = writer.into_inner().map_err(|error| self.failed(&name, &error))?;
        let (bytes, sha256) = written.finish().map_err(|error| self.failed(&name, &error))?;
        self.finished.push(Part { name, rows: rows as u64, bytes, sha256 });
        Ok(())
    }

    fn temporary(&self, name: &str) -> PathBuf {
        self.folder.join(format!(".{name}.partial"))
    }

    fn failed(&self, name: &str, error: &(dyn std::error::Error + 'static)) -> PackError {
        // Parquet wraps what the system said.
        let said = match error.downcast_ref::<ParquetError>() {
            Some(ParquetError::External(inner)) => reason(inner.as_ref()),
            _ => reason(error),
        };
        PackError::Write { path: self.folder.join(name).display().to_string(), reason: said }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        let open = self.open.take().map(|part| part.name);
        for name in self.finished.iter().map(|part| &part.name).chain(&open) {
            // Nobody is left to tell.
            drop(fs::remove_file(self.temporary(name)));
        }
    }
}

fn append(
    writer: &mut SerializedFileWriter<Hashing>,
    columns: Result<Vec<ArrowColumnChunk>, ParquetError>,
) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    for column in columns? {
        column.append_to_row_group(&mut group)?;
    }
    group.close().map(drop)
}

/// The columns of a packed table.
fn schema(wide: bool) -> SchemaRef {
    let id = if wide { DataType::UInt32 } else { DataType::UInt16 };
    let list = |name: &str, kind| Field::new(name, DataType::List(Arc::new(Field::new("element", kind, false))), false);
    Arc::new(Schema::new(vec![
        list("input_ids", id),
        list("labels", DataType::Int32),
        list("seq_lengths", DataType::UInt32),
        list("row_ids", DataType::Utf8),
    ]))
}

fn properties(layout: &Layout) -> WriterProperties {
    let provenance = KeyValue::new("pyllm".to_owned(), layout.provenance.clone());
    let column = |name: &str| ColumnPath::from(vec![name.to_owned(), "list".to_owned(), "element".to_owned()]);
    WriterProperties::builder()
        .set_created_by(concat!("pyllm ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(layout.compression)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(None)
        .set_key_value_metadata(Some(vec![provenance]))
        .set_column_dictionary_enabled(column("row_ids"), false)
        .set_column_encoding(column("row_ids"), Encoding::PLAIN)
        .build()
}

/// The arrays of some packed rows, in the order of the schema.
fn columns(rows: &TokenRows, packing: &Packing, bins: Range<usize>, schema: &SchemaRef) -> Vec<ArrayRef> {
    let sequences = &packing.sequences[packing.offsets[bins.start] as usize..packing.offsets[bins.end] as usize];
    let tokens = sequences.iter().map(|&sequence| rows.ids(sequence as usize).len()).sum();
    let (mut ids, mut labels) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
    let mut lengths = Vec::with_capacity(sequences.len());
    let sequence_ends = OffsetBuffer::from_lengths(bins.clone().map(|bin| packing.bin(bin).len()));
    let mut bin_tokens = Vec::with_capacity(bins.len());
    for bin in bins {
        let before = ids.len();
        for &sequence in packing.bin(bin) {
            let row = rows.ids(sequence as usize);
            let from = labels.len();
            ids.extend_from_slice(row);
            labels.resize(from + row.len(), MASKED);
            for span in rows.trained(sequence as usize) {
                let span = span.start as usize..span.end as usize;
                let into = &mut labels[from + span.start..from + span.end];
                for (label, &id) in into.iter_mut().zip(&row[span]) {
                    *label = id.cast_signed();
                }
            }
            lengths.push(row.len() as u32);
        }
        bin_tokens.push(ids.len() - before);
    }
    let ids: ArrayRef = if *element(schema, 0).data_type() == DataType::UInt16 {
        Arc::new(UInt16Array::from_iter_values(ids.iter().map(|&id| id as u16)))
    } else {
        Arc::new(UInt32Array::from(ids))
    };
    let names = StringArray::from_iter_values(sequences.iter().map(|&sequence| rows.name(sequence as usize)));
    let token_ends = OffsetBuffer::from_lengths(bin_tokens);
    let values: [(ArrayRef, &OffsetBuffer<i32>); 4] = [
        (ids, &token_ends),
        (Arc::new(Int32Array::from(labels)), &token_ends),
        (Arc::new(UInt32Array::from(lengths)), &sequence_ends),
        (Arc::new(names), &sequence_ends),
    ];
    let list = |(place, (values, ends)): (usize, (ArrayRef, &OffsetBuffer<i32>))| -> ArrayRef {
        Arc::new(ListArray::new(element(schema, place), ends.clone(), values, None))
    };
    values.into_iter().enumerate().map(list).collect()
}

fn element(schema: &SchemaRef, place: usize) -> Arc<Field> {
    match schema.field(place).data_type() {
        DataType::List(element) => Arc::clone(element),
        _ => Arc::clone(&schema.fields()[place]),
    }
}

/// A file that hashes and counts what goes into it.
struct Hashing {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(1 << 20, file), hash: Sha256::new(), bytes: 0 }
    }

    /// Brings everything to the disk; size and digest.
    fn finish(mut self) -> io::Result<(u64, String)> {
        self.file.flush()?;
        self.file.get_ref().sync_data()?;
        let digits = self.hash.finalize().into_iter().flat_map(|byte| [byte >> 4, byte & 15]);
        Ok((self.bytes, digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()))
    }
}

impl Write for Hashing {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.file.write(data)?;
        self.hash.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
