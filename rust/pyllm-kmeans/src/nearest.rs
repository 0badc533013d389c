//! The real row nearest each centroid.

use rayon::prelude::*;

use crate::distance::{Prepared, norm, squared_distance};
use crate::error::KmeansError;
use crate::lloyd::BLOCK_ROWS;
use crate::points::Points;

/// A row and its squared distance to a centroid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    pub(crate) row: usize,
    pub(crate) squared: f64,
}

impl Found {
    const NOTHING: Self = Self { row: usize::MAX, squared: f64::INFINITY };

    /// The nearer of two, at equal distance the lower row: in whatever order rows are met, the end is the same.
    fn nearer(self, other: Self) -> Self {
        if (other.squared, other.row) < (self.squared, self.row) { other } else { self }
    }
}

/// For each centroid in turn, the nearest row that no earlier centroid has. `k <= rows`.
pub(crate) fn distinct_rows(
    points: Points<'_>,
    centroids: &[f32],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Found>, KmeansError> {
    let prepared = Prepared::new(centroids, points.dim());
    let mut is_taken = vec![false; points.rows()];
    let mut nearest = nearest_rows(points, &prepared, interrupted)?;
    for (index, found) in nearest.iter_mut().enumerate() {
        if is_taken[found.row] {
            // Rare: two centroids meet in one row where rows are equal or few.
            *found = nearest_free_row(points, prepared.centroid(index), &is_taken, interrupted)?;
        }
        is_taken[found.row] = true;
    }
    Ok(nearest)
}

/// The nearest row of each centroid: every row is measured whose score does not rule it out.
fn nearest_rows(
    points: Points<'_>,
    prepared: &Prepared<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Found>, KmeansError> {
    let nothing = || vec![Found::NOTHING; prepared.k()];
    (0..points.rows())
        .into_par_iter()
        .step_by(BLOCK_ROWS)
        .try_fold(nothing, |mut nearest, first| {
            if interrupted() {
                return Err(KmeansError::Interrupted);
            }
            let rows = points.rows_from(first, BLOCK_ROWS);
            let mut scores = Vec::new();
            prepared.scores(rows, &mut scores);
            let pairs = rows.chunks_exact(points.dim()).zip(scores.chunks_exact(prepared.k()));
            for (offset, (row, scores)) in pairs.enumerate() {
                let norm = norm(row);
                let least = norm * norm - prepared.bound(norm);
                for (index, (found, score)) in nearest.iter_mut().zip(scores).enumerate() {
                    // Written so that a score that is not a number rules nothing out.
                    if least + score > found.squared {
                        continue;
                    }
                    let squared = squared_distance(row, prepared.centroid(index));
                    *found = found.nearer(Found { row: first + offset, squared });
                }
            }
            Ok(nearest)
        })
        .try_reduce(nothing, |a, b| Ok(a.into_iter().zip(b).map(|(a, b)| a.nearer(b)).collect()))
}

fn nearest_free_row(
    points: Points<'_>,
    centroid: &[f32],
    is_taken: &[bool],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Found, KmeansError> {
    is_taken
        .par_chunks(BLOCK_ROWS)
        .enumerate()
        .map(|(block, is_taken)| {
            if interrupted() {
                return Err(KmeansError::Interrupted);
            }
            let free = is_taken.iter().enumerate().filter(|(_, taken)| !**taken);
            let found = free.map(|(offset, _)| {
                let row = block * BLOCK_ROWS + offset;
                Found { row, squared: squared_distance(points.row(row), centroid) }
            });
            Ok(found.fold(Found::NOTHING, Found::nearer))
        })
        .try_reduce(|| Found::NOTHING, |a, b| Ok(a.nearer(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_taken_are_passed_over_and_ties_go_to_the_lowest() {
        let points = Points::new(&[4.0, 1.0, 1.0, 3.0], 1).unwrap();
        let found = distinct_rows(points, &[1.0, 1.0, 2.0, 1.0], &|| false).unwrap();
        let rows: Vec<usize> = found.iter().map(|found| found.row).collect();
        assert_eq!(rows, [1, 2, 3, 0]);
        assert_eq!(found[3].squared, 9.0);
    }
}
