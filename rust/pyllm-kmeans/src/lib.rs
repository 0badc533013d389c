//! Exact K-Means: seeded k-means++, Lloyd's rounds, and the real row nearest each centroid.
//!
//! The idea: seed and converge on a sample, then run Lloyd's rounds over all rows. A round labels every row with its
//! nearest centroid, moves every centroid to the mean of its rows, and puts a centroid without rows on the row that
//! lies farthest from its own.
//!
//! **Invariant:** a label is the argument of the least squared distance as [`squared_distance`] computes it, directly
//! and in `f64`; ties go to the lowest index. Fast `f32` scores only rule centroids out, by a proven bound on their
//! error, so a faster kernel, another instruction set or more pruning changes no result.
//!
//! **Invariant:** the result has the same bits for any number of threads. Nothing is added up across threads: a row is
//! measured by one thread, and a cluster is summed by one thread, in row order.
//!
//! A round costs at most `rows x k x dim` multiplications, and where the centroids lie near a subspace of few dimensions a
//! fraction of that. Beside the rows it takes up to 25 bytes a row, and up to 202 for the coordinates that prune.

#![expect(clippy::inline_always, reason = "only what is inlined is compiled for the instruction set; see `simd`")]
#![expect(clippy::needless_range_loop, reason = "lanes are counted, so that loops over them have a known length")]

mod assign;
mod centroids;
mod choice;
mod distance;
mod error;
mod lloyd;
mod means;
mod nearest;
mod panels;
mod points;
mod projection;
mod random;
mod seeding;
mod simd;

pub use distance::squared_distance;
pub use error::KmeansError;
pub use points::Points;

use assign::Rows;
use centroids::Centroids;
use lloyd::Clusters;
use random::Random;
use simd::Isa;

/// Rows per cluster in the sample that seeds the centroids, unless `sample_rows` says otherwise.
pub const SAMPLE_ROWS_PER_CLUSTER: usize = 256;

/// The sample has at least so many rows, unless `sample_rows` says otherwise.
pub const MIN_SAMPLE_ROWS: usize = 50_000;

/// The seeds are drawn from so many rows of the sample per cluster: more cost more and give no better end.
const SEED_ROWS_PER_CLUSTER: usize = 8;

/// The seeds are drawn from at least so many rows.
const MIN_SEED_ROWS: usize = 8_192;

/// How to cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Clusters wanted.
    pub k: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Most rounds, on the sample and again on all rows.
    pub max_iterations: u32,
    /// Stop when less than this share of the rows changed cluster in a round; 0 goes on until none does.
    pub tolerance: f64,
    /// Rows in the sample, at least `k`; 0 for [`SAMPLE_ROWS_PER_CLUSTER`] and [`MIN_SAMPLE_ROWS`].
    pub sample_rows: usize,
}

impl Settings {
    /// The usual rounds, tolerance and sample for `k` clusters.
    #[must_use]
    pub fn new(k: usize, seed: u64) -> Self {
        Self { k, seed, max_iterations: 100, tolerance: 5e-3, sample_rows: 0 }
    }

    fn check(&self, rows: usize) -> Result<(), KmeansError> {
        let limit = rows.min(u32::MAX as usize);
        if self.k == 0 {
            Err(KmeansError::NoClusters)
        } else if self.k > limit {
            Err(KmeansError::TooManyClusters { k: self.k, limit })
        } else if !(self.tolerance >= 0.0 && self.tolerance.is_finite()) {
            Err(KmeansError::Tolerance { tolerance: self.tolerance })
        } else {
            Ok(())
        }
    }

    fn rows_in_sample(&self, rows: usize) -> usize {
        let wanted = match self.sample_rows {
            0 => self.k.saturating_mul(SAMPLE_ROWS_PER_CLUSTER).max(MIN_SAMPLE_ROWS),
            some => some.max(self.k),
        };
        wanted.min(rows)
    }
}

/// The clusters found.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// `k x dim` coordinates.
    pub centroids: Vec<f32>,
    /// The nearest centroid of each row; ties go to the lowest.
    pub labels: Vec<u32>,
    /// Squared Euclidean distance of each row to its centroid.
    pub squared_distances: Vec<f64>,
    /// Rows of each cluster; 0 only where rows are too few or too equal to fill it, or the rounds ran out.
    pub cluster_sizes: Vec<u64>,
    /// The row nearest each centroid, no row twice: one that an earlier centroid has is passed over.
    pub nearest_rows: Vec<u64>,
    /// Euclidean distance of each nearest row to its centroid.
    pub nearest_distances: Vec<f64>,
    /// Sum of the squared distances of all rows to their centroids.
    pub inertia: f64,
    /// Rounds over all rows in which centroids moved.
    pub iterations: u32,
}

