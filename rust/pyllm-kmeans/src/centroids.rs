//! Centroids made ready for many rows to be measured against them.
//!
//! The score of a centroid `c` for a row `x` is `x(c - m) - (|c|^2 - |m|^2) / 2`, with `m` the mean of the centroids: half of
//! `|x - m|^2 - |x - c|^2`. So the highest score has the nearest centroid, and taking `m` off keeps scores small where
//! rows lie far from the origin. Scores are computed in `f32`; [`Centroids::bound`] is how far one may be off. What
//! lies within the bound of the best is measured directly, in `f64`: so the nearest centroid is exact.

use crate::distance::{dot, dot_roundings, norm, squared_distance};
use crate::panels::{BLOCK_ROWS, Panels, Visitor};
use crate::points::rounded_up;
use crate::simd::Isa;

/// Half the distance between 1 and the next number in single precision.
pub(crate) const UNIT: f64 = 0.5 * f32::EPSILON as f64;

/// Centroids, the same with their mean taken off, and what bounds the error of their scores.
pub(crate) struct Centroids<'a> {
    pub(crate) isa: Isa,
    pub(crate) dim: usize,
    values: &'a [f32],
    pub(crate) mean: Vec<f32>,
    pub(crate) shifted: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) panels: Panels,
    largest_shifted: f64,
    largest_bias: f64,
    largest_norm: f64,
    roundings: f64,
}

impl<'a> Centroids<'a> {
    pub(crate) fn new(isa: Isa, values: &'a [f32], dim: usize) -> Self {
        let mean = mean_of(values, dim);
        let mut shifted = Vec::with_capacity(values.len());
        let mut bias = Vec::with_capacity(values.len() / dim);
        for centroid in values.chunks_exact(dim) {
            let mut difference = 0.0;
            for (&value, &mean) in centroid.iter().zip(&mean) {
                let (value, mean) = (f64::from(value), f64::from(mean));
                difference += (value - mean) * (value + mean);
                shifted.push((value - mean) as f32);
            }
            bias.push((-0.5 * difference) as f32);
        }
        let largest = |rows: &[f32]| rows.chunks_exact(dim).map(norm).fold(0.0, f64::max);
        let panels = Panels::new(isa, &shifted, dim, &bias);
        Self {
            largest_shifted: largest(&shifted),
            largest_bias: largest_magnitude(&bias),
            largest_norm: largest(values).max(norm(&mean)),
            roundings: panels.roundings().max(dot_roundings(dim) + 1) as f64,
            isa,
            dim,
            values,
            mean,
            shifted,
            bias,
            panels,
        }
    }

    pub(crate) fn k(&self) -> usize {
        self.bias.len()
    }

