//! Shards partition the rows, whatever the threads, the packing, the division and the interruptions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Row, files, gzip, line, manifest, parts, run, settings, write};
use proptest::prelude::*;
use pyllm_shard::{Compression, Division, ShardError, shard};

/// A row to be: text, or a line that cannot be read.
#[derive(Debug, Clone)]
enum Given {
    Good(String, String),
    Bad(&'static str),
}

fn given() -> impl Strategy<Value = Given> {
    prop_oneof![
        // Few letters, so that rows repeat.
        8 => ("[a-c]{1,2}", ".{0,12}").prop_map(|(instruction, output)| Given::Good(instruction, output)),
        4 => "[a-c]".prop_map(|instruction| Given::Good(instruction, "x".to_owned())),
        1 => prop_oneof![Just("{\"instruction\": 3}"), Just("{"), Just("{\"x\": 1}")].prop_map(Given::Bad),
    ]
}

fn text(rows: &[Given]) -> String {
    let line = |row: &Given| match row {
        Given::Good(instruction, output) => line(instruction, output),
        Given::Bad(text) => format!("{text}\n"),
    };
    rows.iter().map(line).collect()
}

/// The slow, obvious version: the good rows of all files in order, without repeated content if asked.
fn expected(inputs: &[Vec<Given>], dedup: bool) -> Vec<(String, u64, String, String)> {
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    for (place, input) in inputs.iter().enumerate() {
        for (row, given) in input.iter().enumerate() {
            if let Given::Good(instruction, output) = given
                && (seen.insert((instruction.clone(), output.clone())) || !dedup)
            {
                rows.push((format!("{place}.jsonl"), row as u64, instruction.clone(), output.clone()));
            }
        }
    }
    rows
}

fn seen(parts: &[Vec<Row>]) -> Vec<(String, u64, String, String)> {
    let plain = |row: &Row| (row.file.clone(), row.place, row.instruction.clone(), row.output.clone().unwrap());
    parts.iter().flatten().map(plain).collect()
}

fn division() -> impl Strategy<Value = Division> {
    prop_oneof![(1..9_u64).prop_map(Division::RowsPerShard), (1..9_u64).prop_map(Division::Shards)]
}

fn compression() -> impl Strategy<Value = Compression> {
    use Compression::{Lz4, None, Snappy, Zstd1, Zstd3};
    prop_oneof![Just(Zstd1), Just(Zstd3), Just(Lz4), Just(Snappy), Just(None)]
}

/// What files begin and end with.
const STARTS: [&[u8]; 10] = [
    b"",
    b"[",
    b"{",
    b"PAR1",
    b"ARROW1\0\0",
    b"\xff\xff\xff\xff",
    b"\x1f\x8b\x08",
    b"\x28\xb5\x2f\xfd",
    b"a,b\n",
    b"\xef\xbb\xbf",
];
const ENDS: [&[u8]; 5] = [b"", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff\0\0\0\0", b"]"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shards_partition_the_good_rows(
        inputs in prop::collection::vec(prop::collection::vec(given(), 1..30), 1..4),
        division in division(),
        compression in compression(),
        dedup: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let named = |place: usize| folder.path().join(format!("{place}.jsonl"));
        let paths: Vec<_> = inputs.iter().enumerate().map(|(p, rows)| write(&named(p), text(rows).as_bytes())).collect();
        let out = folder.path().join("out");
        let mut wanted = settings(&paths, &out);
        (wanted.division, wanted.compression, wanted.dedup) = (division, compression, dedup);
        let all_bad = inputs.iter().any(|rows| rows.iter().all(|row| matches!(row, Given::Bad(_))));
        let result = run(&wanted);
        if all_bad {
            let refused = matches!(result, Err(ShardError::NoGoodRows { .. }));
            prop_assert!(refused);
            prop_assert!(!out.exists());
            return Ok(());
        }
        result.unwrap();
        let rows = expected(&inputs, dedup);
        let found = parts(&out);
        prop_assert_eq!(seen(&found), rows.clone());
        let sizes: Vec<u64> = found.iter().map(|part| part.len() as u64).collect();
        let total = rows.len() as u64;
        match division {
            Division::RowsPerShard(size) => {
                prop_assert!(sizes[..sizes.len() - 1].iter().all(|rows| *rows == size), "{:?}", sizes);
                prop_assert_eq!(sizes.len() as u64, total.div_ceil(size));
            }
            Division::Shards(count) => {
                prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1, "{:?}", sizes);
                prop_assert_eq!(sizes.len() as u64, count.min(total));
            }
        }
        let totals = manifest(&out)["totals"].clone();
        prop_assert_eq!(totals["rows"].as_u64(), Some(total));
        let read: usize = inputs.iter().map(Vec::len).sum();
        prop_assert_eq!(totals["rows_read"].as_u64(), Some(read as u64));

        let again = folder.path().join("again");
        wanted.out.clone_from(&again);
        wanted.threads = 3;
        run(&wanted).unwrap();
        prop_assert_eq!(files(&out), files(&again));
    }

    #[test]
    fn packing_changes_the_inputs_digest_only(rows in prop::collection::vec(given(), 1..30), cut in 0..30_usize) {
        prop_assume!(rows.iter().any(|row| matches!(row, Given::Good(..))));
        let folder = tempfile::tempdir().unwrap();
        let (early, late) = rows.split_at(cut.min(rows.len()));
        // Two members and two frames, as `cat` makes them, with zeros behind as tapes leave them.
        let members = [gzip(text(early).as_bytes()), gzip(text(late).as_bytes()), vec![0; 512]].concat();
        let frame = |rows: &[Given]| zstd::encode_all(text(rows).as_bytes(), 3).unwrap();
        let stored = [text(&rows).into_bytes(), members, [frame(early), frame(late)].concat()];
        let outs: Vec<_> = stored.iter().enumerate().map(|(place, data)| {
            let sub = folder.path().join(place.to_string());
            fs::create_dir(&sub).unwrap();
            let path = write(&sub.join("rows.jsonl"), data);
            let out = sub.join("out");
            run(&settings(&[path], &out)).unwrap();
            let mut found = files(&out);
            found.remove("manifest.json");
            found
        }).collect();
        prop_assert_eq!(&outs[0], &outs[1]);
        prop_assert_eq!(&outs[0], &outs[2]);
    }

    #[test]
    fn an_interrupted_run_goes_on_to_the_same_bytes(
        inputs in prop::collection::vec(prop::collection::vec(given(), 1..20), 2..6),
        division in division(),
        dedup: bool,
        patience in prop::collection::vec(1..9_usize, 1..4),
    ) {
        prop_assume!(inputs.iter().all(|rows| rows.iter().any(|row| matches!(row, Given::Good(..)))));
        let folder = tempfile::tempdir().unwrap();
        let named = |place: usize| folder.path().join(format!("{place}.jsonl"));
        let paths: Vec<_> = inputs.iter().enumerate().map(|(p, rows)| write(&named(p), text(rows).as_bytes())).collect();
        let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
        let mut wanted = settings(&paths, &whole);
        (wanted.division, wanted.dedup) = (division, dedup);
        run(&wanted).unwrap();
        wanted.out.clone_from(&broken);
        for patience in patience {
            let asked = AtomicUsize::new(0);
            let result = shard(&wanted, &|| asked.fetch_add(1, Ordering::Relaxed) >= patience);
            if result.is_ok() {
                break;
            }
            prop_assert!(matches!(result, Err(ShardError::Interrupted)));
            prop_assert!(files(&broken).keys().all(|name| name.starts_with('.')));
        }
        run(&wanted).unwrap();
        prop_assert_eq!(files(&whole), files(&broken));
        prop_assert!(run(&wanted).unwrap().finished_before);
        prop_assert_eq!(files(&whole), files(&broken));
    }

    #[test]
    fn no_bytes_make_it_panic_and_nothing_is_left_of_a_failure(
        start in prop::sample::select(STARTS.to_vec()),
        middle in prop::collection::vec(any::<u8>(), 0..80),
        end in prop::sample::select(ENDS.to_vec()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = write(&folder.path().join("any"), &[start, &middle, end].concat());
        let out = folder.path().join("out");
        match run(&settings(&[path], &out)) {
            Ok(_) => prop_assert!(!parts(&out).is_empty()),
            Err(error) => {
                prop_assert!(error.to_string().starts_with("any"), "{error}");
                prop_assert!(!out.exists());
            }
        }
    }
}
