//! Lloyd's rounds. Source: Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory, 1982.

use rayon::prelude::*;

use crate::Settings;
use crate::distance::{Prepared, norm, squared_distance};
use crate::error::KmeansError;
use crate::points::Points;

/// Rows that a thread takes at a time.
pub(crate) const BLOCK_ROWS: usize = 64;

/// Columns that a thread sums at a time: two cache lines of each row.
const TILE_COLUMNS: usize = 32;

/// Rows between two looks at `interrupted` while sums are taken.
const SUM_ROWS: usize = 1 << 14;

/// Rows with their centroids. A label is always the nearest of these centroids, `squared` its squared distance.
pub(crate) struct Clusters {
    pub(crate) centroids: Vec<f32>,
    pub(crate) labels: Vec<u32>,
    pub(crate) squared: Vec<f64>,
    pub(crate) iterations: u32,
}

/// Runs rounds until the labels have settled and no cluster can be filled, or the rounds run out.
pub(crate) fn run(
    points: Points<'_>,
    mut centroids: Vec<f32>,
    settings: &Settings,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Clusters, KmeansError> {
    let mut labels = vec![0; points.rows()];
    let mut squared = vec![0.0; points.rows()];
    assign(points, &centroids, &mut labels, &mut squared, interrupted)?;
    let enough = settings.tolerance * points.rows() as f64;
    let mut iterations = 0;
    let mut is_settled = false;
    while iterations < settings.max_iterations {
        let filled = fill_empty(&mut labels, &squared, settings.k);
        if is_settled && filled == 0 {
            break;
        }
        move_to_means(points, &labels, &mut centroids, interrupted)?;
        iterations += 1;
        let changed = assign(points, &centroids, &mut labels, &mut squared, interrupted)?;
        is_settled = changed == 0 || (changed as f64) < enough;
    }
    Ok(Clusters { centroids, labels, squared, iterations })
}

/// Gives every row its nearest centroid; returns how many rows changed theirs.
fn assign(
    points: Points<'_>,
    centroids: &[f32],
    labels: &mut [u32],
    squared: &mut [f64],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<usize, KmeansError> {
    let prepared = Prepared::new(centroids, points.dim());
    let blocks = labels.par_chunks_mut(BLOCK_ROWS).zip(squared.par_chunks_mut(BLOCK_ROWS)).enumerate();
    blocks
        .map_init(Vec::new, |scores, (block, (labels, squared))| {
            if interrupted() {
                return Err(KmeansError::Interrupted);
            }
            let first = block * BLOCK_ROWS;
            prepared.scores(points.rows_from(first, labels.len()), scores);
            let mut changed = 0;
            for (offset, scores) in scores.chunks_exact(prepared.k()).enumerate() {
                let (label, distance) = nearest(&prepared, points.row(first + offset), scores);
                changed += usize::from(labels[offset] != label);
                (labels[offset], squared[offset]) = (label, distance);
            }
            Ok(changed)
        })
        .try_reduce(|| 0, |a, b| Ok(a + b))
}

/// The nearest centroid and its squared distance: measured for each centroid that its score does not rule out.
fn nearest(prepared: &Prepared<'_>, row: &[f32], scores: &[f64]) -> (u32, f64) {
    let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let limit = least + 2.0 * prepared.bound(norm(row));
    let mut best = (0, f64::INFINITY);
    for (index, &score) in scores.iter().enumerate() {
        // Written so that a score or a limit that is not a number rules nothing out.
        if score > limit {
            continue;
        }
        let squared = squared_distance(row, prepared.centroid(index));
        if squared < best.1 {
            best = (index as u32, squared);
        }
    }
    best
}

/// Labels the farthest rows with the clusters that have none; returns how many clusters were filled.
///
/// A row on its centroid is not moved, nor the last row of a cluster; equal distances go to the lowest row.
fn fill_empty(labels: &mut [u32], squared: &[f64], k: usize) -> usize {
    let mut sizes = vec![0_usize; k];
    for &label in labels.iter() {
        sizes[label as usize] += 1;
    }
    let empty: Vec<u32> = (0..k as u32).filter(|&label| sizes[label as usize] == 0).collect();
    if empty.is_empty() {
        return 0;
    }
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

/// Moves every centroid that has rows to their mean.
///
/// A thread sums a tile of columns over all rows, in row order and in `f64`: so threads share no sum.
fn move_to_means(
    points: Points<'_>,
    labels: &[u32],
    centroids: &mut [f32],
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<(), KmeansError> {
    let dim = points.dim();
    let mut sizes = vec![0_u64; centroids.len() / dim];
    for &label in labels {
        sizes[label as usize] += 1;
    }
    let tiles: Vec<(usize, Vec<f64>)> = (0..dim)
        .into_par_iter()
        .step_by(TILE_COLUMNS)
        .map(|first| {
            let columns = first..dim.min(first + TILE_COLUMNS);
            let width = columns.len();
            let mut sums = vec![0.0_f64; sizes.len() * width];
            for (row, &label) in labels.iter().enumerate() {
                if row % SUM_ROWS == 0 && interrupted() {
                    return Err(KmeansError::Interrupted);
                }
                let sums = &mut sums[label as usize * width..][..width];
                for (sum, &value) in sums.iter_mut().zip(&points.row(row)[columns.clone()]) {
                    *sum += f64::from(value);
                }
            }
            Ok((first, sums))
        })
        .collect::<Result<_, _>>()?;
    for (first, sums) in tiles {
        let width = sums.len() / sizes.len();
        for ((centroid, sums), &size) in centroids.chunks_exact_mut(dim).zip(sums.chunks_exact(width)).zip(&sizes) {
            if size > 0 {
                for (value, sum) in centroid[first..].iter_mut().zip(sums) {
                    *value = (sum / size as f64) as f32;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_clusters_take_the_farthest_rows_and_empty_no_other() {
        let mut labels = [0, 0, 0, 3, 0];
        let filled = fill_empty(&mut labels, &[1.0, 4.0, 4.0, 9.0, 0.0], 4);
        assert_eq!((filled, labels), (2, [0, 1, 2, 3, 0]));
    }

    #[test]
    fn rows_on_their_centroids_stay() {
        let mut labels = [0, 0];
        assert_eq!((fill_empty(&mut labels, &[0.0, 0.0], 2), labels), (0, [0, 0]));
    }

    #[test]
    fn equal_centroids_share_no_row() {
        let points = Points::new(&[1.0, 2.0, 3.0], 1).unwrap();
        let (mut labels, mut squared) = ([9; 3], [0.0; 3]);
        let changed = assign(points, &[2.0, 2.0], &mut labels, &mut squared, &|| false).unwrap();
        assert_eq!((changed, labels, squared), (3, [0; 3], [1.0, 0.0, 1.0]));
    }

    #[test]
    fn means_are_taken_in_f64_and_empty_clusters_stay() {
        let values = [1.0, 16_777_216.0, 1.0, 1.0];
        let points = Points::new(&values, 2).unwrap();
        let mut centroids = [0.0, 0.0, 7.0, 7.0];
        move_to_means(points, &[0, 0], &mut centroids, &|| false).unwrap();
        assert_eq!(centroids, [1.0, 8_388_608.5, 7.0, 7.0]);
    }

    #[test]
    fn huge_values_are_measured_directly() {
        let points = Points::new(&[3e38, -3e38, 2e38, 2e38], 2).unwrap();
        let (mut labels, mut squared) = ([0; 2], [0.0; 2]);
        let centroids = [-3e38, 3e38, 3e38, 3e38, 3e38, -3e38];
        assign(points, &centroids, &mut labels, &mut squared, &|| false).unwrap();
        assert_eq!(labels, [2, 1]);
        assert_eq!(squared[0], 0.0);
    }
}
