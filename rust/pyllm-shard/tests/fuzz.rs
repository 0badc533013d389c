//! Wounded files of every format through `shard`: no panic, no hang, nothing left of a failure. `make soak` runs
//! many, the default tests a few.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "../../pyllm-examples/tests/wounds/mod.rs"]
mod wounds;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, types::Int32Type};
use common::{gzip, run, settings, write};
use parquet::arrow::ArrowWriter;
use wounds::Numbers;

const LINES: &[u8] = b"{\"instruction\": \"Name a fruit.\", \"output\": \"An apple\", \"n\": 1}\n{\"question\": \"q\", \"answer\": \"a\"}\n";

fn table() -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("Name a fruit."), None, Some("Add."), Some("")]));
    let answers: ArrayRef = Arc::new(StringArray::from(vec![Some("Apple"), Some("x"), None, Some("3")]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(-3), Some(4)]));
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(7)]),
    ]));
    RecordBatch::try_from_iter([("instruction", texts), ("output", answers), ("n", numbers), ("l", lists)]).unwrap()
}

fn sound_files() -> Vec<Vec<u8>> {
    let batch = table();
    let mut parquet = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let (mut file, mut stream) = (Vec::new(), Vec::new());
    let mut writer = arrow_ipc::writer::FileWriter::try_new(&mut file, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(&mut stream, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let zst = zstd::encode_all(LINES, 1).unwrap();
    let array = b"[{\"instruction\": \"a\", \"output\": \"b\"}, {\"text\": \"t\"}]".to_vec();
    let csv = b"instruction,output\n\"a, \"\"b\"\"\",c\nd,\n".to_vec();
    vec![LINES.to_vec(), gzip(LINES), zst, array, csv, parquet, file, stream]
}

fn wounded_files(inputs: usize, seed: u64) {
    // Panics of the libraries that decode columns are caught and told as damage; their own lines would only fill the screen.
    std::panic::set_hook(Box::new(|_| {}));
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("any"), folder.path().join("out"));
    let (sound, mut numbers, mut read) = (sound_files(), Numbers(seed), 0_usize);
    for input in 0..inputs {
        let data = numbers.wound(&sound[input % sound.len()]);
        write(&path, &data);
        let started = Instant::now();
        let result = std::panic::catch_unwind(|| run(&settings(std::slice::from_ref(&path), &out)));
        let Ok(result) = result else {
            panic!("input {input} (seed {seed}) panics: {data:?}");
        };
        assert!(started.elapsed() < Duration::from_secs(10), "input {input} (seed {seed}) takes long: {data:?}");
        if result.is_ok() {
            read += 1;
            std::fs::remove_dir_all(&out).unwrap();
        } else {
            assert!(!out.exists(), "input {input} (seed {seed}) leaves something: {data:?}");
        }
    }
    assert!(read > inputs / 20, "the wounds leave too little: {read} files read");
}

#[test]
fn some_wounded_files_are_read_or_refused() {
    wounded_files(600, 1);
}

#[test]
#[ignore = "minutes: `make soak`"]
fn many_wounded_files_are_read_or_refused() {
    wounded_files(250_000, 2);
}
