//! Where blocks of whole records end.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2, memchr3, memrchr};

use crate::csv::{Record, cell_text, damage, record};
use crate::error::FrameError;
use crate::reader::TextFormat;
use crate::strings::{characters, first_misfit};

/// One block: `buffer[block]` goes to [`crate::Reader::text`], and the first `taken` bytes of the buffer are done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The block within the buffer.
    pub block: Range<usize>,
    /// How much of the buffer is taken: the next buffer begins there.
    pub taken: usize,
    /// Where the block begins in the file.
    pub place: Place,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Newlines before it.
    pub line: u64,
    /// Characters before it on its line (kept for arrays only).
    pub column: u64,
}

impl Place {
    /// Goes on behind these bytes.
    fn pass(&mut self, bytes: &[u8], format: TextFormat) {
        self.line += memchr_iter(b'\n', bytes).count() as u64;
        if format == TextFormat::JsonArray {
            match memrchr(b'\n', bytes) {
                Some(at) => self.column = characters(&bytes[at + 1..]) as u64,
                None => self.column += characters(bytes) as u64,
            }
        }
    }
}

/// Cuts a stream of bytes after whole records, keeping its state from call to call.
pub struct Cutter {
    format: TextFormat,
    /// Where the buffer begins.
    place: Place,
    array: Array,
    csv: Csv,
    /// Bytes of the buffer in which no end of a line was found.
    searched: usize,
    header: Option<Vec<String>>,
}

impl Cutter {
    /// A cutter at the beginning of a file (behind its byte-order mark).
    #[must_use]
    pub fn new(format: TextFormat) -> Self {
        Self {
            format,
            place: Place::default(),
            array: Array::default(),
            csv: Csv::default(),
            searched: 0,
            header: None,
        }
    }

    /// The CSV header, once the first block is cut (or the end is reached); empty for other formats.
    #[must_use]
    pub fn header(&self) -> &[String] {
        self.header.as_deref().unwrap_or_default()
    }

    /// The block from the buffer's beginning to its last whole record; `None` where there is none.
    ///
    /// The buffer begins where the last cut ended. After `None` it comes again with more bytes behind it, or with
    /// `end` where no more will come; with `end`, call until `None`, which then means that all is cut.
    ///
    /// # Errors
    ///
    /// The frame of an array or the header of a CSV file is damaged; blocks before the damage are cut first.
    pub fn cut(&mut self, buffer: &[u8], end: bool) -> Result<Option<Cut>, FrameError> {
        let found = match self.format {
            TextFormat::JsonLines => self.lines(buffer, end),
            TextFormat::JsonArray => self.array.cut(buffer, end, self.place)?,
            TextFormat::Csv => self.records(buffer, end)?,
        };
        let Some((block, taken)) = found else { return Ok(None) };
        self.place.pass(&buffer[..block.start], self.format);
        let place = self.place;
        self.place.pass(&buffer[block.start..taken], self.format);
        Ok(Some(Cut { block, taken, place }))
    }

    fn lines(&mut self, buffer: &[u8], end: bool) -> Option<(Range<usize>, usize)> {
        let taken = match memrchr(b'\n', &buffer[self.searched.min(buffer.len())..]) {
            _ if end => buffer.len(),
            Some(at) => self.searched + at + 1,
            None => {
                self.searched = buffer.len();
                return None;
            }
        };
        self.searched = 0;
        (taken > 0).then_some((0..taken, taken))
    }

    fn records(&mut self, buffer: &[u8], end: bool) -> Result<Option<(Range<usize>, usize)>, FrameError> {
        let first_end = if self.header.is_none() { self.csv.next(buffer, end) } else { Some(0) };
        let Some(first_end) = first_end else { return Ok(None) };
        while self.csv.next(buffer, end).is_some() {}
        let taken = self.csv.taken();
        if self.header.is_none() {
            if taken == first_end && !end {
                // The header comes together with a record.
                self.csv = Csv::default();
                return Ok(None);
            }
            self.header = Some(header(&buffer[..first_end])?);
        }
        Ok((taken > 0).then_some((first_end..taken, taken)))
    }
}

