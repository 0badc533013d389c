//! The kernel: one row of one-shot sums against the zero-shot sums.
//!
//! Anchors are dealt to [`LANES`] lanes, anchor `a` to lane `a % LANES`. Each lane adds its gains in anchor order, and
//! the lanes are then folded in halves. This order is part of the result: it is the same for sums of 32 and of 64 bits,
//! with and without pairs left out, and on every processor, so equal pairs have the same mean to the last bit.

use crate::{GoldenError, GoldenScores, counts};

/// Lanes of a sum: two registers of four float64 each keep an adder busy, and a row of 100 anchors ends evenly enough.
pub const LANES: usize = 8;

/// A type of log-probability sums.
pub trait Nats: Copy + Default + PartialOrd + Send + Sync + sealed::Sealed {
    /// Counts as wide as the sums, so that a comparison adds to them without changing lanes.
    type Count: Copy + Default + std::ops::AddAssign + From<bool> + Into<u64>;

    /// The same number in 64 bits.
    fn wide(self) -> f64;

    /// The largest number of this type that is not above `limit`.
    ///
    /// A number of this type is above `limit` exactly when it is above this one, so 32 bits are compared in 32 bits.
    fn floor_of(limit: f64) -> Self;

    /// Writes the wins of whole rows against finite sums, and returns how many values are not numbers.
    #[doc(hidden)]
    fn count_rows(baseline: &Baseline<Self>, one_shot_nats: &[Self], wins: &mut [u32]) -> u64;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

impl Nats for f32 {
    type Count = u32;

    fn wide(self) -> f64 {
        f64::from(self)
    }

    fn floor_of(limit: f64) -> Self {
        let nearest = limit as f32;
        if f64::from(nearest) > limit { nearest.next_down() } else { nearest }
    }

    fn count_rows(baseline: &Baseline<Self>, one_shot_nats: &[Self], wins: &mut [u32]) -> u64 {
        counts::count_single(baseline, one_shot_nats, wins)
    }
}

impl Nats for f64 {
    type Count = u64;

    fn wide(self) -> f64 {
        self
    }

    fn floor_of(limit: f64) -> Self {
        limit
    }

    fn count_rows(baseline: &Baseline<Self>, one_shot_nats: &[Self], wins: &mut [u32]) -> u64 {
        counts::count_by_gains(baseline, one_shot_nats, wins)
    }
}

/// Zero-shot sums, laid out for the kernel.
#[derive(Debug, Clone)]
pub struct Baseline<T> {
    anchors: usize,
    /// What a win is strictly above; filled up to whole lanes.
    limits: Vec<[T; LANES]>,
    /// What a gain is measured from; filled up with zeros.
    sums: Vec<[f64; LANES]>,
}

impl<T: Nats> Baseline<T> {
    /// Lays out the zero-shot sums, one for each anchor.
    ///
    /// # Errors
    /// There are more than `u32::MAX` anchors.
    pub fn new(zero_shot_nats: &[f64]) -> Result<Self, GoldenError> {
        let anchors = zero_shot_nats.len();
        if u32::try_from(anchors).is_err() {
            return Err(GoldenError::TooManyAnchors { anchors });
        }
        let padded = |chunk: &[f64]| {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            lanes
        };
        let sums: Vec<_> = zero_shot_nats.chunks(LANES).map(padded).collect();
        let limits = sums.iter().map(|lanes| lanes.map(T::floor_of)).collect();
        Ok(Self { anchors, limits, sums })
    }

    /// Anchors of a row.
    #[must_use]
    pub fn anchors(&self) -> usize {
        self.anchors
    }

    /// What a win is strictly above, filled up to whole lanes with zeros.
    pub(crate) fn limits(&self) -> &[[T; LANES]] {
        &self.limits
    }

