//! Rows of lists: a row for each candidate, its log-probabilities in anchor order.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, OffsetSizeTrait, RecordBatch};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::DataType;
use pyllm_golden::{Baseline, GoldenScores, Nats, RowTally};

use crate::columns::Columns;
use crate::error::LogprobsError;
use crate::ids::Ids;
use crate::npy::Values;

/// Scores of some rows that follow each other.
#[derive(Debug)]
pub(crate) struct ScoredRows {
    /// Their ids; None where rows are only numbered.
    pub(crate) ids: Option<Ids>,
    pub(crate) scores: GoldenScores,
}

/// Zero-shot sums for values of either width.
#[derive(Debug)]
pub(crate) struct Baselines {
    pub(crate) narrow: Baseline<f32>,
    pub(crate) wide: Baseline<f64>,
}

impl Baselines {
    pub(crate) fn new(zero_shot_nats: &[f64]) -> Result<Self, LogprobsError> {
        Ok(Self { narrow: Baseline::new(zero_shot_nats)?, wide: Baseline::new(zero_shot_nats)? })
    }

    pub(crate) fn anchors(&self) -> usize {
        self.wide.anchors()
    }
}

/// Scores rows of an array.
pub(crate) fn score_array(baselines: &Baselines, values: &Values) -> ScoredRows {
    let mut scores = GoldenScores::default();
    match values {
        Values::Narrow(values) => baselines.narrow.score_rows(values, &mut scores),
        Values::Wide(values) => baselines.wide.score_rows(values, &mut scores),
    }
    ScoredRows { ids: None, scores }
}

/// Scores a batch with a column of lists.
///
/// # Errors
/// A list has another length than there are anchors, or an id is null; rows are counted from the start of the batch.
pub(crate) fn score_batch(
    path: &Path,
    columns: Columns,
    batch: &RecordBatch,
    baselines: &Baselines,
) -> Result<ScoredRows, LogprobsError> {
    let Columns::Rows { candidate, value } = columns else { return Err(LogprobsError::NoInputs) };
    let place_of = |column: usize| columns.projection().iter().position(|&each| each == column).unwrap_or_default();
    let ids = candidate.map(|column| {
        let place = place_of(column);
        Ids::of(path, batch.schema().field(place).name(), batch.column(place))
    });
    let place = place_of(value);
    let lists = Lists::of(path, batch.schema().field(place).name(), batch.column(place), baselines.anchors())?;
    let mut scores = GoldenScores::default();
    match lists.values.data_type() {
        DataType::Float32 => {
            lists.score(lists.values.as_primitive::<Float32Type>().values(), &baselines.narrow, &mut scores);
        }
        _ => lists.score(lists.values.as_primitive::<Float64Type>().values(), &baselines.wide, &mut scores),
    }
    Ok(ScoredRows { ids: ids.transpose()?, scores })
}

/// A column of lists that all have the same length, or are null.
struct Lists {
    /// Where each row begins in `values`.
    begins: Vec<usize>,
    nulls: Option<NullBuffer>,
    /// Float32 or Float64.
    values: ArrayRef,
    /// Whether rows follow each other without a gap.
    dense: bool,
}

impl Lists {
    fn of(path: &Path, name: &str, column: &ArrayRef, anchors: usize) -> Result<Self, LogprobsError> {
        let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
        let ragged = |row: usize, found: usize| LogprobsError::Ragged {
            path: path.to_owned(),
            row: row as u64,
            found,
            wanted: anchors,
        };
        let (begins, values) = match column.data_type() {
            DataType::FixedSizeList(_, length) => {
                let lists = column.as_fixed_size_list();
                let length = usize::try_from(*length).unwrap_or_default();
                if length != anchors {
                    return Err(ragged(0, length));
                }
                let first = lists.value_offset_at(0);
                ((0..lists.len()).map(|row| first + row * anchors).collect(), Arc::clone(lists.values()))
            }
            DataType::List(_) => {
                let lists = column.as_list::<i32>();
                begins(lists.offsets(), lists.values(), nulls.as_ref(), anchors, ragged)?
            }
            DataType::LargeList(_) => {
                let lists = column.as_list::<i64>();
                begins(lists.offsets(), lists.values(), nulls.as_ref(), anchors, ragged)?
            }
            other => {
                return Err(LogprobsError::ColumnType {
                    path: path.to_owned(),
                    column: name.to_owned(),
                    found: other.to_string(),
                    wanted: "lists of numbers",
                });
            }
        };
        let dense = nulls.is_none() && begins.windows(2).all(|pair| pair[1] == pair[0] + anchors);
        Ok(Self { begins, nulls, values: as_floats(path, &values)?, dense })
    }

    fn score<T: Nats>(&self, values: &[T], baseline: &Baseline<T>, scores: &mut GoldenScores) {
        let anchors = baseline.anchors();
        let left_out = self.values.nulls().filter(|nulls| nulls.null_count() > 0);
        if self.dense && left_out.is_none() {
            let first = self.begins.first().copied().unwrap_or_default();
            return baseline.score_rows(&values[first..first + self.begins.len() * anchors], scores);
        }
        for (row, &begin) in self.begins.iter().enumerate() {
            if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                scores.push(&RowTally::default());
                continue;
            }
            let row = &values[begin..begin + anchors];
            match left_out {
                Some(nulls) => scores.push(&baseline.tally_row_without(row, |anchor| nulls.is_null(begin + anchor))),
                None => scores.push(&baseline.tally_row(row)),
            }
        }
    }
}

/// Where each row begins, and the values that the rows lie in.
fn begins<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
    nulls: Option<&NullBuffer>,
    anchors: usize,
    ragged: impl Fn(usize, usize) -> LogprobsError,
) -> Result<(Vec<usize>, ArrayRef), LogprobsError> {
    let first = offsets[0].as_usize();
    let lengths = offsets.windows(2).map(|pair| (pair[0].as_usize(), pair[1].as_usize() - pair[0].as_usize()));
    let begins: Result<Vec<usize>, LogprobsError> = lengths
        .enumerate()
        .map(|(row, (begin, length))| {
            let absent = nulls.is_some_and(|nulls| nulls.is_null(row));
            if length == anchors || absent { Ok(begin - first) } else { Err(ragged(row, length)) }
        })
        .collect();
    let end = offsets[offsets.len() - 1].as_usize();
    Ok((begins?, values.slice(first, end - first)))
}

/// Numbers as float32 where they are that, else as float64; half floats become float32, which holds them exactly.
pub(crate) fn as_floats(path: &Path, values: &ArrayRef) -> Result<ArrayRef, LogprobsError> {
    let wanted = match values.data_type() {
        DataType::Float32 | DataType::Float64 => return Ok(ArrayRef::clone(values)),
        DataType::Float16 => DataType::Float32,
        _ => DataType::Float64,
    };
    arrow_cast::cast(values, &wanted).map_err(|error| LogprobsError::damaged(path, "a table", error))
}
