//! Properties of K-Means, against direct computation.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use pyllm_kmeans::{Clustering, KmeansError, Points, Settings, kmeans, squared_distance};
use rayon::ThreadPoolBuilder;

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

/// Rows on a coarse grid (ties and duplicates are common) or anywhere, and a `k` that they allow.
fn problem() -> impl Strategy<Value = (Vec<f32>, usize, Settings)> {
    let shape = (1_usize..150, 1_usize..20, any::<bool>());
    shape.prop_flat_map(|(rows, dim, is_coarse)| {
        let value = if is_coarse { (-1_i8..=1).prop_map(f32::from).boxed() } else { (-1000.0_f32..1000.0).boxed() };
        let settings = (1..=rows, any::<u64>(), 0_u32..8, 0_usize..=rows);
        (proptest::collection::vec(value, rows * dim), settings).prop_map(
            move |(values, (k, seed, max_iterations, sample_rows))| {
                (values, dim, Settings { max_iterations, sample_rows, tolerance: 0.0, ..Settings::new(k, seed) })
            },
        )
    })
}

fn distinct_rows(values: &[f32], dim: usize) -> usize {
    let rows = values.chunks_exact(dim);
    rows.map(|row| row.iter().map(|value| (value + 0.0).to_bits()).collect::<Vec<_>>()).collect::<HashSet<_>>().len()
}

/// The least squared distance and, at equal distance, the lowest index.
fn least<'a>(row: &[f32], others: impl Iterator<Item = &'a [f32]>) -> (usize, f64) {
    others
        .map(|other| squared_distance(row, other))
        .enumerate()
        .fold((usize::MAX, f64::INFINITY), |best, next| if next.1 < best.1 { next } else { best })
}

fn check(values: &[f32], dim: usize, settings: &Settings, found: &Clustering) -> Result<(), TestCaseError> {
    let centroids = || found.centroids.chunks_exact(dim);
    let mut sizes = vec![0; settings.k];
    let mut inertia = 0.0;
    for (row, &label) in values.chunks_exact(dim).zip(&found.labels) {
        let (nearest, squared) = least(row, centroids());
        prop_assert_eq!(label as usize, nearest);
        sizes[nearest] += 1;
        inertia += squared;
    }
    prop_assert_eq!(&found.cluster_sizes, &sizes);
    prop_assert_eq!(found.inertia.to_bits(), inertia.to_bits());
    prop_assert!(found.iterations <= settings.max_iterations);
    let mut taken = HashSet::new();
    for (centroid, (&row, &distance)) in centroids().zip(found.nearest_rows.iter().zip(&found.nearest_distances)) {
        let free = values.chunks_exact(dim).enumerate().filter(|(row, _)| !taken.contains(&(*row as u64)));
        let (rows, free): (Vec<usize>, Vec<&[f32]>) = free.unzip();
        let (nearest, squared) = least(centroid, free.into_iter());
        prop_assert_eq!(row, rows[nearest] as u64);
        prop_assert_eq!(distance.to_bits(), squared.sqrt().to_bits());
        taken.insert(row);
    }
    Ok(())
}

proptest! {
    #[test]
    fn labels_sizes_inertia_and_nearest_rows_are_exact((values, dim, settings) in problem()) {
        let found = kmeans(Points::new(&values, dim).unwrap(), &settings, NEVER).unwrap();
        check(&values, dim, &settings, &found)?;
    }

    #[test]
    fn a_cluster_for_each_distinct_row_leaves_nothing_over((values, dim, settings) in problem()) {
        let k = distinct_rows(&values, dim);
        let all = Settings { k, max_iterations: 100, sample_rows: 0, ..settings };
        let found = kmeans(Points::new(&values, dim).unwrap(), &all, NEVER).unwrap();
        prop_assert_eq!(found.inertia, 0.0);
        prop_assert!(found.cluster_sizes.iter().all(|&size| size > 0));
        prop_assert!(found.nearest_distances.iter().all(|&distance| distance == 0.0));
    }

    #[test]
    fn clusters_stay_empty_only_where_rows_are_too_few_or_too_equal((values, dim, settings) in problem()) {
        let settings = Settings { max_iterations: 1000, ..settings };
        let found = kmeans(Points::new(&values, dim).unwrap(), &settings, NEVER).unwrap();
        if settings.k <= distinct_rows(&values, dim) {
            prop_assert!(found.cluster_sizes.iter().all(|&size| size > 0), "{:?}", found.cluster_sizes);
        }
    }

    #[test]
    fn more_rounds_are_never_worse((values, dim, settings) in problem()) {
        let points = Points::new(&values, dim).unwrap();
        // The whole as the sample, so that both start from the same centroids.
        let settings = Settings { sample_rows: points.rows(), ..settings };
        let after = |max_iterations| kmeans(points, &Settings { max_iterations, ..settings }, NEVER).unwrap().inertia;
        let (fewer, more) = (after(settings.max_iterations), after(settings.max_iterations + 1));
        // Means are rounded to f32, which costs at most a little of what the rows themselves are rounded by.
        let slack = 1e-6 * values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
        prop_assert!(more <= fewer + slack, "{} {}", fewer, more);
    }
}

