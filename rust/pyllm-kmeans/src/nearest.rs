//! The real row nearest each centroid.

use rayon::prelude::*;

use crate::assign::Rows;
use crate::centroids::{Centroids, OUT_OF_REACH, Reaching, largest_magnitude, rounded_down};
use crate::distance::squared_distance;
use crate::error::KmeansError;
use crate::panels::{BLOCK_ROWS, Panels};
use crate::points::Points;
use crate::projection::{Projection, Shadow};

/// A row and its squared distance to a centroid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    pub(crate) row: usize,
    pub(crate) squared: f64,
}

/// Rows kept for each centroid: where centroids share a nearest row, the next one is known.
const KEPT_ROWS: usize = 8;

/// The rows nearest to a centroid, the nearest first: as many as are sure to be the nearest of all.
#[derive(Debug, Clone)]
struct Shortlist {
    rows: Vec<Found>,
    most: usize,
}

impl Shortlist {
    const EMPTY: Self = Self { rows: Vec::new(), most: KEPT_ROWS };

    fn meet(&mut self, found: Found) {
        let place = self.rows.partition_point(|kept| (kept.squared, kept.row) < (found.squared, found.row));
        if place < self.most && self.rows.get(place) != Some(&found) {
            self.rows.truncate(self.most - 1);
            self.rows.insert(place, found);
        }
    }

    /// The farthest row in it: what is nearer belongs into it.
    fn reach(&self) -> f64 {
        self.rows.last().map_or(f64::INFINITY, |found| found.squared)
    }
}

impl Found {
    const NOTHING: Self = Self { row: usize::MAX, squared: f64::INFINITY };

    /// The nearer of two, at equal distance the lower row: in whatever order rows are met, the end is the same.
    fn nearer(self, other: Self) -> Self {
        if (other.squared, other.row) < (self.squared, self.row) { other } else { self }
    }
}

/// For each centroid in turn, the nearest row that no earlier centroid has. `k <= rows`.
///
/// `labels` and `squared` say which centroid each row belongs to, and how far it lies from it.
pub(crate) fn distinct_rows(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    projection: Option<&Projection>,
    labels: &[u32],
    squared: &[f64],
) -> Result<Vec<Found>, KmeansError> {
    let members = nearest_members(rows.points, centroids, labels, squared);
    let shortlists = nearest_rows(rows, centroids, projection, &members)?;
    let mut is_taken = vec![false; rows.points.rows()];
    let mut nearest = Vec::with_capacity(shortlists.len());
    for (index, shortlist) in shortlists.iter().enumerate() {
        let found = match shortlist.rows.iter().find(|found| !is_taken[found.row]) {
            Some(&found) => found,
            // Rare: many centroids meet in few rows where rows are equal.
            None => nearest_free_row(rows, centroids.centroid(index), &is_taken)?,
        };
        is_taken[found.row] = true;
        nearest.push(found);
    }
    Ok(nearest)
}

/// The nearest rows of each cluster; for a cluster without rows the nearest of those that are nearest to others.
fn nearest_members(points: Points<'_>, centroids: &Centroids<'_>, labels: &[u32], squared: &[f64]) -> Vec<Shortlist> {
    let mut nearest = vec![Shortlist::EMPTY; centroids.k()];
    for (row, (&label, &squared)) in labels.iter().zip(squared).enumerate() {
        nearest[label as usize].meet(Found { row, squared });
    }
    let known: Vec<usize> = nearest.iter().filter_map(|shortlist| Some(shortlist.rows.first()?.row)).collect();
    let mut buffer = Vec::new();
    for (index, shortlist) in nearest.iter_mut().enumerate() {
        if shortlist.rows.is_empty() {
            for &row in &known {
                let squared = squared_distance(points.row(row, &mut buffer), centroids.centroid(index));
                shortlist.meet(Found { row, squared });
            }
        }
        // Of all rows only so many are sure to be nearer than any that was not looked at.
        shortlist.most = shortlist.rows.len();
    }
    nearest
}

/// What the search for nearer rows scores with: all coordinates, or a projection's.
///
/// A row is nearer to `c` than `d` when its score is above `(|x - m|^2 - d^2) / 2`. So `d^2 / 2` is added to the
/// number that scores begin with, and the limit is the row's alone.
struct Search<'a> {
    panels: Panels,
    largest_bias: f64,
    projected: Option<(&'a Projection, Shadow)>,
}

