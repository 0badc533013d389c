//! Seeds: k-means++. Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

use rayon::prelude::*;

use crate::assign::Rows;
use crate::centroids::UNIT;
use crate::distance::{dot, dot_roundings, squared_distance};
use crate::error::KmeansError;
use crate::random::Random;
use crate::simd::Isa;

const BLOCK_ROWS: usize = 256;

/// Seeds that are drawn before the rows are gone through again: the rows do not fit into a cache, so many seeds a pass
/// cost little more than one.
const MOST_PENDING: usize = 16;

/// Draws `k` rows, each with a chance that grows with its squared distance to the nearest one drawn so far.
///
/// Where every row left equals one drawn already, the lowest of them that was not drawn is taken. `k <= rows`.
pub(crate) fn plus_plus(isa: Isa, rows: Rows<'_>, k: usize, random: &mut Random) -> Result<Vec<f32>, KmeansError> {
    let points = rows.points;
    let mut squared = vec![f64::INFINITY; points.rows()];
    let mut is_drawn = vec![false; points.rows()];
    let mut chosen = vec![random.below(points.rows())];
    let mut centroids = Vec::with_capacity(k * points.dim());
    let mut first_not_drawn = 0;
    loop {
        let begin = centroids.len();
        let mut buffer = Vec::new();
        for &row in &chosen {
            is_drawn[row] = true;
            centroids.extend_from_slice(points.row(row, &mut buffer));
        }
        let drawn = centroids.len() / points.dim();
        if drawn == k {
            return Ok(centroids);
        }
        approach(isa, rows, &chosen, &centroids[begin..], &mut squared)?;
        // Early on every seed changes many distances, and most of what is drawn ahead would be refused.
        chosen = draw_ahead(rows, &squared, MOST_PENDING.min(drawn).min(k - drawn), random);
        if chosen.is_empty() {
            while is_drawn[first_not_drawn] {
                first_not_drawn += 1;
            }
            chosen.push(first_not_drawn);
        }
    }
}

/// Draws up to `most` rows as if the distances were lowered after each; none where all distances are 0.
///
/// A row drawn by its old distance is kept with the chance by which the distance has shrunk since: then it is drawn by
/// the new one (von Neumann's rejection). What comes after the first draw may be refused, and is tried a few times.
fn draw_ahead(rows: Rows<'_>, squared: &[f64], most: usize, random: &mut Random) -> Vec<usize> {
    let (mut drawn, mut seeds, mut buffer) = (Vec::with_capacity(most), Vec::new(), Vec::new());
    let sums = running_sums(squared);
    for _ in 0..2 * most {
        let Some(row) = weighted(&sums, random.unit()).filter(|_| drawn.len() < most) else { break };
        let values = rows.points.row(row, &mut buffer);
        let to_seeds = seeds.chunks_exact(values.len()).map(|seed| squared_distance(values, seed));
        let least = to_seeds.fold(squared[row], f64::min);
        if random.unit() * squared[row] < least {
            drawn.push(row);
            seeds.extend_from_slice(values);
        }
    }
    drawn
}

/// Lowers the squared distances of the rows that lie nearer to new seeds, which are the rows `chosen`.
///
/// Most rows do not: one dot product in single precision and the bound of its error (see `centroids`) rule them out, so
/// what is drawn does not depend on how it was rounded.
fn approach(isa: Isa, rows: Rows<'_>, chosen: &[usize], seeds: &[f32], squared: &mut [f64]) -> Result<(), KmeansError> {
    let dim = rows.points.dim();
    let relative = 2.0 * (dot_roundings(dim) + 8) as f64 * UNIT;
    let tiny = (dim + 8) as f64 * f64::from(f32::from_bits(1)) * 4.0;
    squared.par_chunks_mut(BLOCK_ROWS).enumerate().try_for_each_init(Vec::new, |buffer, (block, squared)| {
        if (rows.interrupted)() {
            return Err(KmeansError::Interrupted);
        }
        for (offset, least) in squared.iter_mut().enumerate() {
            let number = block * BLOCK_ROWS + offset;
            let row = rows.points.row(number, buffer);
            let norm = f64::from(rows.norms[number]);
            for (&seed_row, seed) in chosen.iter().zip(seeds.chunks_exact(dim)) {
                let seed_norm = f64::from(rows.norms[seed_row]);
                let at_least = norm * norm + seed_norm * seed_norm
                    - 2.0 * f64::from(dot(isa, row, seed))
                    - relative * (norm + seed_norm).powi(2)
                    - tiny;
                // Written so that a number that is none rules nothing out.
                if at_least > *least {
                    continue;
                }
                *least = least.min(squared_distance(row, seed));
            }
        }
        Ok(())
    })
}

