//! Ten rounds over 4,000 rows of 128 columns in 50 clusters, on one thread and on all.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pyllm_kmeans::{Points, Settings, kmeans};
use rayon::ThreadPoolBuilder;

const ROWS: usize = 4_000;
const DIM: usize = 128;

fn cluster(criterion: &mut Criterion) {
    let values: Vec<f32> = (0..ROWS * DIM).map(|at| ((at as f32) * 0.618_034).fract()).collect();
    let settings = Settings { max_iterations: 10, tolerance: 0.0, ..Settings::new(50, 1) };
    let mut group = criterion.benchmark_group("kmeans");
    group.sample_size(10);
    group.throughput(Throughput::Elements((ROWS * settings.k) as u64));
    for (name, threads) in [("one thread", 1), ("all threads", 0)] {
        let Ok(pool) = ThreadPoolBuilder::new().num_threads(threads).build() else { return };
        let Ok(points) = Points::new(&values, DIM) else { return };
        group.bench_function(name, |bencher| {
            bencher.iter(|| pool.install(|| kmeans(black_box(points), &settings, &|| false)));
        });
    }
    group.finish();
}

criterion_group!(benches, cluster);
criterion_main!(benches);
