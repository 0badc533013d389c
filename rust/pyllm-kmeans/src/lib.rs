//! Exact K-Means: seeded k-means++, Lloyd's rounds, and the real row nearest each centroid.
//!
//! The idea: seed and converge on a sample, then run Lloyd's rounds over all rows. A round labels every row with its
//! nearest centroid, moves every centroid to the mean of its rows, and puts a centroid without rows on the row that
//! lies farthest from its own.
//!
//! **Invariant:** a label is the argument of the least squared distance as [`squared_distance`] computes it, directly
//! and in `f64`; ties go to the lowest index. Fast `f32` dot products only rule centroids out, by a proven bound on
//! their error, so a faster kernel changes no result.
//!
//! **Invariant:** the result has the same bits for any number of threads. Nothing is added up across threads: a row is
//! measured by one thread, and a coordinate of the centroids is summed by one thread, in row order.
//!
//! A round costs `rows x k x dim` multiplications and `rows + k x dim` numbers of memory beside the rows.

mod distance;
mod error;
mod lloyd;
mod nearest;
mod points;
mod random;
mod seeding;

pub use distance::squared_distance;
pub use error::KmeansError;
pub use points::Points;

use lloyd::Clusters;
use random::Random;

/// Rows per cluster in the sample that seeds the centroids, unless `sample_rows` says otherwise.
pub const SAMPLE_ROWS_PER_CLUSTER: usize = 256;

/// The sample has at least so many rows, unless `sample_rows` says otherwise.
pub const MIN_SAMPLE_ROWS: usize = 50_000;

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
        Self { k, seed, max_iterations: 100, tolerance: 1e-4, sample_rows: 0 }
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
    points.check_finite()?;
    let mut random = Random::new(settings.seed);
    let sample_rows = settings.rows_in_sample(points.rows());
    let centroids = if sample_rows < points.rows() {
        let copy = points.copy_rows(&random.distinct_ascending(points.rows(), sample_rows));
        let sample = Points::new(&copy, points.dim())?;
        let seeds = seeding::plus_plus(sample, settings.k, &mut random, interrupted)?;
        let to_the_end = Settings { tolerance: 0.0, ..*settings };
        lloyd::run(sample, seeds, &to_the_end, interrupted)?.centroids
    } else {
        seeding::plus_plus(points, settings.k, &mut random, interrupted)?
    };
    let Clusters { centroids, labels, squared, iterations } = lloyd::run(points, centroids, settings, interrupted)?;
    let nearest = nearest::distinct_rows(points, &centroids, interrupted)?;
    let mut cluster_sizes = vec![0; settings.k];
    for &label in &labels {
        cluster_sizes[label as usize] += 1;
    }
    Ok(Clustering {
        centroids,
        labels,
        cluster_sizes,
        nearest_rows: nearest.iter().map(|found| found.row as u64).collect(),
        nearest_distances: nearest.iter().map(|found| found.squared.sqrt()).collect(),
        inertia: squared.iter().sum(),
        iterations,
    })
}
