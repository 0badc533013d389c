//! Golden-score aggregation: from log-probabilities to wins.
//!
//! An anchor is won by a row when its answer is likelier behind the row than alone: its one-shot sum is strictly above
//! its zero-shot sum. The golden score of a row is the share of the anchors tried that it wins. Source: NUGGETS
//! (arXiv 2312.10302), section 3.2; the published code compares sums, and so do we.
//!
//! One pass over `rows x anchors` pairs, in blocks of whole rows. A row is always added up by one thread and in one
//! order ([`LANES`]), and blocks are joined in row order, so the result has the same bits for any number of threads.

mod counts;
mod lanes;
mod ranking;

use rayon::prelude::*;

pub use counts::{GoldenWins, golden_wins};
pub use lanes::{Baseline, LANES, Nats, RowTally};
pub use ranking::{BestRows, Place, golden_score};

/// Pairs in a block: large enough that handing a block to a thread costs nothing beside working on it.
pub const BLOCK_PAIRS: usize = 1 << 16;

/// Why pairs cannot be aggregated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoldenError {
    /// The one-shot sums are not a matrix of `rows x anchors`.
    #[error("`one_shot_nats` has {found} values, but {rows} rows x {anchors} anchors are wanted")]
    OneShotShape {
        /// Values given.
        found: usize,
        /// Rows wanted.
        rows: usize,
        /// Anchors wanted, one for each zero-shot sum.
        anchors: usize,
    },
    /// The mask of pairs left out is not a matrix of `rows x anchors`.
    #[error("`left_out` has {found} values, but {rows} rows x {anchors} anchors are wanted")]
    LeftOutShape {
        /// Values given.
        found: usize,
        /// Rows wanted.
        rows: usize,
        /// Anchors wanted, one for each zero-shot sum.
        anchors: usize,
    },
    /// Wins are counted in 32 bits.
    #[error("`zero_shot_nats` has {anchors} anchors, more than {}", u32::MAX)]
    TooManyAnchors {
        /// Anchors given.
        anchors: usize,
    },
}

/// What the pairs of some rows add up to; one entry for each row, in row order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GoldenScores {
    /// Anchors won.
    pub wins: Vec<u32>,
    /// Anchors tried: all but those left out.
    pub anchors_scored: Vec<u32>,
    /// Mean of one-shot minus zero-shot sums over the pairs tried that are numbers; NaN if there is none.
    pub mean_gain_nats: Vec<f64>,
    /// Pairs tried whose gain is not a number. They are lost, stay in `anchors_scored`, and are not in the mean.
    pub nan_pairs: u64,
}

impl GoldenScores {
    /// Joins the scores of the rows that follow. Associative, and [`GoldenScores::default`] changes nothing.
    #[must_use]
    pub fn merge(mut self, following: Self) -> Self {
        self.wins.extend(following.wins);
        self.anchors_scored.extend(following.anchors_scored);
        self.mean_gain_nats.extend(following.mean_gain_nats);
        self.nan_pairs += following.nan_pairs;
        self
    }

    /// Makes room for more rows at once.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.wins.reserve(rows);
        self.anchors_scored.reserve(rows);
        self.mean_gain_nats.reserve(rows);
    }

    /// Appends one row.
    pub fn push(&mut self, row: &RowTally) {
        self.wins.push(row.wins);
        self.anchors_scored.push(row.scored);
        let numbers = row.scored - row.not_numbers;
        // 0 / 0 is the NaN that stands for "nothing was tried".
        self.mean_gain_nats.push(row.gain_nats / f64::from(numbers));
        self.nan_pairs += u64::from(row.not_numbers);
    }
}

/// Aggregates `rows x anchors` pairs, row after row, on the threads of the current rayon pool.
///
/// Up to [`BLOCK_PAIRS`] pairs (and always whole rows) are one block; a single block is done on the calling thread.
///
/// ```
/// let zero_shot_nats = [-2.0, -3.0];
/// let one_shot_nats = [-1.0, -3.0, -1.5, -2.0];
/// let scores = pyllm_golden::golden_scores(2, &one_shot_nats, &zero_shot_nats, None)?;
/// assert_eq!(scores.wins, [1, 2]);
/// assert_eq!(scores.mean_gain_nats, [0.5, 0.75]);
/// # Ok::<(), pyllm_golden::GoldenError>(())
/// ```
///
/// # Errors
/// A slice does not have `rows x anchors` values, or there are more than `u32::MAX` anchors.
pub fn golden_scores<T: Nats>(
    rows: usize,
    one_shot_nats: &[T],
    zero_shot_nats: &[f64],
    left_out: Option<&[bool]>,
) -> Result<GoldenScores, GoldenError> {
    let anchors = zero_shot_nats.len();
    check(rows, anchors, one_shot_nats.len(), left_out.map(<[bool]>::len))?;
    let baseline = Baseline::new(zero_shot_nats)?;
    let block_rows = block_rows(anchors);
    let block = |index: usize| {
        let first = index * block_rows;
        let last = rows.min(first + block_rows);
        let pairs = first * anchors..last * anchors;
        let left_out = left_out.map(|mask| &mask[pairs.clone()]);
        score_block(last - first, &one_shot_nats[pairs], &baseline, left_out)
    };
    let blocks = rows.div_ceil(block_rows);
    if blocks <= 1 {
        return Ok(block(0));
    }
    let parts: Vec<GoldenScores> = (0..blocks).into_par_iter().map(block).collect();
    let mut all = GoldenScores::default();
    all.reserve(rows);
    Ok(parts.into_iter().fold(all, GoldenScores::merge))
}

