//! Log-probability tables, as matrices, lists or pairs, read in one pass with bounded memory.
//!
//! [`aggregate`] reads one-shot sums of candidates against anchors, compares them with the zero-shot sums of the
//! anchors, and writes the score table. Sums come as `NumPy` arrays, as Parquet or Arrow tables with a list a candidate,
//! or as tables with a row a pair; several files are read as one. Sums of 32 and of 64 bits are compared as the exact
//! numbers they are, which is what `NumPy` does with two arrays of any types.
//!
//! Files are cut into units that threads read side by side; what they find is joined in the order of the input, so the
//! table has the same bytes for any number of threads. A unit is read in pieces of about a megabyte.

mod anchors;
mod columns;
mod error;
mod gather;
mod ids;
mod input;
mod ipc;
mod matrix;
mod npy;
mod ordered;
mod pairs;
mod rows;
mod sink;
mod table;

use std::path::PathBuf;

use arrow_schema::DataType;

pub use anchors::{ZeroShot, read_zero_shot};
pub use columns::ColumnNames;
pub use error::LogprobsError;
pub use gather::Missing;
pub use matrix::{MatrixRows, MatrixWriter};
pub use sink::{Keep, Summary};

use crate::anchors::AnchorIndex;
use crate::columns::Columns;
use crate::gather::{Directory, Halt, Rising};
use crate::input::{Body, Input, Memory, Part, Unit};
use crate::rows::Baselines;
use crate::sink::Sink;

/// Values of a batch of lists, about.
const BATCH_VALUES: usize = 1 << 18;

/// Pairs of a batch.
const BATCH_PAIRS: usize = 1 << 16;

/// What to aggregate, and into what.
#[derive(Debug, Clone)]
pub struct Request {
    /// Files of log-probabilities, read as one in this order.
    pub inputs: Vec<PathBuf>,
    /// Their columns.
    pub columns: ColumnNames,
    /// What a win is strictly above.
    pub zero_shot: ZeroShot,
    /// What becomes of candidates that lack anchors.
    pub missing: Missing,
    /// Which rows are written.
    pub keep: Keep,
    /// The score table: a Parquet file.
    pub out: PathBuf,
    /// The value of the table's metadata key `pyllm`.
    pub provenance: String,
    /// Threads that read, at least 1.
    pub threads: usize,
}

/// The provenance that the first of some files carries in its metadata, if it has any.
///
/// # Errors
/// The file cannot be read.
pub fn provenance_of(path: &std::path::Path, columns: &ColumnNames) -> Result<Option<String>, LogprobsError> {
    Input::open(path, columns).map(|input| input.provenance)
}

/// Aggregates log-probabilities into a score table.
///
/// # Arguments
/// * `interrupted` - asked about once a megabyte; once true, the work ends and no table is written.
///
/// # Errors
/// A file cannot be read or does not fit the others, pairs are missing or stand twice, or the table cannot be written.
pub fn aggregate(request: &Request, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Summary, LogprobsError> {
    let inputs: Vec<Input> =
        request.inputs.iter().map(|path| Input::open(path, &request.columns)).collect::<Result<_, _>>()?;
    let job = Job { request, interrupted, units: units_of(&inputs), inputs };
    if job.inputs.is_empty() {
        return Err(LogprobsError::NoInputs);
    }
    let is_pairs = |input: &&Input| matches!(input.columns, Columns::Pairs { .. });
    let (pairs, rows) = (job.inputs.iter().find(is_pairs), job.inputs.iter().find(|input| !is_pairs(input)));
    let mut summary = match (pairs, rows) {
        (Some(pairs), Some(rows)) => {
            return Err(LogprobsError::MixedLayouts { pairs: pairs.path.clone(), rows: rows.path.clone() });
        }
        (Some(_), None) => job.add_up_pairs()?,
        (None, _) => job.add_up_rows()?,
    };
    summary.nan_anchors = request.zero_shot.nats.iter().filter(|sum| sum.is_nan()).count() as u64;
    Ok(summary)
}

fn units_of(inputs: &[Input]) -> Vec<Unit> {
    inputs.iter().enumerate().flat_map(|(place, input)| input.units(place)).collect()
}

struct Job<'a> {
    request: &'a Request,
    interrupted: &'a (dyn Fn() -> bool + Sync),
    inputs: Vec<Input>,
    units: Vec<Unit>,
}