impl<'a> Search<'a> {
    fn new(centroids: &Centroids<'_>, projection: Option<&'a Projection>, nearest: &[Shortlist]) -> Self {
        let raised = |bias: &[f32]| -> Vec<f32> {
            bias.iter().zip(nearest).map(|(&bias, list)| (f64::from(bias) + 0.5 * list.reach()) as f32).collect()
        };
        if let Some(projection) = projection {
            let mut shadow = projection.shadow(centroids);
            let bias = raised(&shadow.bias);
            let panels = shadow.take_panels(&bias);
            return Self { panels, largest_bias: largest_magnitude(&bias), projected: Some((projection, shadow)) };
        }
        let bias = raised(&centroids.bias);
        let panels = Panels::new(centroids.isa, &centroids.shifted, centroids.dim, &bias);
        Self { panels, largest_bias: largest_magnitude(&bias), projected: None }
    }

    /// The score below which a row is nearer to no centroid than what is known; None where that cannot be told.
    fn limit(&self, rows: Rows<'_>, centroids: &Centroids<'_>, number: usize, row: &[f32]) -> Option<f32> {
        let bound = centroids.bound_with(rows.norms[number], self.largest_bias);
        let slack = self
            .projected
            .as_ref()
            .map_or(0.0, |(projection, shadow)| projection.slack_with(shadow, number, self.largest_bias));
        let limit = 0.5 * squared_distance(row, &centroids.mean) - 2.0 * bound - slack;
        limit.is_finite().then(|| rounded_down(limit))
    }
}

/// The nearest rows of each centroid: every row is measured whose score does not rule it out.
fn nearest_rows(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    projection: Option<&Projection>,
    known: &[Shortlist],
) -> Result<Vec<Shortlist>, KmeansError> {
    let search = Search::new(centroids, projection, known);
    let count = rows.points.rows();
    let found = (0..count.div_ceil(BLOCK_ROWS))
        .into_par_iter()
        .try_fold(
            || (known.to_vec(), Vec::new(), Vec::new()),
            |(mut nearest, mut block, mut buffer), at| {
                if (rows.interrupted)() {
                    return Err(KmeansError::Interrupted);
                }
                let first = at * BLOCK_ROWS;
                let mut limits = [OUT_OF_REACH; BLOCK_ROWS];
                let mut pairs = Vec::new();
                for number in first..count.min(first + BLOCK_ROWS) {
                    let row = rows.points.row(number, &mut buffer);
                    match search.limit(rows, centroids, number, row) {
                        Some(limit) => limits[number - first] = limit,
                        None => pairs.extend((0..centroids.k() as u32).map(|index| ((number - first) as u32, index))),
                    }
                }
                let mut reaching = Reaching::new(&limits, &mut pairs);
                if let Some((projection, _)) = &search.projected {
                    projection.block(first, &mut block);
                    search.panels.score(&block, &mut reaching);
                } else {
                    search.panels.score(rows.points.block(first, BLOCK_ROWS, &mut block), &mut reaching);
                }
                for (offset, index) in pairs {
                    let row = first + offset as usize;
                    let centroid = centroids.centroid(index as usize);
                    let squared = squared_distance(rows.points.row(row, &mut buffer), centroid);
                    nearest[index as usize].meet(Found { row, squared });
                }
                Ok((nearest, block, buffer))
            },
        )
        .map(|folded| folded.map(|(nearest, _, _)| nearest));
    found.try_reduce(
        || known.to_vec(),
        |mut all, some| {
            for (shortlist, other) in all.iter_mut().zip(some) {
                other.rows.into_iter().for_each(|found| shortlist.meet(found));
            }
            Ok(all)
        },
    )
}

fn nearest_free_row(rows: Rows<'_>, centroid: &[f32], is_taken: &[bool]) -> Result<Found, KmeansError> {
    is_taken
        .par_chunks(BLOCK_ROWS)
        .enumerate()
        .map_init(Vec::new, |buffer, (block, is_taken)| {
            if (rows.interrupted)() {
                return Err(KmeansError::Interrupted);
            }
            let mut nearest = Found::NOTHING;
            for (offset, _) in is_taken.iter().enumerate().filter(|(_, taken)| !**taken) {
                let row = block * BLOCK_ROWS + offset;
                let squared = squared_distance(rows.points.row(row, buffer), centroid);
                nearest = nearest.nearer(Found { row, squared });
            }
            Ok(nearest)
        })
        .try_reduce(|| Found::NOTHING, |a, b| Ok(a.nearer(b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn rows_taken_are_passed_over_and_ties_go_to_the_lowest() {
        let points = Points::new(&[4.0, 1.0, 1.0, 3.0], 1).unwrap();
        let norms = points.norms(&|| false).unwrap();
        let rows = Rows { points, norms: &norms, interrupted: &|| false };
        let centroids = Centroids::new(Isa::best(), &[1.0, 1.0, 2.0, 1.0], 1);
        let found = distinct_rows(rows, &centroids, None, &[2, 0, 0, 2], &[4.0, 0.0, 0.0, 1.0]).unwrap();
        let rows: Vec<usize> = found.iter().map(|found| found.row).collect();
        assert_eq!(rows, [1, 2, 3, 0]);
        assert_eq!(found[3].squared, 9.0);
    }
}