/// The sum of the weights up to each.
fn running_sums(weights: &[f64]) -> Vec<f64> {
    let add = |sum: &mut f64, weight: &f64| {
        *sum += weight;
        Some(*sum)
    };
    weights.iter().scan(0.0, add).collect()
}

/// The index at which the running sum of the weights passes `share` of their total; None where all are 0.
fn weighted(sums: &[f64], share: f64) -> Option<usize> {
    let total = sums.last().copied().filter(|&total| total > 0.0)?;
    let index = sums.partition_point(|&sum| sum <= share * total);
    // Past the end by rounding: the last that weighs anything.
    Some(index.min(sums.partition_point(|&sum| sum < total)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;

    #[test]
    fn weights_are_shares_of_the_sum() {
        let weights = running_sums(&[0.0, 1.0, 0.0, 3.0, 0.0]);
        assert_eq!(weighted(&weights, 0.0), Some(1));
        assert_eq!(weighted(&weights, 0.24), Some(1));
        assert_eq!(weighted(&weights, 0.26), Some(3));
        assert_eq!(weighted(&weights, 1.0), Some(3));
        assert_eq!(weighted(&running_sums(&[0.0; 3]), 0.5), None);
    }

    /// Three groups, drawn ahead, against chances that were worked out by the definition.
    #[test]
    fn what_is_drawn_ahead_is_drawn_by_the_distances_that_hold_then() {
        // From 0, distances are 1, 4 and 100; when 10 is drawn, they are 1, 4 and 0; when 2 is drawn, 1, 0 and 64.
        let values = [0.0, 1.0, 2.0, 10.0];
        let points = Points::new(&values, 1).unwrap();
        let norms = points.norms(&|| false).unwrap();
        let rows = Rows { points, norms: &norms, interrupted: &|| false };
        let (mut random, mut pairs) = (Random::new(5), std::collections::HashMap::new());
        let tries = 40_000;
        for _ in 0..tries {
            let mut drawn = Vec::new();
            while drawn.len() < 2 {
                drawn = draw_ahead(rows, &[0.0, 1.0, 4.0, 100.0], 2, &mut random);
            }
            *pairs.entry((drawn[0], drawn[1])).or_insert(0) += 1;
        }
        let shrunk = |first: usize| match first {
            1 => [0.0, 0.0, 1.0, 81.0],
            2 => [0.0, 1.0, 0.0, 64.0],
            _ => [0.0, 1.0, 4.0, 0.0],
        };
        for first in [1, 2, 3] {
            let (weights, seen) = (shrunk(first), |second| f64::from(*pairs.get(&(first, second)).unwrap_or(&0)));
            let all: f64 = (1..4).map(seen).sum();
            for second in (1..4).filter(|_| all > 300.0) {
                let (share, expected) = (seen(second) / all, weights[second] / weights.iter().sum::<f64>());
                let spread = (expected * (1.0 - expected) / all).sqrt();
                assert!((share - expected).abs() < 4.5 * spread + 1e-9, "{first} {second}: {share} {expected}");
            }
        }
    }

    #[test]
    fn distinct_rows_are_drawn_before_duplicates() {
        let values = [1.0, 1.0, 5.0, 1.0, 5.0, 9.0];
        let points = Points::new(&values, 1).unwrap();
        let norms = points.norms(&|| false).unwrap();
        let rows = Rows { points, norms: &norms, interrupted: &|| false };
        for seed in 0..50 {
            let mut seeds = plus_plus(Isa::best(), rows, 3, &mut Random::new(seed)).unwrap();
            seeds.sort_by(f32::total_cmp);
            assert_eq!(seeds, [1.0, 5.0, 9.0]);
            let mut all = plus_plus(Isa::best(), rows, 6, &mut Random::new(seed)).unwrap();
            all.sort_by(f32::total_cmp);
            assert_eq!(all, [1.0, 1.0, 1.0, 5.0, 5.0, 9.0]);
        }
    }
}
