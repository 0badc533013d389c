//! Pairs: a row for each candidate and anchor, in any order.
//!
//! Pairs of one candidate that follow each other are a run. Threads find the runs of their batches and score those that
//! are whole. Where candidates come in rising order, each in one run, a closed run is finished and forgotten
//! ([`Rising`]), so memory does not grow. Any other order is read again from the start into a [`Directory`], which
//! remembers every candidate and which of its anchors it has seen.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type};
use arrow_array::{Array, ArrayRef, Int32Array, RecordBatch, UInt64Array};
use arrow_schema::DataType;
use pyllm_golden::{Baseline, Nats, RowTally};

use crate::anchors::AnchorIndex;
use crate::columns::Columns;
use crate::error::LogprobsError;
use crate::ids::Ids;
use crate::rows::{Baselines, as_floats};

/// One pair of a run that is not whole by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) anchor: u32,
    /// None: the pair is there, but was not tried.
    pub(crate) nats: Option<f64>,
}

/// Pairs of one candidate that follow each other.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Run {
    /// Every anchor once; the next tally is its.
    Whole,
    /// `count` pairs, after those of the runs before.
    Part { count: usize },
}

/// A batch of pairs, cut into runs.
#[derive(Debug)]
pub(crate) struct Runs {
    /// The candidate of each run.
    pub(crate) ids: Ids,
    pub(crate) kinds: Vec<Run>,
    /// Tallies of the whole runs.
    pub(crate) tallies: Vec<RowTally>,
    /// Pairs of the others.
    pub(crate) pairs: Vec<Pair>,
    /// Rows of the batch.
    pub(crate) rows: usize,
}

/// Cuts a batch into runs; rows of errors are counted from its start.
pub(crate) fn cut(
    path: &Path,
    columns: Columns,
    batch: &RecordBatch,
    baselines: &Baselines,
    index: &AnchorIndex,
) -> Result<Runs, LogprobsError> {
    let Columns::Pairs { candidate, anchor, value } = columns else { return Err(LogprobsError::NoInputs) };
    let column = |wanted: usize| {
        let place = columns.projection().iter().position(|&each| each == wanted).unwrap_or_default();
        (batch.schema().field(place).name().clone(), Arc::clone(batch.column(place)))
    };
    let (name, candidates) = column(candidate);
    let (ends, ids) = runs_of(path, &name, &candidates)?;
    let (name, anchors) = column(anchor);
    let anchors = index.places(path, &name, &anchors)?;
    let values = as_floats(path, &column(value).1)?;
    let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
    let mut cut = Runs { ids, kinds: Vec::new(), tallies: Vec::new(), pairs: Vec::new(), rows: batch.num_rows() };
    let tried = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
    match values.data_type() {
        DataType::Float32 => {
            cut.score(&ends, &anchors, values.as_primitive::<Float32Type>().values(), tried, &baselines.narrow);
        }
        _ => cut.score(&ends, &anchors, values.as_primitive::<Float64Type>().values(), tried, &baselines.wide),
    }
    Ok(cut)
}

/// Where the runs of a column end, and whose they are.
fn runs_of(path: &Path, name: &str, column: &ArrayRef) -> Result<(Vec<usize>, Ids), LogprobsError> {
    let damaged = |error| LogprobsError::damaged(path, "a table", error);
    let ends = |same: &dyn Fn(usize) -> bool| {
        let mut ends: Vec<usize> = (1..column.len()).filter(|&row| !same(row)).collect();
        ends.extend((!column.is_empty()).then_some(column.len()));
        ends
    };
    if let Some(codes) = column.as_dictionary_opt::<Int32Type>() {
        if codes.logical_nulls().is_some_and(|nulls| nulls.null_count() > 0) {
            Ids::of(path, name, column)?;
        }
        let keys = codes.keys().values();
        let mut ends: Vec<usize> = (1..keys.len()).filter(|&row| keys[row] != keys[row - 1]).collect();
        ends.extend((!keys.is_empty()).then_some(keys.len()));
        let heads: Int32Array = ends.iter().map(|&end| keys[end - 1]).collect::<Vec<_>>().into();
        let ids = arrow_select::take::take(codes.values(), &heads, None).map_err(damaged)?;
        return Ok((ends, Ids::of(path, name, &ids)?));
    }
    let ids = Ids::of(path, name, column)?;
    let ends = match &ids {
        Ids::Number(numbers) => run_ends(numbers.values()),
        Ids::Unsigned(numbers) => run_ends(numbers.values()),
        Ids::Text(texts) => ends(&|row| texts.value(row) == texts.value(row - 1)),
    };
    let heads: UInt64Array = ends.iter().map(|&end| (end - 1) as u64).collect::<Vec<_>>().into();
    let heads = arrow_select::take::take(&ids.into_array(), &heads, None).map_err(damaged)?;
    Ok((ends, Ids::of(path, name, &heads)?))
}

fn run_ends<T: PartialEq>(values: &[T]) -> Vec<usize> {
    let mut ends: Vec<usize> =
        values.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(|(row, _)| row + 1).collect();
    ends.extend((!values.is_empty()).then_some(values.len()));
    ends
}

impl Runs {
    fn score<T: Nats>(
        &mut self,
        ends: &[usize],
        anchors: &[u32],
        values: &[T],
        tried: impl Fn(usize) -> bool,
        baseline: &Baseline<T>,
    ) {
        let count = baseline.anchors();
        let in_order: Vec<u32> = (0..count as u32).collect();
        let (mut row, mut left_out) = (vec![T::default(); count], vec![false; count]);
        let all_tried = (0..values.len()).all(&tried);
        let mut begin = 0;
        for &end in ends {
            let span = begin..end;
            begin = end;
            let places = &anchors[span.clone()];
            let whole = if places == in_order {
                row.copy_from_slice(&values[span.clone()]);
                span.clone().enumerate().for_each(|(anchor, at)| left_out[anchor] = !tried(at));
                true
            } else {
                places.len() == count && every_anchor_once(places, count) && {
                    for (at, &anchor) in span.clone().zip(places) {
                        row[anchor as usize] = values[at];
                        left_out[anchor as usize] = !tried(at);
                    }
                    true
                }
            };
            if whole {
                self.kinds.push(Run::Whole);
                self.tallies.push(if all_tried {
                    baseline.tally_row(&row)
                } else {
                    baseline.tally_row_without(&row, |anchor| left_out[anchor])
                });
            } else {
                self.kinds.push(Run::Part { count: span.len() });
                let pairs = span.zip(places);
                self.pairs
                    .extend(pairs.map(|(at, &anchor)| Pair { anchor, nats: tried(at).then(|| values[at].wide()) }));
            }
        }
    }
}

fn every_anchor_once(places: &[u32], anchors: usize) -> bool {
    let mut seen = vec![false; anchors];
    places.iter().all(|&place| !std::mem::replace(&mut seen[place as usize], true))
}
