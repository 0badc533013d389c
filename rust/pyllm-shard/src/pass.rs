//! One pass over all inputs, on several threads.
//!
//! Each thread carries one block from bytes to an encoded row group: it reads the next block (one thread at a time),
//! parses it, numbers its rows (in order), builds and encodes columns, and appends them to their part (in order). So
//! there are as many blocks in memory as threads, and no thread hands anything to another but a turn.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use arrow_array::RecordBatch;
use pyllm_examples::{Place, Reader, Rows, Shape, plain};

use crate::columnar::batch_bytes;
use crate::encode::Encoder;
use crate::error::ShardError;
use crate::manifest::Part;
use crate::numbering::{Numbered, Numbering, Plan};
use crate::order::{InOrder, StopOnPanic, lock};
use crate::parts::{Contents, Encoded, PartWriter};
use crate::sources::{BLOCK_BYTES, Format, Input, Piece, Source};

/// Row groups smaller than this wait for the rows of the next block, unless their part ends.
const GROUP_BYTES: usize = 4 << 20;
/// How much of a source is looked at to see what it is.
const AHEAD_BYTES: usize = 64 << 10;

/// How the threads of a pass are told what to do.
pub(crate) struct Work<'a> {
    pub(crate) inputs: &'a [Input],
    pub(crate) plan: &'a Plan,
    pub(crate) shape: Shape,
    pub(crate) threads: usize,
    pub(crate) interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// A block on its way, with the number of its turn.
struct Block {
    ticket: u64,
    input: usize,
    format: Format,
    piece: Piece,
}

/// Hands out blocks in order.
struct Feed<'a> {
    inputs: &'a [Input],
    next: usize,
    open: Option<Source<'a>>,
    ticket: u64,
}

impl Feed<'_> {
    fn next(&mut self, spare: Vec<u8>) -> Result<Option<Block>, ShardError> {
        let mut source = match self.open.take() {
            Some(source) => source,
            None if self.next == self.inputs.len() => return Ok(None),
            None => {
                self.next += 1;
                Source::open(&self.inputs[self.next - 1], AHEAD_BYTES)?
            }
        };
        let piece = source.next(BLOCK_BYTES, spare)?;
        let block = Block { ticket: self.ticket, input: self.next - 1, format: source.format, piece };
        self.ticket += 1;
        if !matches!(block.piece, Piece::End(_)) {
            self.open = Some(source);
        }
        Ok(Some(block))
    }
}

/// Rows of one part, ready to be encoded.
struct Share {
    part: u64,
    batch: RecordBatch,
    bytes: usize,
    ends: Option<Contents>,
}

/// What becomes one row group.
struct Group {
    part: u64,
    batches: Vec<RecordBatch>,
    ends: Option<Contents>,
}

/// Rows that wait for more of their part. It never holds rows of two parts: the end of a part sends them off.
#[derive(Default)]
struct Gathering {
    batches: Vec<RecordBatch>,
    bytes: usize,
}

impl Gathering {
    fn add(&mut self, shares: Vec<Share>) -> Vec<Group> {
        let mut groups = Vec::new();
        for share in shares {
            self.bytes += share.bytes;
            self.batches.push(share.batch);
            if share.ends.is_some() || self.bytes >= GROUP_BYTES {
                let batches = std::mem::take(&mut self.batches);
                groups.push(Group { part: share.part, batches, ends: share.ends });
                self.bytes = 0;
            }
        }
        groups
    }
}

/// The parts of a pass that writes.
pub(crate) struct Output<'a> {
    pub(crate) encoder: &'a Encoder,
    pub(crate) writer: PartWriter<'a>,
}

struct Line<'a, 'b> {
    work: &'a Work<'a>,
    feed: Mutex<Feed<'a>>,
    numbering: InOrder<Numbering<'a>>,
    gathering: InOrder<Gathering>,
    writer: InOrder<Option<PartWriter<'b>>>,
    encoder: Option<&'b Encoder>,
    stopped: AtomicBool,
    failure: Mutex<Option<ShardError>>,
}

