//! The whole way: rows in, a window of them packed at a time, files out.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;

use crate::error::PackError;
use crate::online::Online;
use crate::plan::{Packing, pack_best_fit};
use crate::render::Template;
use crate::rows::{Tally, TokenRows};
use crate::source::{BATCH_ROWS, Batch, Table};
use crate::tokens::{Fitting, RowTokenizer, Tokenizing, TooLong};
use crate::writer::{Layout, Part, PartWriter};

/// A window ends at this many tokens too, so that long rows do not fill the memory.
const WINDOW_TOKENS: usize = 1 << 24;

/// But it holds tokens for at least this many packed rows.
const WINDOW_BINS: usize = 1 << 10;

/// How rows are packed.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What happens to a row of more tokens than the length.
    pub too_long: TooLong,
    /// Rows that are packed together; 0 for all at once.
    pub window_rows: usize,
    /// Pack as rows come, into so many open bins; 0 for best-fit decreasing.
    pub open_bins: usize,
    /// How packed rows are written, and their length.
    pub layout: Layout,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What became of the rows.
    pub tally: Tally,
    /// Packed rows.
    pub bins: u64,
    /// The files, in order.
    pub parts: Vec<Part>,
}

/// A run.
///
/// Windows, row groups and files are cut by rows and tokens alone, so threads do not show in the result. Dropped
/// before it is finished, it leaves no file.
pub struct Packer {
    settings: Settings,
    length: NonZeroU32,
    rows: TokenRows,
    online: Option<Online>,
    /// Rows that stand in an open bin, and their tokens.
    placed: (usize, usize),
    writer: PartWriter,
    tally: Tally,
    bins: u64,
}

