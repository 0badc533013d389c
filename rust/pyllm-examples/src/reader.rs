//! Blocks of rows, read.

use arrow_array::RecordBatch;
use memchr::{memchr, memmem};

use crate::error::FrameError;
use crate::json::Parser;
use crate::plan::{Mode, Plans};
use crate::rows::{BadRow, Rows};
use crate::shape::Shape;
use crate::strings::{escaped_bytes, first_misfit};
use crate::{batches, csv, json_array};

const MARKS: [&str; 3] = ["id", "source_file", "source_row"];

/// Formats whose records are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// One object a line.
    JsonLines,
    /// One array of objects.
    JsonArray,
    /// Comma-separated values under a header.
    Csv,
}

/// Reads blocks of rows; shared by threads.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    mode: Mode,
}

impl Reader {
    /// A reader of instruction rows. `own`: of a table of ours, whose rows keep ids and sources.
    #[must_use]
    pub fn new(shape: Shape, own: bool) -> Self {
        Self { mode: if own { Mode::Own } else { Mode::Examples(shape) } }
    }

    /// A reader of any table: all keys become columns, none is canonical.
    #[must_use]
    pub fn table() -> Self {
        Self { mode: Mode::Table }
    }

    /// Whether a file's first block has the marks of a table of ours: `id`, `source_file` and `source_row`.
    #[must_use]
    pub fn looks_own(format: TextFormat, header: &[String], block: &[u8]) -> bool {
        if format == TextFormat::Csv {
            return MARKS.iter().all(|mark| header.iter().any(|name| name == mark));
        }
        // Most files end here.
        if memmem::find(block, b"source_row").is_none() {
            return false;
        }
        let rows = Self::table().text(format, header, block);
        MARKS.iter().all(|mark| rows.layout.columns.iter().any(|column| column.name == *mark))
    }

    /// The same for record batches.
    #[must_use]
    pub fn looks_own_batch(batch: &RecordBatch) -> bool {
        MARKS.iter().all(|mark| batch.schema_ref().field_with_name(mark).is_ok())
    }

    /// The rows of a block of text that a [`crate::Cutter`] cut; `header` is the cutter's.
    #[must_use]
    pub fn text<'a>(&self, format: TextFormat, header: &[String], block: &'a [u8]) -> Rows<'a> {
        let mut rows = Rows::new(self.mode, block.len());
        let mut plans = Plans::new(self.mode, Vec::new());
        match (format, std::str::from_utf8(block)) {
            (TextFormat::JsonLines, whole) => json_lines(&mut rows, &mut plans, block, whole.ok()),
            (TextFormat::JsonArray, Ok(text)) => json_array::read(&mut rows, &mut plans, text),
            (TextFormat::Csv, Ok(text)) => csv::read(&mut rows, &mut plans, header, text),
            (TextFormat::JsonArray | TextFormat::Csv, Err(misfit)) => {
                let (sound, rest) = block.split_at(misfit.valid_up_to());
                let line = memchr::memchr_iter(b'\n', sound).count() as u64 + 1;
                rows.damage = Some(FrameError::NotUtf8 { line, byte: rest.first().copied().unwrap_or_default() });
            }
        }
        if format == TextFormat::JsonArray {
            rows.lines = memchr::memchr_iter(b'\n', block).count() as u64;
        }
        rows
    }

    /// The rows of a batch that went through [`crate::plain`].
    #[must_use]
    pub fn batch<'a>(&self, batch: &'a RecordBatch) -> Rows<'a> {
        batches::read(self.mode, batch)
    }
}

fn json_lines<'a>(rows: &mut Rows<'a>, plans: &mut Plans, block: &'a [u8], whole: Option<&'a str>) {
    let mut start = 0;
    while start < block.len() {
        let end = memchr(b'\n', &block[start..]).map_or(block.len(), |found| start + found);
        let bytes = block[start..end].strip_suffix(b"\r").unwrap_or(&block[start..end]);
        if !bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)) {
            // Where the block is text, so are its lines; else each is looked at by itself.
            let text = match whole {
                Some(text) => Some(&text[start..start + bytes.len()]),
                None => std::str::from_utf8(bytes).ok(),
            };
            json_line(rows, plans, bytes, text);
            rows.records += 1;
        }
        rows.lines += u64::from(end < block.len());
        start = end + 1;
    }
}

fn json_line<'a>(rows: &mut Rows<'a>, plans: &mut Plans, bytes: &'a [u8], text: Option<&'a str>) {
    let mark = rows.store.mark();
    let problem = match text {
        None => {
            let (at, byte) = first_misfit(bytes).unwrap_or_default();
            Some((None, format!("is not UTF-8 text: byte 0x{byte:02x} at position {at}"), false))
        }
        Some(text) => match Parser::new(text).record(&mut rows.store) {
            Ok(first) => {
                rows.take(plans, first).err().map(|problem| (problem.field, problem.reason, problem.wrong_kind))
            }
            Err(problem) => Some((None, problem.reason(text), false)),
        },
    };
    if let Some((field, reason, wrong_kind)) = problem {
        rows.store.rewind(mark);
        let (row, line) = (rows.records, Some(rows.lines));
        rows.bad.push(BadRow { row, line, field, reason, raw: escaped_bytes(bytes), wrong_kind });
    }
}