    pub(crate) fn centroid(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.dim..(index + 1) * self.dim]
    }

    /// How far the score of a row with such a norm may lie from the one that [`squared_distance`] stands for.
    pub(crate) fn bound(&self, norm: f32) -> f64 {
        self.bound_with(norm, self.largest_bias)
    }

    /// The same, for scores that begin with other numbers than `bias`, up to `largest_bias`.
    ///
    /// A sum of products of `f32` is off by at most `g |x||c|` with `g = nu / (1 - nu)`, `n` roundings on the longest
    /// path and `u = 2^-24` (Higham, Accuracy and Stability, section 3.1), and by `2^-149` a product where it
    /// underflows; one rounding more is that of `c - m`, two that of the bias. What is left is `f64`: a few roundings of
    /// numbers up to `(|x| + |c|)^2`, given the generous `2^-50` each. Infinite where an `f32` could overflow.
    pub(crate) fn bound_with(&self, norm: f32, largest_bias: f64) -> f64 {
        let norm = f64::from(norm);
        let product = norm * self.largest_shifted + largest_bias;
        let relative = (self.roundings + 3.0) * UNIT;
        let fits = product + self.largest_shifted < f64::from(f32::MAX) / 4.0;
        if !fits || relative > 0.25 {
            return f64::INFINITY;
        }
        let sum = norm + 2.0 * self.largest_norm;
        product * relative / (1.0 - relative)
            + (self.dim + 2) as f64 * f64::from(f32::from_bits(1))
            + (self.dim + 8) as f64 * 4.0 * f64::EPSILON * sum * sum
    }

    /// The score of one centroid.
    pub(crate) fn score(&self, row: &[f32], index: usize) -> f32 {
        dot(self.isa, row, &self.shifted[index * self.dim..(index + 1) * self.dim]) + self.bias[index]
    }

    /// The nearest centroid of one row; at equal distance the lowest.
    pub(crate) fn nearest(&self, row: &[f32], norm: f32) -> u32 {
        let bound = self.bound(norm);
        let scores: Vec<f32> = (0..self.k()).map(|index| self.score(row, index)).collect();
        let least = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max)) - 2.0 * bound;
        // Without a bound nothing is ruled out, scores that are not numbers included.
        let near = |index: &u32| !bound.is_finite() || f64::from(scores[*index as usize]) >= least;
        self.nearest_of(row, (0..self.k() as u32).filter(near))
    }

    /// The nearest of some centroids, ascending; at equal distance the lowest.
    pub(crate) fn nearest_of(&self, row: &[f32], some: impl Iterator<Item = u32>) -> u32 {
        let mut best = (0, f64::INFINITY);
        for index in some {
            let squared = squared_distance(row, self.centroid(index as usize));
            if squared < best.1 {
                best = (index, squared);
            }
        }
        best.0
    }
}

/// The largest absolute value.
pub(crate) fn largest_magnitude(values: &[f32]) -> f64 {
    f64::from(values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs())))
}

fn mean_of(values: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dim];
    for centroid in values.chunks_exact(dim) {
        for (sum, &value) in sums.iter_mut().zip(centroid) {
            *sum += f64::from(value);
        }
    }
    let count = (values.len() / dim).max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}

/// The best and the second-best score of each row of a block: in each lane first, then over the lanes.
pub(crate) struct Best {
    width: usize,
    first: Vec<f32>,
    second: Vec<f32>,
    panel: Vec<u32>,
}

impl Best {
    pub(crate) fn new(isa: Isa) -> Self {
        let lanes = BLOCK_ROWS * isa.width();
        Self { width: isa.width(), first: vec![0.0; lanes], second: vec![0.0; lanes], panel: vec![0; lanes] }
    }

    pub(crate) fn clear(&mut self) {
        self.first.fill(f32::NEG_INFINITY);
        self.second.fill(f32::NEG_INFINITY);
        self.panel.fill(0);
    }

    /// The centroid with the best score of a row, that score, and the second-best.
    pub(crate) fn of(&self, row: usize) -> (u32, f32, f32) {
        let lanes = row * self.width..(row + 1) * self.width;
        let (mut label, mut best, mut second) = (0, f32::NEG_INFINITY, f32::NEG_INFINITY);
        let scores = self.first[lanes.clone()].iter().zip(&self.second[lanes.clone()]).zip(&self.panel[lanes]);
        for (lane, ((&score, &next), &panel)) in scores.enumerate() {
            if score > best {
                second = best.max(next);
                (label, best) = (panel + lane as u32, score);
            } else {
                second = second.max(score);
            }
        }
        (label, best, second)
    }
}

impl Visitor for Best {
    #[inline(always)]
    fn visit<const W: usize>(&mut self, first: usize, scores: &[[f32; W]]) {
        let (best, _) = self.first.as_chunks_mut::<W>();
        let (second, _) = self.second.as_chunks_mut::<W>();
        let (panel, _) = self.panel.as_chunks_mut::<W>();
        let first = first as u32;
        for (((scores, best), second), panel) in scores.iter().zip(best).zip(second).zip(panel) {
            for lane in 0..W {
                let (score, leader) = (scores[lane], best[lane]);
                let is_higher = score > leader;
                let loser = if is_higher { leader } else { score };
                second[lane] = if loser > second[lane] { loser } else { second[lane] };
                panel[lane] = if is_higher { first } else { panel[lane] };
                best[lane] = if is_higher { score } else { leader };
            }
        }
    }
}

