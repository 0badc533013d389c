//! Packing against its slow, obvious twin, and whole runs against what went into them.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, UInt16Type, UInt32Type};
use arrow_array::{Array, RecordBatch};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use pyllm_pack::{
    Fields, Layout, MASKED, Packer, Packing, Rendered, Settings, Summary, Template, Tokenized, TooLong, Turn,
    compression, pack_best_fit, pack_online,
};
use rayon::ThreadPoolBuilder;

fn bins(packing: &Packing) -> Vec<Vec<u32>> {
    (0..packing.bins()).map(|bin| packing.bin(bin).to_vec()).collect()
}

/// Longest first, each into the fullest bin that takes it; of bins equally full, the one filled last.
fn slow_best_fit(lengths: &[u32], capacity: u32) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..).take(lengths.len()).collect();
    order.sort_by_key(|&sequence| std::cmp::Reverse(lengths[sequence as usize]));
    // What is free, when it was last filled, and what is in it.
    let mut made: Vec<(u32, usize, Vec<u32>)> = Vec::new();
    for (turn, sequence) in order.into_iter().enumerate() {
        let length = lengths[sequence as usize];
        let fullest = made.iter_mut().filter(|bin| bin.0 >= length).min_by_key(|bin| (bin.0, std::cmp::Reverse(bin.1)));
        match fullest {
            Some(bin) => {
                bin.0 -= length;
                bin.1 = turn;
                bin.2.push(sequence);
            }
            None => made.push((capacity - length, turn, vec![sequence])),
        }
    }
    made.into_iter().map(|bin| bin.2).collect()
}

fn lengths() -> impl Strategy<Value = (Vec<u32>, u32)> {
    prop_oneof![1u32..20, 60u32..70, 4090u32..4100, Just(65_536)]
        .prop_flat_map(|capacity| (prop::collection::vec(1..=capacity, 0..200), Just(capacity)))
}

/// A row: its tokens, and the places of what is trained.
type Row = (Vec<u32>, Option<(u32, u32)>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (prop::collection::vec(0u32..60_000, 0..30), prop::option::of((0u32..30, 0u32..30)));
    prop::collection::vec(row, 0..60)
}

struct Run {
    length: u32,
    window_rows: usize,
    open_bins: usize,
    rows_per_part: usize,
    too_long: TooLong,
    compression: &'static str,
}

fn run(folder: &Path, rows: &[Row], how: &Run, threads: usize) -> Summary {
    let layout = Layout {
        length: how.length,
        rows_per_part: how.rows_per_part,
        wide: false,
        compression: compression(how.compression).unwrap(),
        provenance: "{}".to_owned(),
    };
    let settings = Settings { too_long: how.too_long, window_rows: how.window_rows, open_bins: how.open_bins, layout };
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let mut packer = Packer::new(folder, settings).unwrap();
        let names: Vec<String> = (0..rows.len()).map(|row| format!("row {row}")).collect();
        for (first, some) in (0..).step_by(7).zip(rows.chunks(7)) {
            let ids: Vec<u32> = some.iter().flat_map(|row| row.0.clone()).collect();
            let (mut ends, mut spans, mut span_ends) = (vec![], vec![], vec![]);
            for (row, span) in some {
                ends.push(ends.last().copied().unwrap_or(0) + row.len() as u64);
                spans.extend(span.map(|span| [span.0, span.1]).into_iter().flatten());
                span_ends.push(spans.len() as u64 / 2);
            }
            let places: Vec<u64> = (first..).take(some.len()).collect();
            let names = &names[first as usize..first as usize + some.len()];
            let tokenized =
                Tokenized { ids: &ids, ends: &ends, spans: &spans, span_ends: &span_ends, names, places: &places };
            packer.push("table", &tokenized, &|| false).unwrap();
        }
        packer.finish(&|| false).unwrap()
    })
}

/// The ids and labels of a sequence.
type Labelled = (Vec<u32>, Vec<i32>);

