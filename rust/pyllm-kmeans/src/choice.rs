//! The projection that makes rounds cheapest, or none where taking every dot product is.
//!
//! Nothing here changes a result: only what it costs.

use crate::assign::{Rows, assign};
use crate::centroids::Centroids;
use crate::error::KmeansError;
use crate::projection::{Basis, MOST_DIRECTIONS, Projection};

/// Numbers of directions to choose from.
const RANKS: [usize; 5] = [15, 31, 47, 71, MOST_DIRECTIONS];

/// Rows that the choice is tried on.
const TRIED_ROWS: usize = 960;

/// A dot product on its own costs so many times what it costs within a matrix product.
const SINGLE_DOT: f64 = 4.0;

/// Below so many multiplications a round, fitting costs more than it saves.
const SMALL_ROUND: f64 = 2e8;

/// A share of the full cost above which pruning is given up.
const WORTH_IT: f64 = 0.9;

/// What a pruned round costs, as a share of a full one.
fn cost(centroids: &Centroids<'_>, rank: usize, rows: usize, survivors: usize) -> f64 {
    let (k, dim) = (centroids.k() as f64, centroids.dim as f64);
    let dots = survivors as f64 / rows as f64 + 1.0;
    ((rank + 1) as f64 * k + SINGLE_DOT * dots * dim) / (k * dim)
}

/// Whether a pruned round with so many survivors was worth it.
pub(crate) fn pays(centroids: &Centroids<'_>, rank: usize, rows: usize, survivors: usize) -> bool {
    cost(centroids, rank, rows, survivors) < WORTH_IT
}

/// Fits a basis and tries it on a few rows that know their nearest centroids.
pub(crate) fn projection(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    labels: &[u32],
) -> Result<Option<Projection>, KmeansError> {
    let (count, dim) = (rows.points.rows(), centroids.dim);
    if count as f64 * centroids.k() as f64 * dim as f64 <= SMALL_ROUND {
        return Ok(None);
    }
    let most = MOST_DIRECTIONS.min(dim / 2).min(centroids.k() - 1);
    let ranks: Vec<usize> = RANKS.into_iter().filter(|&rank| rank <= most).collect();
    let Some(&largest) = ranks.last() else { return Ok(None) };
    let basis = Basis::fit(centroids, largest);
    let tried: Vec<usize> = (0..count).step_by(count.div_ceil(TRIED_ROWS)).collect();
    let norms: Vec<f32> = tried.iter().map(|&row| rows.norms[row]).collect();
    let numbers = rows.points.numbers(&tried);
    let sample = Rows { points: rows.points.only(&numbers), norms: &norms, ..rows };
    let mut best = (WORTH_IT, None);
    for rank in ranks {
        let basis = basis.first(rank);
        if !basis.is_sound() {
            break;
        }
        let projection = Projection::new(basis.clone(), sample.points, centroids, rows.interrupted)?;
        let mut known: Vec<u32> = tried.iter().map(|&row| labels[row]).collect();
        let tally = assign(sample, centroids, Some(&projection), &mut known)?;
        let share = cost(centroids, rank, tried.len(), tally.survivors);
        if share < best.0 {
            best = (share, Some(basis));
        }
    }
    best.1.map(|basis| Projection::new(basis, rows.points, centroids, rows.interrupted)).transpose()
}