/// The limit that no score reaches, not even an infinite one.
pub(crate) const OUT_OF_REACH: f32 = f32::NAN;

/// Pairs of a row of the block and a centroid whose score reaches the row's limit.
pub(crate) struct Reaching<'a> {
    limits: &'a [f32],
    pairs: &'a mut Vec<(u32, u32)>,
}

impl<'a> Reaching<'a> {
    /// The pairs are added to `pairs`.
    pub(crate) fn new(limits: &'a [f32], pairs: &'a mut Vec<(u32, u32)>) -> Self {
        Self { limits, pairs }
    }
}

impl Visitor for Reaching<'_> {
    #[inline(always)]
    fn visit<const W: usize>(&mut self, first: usize, scores: &[[f32; W]]) {
        for (row, (scores, &limit)) in scores.iter().zip(self.limits).enumerate() {
            let mut reaching = 0_u32;
            for lane in 0..W {
                reaching |= u32::from(scores[lane] >= limit) << lane;
            }
            while reaching != 0 {
                self.pairs.push((row as u32, (first as u32) + reaching.trailing_zeros()));
                reaching &= reaching - 1;
            }
        }
    }
}

/// A limit in single precision that is no higher than `value`.
pub(crate) fn rounded_down(value: f64) -> f32 {
    -rounded_up(-value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The proof of `bound`, tried out: no score is ever farther off than it says.
    #[test]
    fn scores_are_off_by_no_more_than_the_bound() {
        let mut random = Random::new(1);
        for isa in Isa::all() {
            for dim in [1, 3, 8, 17, 64, 301, 700] {
                for (scale, shift) in [(1e-30, 0.3), (1e-20, 0.3), (1.0, 0.3), (1.0, 1000.0), (1e15, 0.3)] {
                    let mut draw = |count: usize| -> Vec<f32> {
                        (0..count).map(|_| ((random.unit() - shift) * scale) as f32).collect()
                    };
                    let (rows, values) = (draw(5 * dim), draw(7 * dim));
                    let centroids = Centroids::new(isa, &values, dim);
                    for row in rows.chunks_exact(dim) {
                        let bound = centroids.bound(rounded_up(norm(row)));
                        assert!(bound.is_finite());
                        let to_mean = squared_distance(row, &centroids.mean);
                        for index in 0..7 {
                            let exact = 0.5 * (to_mean - squared_distance(row, centroids.centroid(index)));
                            let score = f64::from(centroids.score(row, index));
                            assert!((score - exact).abs() <= bound, "{isa:?} {dim} {scale}: {score} {exact} {bound}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn sums_that_could_overflow_have_no_bound() {
        let values = [1e30, 1e30, -1e30, 0.0];
        assert_eq!(Centroids::new(Isa::Plain, &values, 2).bound(1e30), f64::INFINITY);
    }

    #[test]
    fn the_best_two_of_all_lanes_are_kept() {
        for isa in Isa::all() {
            let scores: Vec<f32> = (0..70).map(|at| ((at * 37) % 70) as f32).collect();
            let panels = Panels::new(isa, &vec![0.0; 70], 1, &scores);
            let mut best = Best::new(isa);
            best.clear();
            panels.score(&[1.0; BLOCK_ROWS], &mut best);
            let winner = scores.iter().position(|&score| score == 69.0).unwrap();
            assert_eq!(best.of(BLOCK_ROWS - 1), (winner as u32, 69.0, 68.0));
        }
    }

    #[test]
    fn pairs_reach_their_limit() {
        for isa in Isa::all() {
            let panels = Panels::new(isa, &[0.0; 40], 1, &(0..40).map(|at| at as f32).collect::<Vec<_>>());
            let mut limits = vec![OUT_OF_REACH; BLOCK_ROWS];
            (limits[3], limits[9]) = (38.0, 39.5);
            let mut pairs = Vec::new();
            panels.score(&[0.0; BLOCK_ROWS], &mut Reaching::new(&limits, &mut pairs));
            assert_eq!(pairs, [(3, 38), (3, 39)]);
        }
    }
}