/// The names that the first record holds.
fn header(bytes: &[u8]) -> Result<Vec<String>, FrameError> {
    let text = std::str::from_utf8(bytes).map_err(|_| {
        let (at, byte) = first_misfit(bytes).unwrap_or_default();
        FrameError::NotUtf8 { line: memchr_iter(b'\n', &bytes[..at]).count() as u64 + 1, byte }
    })?;
    let mut cells = Vec::new();
    let Record { damaged, .. } = record(bytes, 0, &mut cells);
    if let Some(field) = damaged {
        return Err(FrameError::CsvHeader { reason: damage(field) });
    }
    let names: Vec<_> = cells.iter().map(|&cell| cell_text(text, cell).unwrap_or_default()).collect();
    match names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
        Some((_, name)) => Err(FrameError::CsvTwice { name: name.clone() }),
        None => Ok(names),
    }
}

/// Ends of CSV records; offsets are the buffer's.
#[derive(Debug, Default)]
struct Csv {
    record: usize,
    at: usize,
    state: CsvState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CsvState {
    #[default]
    Field,
    Plain,
    Quoted,
    /// The record is damaged and ends with its first line.
    Damaged,
}

impl Csv {
    /// What is whole is taken; the next buffer begins behind it.
    fn taken(&mut self) -> usize {
        let taken = self.record;
        self.record = 0;
        self.at -= taken;
        taken
    }

    /// The end of the next record, which begins at `self.record`.
    fn next(&mut self, buffer: &[u8], end: bool) -> Option<usize> {
        if self.record == buffer.len() {
            return None;
        }
        loop {
            let rest = &buffer[self.at..];
            match self.state {
                CsvState::Field => match rest.first() {
                    Some(b'"') => {
                        self.at += 1;
                        self.state = CsvState::Quoted;
                    }
                    Some(_) => self.state = CsvState::Plain,
                    None => return end.then(|| self.ends_at(self.at)),
                },
                CsvState::Plain => {
                    let Some(found) = memchr3(b',', b'\n', b'\r', rest) else {
                        self.at = buffer.len();
                        return end.then(|| self.ends_at(self.at));
                    };
                    self.at += found;
                    if buffer[self.at] == b',' {
                        self.at += 1;
                        self.state = CsvState::Field;
                    } else {
                        return self.line_end(buffer, end);
                    }
                }
                CsvState::Quoted => {
                    let Some(found) = memchr(b'"', rest) else {
                        self.at = buffer.len();
                        if !end {
                            return None;
                        }
                        self.damage();
                        continue;
                    };
                    self.at += found;
                    match buffer.get(self.at + 1) {
                        Some(b'"') => self.at += 2,
                        Some(b',' | b'\n' | b'\r') => {
                            self.at += 1;
                            self.state = CsvState::Plain;
                        }
                        Some(_) => self.damage(),
                        None if end => return Some(self.ends_at(buffer.len())),
                        None => return None,
                    }
                }
                CsvState::Damaged => {
                    let Some(found) = memchr2(b'\n', b'\r', rest) else {
                        self.at = buffer.len();
                        return end.then(|| self.ends_at(self.at));
                    };
                    self.at += found;
                    return self.line_end(buffer, end);
                }
            }
        }
    }

    fn damage(&mut self) {
        self.at = self.record;
        self.state = CsvState::Damaged;
    }

    /// Ends the record behind the line break at `self.at`, once it is known to be whole.
    fn line_end(&mut self, buffer: &[u8], end: bool) -> Option<usize> {
        let next = buffer.get(self.at + 1);
        if buffer[self.at] == b'\r' && next.is_none() && !end {
            return None;
        }
        let pair = buffer[self.at] == b'\r' && next == Some(&b'\n');
        Some(self.ends_at(self.at + if pair { 2 } else { 1 }))
    }

