//! What the beginnings of all inputs suggest, so that most runs read everything once only.
//!
//! A guess decides nothing: what it says is compared with what was found, and the work is done again if they differ.

use std::path::Path;

use memchr::memchr_iter;
use pyllm_examples::{Layout, Reader, Rows, TextFormat, plain};
use serde_json::Value;

use crate::columnar::parquet_footer;
use crate::error::ShardError;
use crate::numbering::Plan;
use crate::settings::{Division, Settings};
use crate::sources::{BLOCK_BYTES, Format, Input, Piece, Source};
use crate::stored::Unpacked;

/// How much of each input is looked at.
const LOOK_BYTES: usize = 1 << 20;
const LOOK_ROWS: usize = 1_000;
/// A table that has these columns may be one of ours.
const MARKS: [&str; 3] = ["id", "source_file", "source_row"];

/// What is expected of the inputs.
pub(crate) struct Guess {
    pub(crate) plan: Plan,
    /// The provenance steps of tables that we wrote, each once.
    pub(crate) steps: Vec<Value>,
    /// Whether the number of rows is needed and there was no cheap way to it.
    pub(crate) rows_missing: bool,
}

pub(crate) fn guess(settings: &Settings, inputs: &[Input]) -> Result<Guess, ShardError> {
    let mut plan = Plan { layout: Layout::default(), own: Vec::new(), rows: None };
    let mut steps: Vec<Value> = Vec::new();
    let counted = matches!(settings.division, Division::Shards(_));
    let mut rows = (counted && !settings.dedup).then_some(0);
    for input in inputs {
        let mut source = Source::open(input, LOOK_BYTES)?;
        let mut in_footer = None;
        if let (Format::Parquet, Some(path)) = (source.format, source.columnar_path()) {
            let (footer_rows, found) = parquet_footer(path, &input.shown)?;
            in_footer = Some(footer_rows);
            for step in found {
                if !steps.contains(&step) {
                    steps.push(step);
                }
            }
        }
        let (layout, own) = look(settings, &mut source)?;
        plan.layout.join(&layout);
        plan.own.push(own);
        let lines = source.format == Format::Text(TextFormat::JsonLines);
        rows = match (rows, in_footer) {
            (Some(before), Some(more)) => Some(before + more),
            (Some(before), None) if lines => Some(before + lines_of(&input.path, &input.shown)?),
            _ => None,
        };
    }
    plan.rows = if counted { rows } else { None };
    Ok(Guess { rows_missing: counted && plan.rows.is_none(), plan, steps })
}

fn look(settings: &Settings, source: &mut Source<'_>) -> Result<(Layout, bool), ShardError> {
    let own = Reader::new(settings.shape, true);
    let foreign = Reader::new(settings.shape, false);
    let judge = |mine: &Rows<'_>| mine.own_holds().then(|| mine.layout().clone());
    Ok(match source.next(LOOK_BYTES, Vec::new())? {
        Piece::Text { format, header, bytes, block, .. } => {
            let bytes = &bytes[block];
            let marked = Reader::looks_own(format, &header, bytes);
            let ours = marked.then(|| judge(&own.text(format, &header, bytes))).flatten();
            ours.map_or_else(|| (foreign.text(format, &header, bytes).layout().clone(), false), |layout| (layout, true))
        }
        Piece::Batch(batch) => {
            let Ok(batch) = plain(&batch.slice(0, batch.num_rows().min(LOOK_ROWS))) else {
                return Ok((Layout::default(), false));
            };
            let marked = MARKS.iter().all(|mark| batch.schema().column_with_name(mark).is_some());
            let ours = marked.then(|| judge(&own.batch(&batch))).flatten();
            ours.map_or_else(|| (foreign.batch(&batch).layout().clone(), false), |layout| (layout, true))
        }
        Piece::End(_) => (Layout::default(), false),
    })
}

/// Lines that are not blank.
fn lines_of(path: &Path, shown: &str) -> Result<u64, ShardError> {
    let mut bytes = Unpacked::open(path, shown)?;
    let mut buffer = Vec::new();
    let mut lines = 0;
    let mut blank = true;
    loop {
        buffer.clear();
        bytes.fill(&mut buffer, BLOCK_BYTES / 8).map_err(|error| bytes.explain(shown, &error))?;
        if buffer.is_empty() {
            return Ok(lines + u64::from(!blank));
        }
        let mut start = 0;
        for end in memchr_iter(b'\n', &buffer) {
            lines += u64::from(!blank || !is_blank(&buffer[start..end]));
            blank = true;
            start = end + 1;
        }
        blank &= is_blank(&buffer[start..]);
    }
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(u8::is_ascii_whitespace)
}
