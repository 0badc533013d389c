//! What the tests share: rows, files, runs, and reading shards back.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow_array::{Array, RecordBatch, StringArray, UInt64Array};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use pyllm_examples::Shape;
use pyllm_shard::{Compression, Division, InputFile, Settings, ShardError, Summary, shard};
use serde_json::{Value, json};

/// One row as the shards have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: String,
    pub file: String,
    pub place: u64,
    pub instruction: String,
    pub output: Option<String>,
}

pub fn input(path: &Path) -> InputFile {
    let file_name = path.file_name().unwrap().to_string_lossy().into_owned();
    InputFile { shown: file_name.clone(), file_name, path: path.to_owned(), piped: false }
}

pub fn settings(inputs: &[PathBuf], out: &Path) -> Settings {
    Settings {
        inputs: inputs.iter().map(|path| input(path)).collect(),
        out: out.to_owned(),
        division: Division::RowsPerShard(100),
        compression: Compression::Zstd1,
        threads: 1,
        dedup: false,
        shape: Shape::Auto,
        strict: false,
        bad_rows: None,
        step: r#"{"command":"shard","version":"0"}"#.to_owned(),
    }
}

pub fn run(settings: &Settings) -> Result<Summary, ShardError> {
    shard(settings, &|| false)
}

pub fn write(path: &Path, data: &[u8]) -> PathBuf {
    fs::write(path, data).unwrap();
    path.to_owned()
}

pub fn gzip(data: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(data).unwrap();
    packed.finish().unwrap()
}

pub fn line(instruction: &str, output: &str) -> String {
    json!({ "instruction": instruction, "output": output }).to_string() + "\n"
}

/// The manifest of a finished folder.
pub fn manifest(out: &Path) -> Value {
    serde_json::from_slice(&fs::read(out.join("manifest.json")).unwrap()).unwrap()
}

/// The files of a folder and their bytes.
pub fn files(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(out).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
    let named = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    entries.unwrap_or_default().iter().map(|path| (named(path), fs::read(path).unwrap())).collect()
}

pub fn batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

/// All rows of the parts, part by part.
pub fn parts(out: &Path) -> Vec<Vec<Row>> {
    let names: Vec<String> = files(out).into_keys().filter(|name| name.starts_with("part-")).collect();
    names.iter().map(|name| batches(&out.join(name)).iter().flat_map(rows).collect()).collect()
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let text = |name: &str| batch.column_by_name(name).unwrap().as_any().downcast_ref::<StringArray>().unwrap().clone();
    let (ids, files) = (text("id"), text("source_file"));
    let (instructions, outputs) = (text("instruction"), text("output"));
    let numbers = batch.column_by_name("source_row").unwrap().as_any().downcast_ref::<UInt64Array>().unwrap();
    let row = |row: usize| Row {
        id: ids.value(row).to_owned(),
        file: files.value(row).to_owned(),
        place: numbers.value(row),
        instruction: instructions.value(row).to_owned(),
        output: outputs.is_valid(row).then(|| outputs.value(row).to_owned()),
    };
    (0..batch.num_rows()).map(row).collect()
}
