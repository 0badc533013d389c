//! 20,000 rows of JSON lines to a record batch with ids, and the parts of that.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pyllm_examples::{Cutter, Reader, Shape, TextFormat};

const ROWS: usize = 20_000;

/// Rows of about the size and make-up of instruction data: words, some of them escaped or not ASCII.
fn rows() -> Vec<u8> {
    const WORDS: [&str; 8] = ["the", "quick", "brown\\n", "fox", "jumps", "\\\"over\\\"", "知道", "dogs."];
    let text = |seed: usize, words: usize| {
        let words: Vec<_> = (0..words).map(|word| WORDS[(seed * 7 + word * word) % WORDS.len()]).collect();
        words.join(" ")
    };
    let line = |row: usize| {
        format!(
            "{{\"instruction\":\"{}\",\"input\":\"{}\",\"output\":\"{}\",\"score\":{}.5}}\n",
            text(row, 14),
            text(row + 1, row % 9),
            text(row + 2, 20 + row % 40),
            row % 5,
        )
    };
    (0..ROWS).map(line).collect::<String>().into_bytes()
}

fn read(criterion: &mut Criterion) {
    let data = rows();
    let mut group = criterion.benchmark_group("rows");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("cut", |bencher| {
        bencher.iter(|| Cutter::new(TextFormat::JsonLines).cut(black_box(&data), true));
    });
    for (name, reader) in [("read a table", Reader::table()), ("read examples", Reader::new(Shape::Auto, false))] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| reader.text(TextFormat::JsonLines, &[], black_box(&data)).records());
        });
    }
    group.bench_function("read examples to a batch", |bencher| {
        bencher.iter(|| {
            let rows = Reader::new(Shape::Auto, false).text(TextFormat::JsonLines, &[], black_box(&data));
            rows.to_batch(rows.layout(), "rows.jsonl", 0, None)
        });
    });
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
