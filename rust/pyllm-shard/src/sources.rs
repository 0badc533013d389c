//! Sources to blocks of whole records, one after the other, a bounded number of bytes at a time.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use pyllm_examples::{Cut, Cutter, FrameError, Place, TextFormat};

use crate::columnar::Columnar;
use crate::error::ShardError;
use crate::stored::{Seal, Unpacked, seal_of};

/// About how much one block holds; one row group is made of it.
pub(crate) const BLOCK_BYTES: usize = 4 << 20;
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// One source of rows, and where its unpacked bytes go if they have to be read at random.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) shown: String,
    pub(crate) file_name: String,
    pub(crate) path: PathBuf,
    pub(crate) piped: bool,
    pub(crate) spool: PathBuf,
}

/// What the bytes of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Text(TextFormat),
    Parquet,
    ArrowFile,
    ArrowStream,
}

impl Format {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Text(TextFormat::JsonLines) => "json_lines",
            Self::Text(TextFormat::JsonArray) => "json_array",
            Self::Text(TextFormat::Csv) => "csv",
            Self::Parquet => "parquet",
            Self::ArrowFile => "arrow_file",
            Self::ArrowStream => "arrow_stream",
        }
    }
}

/// What a block is made of.
pub(crate) enum Piece {
    Text {
        format: TextFormat,
        header: Arc<[String]>,
        bytes: Vec<u8>,
        block: Range<usize>,
        place: Place,
    },
    Batch(RecordBatch),
    /// The source has no more.
    End(Seal),
}

/// A source that is being read.
pub(crate) struct Source<'a> {
    input: &'a Input,
    pub(crate) format: Format,
    state: State,
}

enum State {
    Text(Box<Text>),
    Columnar { reader: Box<Columnar>, path: PathBuf, seal: Option<Seal> },
}

struct Text {
    bytes: Unpacked,
    cutter: Cutter,
    header: Option<Arc<[String]>>,
    /// Bytes behind the last block.
    carry: Vec<u8>,
    ended: bool,
}

impl<'a> Source<'a> {
    /// Opens a source and finds out what it is, from `ahead` of its first bytes.
    pub(crate) fn open(input: &'a Input, ahead: usize) -> Result<Self, ShardError> {
        let shown = input.shown.as_str();
        let mut bytes = Unpacked::open(&input.path, shown)?;
        let mut start = Vec::new();
        let mut ended = fill(&mut bytes, shown, &mut start, ahead)?;
        if start.starts_with(UTF8_MARK) {
            start.drain(..UTF8_MARK.len());
        }
        while !ended && start.iter().all(u8::is_ascii_whitespace) {
            let enough = start.len() + ahead;
            ended = fill(&mut bytes, shown, &mut start, enough)?;
        }
        if start.iter().all(|byte| b" \t\r\n".contains(byte)) {
            let unpacked = bytes.seal().bytes > 0;
            return Err(ShardError::Empty { shown: shown.to_owned(), piped: input.piped && !unpacked });
        }
        let format = recognise(shown, &start)?;
        if let Format::Text(text) = format {
            let state = Text { bytes, cutter: Cutter::new(text), header: None, carry: start, ended };
            return Ok(Self { input, format, state: State::Text(Box::new(state)) });
        }
        let (path, seal) = if bytes.is_plain() {
            (input.path.clone(), None)
        } else {
            let seal = unpack_to(&input.spool, shown, &mut bytes, start)?;
            (input.spool.clone(), Some(seal))
        };
        let reader = match format {
            Format::Parquet => Columnar::parquet(&path, shown)?,
            Format::ArrowFile => Columnar::arrow_file(&path, shown)?,
            Format::ArrowStream | Format::Text(_) => Columnar::arrow_stream(&path, shown)?,
        };
        Ok(Self { input, format, state: State::Columnar { reader: Box::new(reader), path, seal } })
    }

    /// Where the bytes of a columnar source can be read at random.
    pub(crate) fn columnar_path(&self) -> Option<&Path> {
        match &self.state {
            State::Text(_) => None,
            State::Columnar { path, .. } => Some(path),
        }
    }

    /// The next block of about `enough` bytes; `spare` is memory to use again.
    pub(crate) fn next(&mut self, enough: usize, spare: Vec<u8>) -> Result<Piece, ShardError> {
        let (input, format) = (self.input, self.format);
        match &mut self.state {
            State::Text(text) => text.next(input, format, enough, spare),
            State::Columnar { reader, path, seal } => {
                if let Some(batch) = reader.next(path)? {
                    return Ok(Piece::Batch(batch));
                }
                let failed = |error: io::Error| ShardError::read(&input.shown, &error);
                let seal = seal.take().map_or_else(|| seal_of(&input.path).map_err(failed), Ok)?;
                if *path == input.spool {
                    // Big, and not needed any more; a later pass unpacks it again.
                    drop(fs::remove_file(path));
                }
                Ok(Piece::End(seal))
            }
        }
    }
}

