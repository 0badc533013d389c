//! Wins alone: in 32 bits one comparison a pair is left, and memory sets the pace.

use rayon::prelude::*;

use crate::lanes::tail;
use crate::{Baseline, GoldenError, GoldenScores, LANES, Nats, block_rows, check};

/// Wins of some rows, in row order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoldenWins {
    /// Anchors won.
    pub wins: Vec<u32>,
    /// Pairs whose gain is not a number; they are lost.
    pub nan_pairs: u64,
}

/// Counts the wins of `rows x anchors` pairs, row after row, on the threads of the current rayon pool.
///
/// What [`crate::golden_scores`] finds, but for the gains; in 32 bits at the speed of memory.
///
/// ```
/// let counted = pyllm_golden::golden_wins(2, &[-1.0, -3.0, -1.5, -2.0], &[-2.0, -3.0])?;
/// assert_eq!(counted.wins, [1, 2]);
/// # Ok::<(), pyllm_golden::GoldenError>(())
/// ```
///
/// # Errors
/// A slice does not have `rows x anchors` values, or there are more than `u32::MAX` anchors.
pub fn golden_wins<T: Nats>(
    rows: usize,
    one_shot_nats: &[T],
    zero_shot_nats: &[f64],
) -> Result<GoldenWins, GoldenError> {
    let anchors = zero_shot_nats.len();
    check(rows, anchors, one_shot_nats.len(), None)?;
    let baseline = Baseline::new(zero_shot_nats)?;
    let mut wins = vec![0; rows];
    if anchors == 0 {
        return Ok(GoldenWins { wins, nan_pairs: 0 });
    }
    // Equal infinities have no gain either: where there are any, gains are looked at.
    let are_finite = zero_shot_nats.iter().all(|sum| sum.is_finite());
    let count = if are_finite { T::count_rows } else { count_by_gains };
    let block_rows = block_rows(anchors);
    let nan_pairs = if rows <= block_rows {
        count(&baseline, one_shot_nats, &mut wins)
    } else {
        let blocks = one_shot_nats.par_chunks(block_rows * anchors).zip(wins.par_chunks_mut(block_rows));
        blocks.map(|(values, wins)| count(&baseline, values, wins)).sum()
    };
    Ok(GoldenWins { wins, nan_pairs })
}

/// Counts by way of the scores: whatever the zero-shot sums are.
pub(crate) fn count_by_gains<T: Nats>(baseline: &Baseline<T>, one_shot_nats: &[T], wins: &mut [u32]) -> u64 {
    let mut scores = GoldenScores::default();
    baseline.score_rows(one_shot_nats, &mut scores);
    wins.copy_from_slice(&scores.wins);
    scores.nan_pairs
}

/// Counts rows of 32 bits, with vectors where the processor has them.
pub(crate) fn count_single(baseline: &Baseline<f32>, one_shot_nats: &[f32], wins: &mut [u32]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "a function for processors with AVX2 is called where there is one")]
        // SAFETY: the processor was asked just above.
        unsafe {
            return avx2::count_rows(baseline, one_shot_nats, wins);
        }
    }
    count_by_gains(baseline, one_shot_nats, wins)
}

/// Written out with the instructions that are meant: of the loop in plain Rust, whose additions may be taken in any
/// order, the compiler makes one that spends its time on shuffling lanes.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::__m256i;
    use std::arch::x86_64::{
        __m256, _CMP_GT_OQ, _CMP_UNORD_Q, _mm_add_epi32, _mm_cvtsi128_si32, _mm_shuffle_epi32, _mm256_and_ps,
        _mm256_castps_si256, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cmpgt_epi32,
        _mm256_extracti128_si256, _mm256_movemask_ps, _mm256_or_ps, _mm256_set1_epi32, _mm256_setr_epi32,
        _mm256_setr_ps, _mm256_setzero_ps, _mm256_setzero_si256, _mm256_sub_epi32,
    };

    use super::{Baseline, LANES, tail};

    /// Wins of a row in each lane, and a mask of lanes in which a value was not a number.
    struct Row {
        wins: __m256i,
        nans: __m256,
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn count_rows(baseline: &Baseline<f32>, one_shot_nats: &[f32], wins: &mut [u32]) -> u64 {
        let anchors = baseline.anchors();
        let (limits, rest) = (baseline.limits(), anchors % LANES);
        let whole = anchors - rest;
        let used = _mm256_cmpgt_epi32(
            _mm256_set1_epi32((rest as u32).cast_signed()),
            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
        );
        let used = _mm256_castsi256_ps(used);
        let mut nan_pairs = 0;
        for (row, won) in wins.iter_mut().enumerate() {
            let from_row = &one_shot_nats[row * anchors..];
            let mut counted = Row { wins: _mm256_setzero_si256(), nans: _mm256_setzero_ps() };
            let (chunks, _) = from_row[..whole].as_chunks::<LANES>();
            for (values, limits) in chunks.iter().zip(limits) {
                counted.add(load(values), load(limits));
            }
            if rest > 0 {
                let behind = &from_row[whole..];
                // Values of the next row, which take no part, spare a copy of a length known only at run time.
                let values = behind.first_chunk().map_or_else(|| load(&tail(behind, rest)), |values| load(values));
                counted.add(_mm256_and_ps(values, used), load(&limits[chunks.len()]));
            }
            if _mm256_movemask_ps(counted.nans) == 0 {
                *won = total(counted.wins);
            } else {
                let tally = baseline.tally_row_without(from_row, |_| false);
                *won = tally.wins;
                nan_pairs += u64::from(tally.not_numbers);
            }
        }
        nan_pairs
    }

    impl Row {
        #[target_feature(enable = "avx2")]
        fn add(&mut self, values: __m256, limits: __m256) {
            // A mask of ones is -1.
            let above = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(values, limits));
            self.wins = _mm256_sub_epi32(self.wins, above);
            self.nans = _mm256_or_ps(self.nans, _mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        }
    }

    /// One load, which this is compiled to, without a pointer.
    #[target_feature(enable = "avx2")]
    fn load(values: &[f32; LANES]) -> __m256 {
        let v = values;
        _mm256_setr_ps(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7])
    }

    #[target_feature(enable = "avx2")]
    fn total(lanes: __m256i) -> u32 {
        let four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256::<1>(lanes));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two));
        _mm_cvtsi128_si32(one).cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_count_as_the_scores_do() {
        for anchors in [1, 7, 8, 9, 100] {
            let number = |at: usize| if at % 31 == 5 { f32::NAN } else { -((at as f32) * 0.618).fract() };
            let zero: Vec<f64> = (0..anchors).map(|at| -((at as f64) * 0.382).fract()).collect();
            let rows: Vec<f32> = (0..anchors * 13).map(number).collect();
            let baseline = Baseline::new(&zero).unwrap();
            let (mut chosen, mut slow) = ([0; 13], [0; 13]);
            let nans = count_by_gains(&baseline, &rows, &mut slow);
            assert_eq!((count_single(&baseline, &rows, &mut chosen), chosen), (nans, slow));
        }
    }

    #[test]
    fn no_anchors_and_no_rows_are_answered() {
        assert_eq!(golden_wins::<f64>(2, &[], &[]).unwrap().wins, [0, 0]);
        assert_eq!(golden_wins::<f32>(0, &[], &[-1.0]).unwrap(), GoldenWins::default());
        assert!(matches!(golden_wins(1, &[0.0; 3], &[0.0; 2]), Err(GoldenError::OneShotShape { found: 3, .. })));
    }
}