/// Ids and labels of each sequence by its name, and the lengths of the packed rows.
fn read(folder: &Path, summary: &Summary) -> (BTreeMap<String, Labelled>, Vec<usize>) {
    let (mut sequences, mut lengths) = (BTreeMap::new(), Vec::new());
    for part in &summary.parts {
        let file = fs::File::open(folder.join(&part.name)).unwrap();
        assert_eq!(file.metadata().unwrap().len(), part.bytes);
        let batches: Vec<RecordBatch> =
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() as u64, part.rows);
        for batch in batches {
            for row in 0..batch.num_rows() {
                let column = |place: usize| batch.column(place).as_list::<i32>().value(row);
                let ids = column(0).as_primitive::<UInt16Type>().values().to_vec();
                let labels = column(1).as_primitive::<Int32Type>().values().to_vec();
                let (sizes, names) = (column(2), column(3));
                let sizes = sizes.as_primitive::<UInt32Type>();
                assert_eq!((ids.len(), names.len()), (labels.len(), sizes.len()));
                lengths.push(ids.len());
                let mut from = 0;
                for (size, name) in sizes.values().iter().zip(names.as_string::<i32>()) {
                    let end = from + *size as usize;
                    let ids = ids[from..end].iter().map(|&id| u32::from(id)).collect();
                    let before = sequences.insert(name.unwrap().to_owned(), (ids, labels[from..end].to_vec()));
                    assert!(before.is_none(), "{name:?} is packed twice");
                    from = end;
                }
                assert_eq!(from, ids.len());
            }
        }
    }
    (sequences, lengths)
}

/// What should be packed of a row.
fn expected(row: &Row, how: &Run) -> Option<Labelled> {
    if row.0.len() > how.length as usize && how.too_long == TooLong::Drop {
        return None;
    }
    let ids: Vec<u32> = row.0.iter().copied().take(how.length as usize).collect();
    let (start, end) = row.1.unwrap_or((0, 0));
    let label = |(place, &id): (u32, &u32)| {
        if place > 0 && (start..end).contains(&place) { i32::try_from(id).unwrap() } else { MASKED }
    };
    let labels: Vec<i32> = (0..).zip(&ids).map(label).collect();
    labels.iter().any(|&label| label != MASKED).then_some((ids, labels))
}

proptest! {
    #[test]
    fn bins_are_those_of_best_fit_decreasing((lengths, capacity) in lengths()) {
        let packing = pack_best_fit(&lengths, NonZeroU32::new(capacity).unwrap()).unwrap();
        prop_assert_eq!(bins(&packing), slow_best_fit(&lengths, capacity));
    }

    #[test]
    fn every_sequence_is_in_one_bin_that_holds_it((lengths, capacity) in lengths(), open in 0usize..6) {
        let capacity = NonZeroU32::new(capacity).unwrap();
        let packing = match open {
            0 => pack_best_fit(&lengths, capacity).unwrap(),
            open => pack_online(&lengths, capacity, open).unwrap(),
        };
        let mut seen: Vec<u32> = packing.sequences.clone();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..).take(lengths.len()).collect::<Vec<u32>>());
        for bin in bins(&packing) {
            let filled: u32 = bin.iter().map(|&sequence| lengths[sequence as usize]).sum();
            prop_assert!((1..=capacity.get()).contains(&filled));
        }
    }

    #[test]
    fn gathered_ids_follow_the_bins((lengths, capacity) in lengths()) {
        let packing = pack_best_fit(&lengths, NonZeroU32::new(capacity).unwrap()).unwrap();
        let ids: Vec<u32> =
            (0..).zip(&lengths).flat_map(|(sequence, &length)| vec![sequence; length.min(50) as usize]).collect();
        let ends: Vec<u64> = lengths.iter().scan(0, |end, &length| { *end += u64::from(length.min(50)); Some(*end) }).collect();
        let moved = packing.gather(&ids, &ends).unwrap();
        let wanted: Vec<u32> = packing.sequences.iter()
            .flat_map(|&sequence| vec![sequence; lengths[sequence as usize].min(50) as usize]).collect();
        prop_assert_eq!(moved, wanted);
    }
}

