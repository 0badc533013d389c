//! Arrow IPC files: record batches read one at a time into memory that is used again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::{FileDecoder, read_footer_length};
use arrow_ipc::{Block, Message, root_as_footer, root_as_message};
use arrow_schema::SchemaRef;

use crate::error::LogprobsError;
use crate::input::Memory;

const FORMAT: &str = "an Arrow file";

/// An open Arrow file: its schema, its dictionaries, and where its batches are.
#[derive(Debug)]
pub(crate) struct ArrowFile {
    file: File,
    schema: SchemaRef,
    decoder: FileDecoder,
    batches: Vec<Batch>,
}

#[derive(Debug, Clone, Copy)]
struct Batch {
    block: Block,
    rows: u64,
}

impl ArrowFile {
    /// Reads the footer, the dictionaries, and what each batch says of itself.
    pub(crate) fn open(path: &Path, file: File) -> Result<Self, LogprobsError> {
        let damaged = |reason: &dyn std::fmt::Display| LogprobsError::damaged(path, FORMAT, reason);
        let torn = |_| LogprobsError::damaged(path, FORMAT, "its end is missing");
        let bytes = file.metadata().map_err(|error| LogprobsError::read(path, &error))?.len();
        let mut tail = [0_u8; 10];
        file.read_exact_at(&mut tail, bytes.saturating_sub(10)).map_err(torn)?;
        let footer_bytes = read_footer_length(tail).map_err(|error| damaged(&error))?;
        let begin = bytes.checked_sub(10 + footer_bytes as u64).ok_or_else(|| damaged(&"its end is missing"))?;
        let mut footer = vec![0_u8; footer_bytes];
        file.read_exact_at(&mut footer, begin).map_err(torn)?;
        let footer = root_as_footer(&footer).map_err(|error| damaged(&error))?;
        let schema = footer.schema().ok_or_else(|| damaged(&"it has no schema"))?;
        if !schema.endianness().equals_to_target_endianness() {
            return Err(damaged(&"its numbers have the byte order of another kind of machine"));
        }
        let schema: SchemaRef =
            Arc::new(arrow_ipc::convert::try_fb_to_schema(schema).map_err(|error| damaged(&error))?);
        let mut decoder = FileDecoder::new(Arc::clone(&schema), footer.version());
        let mut memory = Memory::default();
        for block in footer.dictionaries().into_iter().flatten() {
            let buffer = read_block(path, &file, block, bytes, &mut memory)?;
            check(path, block, &buffer)?;
            decoder.read_dictionary(block, &buffer).map_err(|error| damaged(&error))?;
        }
        let mut batches = Vec::new();
        for block in footer.recordBatches().into_iter().flatten() {
            let (metadata, _) = extent(path, block, bytes)?;
            let buffer = memory.read(&file, path, block.offset().cast_unsigned(), metadata)?;
            let rows = message(path, &buffer)?.header_as_record_batch().map(|batch| batch.length());
            let rows = rows.and_then(|rows| u64::try_from(rows).ok()).ok_or_else(|| damaged(&"a batch has no rows"))?;
            memory.take_back(buffer);
            batches.push(Batch { block: *block, rows });
        }
        Ok(Self { file, schema, decoder, batches })
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(crate) fn batches(&self) -> usize {
        self.batches.len()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.rows).sum()
    }

    /// Reads one batch and hands on its columns of `projection`, at most `most_rows` rows at a time.
    pub(crate) fn read_batch(
        &self,
        path: &Path,
        place: usize,
        projection: &[usize],
        most_rows: usize,
        memory: &mut Memory,
        take: &mut dyn FnMut(&RecordBatch) -> Result<(), LogprobsError>,
    ) -> Result<(), LogprobsError> {
        let damaged = |reason: &dyn std::fmt::Display| LogprobsError::damaged(path, FORMAT, reason);
        let Batch { block, .. } = self.batches[place];
        let bytes = self.file.metadata().map_err(|error| LogprobsError::read(path, &error))?.len();
        let buffer = read_block(path, &self.file, &block, bytes, memory)?;
        check(path, &block, &buffer)?;
        let batch = self.decoder.read_record_batch(&block, &buffer).map_err(|error| damaged(&error))?;
        let batch = batch.ok_or_else(|| damaged(&"a batch is empty"))?;
        let batch = batch.project(projection).map_err(|error| damaged(&error))?;
        for first in (0..batch.num_rows()).step_by(most_rows.max(1)) {
            take(&batch.slice(first, most_rows.min(batch.num_rows() - first)))?;
        }
        drop(batch);
        memory.take_back(buffer);
        Ok(())
    }
}

/// Bytes of a block's metadata, and of all of it; inside the file.
fn extent(path: &Path, block: &Block, file_bytes: u64) -> Result<(usize, usize), LogprobsError> {
    let inside = || {
        let metadata = usize::try_from(block.metaDataLength()).ok()?;
        let whole = metadata.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
        let end = u64::try_from(block.offset()).ok()?.checked_add(whole as u64)?;
        (end <= file_bytes).then_some((metadata, whole))
    };
    inside().ok_or_else(|| LogprobsError::damaged(path, FORMAT, "a batch lies outside the file"))
}

fn read_block(
    path: &Path,
    file: &File,
    block: &Block,
    file_bytes: u64,
    memory: &mut Memory,
) -> Result<Buffer, LogprobsError> {
    let (_, whole) = extent(path, block, file_bytes)?;
    memory.read(file, path, block.offset().cast_unsigned(), whole)
}

/// The message at the beginning of a block.
fn message<'a>(path: &Path, block: &'a [u8]) -> Result<Message<'a>, LogprobsError> {
    let damaged = |reason: &dyn std::fmt::Display| LogprobsError::damaged(path, FORMAT, reason);
    let prefix = if block.starts_with(&[0xff; 4]) { 8 } else { 4 };
    let body = block.get(prefix..).ok_or_else(|| damaged(&"a batch has no message"))?;
    root_as_message(body).map_err(|error| damaged(&error))
}

/// Checks what the reader behind us takes on trust: that all buffers of a block lie inside it.
fn check(path: &Path, block: &Block, buffer: &Buffer) -> Result<(), LogprobsError> {
    let header = message(path, buffer)?;
    let data = header
        .header_as_record_batch()
        .or_else(|| header.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()));
    let inside = data.is_some_and(|data| {
        data.buffers().into_iter().flatten().all(|part| {
            part.offset() >= 0
                && part.length() >= 0
                && part.offset().checked_add(part.length()).is_some_and(|end| end <= block.bodyLength())
        }) && data.nodes().into_iter().flatten().all(|node| node.length() >= 0 && node.null_count() >= 0)
    });
    if inside { Ok(()) } else { Err(LogprobsError::damaged(path, FORMAT, "a batch does not fit its own description")) }
}
