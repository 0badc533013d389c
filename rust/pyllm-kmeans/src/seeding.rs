//! Seeds: k-means++. Source: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007.

use rayon::prelude::*;

use crate::distance::squared_distance;
use crate::error::KmeansError;
use crate::points::Points;
use crate::random::Random;

const BLOCK_ROWS: usize = 256;

/// Draws `k` rows, each with a chance that grows with its squared distance to the nearest one drawn so far.
///
/// Where every row left equals one drawn already, the lowest of them that was not drawn is taken. `k <= rows`.
pub(crate) fn plus_plus(
    points: Points<'_>,
    k: usize,
    random: &mut Random,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<f32>, KmeansError> {
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
        let centroid = points.row(chosen);
        centroids.extend_from_slice(centroid);
        squared.par_chunks_mut(BLOCK_ROWS).enumerate().try_for_each(|(block, squared)| {
            if interrupted() {
                return Err(KmeansError::Interrupted);
            }
            for (offset, least) in squared.iter_mut().enumerate() {
                *least = least.min(squared_distance(points.row(block * BLOCK_ROWS + offset), centroid));
            }
            Ok(())
        })?;
    }
    Ok(centroids)
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
        for seed in 0..50 {
            let points = Points::new(&values, 1).unwrap();
            let mut seeds = plus_plus(points, 3, &mut Random::new(seed), &|| false).unwrap();
            seeds.sort_by(f32::total_cmp);
            assert_eq!(seeds, [1.0, 5.0, 9.0]);
            let mut all = plus_plus(points, 6, &mut Random::new(seed), &|| false).unwrap();
            all.sort_by(f32::total_cmp);
            assert_eq!(all, [1.0, 1.0, 1.0, 5.0, 5.0, 9.0]);
        }
    }
}
