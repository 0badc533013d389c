//! Aggregating a million pairs, on one thread and on all.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pyllm_golden::{golden_scores, golden_wins};
use rayon::ThreadPoolBuilder;

const ROWS: usize = 10_000;
const ANCHORS: usize = 100;

fn aggregate(criterion: &mut Criterion) {
    let one_shot: Vec<f64> = (0..ROWS * ANCHORS).map(|at| -((at as f64) * 0.618).fract()).collect();
    let zero_shot: Vec<f64> = (0..ANCHORS).map(|at| -((at as f64) * 0.382).fract()).collect();
    let left_out: Vec<bool> = (0..ROWS * ANCHORS).map(|at| at % 997 == 0).collect();
    let mut group = criterion.benchmark_group("golden_scores");
    group.throughput(Throughput::Elements((ROWS * ANCHORS) as u64));
    for (name, threads) in [("one thread", 1), ("all threads", 0)] {
        let Ok(pool) = ThreadPoolBuilder::new().num_threads(threads).build() else { return };
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                pool.install(|| golden_scores(ROWS, black_box(&one_shot), black_box(&zero_shot), Some(&left_out)))
            });
        });
    }
    group.finish();
    let narrow: Vec<f32> = one_shot.iter().map(|&sum| sum as f32).collect();
    let mut group = criterion.benchmark_group("golden_wins");
    group.throughput(Throughput::Elements((ROWS * ANCHORS) as u64));
    let Ok(pool) = ThreadPoolBuilder::new().num_threads(1).build() else { return };
    group.bench_function("one thread, float32", |bencher| {
        bencher.iter(|| pool.install(|| golden_wins(ROWS, black_box(&narrow), black_box(&zero_shot))));
    });
    group.finish();
}

criterion_group!(benches, aggregate);
criterion_main!(benches);