impl Job<'_> {
    fn sink(&self, rows: Option<u64>) -> Sink<'_> {
        let Request { keep, zero_shot, out, provenance, .. } = self.request;
        Sink::new(*keep, rows, zero_shot.nats.len(), out, provenance)
    }

    fn check_interrupt(&self) -> Result<(), LogprobsError> {
        if (self.interrupted)() { Err(LogprobsError::Interrupted) } else { Ok(()) }
    }

    fn broken(&self, unit: &Unit) -> LogprobsError {
        let input = &self.inputs[unit.input];
        LogprobsError::damaged(&input.path, input.body.format(), "its parts do not fit together")
    }

    /// The type of ids when there is not a single row.
    fn empty_kind(&self) -> DataType {
        let input = &self.inputs[0];
        let candidate = match input.columns {
            Columns::Rows { candidate, .. } => candidate,
            Columns::Pairs { candidate, .. } => Some(candidate),
        };
        let of = candidate.and_then(|place| ids::id_type(input.body.schema()?.field(place).data_type()));
        of.unwrap_or(DataType::Int64)
    }

    fn add_up_rows(&self) -> Result<Summary, LogprobsError> {
        let zero_shot = &self.request.zero_shot;
        let in_order = |input: &Input| match &input.anchors {
            Some(names) => Baselines::new(&anchors::in_order_of(zero_shot, &input.path, names)?.nats),
            None => Baselines::new(&zero_shot.nats),
        };
        let baselines: Vec<Baselines> = self.inputs.iter().map(in_order).collect::<Result<_, _>>()?;
        let anchors = zero_shot.nats.len();
        let batch_rows = (BATCH_VALUES / anchors.max(1)).clamp(16, 8192);
        let mut sink = self.sink(self.inputs.iter().map(Input::rows).sum());
        // Rows of a unit before the batch at hand; and of a file before the unit at hand.
        let mut begun = (0, 0);
        ordered::in_order(
            &self.units,
            self.request.threads,
            |unit, memory: &mut Memory, emit| {
                let (input, baselines) = (&self.inputs[unit.input], &baselines[unit.input]);
                score_unit(input, unit, baselines, batch_rows, memory, emit)
            },
            |unit| self.broken(unit),
            |unit, scored: Result<rows::ScoredRows, LogprobsError>| {
                self.check_interrupt()?;
                if begun.0 != unit.input {
                    begun = (unit.input, 0);
                }
                let scored = scored.map_err(|error| error.further_down(begun.1))?;
                begun.1 += scored.scores.wins.len() as u64;
                sink.push(&self.inputs[unit.input].path, scored)
            },
        )?;
        sink.finish(&self.empty_kind())
    }

    fn add_up_pairs(&self) -> Result<Summary, LogprobsError> {
        let index = AnchorIndex::new(&self.request.zero_shot)?;
        let baselines = Baselines::new(&self.request.zero_shot.nats)?;
        match self.finish_as_they_come(&index, &baselines) {
            Ok(summary) => Ok(summary),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::OutOfOrder) => {
                let summary = self.remember_all(&index, &baselines)?;
                Ok(Summary { passes: 2, ..summary })
            }
        }
    }

    fn finish_as_they_come(&self, index: &AnchorIndex, baselines: &Baselines) -> Result<Summary, Halt> {
        let missing = self.request.missing;
        let mut sink = self.sink(None);
        let (mut rising, mut kind) = (Rising::default(), None);
        let mut halt = None;
        let ended = self.each_batch(index, baselines, |input, runs| {
            kind = Some(runs.ids.kind());
            let fed = rising.feed(&runs, baselines, missing, &mut |rows| sink.push(&input.path, rows));
            fed.map_err(|halted| {
                halt = Some(halted);
                LogprobsError::Interrupted
            })
        });
        if let Some(halted) = halt {
            return Err(halted);
        }
        ended.map_err(Halt::Failed)?;
        let kind = kind.unwrap_or_else(|| self.empty_kind());
        let last = &self.inputs[self.inputs.len() - 1].path;
        rising.end(&kind, baselines, missing, &mut |rows| sink.push(last, rows))?;
        sink.finish(&kind).map_err(Halt::Failed)
    }

    fn remember_all(&self, index: &AnchorIndex, baselines: &Baselines) -> Result<Summary, LogprobsError> {
        let mut directory = Directory::new(baselines.anchors());
        let mut kind: Option<(DataType, PathBuf)> = None;
        self.each_batch(index, baselines, |input, runs| {
            let (found, (wanted, first)) =
                (runs.ids.kind(), &*kind.get_or_insert_with(|| (runs.ids.kind(), input.path.clone())));
            if found != *wanted {
                return Err(LogprobsError::MixedIds {
                    path: input.path.clone(),
                    found: ids::kind_name(&found).to_owned(),
                    first: first.clone(),
                    wanted: ids::kind_name(wanted).to_owned(),
                });
            }
            directory.feed(&input.path, &runs, baselines, index)
        })?;
        let kind = kind.map_or_else(|| self.empty_kind(), |(kind, _)| kind);
        let last = &self.inputs[self.inputs.len() - 1].path;
        let mut sink = self.sink(Some(directory.candidates(last, baselines, index)? as u64));
        directory.finish(&kind, self.request.missing, index, &mut |rows| sink.push(last, rows))?;
        sink.finish(&kind)
    }

    /// Cuts all batches into runs and hands them on in order.
    fn each_batch(
        &self,
        index: &AnchorIndex,
        baselines: &Baselines,
        mut take: impl FnMut(&Input, pairs::Runs) -> Result<(), LogprobsError>,
    ) -> Result<(), LogprobsError> {
        let mut begun = (0, 0);
        ordered::in_order(
            &self.units,
            self.request.threads,
            |unit, memory: &mut Memory, emit| {
                let input = &self.inputs[unit.input];
                input.read_batches(&unit.part, BATCH_PAIRS, memory, &mut |batch| {
                    let cut = pairs::cut(&input.path, input.columns, batch, baselines, index);
                    let failed = cut.is_err();
                    emit(cut)?;
                    if failed { Err(LogprobsError::Interrupted) } else { Ok(()) }
                })
            },
            |unit| self.broken(unit),
            |unit, cut: Result<pairs::Runs, LogprobsError>| {
                self.check_interrupt()?;
                if begun.0 != unit.input {
                    begun = (unit.input, 0);
                }
                let cut = cut.map_err(|error| error.further_down(begun.1))?;
                begun.1 += cut.rows as u64;
                take(&self.inputs[unit.input], cut)
            },
        )
    }
}

