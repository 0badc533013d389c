//! CSV records. An empty field is null, a quoted empty one is empty text.
//!
//! Written out because the readers at hand either lose that difference or fill short rows up without a word.

use memchr::{memchr, memchr2, memchr3};

use crate::plan::Plans;
use crate::rows::{BadRow, Rows};
use crate::values::{Member, Store, Text, Value};

/// One field within its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Nothing at all.
    Empty,
    /// As it stands from one byte to another.
    Plain(usize, usize),
    /// Between quotation marks, with others doubled.
    Doubled(usize, usize),
}

/// Where a record ends, and the number of the field that damages it.
pub(crate) struct Record {
    pub(crate) end: usize,
    pub(crate) damaged: Option<usize>,
}

/// The fields of the record that begins at `start`.
pub(crate) fn record(bytes: &[u8], start: usize, cells: &mut Vec<Cell>) -> Record {
    cells.clear();
    let mut at = start;
    loop {
        let (cell, end) = if bytes.get(at) == Some(&b'"') {
            match quoted(bytes, at) {
                Some(found) => found,
                None => return Record { end: line_end(bytes, start), damaged: Some(cells.len() + 1) },
            }
        } else {
            let end = memchr3(b',', b'\n', b'\r', &bytes[at..]).map_or(bytes.len(), |found| at + found);
            (if end == at { Cell::Empty } else { Cell::Plain(at, end) }, end)
        };
        cells.push(cell);
        at = end + 1;
        match bytes.get(end) {
            Some(b',') => {}
            Some(b'\r') if bytes.get(at) == Some(&b'\n') => return Record { end: at + 1, damaged: None },
            Some(_) => return Record { end: at, damaged: None },
            None => return Record { end, damaged: None },
        }
    }
}

/// A field between quotation marks and where it ends; `None` where the marks are stray or never closed.
fn quoted(bytes: &[u8], start: usize) -> Option<(Cell, usize)> {
    let mut at = start + 1;
    let mut doubled = false;
    loop {
        at += memchr(b'"', &bytes[at..])?;
        match bytes.get(at + 1) {
            Some(b'"') => {
                doubled = true;
                at += 2;
            }
            None | Some(b',' | b'\n' | b'\r') => {
                let cell = if doubled { Cell::Doubled(start + 1, at) } else { Cell::Plain(start + 1, at) };
                return Some((cell, at + 1));
            }
            Some(_) => return None,
        }
    }
}

/// Behind the line break that ends the line of `start`.
fn line_end(bytes: &[u8], start: usize) -> usize {
    match memchr2(b'\n', b'\r', &bytes[start..]) {
        None => bytes.len(),
        Some(found) => {
            let at = start + found;
            at + if bytes[at] == b'\r' && bytes.get(at + 1) == Some(&b'\n') { 2 } else { 1 }
        }
    }
}

/// What is wrong with a damaged record.
pub(crate) fn damage(field: usize) -> String {
    format!("has a quotation mark in field {field} that is stray or never closed")
}

/// The text of a field, as it is meant.
pub(crate) fn cell_text(text: &str, cell: Cell) -> Option<String> {
    match cell {
        Cell::Empty => None,
        Cell::Plain(start, end) => Some(text[start..end].to_owned()),
        Cell::Doubled(start, end) => Some(text[start..end].replace("\"\"", "\"")),
    }
}

fn value<'a>(store: &mut Store<'a>, text: &'a str, cell: Cell) -> Value<'a> {
    match cell {
        Cell::Empty => Value::Null,
        Cell::Plain(start, end) => Value::Text(Text::Plain(&text[start..end])),
        Cell::Doubled(start, end) => Value::Text(store.keep(&text[start..end].replace("\"\"", "\""))),
    }
}

/// Reads all records of a block.
pub(crate) fn read<'a>(rows: &mut Rows<'a>, plans: &mut Plans, header: &[String], text: &'a str) {
    let keys: Vec<Text<'a>> = header.iter().map(|name| rows.store.keep(name)).collect();
    let mut cells = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let Record { end, damaged } = record(text.as_bytes(), start, &mut cells);
        let line = rows.lines;
        rows.lines += memchr::memchr_iter(b'\n', &text.as_bytes()[start..end]).count() as u64;
        let raw = text[start..end].trim_end_matches(['\r', '\n']);
        start = end;
        let bad = |row, field, reason, wrong_kind| BadRow {
            row,
            line: Some(line),
            field,
            reason,
            raw: raw.to_owned(),
            wrong_kind,
        };
        if let Some(field) = damaged {
            rows.bad.push(bad(rows.records, None, damage(field), false));
        } else if cells == [Cell::Empty] {
            continue; // a blank line
        } else if cells.len() == keys.len() {
            let mark = rows.store.mark();
            for (&key, &cell) in keys.iter().zip(&cells) {
                let value = value(&mut rows.store, text, cell);
                rows.store.open_members.push(Member { key, value });
            }
            let first = rows.store.close_row();
            if let Err(problem) = rows.take(plans, first) {
                rows.store.rewind(mark);
                rows.bad.push(bad(rows.records, problem.field, problem.reason, problem.wrong_kind));
            }
        } else {
            let reason = format!("has {} fields, the header has {}", cells.len(), keys.len());
            rows.bad.push(bad(rows.records, None, reason, false));
        }
        rows.records += 1;
    }
}