fn waves(rows: usize, dim: usize) -> Vec<f32> {
    (0..rows * dim).map(|at| ((at as f32) * 0.618_034).fract() + ((at / dim) % 7) as f32).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (rows, dim) = (3_000, 70);
    let values = waves(rows, dim);
    let points = Points::new(&values, dim).unwrap();
    let settings = Settings { sample_rows: 900, ..Settings::new(37, 5) };
    let on = |threads: usize| {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| kmeans(points, &settings, NEVER)).unwrap()
    };
    let one = on(1);
    assert!(one.iterations > 0);
    for threads in [2, 5] {
        let many = on(threads);
        assert_eq!(one, many);
        assert_eq!(one.inertia.to_bits(), many.inertia.to_bits());
    }
}

#[test]
fn the_seed_decides() {
    let values = waves(400, 3);
    let with = |seed| kmeans(Points::new(&values, 3).unwrap(), &Settings::new(20, seed), NEVER).unwrap();
    assert_eq!(with(1), with(1));
    assert_ne!(with(1).centroids, with(2).centroids);
}

#[test]
fn clear_groups_are_found() {
    let values: Vec<f32> = (0..60).map(|row| (row % 4) as f32 * 100.0 + (row / 4) as f32 * 0.1).collect();
    let found = kmeans(Points::new(&values, 1).unwrap(), &Settings::new(4, 9), NEVER).unwrap();
    assert_eq!(found.cluster_sizes, [15; 4]);
    for (row, label) in found.labels.iter().enumerate() {
        assert_eq!(*label, found.labels[row % 4]);
    }
    // The middle row of each group lies on its mean.
    let mut nearest = found.nearest_rows.clone();
    nearest.sort_unstable();
    assert_eq!(nearest, [28, 29, 30, 31]);
}

#[test]
fn wrong_settings_are_named() {
    let points = Points::new(&[1.0, 2.0, 3.0], 1).unwrap();
    let error = |settings: Settings| kmeans(points, &settings, NEVER).unwrap_err();
    assert_eq!(error(Settings::new(0, 0)), KmeansError::NoClusters);
    assert_eq!(error(Settings::new(4, 0)), KmeansError::TooManyClusters { k: 4, limit: 3 });
    for tolerance in [-0.1, f64::INFINITY] {
        assert_eq!(error(Settings { tolerance, ..Settings::new(1, 0) }), KmeansError::Tolerance { tolerance });
    }
    assert!(matches!(error(Settings { tolerance: f64::NAN, ..Settings::new(1, 0) }), KmeansError::Tolerance { .. }));
}

#[test]
fn work_ends_wherever_it_is_interrupted() {
    let values = waves(500, 40);
    let points = Points::new(&values, 40).unwrap();
    let settings = Settings { sample_rows: 200, ..Settings::new(20, 1) };
    let asked = AtomicU32::new(0);
    let count = || {
        asked.fetch_add(1, Ordering::Relaxed);
        false
    };
    kmeans(points, &settings, &count).unwrap();
    let times = asked.load(Ordering::Relaxed);
    assert!(times > 50, "asked only {times} times");
    for patience in (0..times).step_by(3) {
        let asked = AtomicU32::new(0);
        let result = kmeans(points, &settings, &|| asked.fetch_add(1, Ordering::Relaxed) >= patience);
        assert_eq!(result, Err(KmeansError::Interrupted));
    }
}
