//! The elements of a JSON array, without its brackets: damage to one that is no JSON ends the file.

use crate::error::FrameError;
use crate::json::{Parser, Problem};
use crate::plan::Plans;
use crate::rows::{BadRow, Rows};
use crate::strings::characters;

/// Reads the elements of a block: each with its comma, the last of the array with the closing bracket.
pub(crate) fn read<'a>(rows: &mut Rows<'a>, plans: &mut Plans, text: &'a str) {
    let mut parser = Parser::new(text);
    loop {
        parser.blanks();
        if parser.peek().is_none_or(|byte| byte == b']') {
            return;
        }
        let start = parser.at;
        let mark = rows.store.mark();
        let problem = match parser.element(&mut rows.store) {
            Ok(first) => {
                rows.take(plans, first).err().map(|problem| (problem.field, problem.reason, problem.wrong_kind))
            }
            Err(Problem::Syntax(reason, at)) => {
                rows.damage = Some(damage(text, rows.records, at, reason));
                return;
            }
            Err(problem) => {
                if !matches!(problem, Problem::Kind(_) | Problem::HalfPair) {
                    parser.at = value_end(text, start);
                }
                Some((None, problem.reason(text), false))
            }
        };
        if let Some((field, reason, wrong_kind)) = problem {
            rows.store.rewind(mark);
            let raw = text[start..parser.at].to_owned();
            rows.bad.push(BadRow { row: rows.records, line: None, field, reason, raw, wrong_kind });
        }
        parser.blanks();
        match parser.peek() {
            Some(b',') => parser.at += 1,
            Some(b']') => {}
            _ => {
                rows.damage = Some(damage(text, rows.records, parser.at, "expecting ',' or ']' after it"));
                rows.records += 1;
                return;
            }
        }
        rows.records += 1;
    }
}

fn damage(text: &str, row: u64, at: usize, reason: &str) -> FrameError {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |found| found + 1);
    FrameError::Array {
        row,
        line: memchr::memchr_iter(b'\n', before).count() as u64 + 1,
        column: characters(&before[line_start..]) as u64 + 1,
        reason: reason.to_owned(),
    }
}

/// Where a value ends, by its brackets alone: for values that the parser gives up on.
fn value_end(text: &str, start: usize) -> usize {
    let rest = &text[start..];
    if !rest.starts_with(['[', '{']) {
        let is_end = |letter: char| matches!(letter, ',' | ']' | '}') || letter.is_whitespace();
        return rest.find(is_end).map_or(text.len(), |found| start + found);
    }
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (start, 0_usize);
    // After a string that never ends, marks are looked at no more: looking on from each would take for ever.
    let mut strings = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' if strings => match string_end(bytes, at) {
                Some(end) => at = end,
                None => strings = false,
            },
            b'[' | b'{' => depth += 1,
            b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// The closing mark of the string that is opened at `at`.
fn string_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}