/// Clusters rows, on the threads of the current rayon pool.
///
/// `interrupted` is asked before every block of work, on any thread; once it says yes, the work ends.
///
/// ```
/// use pyllm_kmeans::{Points, Settings, kmeans};
///
/// let points = Points::new(&[0.0, 1.0, 5.0, 10.0, 10.5, 11.0], 1)?;
/// let found = kmeans(points, &Settings::new(2, 7), &|| false)?;
/// assert_eq!(found.labels[0], found.labels[2]);
/// assert_ne!(found.labels[2], found.labels[3]);
/// # Ok::<(), pyllm_kmeans::KmeansError>(())
/// ```
///
/// # Errors
/// `k` is 0 or above the number of rows, the tolerance is no share, a value is not finite, or it was interrupted.
pub fn kmeans(
    points: Points<'_>,
    settings: &Settings,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Clustering, KmeansError> {
    settings.check(points.rows())?;
    let norms = points.norms(interrupted)?;
    let rows = Rows { points, norms: &norms, interrupted };
    let centroids = seeded(Isa::best(), rows, settings)?;
    clustered(Isa::best(), rows, centroids, settings)
}

/// Clusters rows from given centroids, `k x dim` coordinates: no seeds are drawn and no sample is taken.
///
/// # Errors
/// As [`kmeans`]; or the centroids are not `k`, or not finite.
pub fn kmeans_from(
    points: Points<'_>,
    centroids: &[f32],
    settings: &Settings,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Clustering, KmeansError> {
    settings.check(points.rows())?;
    if Some(centroids.len()) != settings.k.checked_mul(points.dim()) {
        return Err(KmeansError::InitialShape { values: centroids.len(), k: settings.k, dim: points.dim() });
    }
    if let Some(at) = centroids.iter().position(|value| !value.is_finite()) {
        let (centroid, column) = (at / points.dim(), at % points.dim());
        return Err(KmeansError::InitialNotFinite { centroid, column, value: centroids[at] });
    }
    let norms = points.norms(interrupted)?;
    let rows = Rows { points, norms: &norms, interrupted };
    clustered(Isa::best(), rows, centroids.to_vec(), settings)
}

/// Centroids to begin with: k-means++ on few rows, and rounds over more and more of the sample.
fn seeded(isa: Isa, rows: Rows<'_>, settings: &Settings) -> Result<Vec<f32>, KmeansError> {
    let mut random = Random::new(settings.seed);
    let count = rows.points.rows();
    let in_sample = settings.rows_in_sample(count);
    let of_seeds = settings.k.saturating_mul(SEED_ROWS_PER_CLUSTER).max(MIN_SEED_ROWS).min(in_sample);
    let mut draw = |limit: usize, count: usize| random.distinct_ascending(limit, count);
    let sample = draw(count, in_sample);
    let few: Vec<usize> = draw(in_sample, of_seeds).into_iter().map(|at| sample[at]).collect();
    let mut centroids = Vec::new();
    for (chosen, tolerance) in [(few, 2e-2), (sample, 1e-2)] {
        let numbers = rows.points.numbers(&chosen);
        let norms: Vec<f32> = chosen.iter().map(|&row| rows.norms[row]).collect();
        let part = Rows { points: rows.points.only(&numbers), norms: &norms, ..rows };
        if centroids.is_empty() {
            centroids = seeding::plus_plus(isa, part, settings.k, &mut random)?;
        }
        // Rounds over all rows follow anyway.
        if chosen.len() < count {
            let settings = Settings { tolerance: settings.tolerance.max(tolerance), ..*settings };
            centroids = lloyd::run(isa, part, centroids, &settings)?.centroids;
        }
    }
    Ok(centroids)
}

/// Rounds over all rows, and what they come to.
fn clustered(isa: Isa, rows: Rows<'_>, centroids: Vec<f32>, settings: &Settings) -> Result<Clustering, KmeansError> {
    let Clusters { centroids, labels, iterations, projection } = lloyd::run(isa, rows, centroids, settings)?;
    let squared = lloyd::squared_distances(rows, &centroids, &labels)?;
    let prepared = Centroids::new(isa, &centroids, rows.points.dim());
    let nearest = nearest::distinct_rows(rows, &prepared, projection.as_ref(), &labels, &squared)?;
    let mut cluster_sizes = vec![0; settings.k];
    for &label in &labels {
        cluster_sizes[label as usize] += 1;
    }
    Ok(Clustering {
        labels,
        cluster_sizes,
        nearest_rows: nearest.iter().map(|found| found.row as u64).collect(),
        nearest_distances: nearest.iter().map(|found| found.squared.sqrt()).collect(),
        inertia: squared.iter().sum(),
        squared_distances: squared,
        iterations,
        centroids,
    })
}
