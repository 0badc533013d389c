//! Lloyd's rounds. Source: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory, 1982.

use rayon::prelude::*;

use crate::Settings;
use crate::assign::{Rows, assign};
use crate::centroids::Centroids;
use crate::choice;
use crate::distance::squared_distance;
use crate::error::KmeansError;
use crate::means::Sums;
use crate::projection::Projection;
use crate::simd::Isa;

/// Rows that a thread measures at a time.
const MEASURED_ROWS: usize = 256;

/// Rows with their centroids. A label is always the nearest of these centroids.
pub(crate) struct Clusters {
    pub(crate) centroids: Vec<f32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) iterations: u32,
    /// What the last rounds ruled centroids out with, if anything.
    pub(crate) projection: Option<Projection>,
}

/// Runs rounds until the labels have settled and no cluster can be filled, or the rounds run out.
pub(crate) fn run(
    isa: Isa,
    rows: Rows<'_>,
    mut centroids: Vec<f32>,
    settings: &Settings,
) -> Result<Clusters, KmeansError> {
    let (count, dim) = (rows.points.rows(), rows.points.dim());
    let mut labels = vec![0; count];
    assign(rows, &Centroids::new(isa, &centroids, dim), None, &mut labels)?;
    let mut sums = Sums::new(isa, count, dim, settings.k);
    let mut projection: Option<Projection> = None;
    let enough = settings.tolerance * count as f64;
    let mut iterations = 0;
    let mut is_settled = false;
    while iterations < settings.max_iterations {
        let filled = fill_empty(rows, &centroids, settings.k, &mut labels)?;
        if is_settled && filled == 0 {
            break;
        }
        sums.update(rows, &labels)?;
        sums.move_to_means(&mut centroids);
        iterations += 1;
        let prepared = Centroids::new(isa, &centroids, dim);
        // Means of few rows, as in the first rounds, prune less than those of later rounds: so it is tried again.
        if projection.is_none() && iterations.is_power_of_two() && iterations.ilog2().is_multiple_of(2) {
            projection = choice::projection(rows, &prepared, &labels)?;
        }
        let tally = assign(rows, &prepared, projection.as_ref(), &mut labels)?;
        projection = projection.filter(|used| choice::pays(&prepared, used.rank(), count, tally.survivors));
        is_settled = tally.changed == 0 || (tally.changed as f64) < enough;
    }
    Ok(Clusters { centroids, labels, iterations, projection })
}

/// The squared distance of every row to its centroid.
pub(crate) fn squared_distances(rows: Rows<'_>, centroids: &[f32], labels: &[u32]) -> Result<Vec<f64>, KmeansError> {
    let dim = rows.points.dim();
    let mut squared = vec![0.0; labels.len()];
    let blocks = squared.par_chunks_mut(MEASURED_ROWS).zip(labels.par_chunks(MEASURED_ROWS)).enumerate();
    blocks.try_for_each_init(Vec::new, |buffer, (block, (squared, labels))| {
        if (rows.interrupted)() {
            return Err(KmeansError::Interrupted);
        }
        for (offset, (squared, &label)) in squared.iter_mut().zip(labels).enumerate() {
            let row = rows.points.row(block * MEASURED_ROWS + offset, buffer);
            *squared = squared_distance(row, &centroids[label as usize * dim..][..dim]);
        }
        Ok(())
    })?;
    Ok(squared)
}

/// Labels the farthest rows with the clusters that have none; returns how many clusters were filled.
fn fill_empty(rows: Rows<'_>, centroids: &[f32], k: usize, labels: &mut [u32]) -> Result<usize, KmeansError> {
    let mut sizes = vec![0_usize; k];
    for &label in labels.iter() {
        sizes[label as usize] += 1;
    }
    if sizes.iter().all(|&size| size > 0) {
        return Ok(0);
    }
    let squared = squared_distances(rows, centroids, labels)?;
    Ok(fill(labels, &squared, &mut sizes))
}

/// A row on its centroid is not moved, nor the last row of a cluster; equal distances go to the lowest row.
fn fill(labels: &mut [u32], squared: &[f64], sizes: &mut [usize]) -> usize {
    let empty: Vec<u32> = (0..sizes.len() as u32).filter(|&label| sizes[label as usize] == 0).collect();
    let mut farthest: Vec<usize> = (0..labels.len()).filter(|&row| squared[row] > 0.0).collect();
    farthest.sort_by(|&a, &b| squared[b].total_cmp(&squared[a]));
    let mut empty = empty.into_iter().peekable();
    let mut filled = 0;
    for row in farthest {
        let Some(&label) = empty.peek() else { break };
        let size = &mut sizes[labels[row] as usize];
        if *size > 1 {
            *size -= 1;
            labels[row] = label;
            empty.next();
            filled += 1;
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;

    #[test]
    fn empty_clusters_take_the_farthest_rows_and_empty_no_other() {
        let mut labels = [0, 0, 0, 3, 0];
        let filled = fill(&mut labels, &[1.0, 4.0, 4.0, 9.0, 0.0], &mut [4, 0, 0, 1]);
        assert_eq!((filled, labels), (2, [0, 1, 2, 3, 0]));
    }

    #[test]
    fn rows_on_their_centroids_stay() {
        let mut labels = [0, 0];
        assert_eq!((fill(&mut labels, &[0.0, 0.0], &mut [2, 0]), labels), (0, [0, 0]));
    }

    fn labelled(values: &[f32], dim: usize, centroids: &[f32]) -> (Vec<u32>, Vec<f64>) {
        let points = Points::new(values, dim).unwrap();
        let norms = points.norms(&|| false).unwrap();
        let rows = Rows { points, norms: &norms, interrupted: &|| false };
        let mut labels = vec![9; points.rows()];
        assign(rows, &Centroids::new(Isa::best(), centroids, dim), None, &mut labels).unwrap();
        let squared = squared_distances(rows, centroids, &labels).unwrap();
        (labels, squared)
    }

    #[test]
    fn equal_centroids_share_no_row() {
        assert_eq!(labelled(&[1.0, 2.0, 3.0], 1, &[2.0, 2.0]), (vec![0; 3], vec![1.0, 0.0, 1.0]));
    }

    #[test]
    fn huge_values_are_measured_directly() {
        let centroids = [-3e38, 3e38, 3e38, 3e38, 3e38, -3e38];
        let (labels, squared) = labelled(&[3e38, -3e38, 2e38, 2e38], 2, &centroids);
        assert_eq!((labels, squared[0]), (vec![2, 1], 0.0));
    }
}
