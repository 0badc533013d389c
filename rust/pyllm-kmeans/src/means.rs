//! The means of clusters, from sums that follow the labels.

use rayon::prelude::*;

use crate::assign::Rows;
use crate::error::KmeansError;
use crate::simd::{Isa, Work};

/// Sums are taken anew after so many updates, so that roundings of rows that came and went do not pile up.
const UPDATES: u32 = 8;

/// No label: the row is in no sum yet.
const NOWHERE: u32 = u32::MAX;

/// Rows between two looks at `interrupted`.
const SUMMED_ROWS: usize = 1 << 10;

/// Sums of the rows of each cluster, in `f64`.
///
/// A cluster is summed by one thread, its rows in order: so the sums do not depend on the number of threads. Once they
/// stand, rows that change their cluster are taken off one and added to the other.
pub(crate) struct Sums {
    isa: Isa,
    dim: usize,
    totals: Vec<f64>,
    pub(crate) sizes: Vec<u64>,
    counted: Vec<u32>,
    updates: u32,
}

impl Sums {
    pub(crate) fn new(isa: Isa, rows: usize, dim: usize, k: usize) -> Self {
        Self { isa, dim, totals: vec![0.0; k * dim], sizes: vec![0; k], counted: vec![NOWHERE; rows], updates: 0 }
    }

    /// Makes the sums those of these labels.
    pub(crate) fn update(&mut self, rows: Rows<'_>, labels: &[u32]) -> Result<(), KmeansError> {
        let changed = labels.iter().zip(&self.counted).filter(|(now, before)| now != before).count();
        if self.updates.is_multiple_of(UPDATES) || changed > labels.len() / 4 {
            self.updates = 0;
            self.totals.fill(0.0);
            self.sizes.fill(0);
            self.counted.fill(NOWHERE);
        }
        self.updates += 1;
        let (starts, moved) = self.moves(labels);
        self.totals.par_chunks_mut(self.dim).enumerate().try_for_each_init(Vec::new, |buffer, (cluster, sum)| {
            for (at, &row) in moved[starts[cluster]..starts[cluster + 1]].iter().enumerate() {
                if at % SUMMED_ROWS == 0 && (rows.interrupted)() {
                    return Err(KmeansError::Interrupted);
                }
                let is_here = labels[row as usize] as usize == cluster;
                let row = rows.points.row(row as usize, buffer);
                self.isa.run(Add { sum, row, is_here });
            }
            Ok(())
        })?;
        self.counted.copy_from_slice(labels);
        Ok(())
    }

    /// The rows that come to or leave each cluster, in order, and where those of each cluster begin; counts sizes too.
    fn moves(&mut self, labels: &[u32]) -> (Vec<usize>, Vec<u32>) {
        let k = self.sizes.len();
        let moves = || labels.iter().zip(&self.counted).enumerate().filter(|(_, (now, before))| now != before);
        let mut starts = vec![0; k + 1];
        for (_, (&now, &before)) in moves() {
            starts[now as usize + 1] += 1;
            self.sizes[now as usize] += 1;
            if before != NOWHERE {
                starts[before as usize + 1] += 1;
                self.sizes[before as usize] -= 1;
            }
        }
        for cluster in 0..k {
            starts[cluster + 1] += starts[cluster];
        }
        let mut next = starts.clone();
        let mut rows = vec![0; starts[k]];
        for (row, (&now, &before)) in moves() {
            for cluster in [now, before] {
                if cluster != NOWHERE {
                    rows[next[cluster as usize]] = row as u32;
                    next[cluster as usize] += 1;
                }
            }
        }
        (starts, rows)
    }

    /// Moves every centroid that has rows to their mean.
    pub(crate) fn move_to_means(&self, centroids: &mut [f32]) {
        let clusters = centroids.chunks_exact_mut(self.dim).zip(self.totals.chunks_exact(self.dim)).zip(&self.sizes);
        for ((centroid, sums), &size) in clusters.filter(|(_, size)| **size > 0) {
            for (value, sum) in centroid.iter_mut().zip(sums) {
                *value = (sum / size as f64) as f32;
            }
        }
    }
}

struct Add<'a> {
    sum: &'a mut [f64],
    row: &'a [f32],
    is_here: bool,
}

impl Work for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const R: usize, const W: usize, const FMA: bool>(self) {
        let sign = if self.is_here { 1.0 } else { -1.0 };
        for (sum, &value) in self.sum.iter_mut().zip(self.row) {
            *sum += sign * f64::from(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::points::Points;

    fn means(sums: &mut Sums, points: Points<'_>, labels: &[u32], centroids: &mut [f32]) {
        let rows = Rows { points, norms: &[], interrupted: &|| false };
        sums.update(rows, labels).unwrap();
        sums.move_to_means(centroids);
    }

    #[test]
    fn means_are_taken_in_f64_and_empty_clusters_stay() {
        let points = Points::new(&[1.0, 16_777_216.0, 1.0, 1.0], 2).unwrap();
        let mut centroids = [0.0, 0.0, 7.0, 7.0];
        means(&mut Sums::new(Isa::best(), 2, 2, 2), points, &[0, 0], &mut centroids);
        assert_eq!(centroids, [1.0, 8_388_608.5, 7.0, 7.0]);
    }

    #[test]
    fn sums_follow_the_labels() {
        let values: Vec<f32> = (0..40).map(|value| value as f32).collect();
        let points = Points::new(&values, 2).unwrap();
        let mut labels = vec![0_u32; 20];
        let mut sums = Sums::new(Isa::best(), 20, 2, 3);
        let mut centroids = [0.0; 6];
        for step in 0..30 {
            labels[(step * 7) % 20] = (step % 3) as u32;
            means(&mut sums, points, &labels, &mut centroids);
            for (cluster, centroid) in centroids.chunks_exact(2).enumerate() {
                let members: Vec<usize> = (0..20).filter(|&row| labels[row] as usize == cluster).collect();
                assert_eq!(sums.sizes[cluster], members.len() as u64);
                if !members.is_empty() {
                    let mean = members.iter().sum::<usize>() as f64 / members.len() as f64 * 2.0;
                    assert_eq!(centroid, [mean as f32, (mean + 1.0) as f32]);
                }
            }
        }
    }
}