/// Reads all inputs; writes their rows if there is an output and as long as the plan holds.
pub(crate) fn run<'a>(
    work: &'a Work<'a>,
    numbering: Numbering<'a>,
    output: Option<Output<'a>>,
) -> Result<(Numbering<'a>, Option<BTreeMap<u64, Part>>), ShardError> {
    let (encoder, writer) = output.map_or((None, None), |output| (Some(output.encoder), Some(output.writer)));
    let line = Line {
        work,
        feed: Mutex::new(Feed { inputs: work.inputs, next: 0, open: None, ticket: 0 }),
        numbering: InOrder::new(numbering),
        gathering: InOrder::new(Gathering::default()),
        writer: InOrder::new(writer),
        encoder,
        stopped: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    line.work_on_threads()?;
    if let Some(failure) = lock(&line.failure).take() {
        return Err(failure);
    }
    if line.stopped.load(Ordering::Relaxed) {
        return Err(ShardError::Internal("a thread ended early".to_owned()));
    }
    line.last_part()
}

impl<'a> Line<'a, 'a> {
    fn work_on_threads(&self) -> Result<(), ShardError> {
        if self.work.threads <= 1 {
            self.work_here();
            return Ok(());
        }
        thread::scope(|scope| {
            for _ in 0..self.work.threads {
                let started = thread::Builder::new().spawn_scoped(scope, || self.work_here());
                if let Err(error) = started {
                    self.stopped.store(true, Ordering::Relaxed);
                    return Err(ShardError::Threads {
                        threads: self.work.threads,
                        reason: crate::error::reason_of(&error),
                    });
                }
            }
            Ok(())
        })
    }

    fn work_here(&self) {
        let _stop = StopOnPanic(&self.stopped);
        if let Err(error) = self.work_through() {
            // Of several failures, the first that happens is told.
            lock(&self.failure).get_or_insert(error);
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    fn work_through(&self) -> Result<(), ShardError> {
        let mut spare = Vec::new();
        while !self.stopped.load(Ordering::Relaxed) {
            if (self.work.interrupted)() {
                return Err(ShardError::Interrupted);
            }
            // Taken apart, so that the lock is not held while the block is worked on.
            let next = lock(&self.feed).next(std::mem::take(&mut spare))?;
            let Some(block) = next else { break };
            spare = self.carry(block)?;
        }
        Ok(())
    }

    /// Carries one block to the end; gives its memory back.
    fn carry(&self, block: Block) -> Result<Vec<u8>, ShardError> {
        let Block { ticket, input, format, piece } = block;
        let reader = Reader::new(self.work.shape, self.work.plan.own[input]);
        let shown = &self.work.inputs[input].shown;
        match piece {
            Piece::End(seal) => {
                let ended = self.numbering.at_turn(ticket, &self.stopped, |rows| rows.end(input, format, seal));
                ended.transpose()?;
                self.write(ticket, Vec::new())?;
                Ok(Vec::new())
            }
            Piece::Text { format, header, bytes, block, place } => {
                let rows = reader.text(format, &header, &bytes[block]);
                self.carry_rows(ticket, input, &rows, Some(place))?;
                drop(rows);
                Ok(bytes)
            }
            Piece::Batch(batch) => {
                let batch = plain(&batch)
                    .map_err(|error| ShardError::Unstorable { shown: shown.clone(), reason: error.to_string() })?;
                self.carry_rows(ticket, input, &reader.batch(&batch), None)?;
                Ok(Vec::new())
            }
        }
    }

    fn carry_rows(&self, ticket: u64, input: usize, rows: &Rows<'_>, place: Option<Place>) -> Result<(), ShardError> {
        let numbered = self.numbering.at_turn(ticket, &self.stopped, |state| state.number(input, rows, place));
        let Some(numbered) = numbered.transpose()? else { return Ok(()) };
        let shares = self.shares(input, rows, numbered)?;
        self.write(ticket, shares)
    }

    /// The columns of the rows that are written, each part's apart.
    fn shares(&self, input: usize, rows: &Rows<'_>, numbered: Numbered) -> Result<Vec<Share>, ShardError> {
        let Numbered { first_row, keep, slices } = numbered;
        if self.encoder.is_none() || !slices.iter().any(|slice| slice.wanted) {
            return Ok(Vec::new());
        }
        let Input { shown, file_name, .. } = &self.work.inputs[input];
        let batch = rows.to_batch(&self.work.plan.layout, file_name, first_row, keep.as_deref()).map_err(|error| {
            ShardError::Unstorable { shown: shown.clone(), reason: format!("from row {first_row} on, {error}") }
        })?;
        let mut shares = Vec::new();
        let mut offset = 0;
        for slice in slices {
            if slice.wanted {
                let batch = batch.slice(offset, slice.rows);
                let bytes = batch_bytes(&batch);
                shares.push(Share { part: slice.part, batch, bytes, ends: slice.ends });
            }
            offset += slice.rows;
        }
        Ok(shares)
    }

    fn write(&self, ticket: u64, shares: Vec<Share>) -> Result<(), ShardError> {
        let Some(groups) = self.gathering.at_turn(ticket, &self.stopped, |gathering| gathering.add(shares)) else {
            return Ok(());
        };
        let encoded = groups.into_iter().map(|group| self.encoded(group)).collect::<Result<Vec<_>, _>>()?;
        let written = self.writer.at_turn(ticket, &self.stopped, |writer| match writer {
            None => Ok(()),
            Some(writer) => encoded.into_iter().try_for_each(|encoded| writer.append(encoded)),
        });
        written.unwrap_or(Ok(()))
    }

    fn encoded(&self, group: Group) -> Result<Encoded, ShardError> {
        let Group { part, batches, ends } = group;
        let group = match self.encoder {
            Some(encoder) if !batches.is_empty() => Some(encoder.encode(&batches)?),
            Some(_) | None => None,
        };
        Ok(Encoded { part, group, ends })
    }

    /// Ends the part that ended with the rows, if everything was as planned.
    fn last_part(self) -> Result<(Numbering<'a>, Option<BTreeMap<u64, Part>>), ShardError> {
        let mut numbering = self.numbering.into_inner();
        let (encoder, batches) = (self.encoder, self.gathering.into_inner().batches);
        let Some(mut writer) = self.writer.into_inner() else { return Ok((numbering, None)) };
        if !numbering.writing || numbering.found() != *self.work.plan {
            return Ok((numbering, None));
        }
        if let (Some((part, contents)), Some(encoder)) = (numbering.last_part(), encoder)
            && !writer.has(part)
        {
            let group = if batches.is_empty() { None } else { Some(encoder.encode(&batches)?) };
            writer.append(Encoded { part, group, ends: Some(contents) })?;
        }
        Ok((numbering, Some(writer.into_parts())))
    }
}
