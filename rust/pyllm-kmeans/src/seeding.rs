//! Seeds: k-means++. Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

use rayon::prelude::*;

use crate::assign::Rows;
use crate::centroids::UNIT;
use crate::distance::{dot, dot_roundings, squared_distance};
use crate::error::KmeansError;
use crate::random::Random;
use crate::simd::Isa;

const BLOCK_ROWS: usize = 256;

/// Draws `k` rows, each with a chance that grows with its squared distance to the nearest one drawn so far.
///
/// Where every row left equals one drawn already, the lowest of them that was not drawn is taken. `k <= rows`.
pub(crate) fn plus_plus(isa: Isa, rows: Rows<'_>, k: usize, random: &mut Random) -> Result<Vec<f32>, KmeansError> {
    let points = rows.points;
    let mut squared = vec![f64::INFINITY; points.rows()];
    let mut is_drawn = vec![false; points.rows()];
    let mut centroids = Vec::with_capacity(k * points.dim());
    let mut first_not_drawn = 0;
    for drawn in 0..k {
        let chosen = if drawn == 0 { Some(random.below(points.rows())) } else { weighted(&squared, random.unit()) };
        let chosen = chosen.unwrap_or_else(|| {
            while is_drawn[first_not_drawn] {
                first_not_drawn += 1;
            }
            first_not_drawn
        });
        is_drawn[chosen] = true;
        let mut buffer = Vec::new();
        let seed = points.row(chosen, &mut buffer);
        centroids.extend_from_slice(seed);
        approach(isa, rows, (chosen, seed), &mut squared)?;
    }
    Ok(centroids)
}

/// Lowers the squared distances of the rows that lie nearer to a new seed, the row `chosen`.
///
/// Most rows do not: one dot product in single precision and the bound of its error (see `centroids`) rule them out, so
/// what is drawn does not depend on how it was rounded.
fn approach(isa: Isa, rows: Rows<'_>, (chosen, seed): (usize, &[f32]), squared: &mut [f64]) -> Result<(), KmeansError> {
    let seed_norm = f64::from(rows.norms[chosen]);
    let relative = 2.0 * (dot_roundings(seed.len()) + 8) as f64 * UNIT;
    let tiny = (seed.len() + 8) as f64 * f64::from(f32::from_bits(1)) * 4.0;
    squared.par_chunks_mut(BLOCK_ROWS).enumerate().try_for_each_init(Vec::new, |buffer, (block, squared)| {
        if (rows.interrupted)() {
            return Err(KmeansError::Interrupted);
        }
        for (offset, least) in squared.iter_mut().enumerate() {
            let number = block * BLOCK_ROWS + offset;
            let row = rows.points.row(number, buffer);
            let norm = f64::from(rows.norms[number]);
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
        Ok(())
    })
}

/// The index at which the running sum of the weights passes `share` of their total; None where all are 0.
fn weighted(weights: &[f64], share: f64) -> Option<usize> {
    let limit = share * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let mut last = None;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        sum += weight;
        last = Some(index);
        if sum > limit {
            break;
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;

    #[test]
    fn weights_are_shares_of_the_sum() {
        let weights = [0.0, 1.0, 0.0, 3.0, 0.0];
        assert_eq!(weighted(&weights, 0.0), Some(1));
        assert_eq!(weighted(&weights, 0.24), Some(1));
        assert_eq!(weighted(&weights, 0.26), Some(3));
        assert_eq!(weighted(&weights, 1.0), Some(3));
        assert_eq!(weighted(&[0.0; 3], 0.5), None);
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