    fn ends_at(&mut self, at: usize) -> usize {
        *self = Self { record: at, at, state: CsvState::Field };
        at
    }
}

/// Ends of the elements of a JSON array, by brackets and strings alone; offsets are the buffer's.
#[derive(Debug, Default)]
struct Array {
    at: usize,
    stage: Stage,
    /// Behind the last comma between elements.
    last_comma: usize,
    commas: u64,
    /// Something stands behind the last comma (or the opening bracket).
    element: bool,
    depth: usize,
    in_string: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// Before the opening bracket.
    #[default]
    Before,
    Inside,
    /// Behind the closing one.
    After,
}

impl Array {
    fn cut(&mut self, buffer: &[u8], end: bool, place: Place) -> Result<Option<(Range<usize>, usize)>, FrameError> {
        let mut start = 0;
        if self.stage == Stage::Before {
            let Some(at) = buffer.iter().position(|&byte| byte == b'[') else { return Ok(None) };
            start = at + 1;
            self.at = start;
            self.stage = Stage::Inside;
            self.last_comma = start;
            if let Some(found) = self.inside(buffer, end, place, start)? {
                return Ok(Some(found));
            }
            // Nothing is whole yet: the bracket is looked at again.
            *self = Self::default();
            return Ok(None);
        }
        if self.stage == Stage::Inside {
            return self.inside(buffer, end, place, start);
        }
        match buffer.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
            Some(_) => Err(refusal(self.commas, place, &[], "text follows the end of the array")),
            // Blanks are no block.
            None => Ok(None),
        }
    }

    /// The elements that are whole.
    fn inside(
        &mut self,
        buffer: &[u8],
        end: bool,
        place: Place,
        start: usize,
    ) -> Result<Option<(Range<usize>, usize)>, FrameError> {
        let closing = self.scan(buffer);
        let trailing = closing.is_some() && self.commas > 0 && !self.element;
        let torn = closing.is_none() && end && !self.element;
        if trailing || torn {
            if self.last_comma > start {
                return Ok(Some(self.take(start, self.last_comma)));
            }
            let at = closing.unwrap_or(buffer.len());
            return Err(refusal(self.commas, place, &buffer[..at], "expecting value"));
        }
        if let Some(closing) = closing {
            self.stage = Stage::After;
            return Ok(Some(self.take(start, closing + 1)));
        }
        if end {
            // The last element is torn: its parser says where, and nothing comes behind it.
            self.stage = Stage::After;
            self.last_comma = buffer.len();
        }
        if self.last_comma > start { Ok(Some(self.take(start, self.last_comma))) } else { Ok(None) }
    }

    fn take(&mut self, start: usize, taken: usize) -> (Range<usize>, usize) {
        self.at -= taken.min(self.at);
        self.last_comma = 0;
        (start..taken, taken)
    }

    /// Goes on to the end of the buffer or to the closing bracket, and says where that is.
    fn scan(&mut self, buffer: &[u8]) -> Option<usize> {
        while let Some(&byte) = buffer.get(self.at) {
            if self.in_string {
                let Some(found) = memchr2(b'"', b'\\', &buffer[self.at..]) else {
                    self.at = buffer.len();
                    return None;
                };
                self.at += found;
                if buffer[self.at] == b'\\' {
                    if self.at + 1 == buffer.len() {
                        return None;
                    }
                    self.at += 2;
                } else {
                    self.at += 1;
                    self.in_string = false;
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => {
                    self.at += 1;
                    continue;
                }
                b'"' => self.in_string = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' if self.depth > 0 => self.depth -= 1,
                b']' => return Some(self.at),
                b',' if self.depth == 0 => {
                    self.at += 1;
                    self.last_comma = self.at;
                    self.commas += 1;
                    self.element = false;
                    continue;
                }
                _ => {}
            }
            self.element = true;
            self.at += 1;
        }
        None
    }
}

fn refusal(row: u64, place: Place, before: &[u8], reason: &str) -> FrameError {
    let mut at = place;
    at.pass(before, TextFormat::JsonArray);
    FrameError::Array { row, line: at.line + 1, column: at.column + 1, reason: reason.to_owned() }
}