impl Packer {
    /// A run that writes into a folder, which is there.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(folder: &Path, settings: Settings) -> Result<Self, PackError> {
        let length = settings.layout.length;
        let refused = PackError::Length { length };
        if !(2..=crate::MOST_TOKENS).contains(&length) {
            return Err(refused);
        }
        let length = NonZeroU32::new(length).ok_or(refused)?;
        let online = match settings.open_bins {
            0 => None,
            open => Some(Online::new(length, open)?),
        };
        let writer = PartWriter::new(folder, settings.layout.clone())?;
        let (rows, tally) = (TokenRows::default(), Tally::default());
        Ok(Self { settings, length, rows, online, placed: (0, 0), writer, tally, bins: 0 })
    }

    /// Takes the next rows of a table, on the threads of the current pool; how many, 0 at its end.
    ///
    /// # Errors
    /// The table is damaged, a row is refused, or what is full cannot be written.
    pub fn read(
        &mut self,
        table: &mut Table,
        tokenizer: &RowTokenizer,
        template: Template,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, PackError> {
        let file = table.name().to_owned();
        let (length, too_long) = (self.length.get(), self.settings.too_long);
        let tokenize = |batch: &Batch| {
            if interrupted() {
                return Err(PackError::Interrupted);
            }
            let mut fitting = Fitting::new(&file, length, too_long);
            let mut tokenizing = Tokenizing::new(tokenizer, template);
            batch.each(&file, |row, id, fields| tokenizing.add(row, fields, id, &mut fitting))?;
            Ok((fitting.rows, fitting.tally))
        };
        let batches = self.batches_at_once();
        let source = Mutex::new(table);
        // Threads take a batch each and read it in turn; what they make is put back in order.
        let next = |place| {
            // A thread that panicked takes the run with it, so the lock's own word for that is not needed.
            let mut table = source.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            table.next_batch().map(|batch| (place, batch))
        };
        let mut made: Vec<_> = (0..batches)
            .map_while(next)
            .par_bridge()
            .map(|(place, batch)| (place, batch.and_then(|batch| tokenize(&batch))))
            .collect();
        made.sort_unstable_by_key(|(place, _)| *place);
        let mut read = 0;
        for (_, result) in made {
            let (rows, tally) = result?;
            read += tally.rows_in;
            self.admit(&rows, tally, interrupted)?;
        }
        Ok(read)
    }

    /// Takes rows that were tokenized elsewhere: `ends` of each in `ids`; `spans` of trained tokens, as places in the
    /// row, and where those of each row end; a name each; and their places in the table.
    ///
    /// # Errors
    /// The arrays do not fit together, a row is too long where that is an error, or what is full cannot be written.
    pub fn push(
        &mut self,
        file: &str,
        rows: &Tokenized<'_>,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), PackError> {
        rows.check()?;
        let mut fitting = Fitting::new(file, self.length.get(), self.settings.too_long);
        let (mut from, mut span) = (0, 0);
        for (place, name) in rows.names.iter().enumerate() {
            let (end, span_end) = (rows.ends[place] as usize, rows.span_ends[place] as usize);
            let spans = rows.spans[2 * span..2 * span_end].chunks_exact(2).map(|pair| pair[0]..pair[1]);
            if end == from {
                fitting.without_answer(rows.places[place]);
            } else {
                fitting.add(rows.places[place], &rows.ids[from..end], spans, name)?;
            }
            (from, span) = (end, span_end);
        }
        self.admit(&fitting.rows, fitting.tally, interrupted)
    }

    /// Packs and writes what is left, and gives the files their names.
    ///
    /// # Errors
    /// What is left cannot be written.
    pub fn finish(mut self, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Summary, PackError> {
        self.pack(true, interrupted)?;
        let parts = self.writer.finish()?;
        Ok(Summary { tally: self.tally, bins: self.bins, parts })
    }

    /// Batches that about fill the window.
    fn batches_at_once(&self) -> usize {
        let missing = match self.settings.window_rows {
            0 => usize::MAX,
            window => window.saturating_sub(self.rows.len() - self.placed.0).div_ceil(BATCH_ROWS),
        };
        // A step is what a person may have to wait for the bar to move, too.
        missing.clamp(rayon::current_num_threads(), 32)
    }

    fn admit(
        &mut self,
        rows: &TokenRows,
        tally: Tally,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), PackError> {
        self.tally.join(tally);
        let most_tokens = WINDOW_TOKENS.max(WINDOW_BINS * self.length.get() as usize);
        for row in 0..rows.len() {
            self.rows.push_from(rows, row);
            let window = self.settings.window_rows;
            let (rows, tokens) = (self.rows.len() - self.placed.0, self.rows.tokens() - self.placed.1);
            if window != 0 && (rows >= window || tokens >= most_tokens) {
                self.pack(false, interrupted)?;
            }
        }
        Ok(())
    }

    /// Packs the rows of the window; online, those in open bins stay.
    fn pack(&mut self, last: bool, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<(), PackError> {
        let packing = match &mut self.online {
            None => pack_best_fit(&self.rows.lengths(), self.length)?,
            Some(online) => {
                let mut packing = Packing { offsets: vec![0], sequences: Vec::new() };
                for row in self.placed.0..self.rows.len() {
                    let length = self.rows.ids(row).len() as u32;
                    online.place(row as u32, length, |sequences| packing.push(sequences));
                }
                if last {
                    online.finish(|sequences| packing.push(sequences));
                }
                packing
            }
        };
        self.bins += packing.bins() as u64;
        self.writer.write(&self.rows, &packing, interrupted)?;
        let packed = std::mem::take(&mut self.rows);
        if let Some(online) = &mut self.online {
            online.rename(|row| {
                self.rows.push_from(&packed, row as usize);
                (self.rows.len() - 1) as u32
            });
        }
        self.placed = (self.rows.len(), self.rows.tokens());
        Ok(())
    }
}

/// Tokenized rows as flat arrays.
#[derive(Debug, Clone, Copy)]
pub struct Tokenized<'a> {
    /// Token ids of all rows; a row without any has no answer.
    pub ids: &'a [u32],
    /// Where each row ends in `ids`.
    pub ends: &'a [u64],
    /// First and one past the last token of each trained span, as places in its row.
    pub spans: &'a [u32],
    /// Where the spans of each row end, in spans.
    pub span_ends: &'a [u64],
    /// A name for each row.
    pub names: &'a [String],
    /// The place of each row in its table.
    pub places: &'a [u64],
}

impl Tokenized<'_> {
    fn check(&self) -> Result<(), PackError> {
        let bad = |reason: &str| Err(PackError::Arrays { reason: reason.to_owned() });
        let rows = self.names.len();
        if [self.ends.len(), self.span_ends.len(), self.places.len()] != [rows; 3] {
            return bad("they have different numbers of rows");
        }
        if !self.ends.is_sorted() || !self.span_ends.is_sorted() {
            return bad("rows end before they begin");
        }
        if self.ends.last().copied().unwrap_or(0) != self.ids.len() as u64
            || self.span_ends.last().copied().unwrap_or(0) * 2 != self.spans.len() as u64
        {
            return bad("the last row does not end with the array");
        }
        Ok(())
    }
}