/// Scores a unit of rows, batch after batch.
fn score_unit(
    input: &Input,
    unit: &Unit,
    baselines: &Baselines,
    batch_rows: usize,
    memory: &mut Memory,
    emit: &mut dyn FnMut(Result<rows::ScoredRows, LogprobsError>) -> Result<(), LogprobsError>,
) -> Result<(), LogprobsError> {
    let Body::Npy(matrix) = &input.body else {
        return input.read_batches(&unit.part, batch_rows, memory, &mut |batch| {
            let scored = rows::score_batch(&input.path, input.columns, batch, baselines);
            let failed = scored.is_err();
            emit(scored)?;
            if failed { Err(LogprobsError::Interrupted) } else { Ok(()) }
        });
    };
    if matrix.anchors != baselines.anchors() {
        let (found, wanted) = (matrix.anchors, baselines.anchors());
        return Err(LogprobsError::AnchorCount { path: input.path.clone(), found, wanted });
    }
    let Part::Rows(all) = &unit.part else { return Ok(()) };
    let mut begin = all.start;
    while begin < all.end {
        let end = all.end.min(begin + batch_rows as u64);
        matrix.read(&input.path, begin..end, memory, |values| emit(Ok(rows::score_array(baselines, values))))?;
        begin = end;
    }
    Ok(())
}