impl Text {
    fn next(&mut self, input: &Input, format: Format, enough: usize, spare: Vec<u8>) -> Result<Piece, ShardError> {
        let shown = input.shown.as_str();
        let mut buffer = spare;
        buffer.clear();
        if self.carry.len() >= enough {
            std::mem::swap(&mut buffer, &mut self.carry);
        } else {
            buffer.extend_from_slice(&self.carry);
        }
        self.carry.clear();
        let mut wanted = enough;
        loop {
            if !self.ended {
                self.ended = fill(&mut self.bytes, shown, &mut buffer, wanted)?;
            }
            let cut = self.cutter.cut(&buffer, self.ended).map_err(|error| damaged(shown, &error))?;
            if let Some(Cut { block, taken, place }) = cut {
                self.carry.extend_from_slice(&buffer[taken..]);
                buffer.truncate(taken);
                let cutter = &self.cutter;
                let header = self.header.get_or_insert_with(|| cutter.header().into());
                let format = match format {
                    Format::Text(format) => format,
                    Format::Parquet | Format::ArrowFile | Format::ArrowStream => TextFormat::JsonLines,
                };
                return Ok(Piece::Text { format, header: Arc::clone(header), bytes: buffer, block, place });
            }
            if self.ended {
                return Ok(Piece::End(self.bytes.seal()));
            }
            wanted = buffer.len().max(wanted) * 2;
        }
    }
}

/// Damage to a source's frame as the error that names the source.
pub(crate) fn damaged(shown: &str, error: &FrameError) -> ShardError {
    let hint = error.hint().map(str::to_owned);
    ShardError::Damaged { shown: shown.to_owned(), problem: error.to_string(), hint }
}

fn fill(bytes: &mut Unpacked, shown: &str, buffer: &mut Vec<u8>, enough: usize) -> Result<bool, ShardError> {
    bytes.fill(buffer, enough).map_err(|error| bytes.explain(shown, &error))
}

fn unpack_to(spool: &Path, shown: &str, bytes: &mut Unpacked, start: Vec<u8>) -> Result<Seal, ShardError> {
    let failed = |error: io::Error| ShardError::write(spool, &error);
    let mut file = File::create(spool).map_err(failed)?;
    let mut buffer = start;
    loop {
        file.write_all(&buffer).map_err(failed)?;
        buffer.clear();
        fill(bytes, shown, &mut buffer, BLOCK_BYTES)?;
        if buffer.is_empty() {
            return Ok(bytes.seal());
        }
    }
}

fn recognise(shown: &str, start: &[u8]) -> Result<Format, ShardError> {
    if start.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if start.starts_with(b"ARROW1") {
        return Ok(Format::ArrowFile);
    }
    if start.starts_with(b"\xff\xff\xff\xff") {
        return Ok(Format::ArrowStream);
    }
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Err(ShardError::Damaged {
            shown: shown.to_owned(),
            problem: "is UTF-16 text, not UTF-8".to_owned(),
            hint: Some(format!("convert it: iconv -f UTF-16 -t UTF-8 {shown}")),
        });
    }
    let first = start.iter().find(|byte| !b" \t\r\n".contains(byte)).copied().unwrap_or_default();
    Ok(Format::Text(match (first, ending(shown).as_str()) {
        (b'[', _) => TextFormat::JsonArray,
        // A JSON file whose beginning is damaged looks like text with commas; there the name decides.
        (b'{', _) | (_, "jsonl" | "ndjson") => TextFormat::JsonLines,
        (_, "json") => {
            let byte = std::ascii::escape_default(first);
            let problem = format!("is not valid JSON: it begins with b'{byte}', not with `[` or `{{`");
            return Err(ShardError::damaged(shown, problem));
        }
        _ => TextFormat::Csv,
    }))
}

/// The last ending of a name that says what the file is, not how it is packed.
fn ending(shown: &str) -> String {
    let name = Path::new(shown).file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let endings = name.trim_start_matches('.').split('.').skip(1);
    endings.filter(|ending| !["gz", "zst"].contains(ending)).last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_looks_through_packing() {
        assert_eq!(ending("a/b.c/train.JSONL.gz"), "jsonl");
        assert_eq!(ending("standard input"), "");
        assert_eq!(ending(".json"), "");
        assert_eq!(ending("x.json.zst"), "json");
    }

    #[test]
    fn text_is_recognised_by_its_first_character_then_by_its_name() {
        let text = |shown: &str, start: &[u8]| recognise(shown, start).map(Format::as_str).map_err(|e| e.to_string());
        assert_eq!(text("a.csv", b" \n[1"), Ok("json_array"));
        assert_eq!(text("a.csv", b"{}"), Ok("json_lines"));
        assert_eq!(text("a.jsonl", b"x{}"), Ok("json_lines"));
        assert_eq!(text("a", b"x,y"), Ok("csv"));
        let wrong = "a.json is not valid JSON: it begins with b'x', not with `[` or `{`";
        assert_eq!(text("a.json", b"x{}"), Err(wrong.to_owned()));
        assert_eq!(text("a", b"\xff\xfex"), Err("a is UTF-16 text, not UTF-8".to_owned()));
    }
}