proptest! {
    // Each case writes files and brings them to the disk.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_token_is_packed_once_whatever_the_threads(
        rows in rows(),
        length in 2u32..40,
        window_rows in 0usize..20,
        open_bins in 0usize..4,
        rows_per_part in 1usize..8,
        drop_long in any::<bool>(),
        compression in prop::sample::select(vec!["zstd:1", "zstd:3", "lz4", "snappy", "none"]),
    ) {
        let too_long = if drop_long { TooLong::Drop } else { TooLong::Truncate };
        let how = Run { length, window_rows, open_bins, rows_per_part, too_long, compression };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let summaries = [1, 2].map(|threads| run(folders[threads - 1].path(), &rows, &how, threads));
        prop_assert_eq!(&summaries[0], &summaries[1]);
        for part in &summaries[0].parts {
            let [one, two] = [0, 1].map(|place: usize| fs::read(folders[place].path().join(&part.name)).unwrap());
            prop_assert!(one == two, "{} differs", part.name);
        }
        let files = fs::read_dir(folders[0].path()).unwrap().count();
        prop_assert_eq!(files, summaries[0].parts.len(), "something else was left");

        let (found, lengths) = read(folders[0].path(), &summaries[0]);
        let wanted: BTreeMap<String, _> = rows.iter().enumerate()
            .filter_map(|(place, row)| Some((format!("row {place}"), expected(row, &how)?))).collect();
        let tally = &summaries[0].tally;
        prop_assert_eq!(tally.rows_packed, wanted.len() as u64);
        prop_assert_eq!(tally.tokens, wanted.values().map(|row| row.0.len() as u64).sum::<u64>());
        let trained = wanted.values().flat_map(|row| &row.1).filter(|&&label| label != MASKED).count();
        prop_assert_eq!(tally.trained_tokens, trained as u64);
        let left_out = tally.without_answer.rows + tally.too_long.rows + tally.fully_masked.rows;
        prop_assert_eq!((tally.rows_in, tally.rows_packed + left_out), (rows.len() as u64, rows.len() as u64));
        prop_assert!(lengths.iter().all(|&tokens| tokens <= length as usize));
        prop_assert_eq!(lengths.len() as u64, summaries[0].bins);
        prop_assert_eq!(found, wanted);
    }
}

proptest! {
    #[test]
    fn any_text_is_rendered_with_its_answers_in_it(
        texts in prop::collection::vec(prop::option::of(any::<String>()), 3),
        turns in prop::option::of(prop::collection::vec((any::<String>(), 0usize..5, any::<bool>()), 0..6)),
    ) {
        let roles = ["system", "user", "assistant", "tool", "élève"];
        let turns: Option<Vec<Turn<'_>>> = turns.as_ref().map(|turns| {
            turns.iter().map(|(content, role, trained)| Turn { role: roles[*role], content, trained: *trained }).collect()
        });
        let fields = Fields {
            instruction: texts[0].as_deref(),
            input: texts[1].as_deref(),
            output: texts[2].as_deref(),
            messages: turns.as_deref(),
        };
        let mut rendered = Rendered::default();
        for template in [Template::Nuggets, Template::Alpaca] {
            if rendered.render(template, &fields) {
                let mut before = 0;
                for answer in &rendered.answers {
                    prop_assert!(answer.start >= before && !rendered.text[answer.clone()].is_empty());
                    before = answer.end;
                }
                prop_assert_eq!(before, rendered.text.len(), "the text does not end with its last answer");
            }
        }
    }
}

#[test]
fn a_run_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout {
        length: 8,
        rows_per_part: 1,
        wide: true,
        compression: compression("none").unwrap(),
        provenance: "{}".to_owned(),
    };
    let settings = Settings { too_long: TooLong::Truncate, window_rows: 1, open_bins: 0, layout };
    let mut packer = Packer::new(folder.path(), settings).unwrap();
    let rows = Tokenized {
        ids: &[1, 2, 3, 4],
        ends: &[2, 4],
        spans: &[1, 2, 1, 2],
        span_ends: &[1, 2],
        names: &["a".to_owned(), "b".to_owned()],
        places: &[0, 1],
    };
    packer.push("table", &rows, &|| false).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    drop(packer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
