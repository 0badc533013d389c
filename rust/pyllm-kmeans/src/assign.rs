//! One round of labels: the nearest centroid of every row.

use rayon::prelude::*;

use crate::centroids::{Best, Centroids, OUT_OF_REACH, Reaching, rounded_down};
use crate::error::KmeansError;
use crate::panels::BLOCK_ROWS;
use crate::points::Points;
use crate::projection::{Projection, Shadow};

/// Rows of a block that are decided one by one, when scores cannot tell their nearest centroid.
const FEW_ROWS: usize = BLOCK_ROWS / 16;

/// Blocks that a thread takes at a time.
const TASK_BLOCKS: usize = 4;

/// Rows to be labelled, with their norms.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) points: Points<'a>,
    pub(crate) norms: &'a [f32],
    pub(crate) interrupted: &'a (dyn Fn() -> bool + Sync),
}

/// What a round of labels came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Rows whose label changed.
    pub(crate) changed: usize,
    /// Dot products that were taken because no bound ruled them out.
    pub(crate) survivors: usize,
}

/// What a thread needs to label a block.
struct Scratch {
    best: Best,
    rows: Vec<f32>,
    row: Vec<f32>,
    projected: Vec<f32>,
    limits: Vec<f32>,
    pairs: Vec<(u32, u32)>,
}

impl Scratch {
    fn new(centroids: &Centroids<'_>) -> Self {
        Self {
            best: Best::new(centroids.isa),
            rows: Vec::new(),
            row: Vec::new(),
            projected: Vec::new(),
            limits: Vec::new(),
            pairs: Vec::new(),
        }
    }
}

/// Gives every row its nearest centroid; ties go to the lowest.
///
/// With a projection, `labels` say where each row was before: the nearer that is, the more it rules out.
pub(crate) fn assign(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    projection: Option<&Projection>,
    labels: &mut [u32],
) -> Result<Tally, KmeansError> {
    let shadow = projection.map(|projection| (projection, projection.shadow(centroids)));
    labels
        .par_chunks_mut(TASK_BLOCKS * BLOCK_ROWS)
        .enumerate()
        .map_init(
            || Scratch::new(centroids),
            |scratch, (task, labels)| {
                let mut tally = Tally::default();
                for (block, labels) in labels.chunks_mut(BLOCK_ROWS).enumerate() {
                    if (rows.interrupted)() {
                        return Err(KmeansError::Interrupted);
                    }
                    let first = (task * TASK_BLOCKS + block) * BLOCK_ROWS;
                    match &shadow {
                        None => tally.changed += label_block(rows, centroids, first, labels, scratch),
                        Some((projection, shadow)) => {
                            let pruned = label_pruned(rows, centroids, (projection, shadow), first, labels, scratch);
                            tally.changed += pruned.changed;
                            tally.survivors += pruned.survivors;
                        }
                    }
                }
                Ok(tally)
            },
        )
        .try_reduce(Tally::default, |a, b| {
            Ok(Tally { changed: a.changed + b.changed, survivors: a.survivors + b.survivors })
        })
}

/// Scores every centroid.
fn label_block(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    first: usize,
    labels: &mut [u32],
    scratch: &mut Scratch,
) -> usize {
    let values = rows.points.block(first, BLOCK_ROWS, &mut scratch.rows);
    scratch.best.clear();
    centroids.panels.score(values, &mut scratch.best);
    let mut changed = 0;
    let mut doubtful = 0;
    let Scratch { limits, pairs, .. } = scratch;
    limits.clear();
    limits.resize(BLOCK_ROWS, OUT_OF_REACH);
    for (offset, label) in labels.iter_mut().enumerate() {
        let (found, best, second) = scratch.best.of(offset);
        let least = f64::from(best) - 2.0 * centroids.bound(rows.norms[first + offset]);
        // Written so that a score or a bound that is not a number decides nothing.
        let is_clear = f64::from(second) < least;
        if is_clear {
            changed += usize::from(*label != found);
            *label = found;
        } else {
            doubtful += 1;
            limits[offset] = if least.is_finite() { rounded_down(least) } else { f32::NEG_INFINITY };
        }
    }
    if doubtful == 0 {
        return changed;
    }
    pairs.clear();
    if doubtful > FEW_ROWS {
        // Many rows lie between equal centroids, say: what is near the best is found for all of them at once.
        centroids.panels.score(values, &mut Reaching::new(limits, pairs));
        pairs.sort_unstable();
    }
    for (offset, label) in labels.iter_mut().enumerate().filter(|(offset, _)| !limits[*offset].is_nan()) {
        let row = &values[offset * centroids.dim..][..centroids.dim];
        let found = if doubtful > FEW_ROWS && limits[offset].is_finite() {
            let start = pairs.partition_point(|pair| pair.0 < offset as u32);
            let near = pairs[start..].iter().take_while(|pair| pair.0 == offset as u32);
            centroids.nearest_of(row, near.map(|pair| pair.1))
        } else {
            centroids.nearest(row, rows.norms[first + offset])
        };
        changed += usize::from(*label != found);
        *label = found;
    }
    changed
}