    /// Scores whole rows, none of whose pairs are left out, and appends them.
    ///
    /// Values behind the last whole row are passed over, as is everything when there are no anchors.
    pub fn score_rows(&self, one_shot_nats: &[T], scores: &mut GoldenScores) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "a function for processors with AVX2 is called where there is one")]
            // SAFETY: the processor was asked just above.
            unsafe {
                return self.score_rows_avx2(one_shot_nats, scores);
            }
        }
        self.score_rows_on_any(one_shot_nats, scores);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn score_rows_avx2(&self, one_shot_nats: &[T], scores: &mut GoldenScores) {
        self.score_rows_on_any(one_shot_nats, scores);
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
    fn score_rows_on_any(&self, one_shot_nats: &[T], scores: &mut GoldenScores) {
        let Some(rows) = one_shot_nats.len().checked_div(self.anchors) else { return };
        scores.reserve(rows);
        for row in 0..rows {
            scores.push(&self.tally_row(&one_shot_nats[row * self.anchors..]));
        }
    }

    /// The tally of the row that `from_row` begins with: [`Baseline::anchors`] values, whatever follows.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
    pub fn tally_row(&self, from_row: &[T]) -> RowTally {
        let (wins, gain_nats) = self.tally(from_row);
        if gain_nats.is_nan() {
            // A pair may not be a number: look at each.
            self.tally_row_without(from_row, |_| false)
        } else {
            RowTally { wins, scored: self.anchors as u32, not_numbers: 0, gain_nats }
        }
    }

    /// Wins and sum of the gains of one row. Pairs that are not numbers are not won and make the sum NaN.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
    fn tally(&self, from_row: &[T]) -> (u32, f64) {
        let mut wins = [T::Count::default(); LANES];
        let mut gains = [0.0; LANES];
        let whole = self.anchors - self.anchors % LANES;
        let (chunks, _) = from_row[..whole].as_chunks::<LANES>();
        for ((values, limits), sums) in chunks.iter().zip(&self.limits).zip(&self.sums) {
            add(values, limits, sums, &mut wins, &mut gains);
        }
        if whole < self.anchors {
            let values = tail(&from_row[whole..], self.anchors - whole);
            add(&values, &self.limits[chunks.len()], &self.sums[chunks.len()], &mut wins, &mut gains);
        }
        let wins: u64 = wins.into_iter().map(Into::into).sum();
        (wins as u32, fold(gains))
    }

    /// The tally of one row without the pairs of the anchors that `left_out` names.
    pub fn tally_row_without(&self, row: &[T], left_out: impl Fn(usize) -> bool) -> RowTally {
        let mut tally = RowTally::default();
        let mut gains = [0.0; LANES];
        for (anchor, value) in row.iter().take(self.anchors).enumerate().filter(|(anchor, _)| !left_out(*anchor)) {
            let (chunk, lane) = (anchor / LANES, anchor % LANES);
            let gain_nats = value.wide() - self.sums[chunk][lane];
            tally.scored += 1;
            if gain_nats.is_nan() {
                tally.not_numbers += 1;
            } else {
                gains[lane] += gain_nats;
                tally.wins += u32::from(*value > self.limits[chunk][lane]);
            }
        }
        tally.gain_nats = fold(gains);
        tally
    }

    /// Adds one pair to a tally, in the order of the calls: for pairs that do not come row by row.
    pub fn add_pair(&self, tally: &mut RowTally, anchor: usize, one_shot_nats: T) {
        let (chunk, lane) = (anchor / LANES, anchor % LANES);
        let gain_nats = one_shot_nats.wide() - self.sums[chunk][lane];
        tally.scored += 1;
        if gain_nats.is_nan() {
            tally.not_numbers += 1;
        } else {
            tally.gain_nats += gain_nats;
            tally.wins += u32::from(one_shot_nats > self.limits[chunk][lane]);
        }
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
fn add<T: Nats>(
    values: &[T; LANES],
    limits: &[T; LANES],
    sums: &[f64; LANES],
    wins: &mut [T::Count; LANES],
    gains: &mut [f64; LANES],
) {
    for lane in 0..LANES {
        wins[lane] += T::Count::from(values[lane] > limits[lane]);
    }
    for lane in 0..LANES {
        gains[lane] += values[lane].wide() - sums[lane];
    }
}

/// The first `rest` values, filled up with zeros: zero against zero is no win and no gain.
///
/// Where more values follow, a whole register is read and masked: to copy a number of values that is known only at run
/// time is a function call, and costs as much as the rest of a row.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
pub(crate) fn tail<T: Nats>(values: &[T], rest: usize) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    if let Some(window) = values.first_chunk::<LANES>() {
        for lane in 0..LANES {
            lanes[lane] = if lane < rest { window[lane] } else { T::default() };
        }
    } else {
        lanes[..rest].copy_from_slice(&values[..rest]);
    }
    lanes
}

/// The sum of the lanes, folded in halves.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it is compiled once for each kind of processor")]
fn fold(lanes: [f64; LANES]) -> f64 {
    let halves: [f64; 4] = std::array::from_fn(|lane| lanes[lane] + lanes[lane + 4]);
    (halves[0] + halves[2]) + (halves[1] + halves[3])
}

/// Sums over the pairs of one row.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowTally {
    /// Anchors won.
    pub wins: u32,
    /// Anchors tried.
    pub scored: u32,
    /// Pairs tried whose gain is not a number.
    pub not_numbers: u32,
    /// Sum of the gains of all others.
    pub gain_nats: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_in_32_bits_decides_as_64_bits_do() {
        let limits = [-1.5, -0.1, 0.1, -1e-46, 1e300, -1e300, f64::NEG_INFINITY, f64::INFINITY, f64::NAN, 0.0];
        let near: Vec<f32> = limits
            .iter()
            .flat_map(|&limit| [(limit as f32).next_down(), limit as f32, (limit as f32).next_up(), -limit as f32])
            .collect();
        for limit in limits {
            for &value in &near {
                assert_eq!(value > f32::floor_of(limit), f64::from(value) > limit, "{value:e} against {limit:e}");
            }
        }
    }

    #[test]
    fn the_avx2_build_gives_the_bits_of_the_plain_one() {
        for anchors in [1, 7, 8, 9, 100] {
            let number = |at: usize| -((at as f64) * 0.618).fract() * 9.0;
            let zero: Vec<f64> = (0..anchors).map(|at| number(at * 7 + 3)).collect();
            let rows: Vec<f32> = (0..anchors * 13).map(|at| number(at) as f32).collect();
            let baseline = Baseline::new(&zero).unwrap();
            let (mut plain, mut chosen) = (GoldenScores::default(), GoldenScores::default());
            baseline.score_rows_on_any(&rows, &mut plain);
            baseline.score_rows(&rows, &mut chosen);
            assert_eq!(plain, chosen);
            let mut one_by_one = GoldenScores::default();
            for row in rows.chunks(anchors) {
                one_by_one.push(&baseline.tally_row_without(row, |_| false));
            }
            assert_eq!(plain, one_by_one);
        }
    }
}