/// Rows of a block.
fn block_rows(anchors: usize) -> usize {
    (BLOCK_PAIRS / anchors.max(1)).max(1)
}

fn check(rows: usize, anchors: usize, one_shot: usize, left_out: Option<usize>) -> Result<(), GoldenError> {
    if u32::try_from(anchors).is_err() {
        return Err(GoldenError::TooManyAnchors { anchors });
    }
    let wanted = rows.checked_mul(anchors);
    if wanted != Some(one_shot) {
        return Err(GoldenError::OneShotShape { found: one_shot, rows, anchors });
    }
    match left_out {
        Some(found) if wanted != Some(found) => Err(GoldenError::LeftOutShape { found, rows, anchors }),
        Some(_) | None => Ok(()),
    }
}

fn score_block<T: Nats>(
    rows: usize,
    one_shot_nats: &[T],
    baseline: &Baseline<T>,
    left_out: Option<&[bool]>,
) -> GoldenScores {
    let anchors = baseline.anchors();
    let mut scores = GoldenScores::default();
    if anchors == 0 {
        (0..rows).for_each(|_| scores.push(&RowTally::default()));
    } else if let Some(mask) = left_out {
        for (row, mask) in one_shot_nats.chunks_exact(anchors).zip(mask.chunks_exact(anchors)) {
            scores.push(&baseline.tally_row_without(row, |anchor| mask[anchor]));
        }
    } else {
        baseline.score_rows(one_shot_nats, &mut scores);
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn a_win_is_strictly_above() {
        let scores = golden_scores(1, &[-1.0, -2.0, -3.0], &[-1.5, -2.0, -2.5], None).unwrap();
        assert_eq!((scores.wins, scores.anchors_scored), (vec![1], vec![3]));
        assert_eq!(scores.mean_gain_nats, [0.0]);
        assert_eq!(scores.nan_pairs, 0);
    }

    #[test]
    fn nan_is_lost_and_counted_but_not_in_the_mean() {
        let scores = golden_scores(2, &[NAN, -1.0, NAN, NAN], &[-2.0, -2.0], None).unwrap();
        assert_eq!(scores.wins, [1, 0]);
        assert_eq!(scores.anchors_scored, [2, 2]);
        assert_eq!(scores.mean_gain_nats[0], 1.0);
        assert!(scores.mean_gain_nats[1].is_nan());
        assert_eq!(scores.nan_pairs, 3);
    }

    #[test]
    fn equal_infinities_have_no_gain_and_no_winner() {
        let infinity = f64::NEG_INFINITY;
        let scores = golden_scores(1, &[infinity, -1.0], &[infinity, -3.0], None).unwrap();
        assert_eq!((scores.wins, scores.nan_pairs), (vec![1], 1));
        assert_eq!(scores.mean_gain_nats, [2.0]);
    }

    #[test]
    fn pairs_left_out_count_nowhere() {
        let left_out = [true, false, true, true];
        let scores = golden_scores(2, &[0.0, -1.0, NAN, 0.0], &[-2.0, -2.0], Some(&left_out)).unwrap();
        assert_eq!(scores.wins, [1, 0]);
        assert_eq!(scores.anchors_scored, [1, 0]);
        assert_eq!(scores.mean_gain_nats[0], 1.0);
        assert!(scores.mean_gain_nats[1].is_nan());
        assert_eq!(scores.nan_pairs, 0);
    }

    #[test]
    fn no_anchors_and_no_rows_are_answered() {
        let no_anchors = golden_scores::<f64>(2, &[], &[], None).unwrap();
        assert_eq!(no_anchors.anchors_scored, [0, 0]);
        assert!(no_anchors.mean_gain_nats.iter().all(|mean| mean.is_nan()));
        assert_eq!(golden_scores::<f64>(0, &[], &[-1.0], Some(&[])).unwrap(), GoldenScores::default());
    }

    #[test]
    fn wrong_shapes_are_named() {
        let one_shot = golden_scores(2, &[0.0; 3], &[0.0; 2], None).unwrap_err();
        assert_eq!(one_shot, GoldenError::OneShotShape { found: 3, rows: 2, anchors: 2 });
        let left_out = golden_scores(1, &[0.0; 2], &[0.0; 2], Some(&[false])).unwrap_err();
        assert_eq!(left_out.to_string(), "`left_out` has 1 values, but 1 rows x 2 anchors are wanted");
        assert!(matches!(check(usize::MAX, 2, 0, None), Err(GoldenError::OneShotShape { .. })));
        assert!(matches!(check(0, usize::MAX, 0, None), Err(GoldenError::TooManyAnchors { .. })));
    }
}