/// Scores the centroids that no bound rules out.
fn label_pruned(
    rows: Rows<'_>,
    centroids: &Centroids<'_>,
    (projection, shadow): (&Projection, &Shadow),
    first: usize,
    labels: &mut [u32],
    scratch: &mut Scratch,
) -> Tally {
    let Scratch { row: buffer, projected, limits, pairs, .. } = scratch;
    limits.clear();
    limits.resize(BLOCK_ROWS, OUT_OF_REACH);
    let mut leaders = [Leader::default(); BLOCK_ROWS];
    for (offset, (&label, leader)) in labels.iter().zip(&mut leaders).enumerate() {
        let row = rows.points.row(first + offset, buffer);
        let bound = centroids.bound(rows.norms[first + offset]);
        let slack = projection.slack(shadow, first + offset);
        let score = centroids.score(row, label as usize);
        *leader = Leader { label, score, second: f32::NEG_INFINITY, doubt: 2.0 * bound };
        let limit = f64::from(score) - 2.0 * bound - slack;
        if limit.is_finite() {
            limits[offset] = rounded_down(limit);
        } else {
            leader.doubt = f64::INFINITY;
        }
    }
    projection.block(first, projected);
    pairs.clear();
    shadow.panels.score(projected, &mut Reaching::new(limits, pairs));
    let mut survivors = 0;
    for &(offset, index) in pairs.iter() {
        let leader = &mut leaders[offset as usize];
        if index != labels[offset as usize] {
            survivors += 1;
            let row = rows.points.row(first + offset as usize, buffer);
            leader.meet(index, centroids.score(row, index as usize));
        }
    }
    let mut changed = 0;
    for (offset, (label, leader)) in labels.iter_mut().zip(&leaders).enumerate() {
        let mut found = leader.label;
        let is_clear = f64::from(leader.second) < f64::from(leader.score) - leader.doubt;
        if !is_clear {
            survivors += centroids.k();
            found = centroids.nearest(rows.points.row(first + offset, buffer), rows.norms[first + offset]);
        }
        changed += usize::from(*label != found);
        *label = found;
    }
    Tally { changed, survivors }
}

/// The best centroid of a row so far, and the score of the next.
#[derive(Clone, Copy, Default)]
struct Leader {
    label: u32,
    score: f32,
    second: f32,
    doubt: f64,
}

impl Leader {
    fn meet(&mut self, label: u32, score: f32) {
        if score > self.score {
            *self = Self { label, score, second: self.score, ..*self };
        } else {
            self.second = self.second.max(score);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::squared_distance;
    use crate::nearest::distinct_rows;
    use crate::projection::Basis;
    use crate::random::Random;
    use crate::simd::Isa;

    /// Rows around the points of a small lattice: many near ties, many equal rows.
    fn lattice(rows: usize, dim: usize, scale: f64, shift: f64, random: &mut Random) -> Vec<f32> {
        let mut values = Vec::new();
        for _ in 0..rows {
            let (group, noise) = (random.below(7), f64::from(random.below(3) as u8) * 0.05);
            for column in 0..dim {
                let base = ((group * 31 + column * 17) % 11) as f64;
                values.push((shift + scale * (base + noise * (random.below(3) as f64 - 1.0))) as f32);
            }
        }
        values
    }

    fn brute_force(points: Points<'_>, centroids: &[f32]) -> Vec<u32> {
        let mut buffer = Vec::new();
        let label = |row: &[f32]| {
            let mut best = (0, f64::INFINITY);
            for (index, centroid) in centroids.chunks_exact(points.dim()).enumerate() {
                let squared = squared_distance(row, centroid);
                if squared < best.1 {
                    best = (index as u32, squared);
                }
            }
            best.0
        };
        (0..points.rows()).map(|row| label(points.row(row, &mut buffer))).collect()
    }

    /// Full scores and upper bounds of any rank, on every instruction set, label as direct distances do: near the
    /// origin and far from it, for tiny and huge values.
    #[test]
    fn labels_and_nearest_rows_do_not_depend_on_how_they_are_found() {
        let mut random = Random::new(11);
        for (scale, shift) in [(1.0, 0.0), (1.0, 5e3), (1e-22, 0.0), (1e-40, 0.0), (1e19, 0.0), (3e37, 0.0)] {
            for (dim, k) in [(2, 3), (19, 18), (40, 37)] {
                let values = lattice(230, dim, scale, shift, &mut random);
                let points = Points::new(&values, dim).unwrap();
                let norms = points.norms(&|| false).unwrap();
                let rows = Rows { points, norms: &norms, interrupted: &|| false };
                let start = lattice(k, dim, scale, shift, &mut random);
                let labels = brute_force(points, &start);
                let distances = |labels: &[u32]| crate::lloyd::squared_distances(rows, &start, labels).unwrap();
                let direct = Centroids::new(Isa::Plain, &start, dim);
                let nearest = distinct_rows(rows, &direct, None, &labels, &distances(&labels)).unwrap();
                for isa in Isa::all() {
                    let centroids = Centroids::new(isa, &start, dim);
                    let mut found = vec![0; points.rows()];
                    assign(rows, &centroids, None, &mut found).unwrap();
                    assert_eq!(found, labels, "{isa:?} {scale} {shift} {dim}");
                    for rank in [1, dim / 2, dim - 1] {
                        let projection = Projection::new(Basis::fit(&centroids, rank), points, &centroids, &|| false);
                        let projection = projection.unwrap();
                        let mut pruned: Vec<u32> = (0..points.rows()).map(|row| (row % k) as u32).collect();
                        assign(rows, &centroids, Some(&projection), &mut pruned).unwrap();
                        assert_eq!(pruned, labels, "{isa:?} {scale} {shift} {dim} rank {rank}");
                        let rows_found =
                            distinct_rows(rows, &centroids, Some(&projection), &labels, &distances(&labels));
                        assert_eq!(rows_found.unwrap(), nearest);
                    }
                }
            }
        }
    }

    #[test]
    fn bounds_rule_out_what_lies_apart() {
        let mut random = Random::new(2);
        let (rows, dim, k) = (500, 48, 40);
        let centres: Vec<f32> = (0..k * 8).map(|_| (random.unit() - 0.5) as f32).collect();
        let mut values = Vec::new();
        for row in 0..rows {
            for column in 0..dim {
                let centre = if column < 8 { centres[row % k * 8 + column] } else { 0.0 };
                values.push(centre + (random.unit() as f32 - 0.5) * 0.1);
            }
        }
        let points = Points::new(&values, dim).unwrap();
        let norms = points.norms(&|| false).unwrap();
        let rows = Rows { points, norms: &norms, interrupted: &|| false };
        let start = &values[..k * dim];
        let centroids = Centroids::new(Isa::best(), start, dim);
        let projection = Projection::new(Basis::fit(&centroids, 15), points, &centroids, &|| false).unwrap();
        let mut labels = brute_force(points, start);
        let tally = assign(rows, &centroids, Some(&projection), &mut labels).unwrap();
        assert_eq!(tally.changed, 0);
        assert!(tally.survivors < 500 * k / 10, "{tally:?}");
    }
}
