//! Properties of aggregation over whole files, against a slow, obvious twin; and files made to break the readers.

#![expect(clippy::unwrap_used, reason = "what is not as it must be ends the test, in its helpers too")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{ArrayRef, Float32Array, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;
use proptest::prelude::*;
use pyllm_logprobs::{
    ColumnNames, Keep, LogprobsError, MatrixRows, MatrixWriter, Missing, Request, Summary, ZeroShot, aggregate,
};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pyllm-logprobs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn run(inputs: &[PathBuf], zero_shot: &[f64], out: &Path, threads: usize) -> Result<Summary, LogprobsError> {
    let request = Request {
        inputs: inputs.to_vec(),
        columns: ColumnNames::default(),
        zero_shot: ZeroShot { names: None, nats: zero_shot.to_vec() },
        missing: Missing::Refuse,
        keep: Keep::All,
        out: out.to_owned(),
        provenance: r#"{"steps":[]}"#.to_owned(),
        threads,
    };
    aggregate(&request, &|| false)
}

/// Id as text, wins, and bits of the mean gain.
type Row = (String, u32, u64);

fn row(id: String, wins: u32, gain: f64) -> Row {
    (id, wins, if gain.is_nan() { u64::MAX } else { (gain + 0.0).to_bits() })
}

fn read(path: &Path) -> Vec<Row> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader.map(Result::unwrap) {
        let ids = arrow_cast::cast(batch.column(0), &arrow_schema::DataType::Utf8).unwrap();
        let wins = batch.column(2).as_primitive::<UInt32Type>();
        for (place, gain) in batch.column(4).as_primitive::<Float64Type>().iter().enumerate() {
            let id = ids.as_string::<i32>().value(place).to_owned();
            rows.push(row(id, wins.value(place), gain.unwrap_or(f64::NAN)));
        }
    }
    rows
}

#[derive(Debug, Clone)]
struct Matrix {
    rows: usize,
    one_shot: Vec<f32>,
    zero_shot: Vec<f64>,
}

impl Matrix {
    fn pairs(&self) -> Vec<(usize, usize, f32)> {
        let anchors = self.zero_shot.len();
        self.one_shot.iter().enumerate().map(|(at, &value)| (at / anchors, at % anchors, value)).collect()
    }

    /// Wins and mean gain of a row, one pair at a time. Values are quarters, so sums are exact in any order.
    fn obvious(&self, id: String, place: usize) -> Row {
        let anchors = self.zero_shot.len();
        let values = &self.one_shot[place * anchors..(place + 1) * anchors];
        let pairs = || values.iter().zip(&self.zero_shot).map(|(&one, &zero)| (f64::from(one), zero));
        let gains: Vec<f64> = pairs().map(|(one, zero)| one - zero).filter(|gain| !gain.is_nan()).collect();
        let wins = pairs().filter(|(one, zero)| one > zero).count();
        row(id, wins as u32, gains.iter().sum::<f64>() / gains.len() as f64)
    }
}

fn matrix() -> impl Strategy<Value = Matrix> {
    (1_usize..10, 1_usize..20).prop_flat_map(|(rows, anchors)| {
        let value = prop_oneof![6 => (-8_i16..=0).prop_map(|value| f32::from(value) / 4.0), 1 => Just(f32::NAN)];
        let zero = (-8_i32..=0).prop_map(|value| f64::from(value) / 4.0);
        (proptest::collection::vec(value, rows * anchors), proptest::collection::vec(zero, anchors))
            .prop_map(move |(one_shot, zero_shot)| Matrix { rows, one_shot, zero_shot })
    })
}

/// A name of a row; names do not rise with rows.
fn name(row: usize) -> String {
    format!("c{}", row * 7 % 10)
}

fn write_pairs(path: &Path, pairs: &[(usize, usize, f32)], text: bool, group_rows: usize) {
    let number = |value: usize| i32::try_from(value).unwrap();
    let candidates: ArrayRef = if text {
        Arc::new(StringArray::from_iter_values(pairs.iter().map(|pair| name(pair.0))))
    } else {
        Arc::new(pairs.iter().map(|pair| Some(number(pair.0))).collect::<Int32Array>())
    };
    let anchors: ArrayRef = Arc::new(pairs.iter().map(|pair| Some(number(pair.1))).collect::<Int32Array>());
    let values: ArrayRef = Arc::new(pairs.iter().map(|pair| Some(pair.2)).collect::<Float32Array>());
    let columns = [("candidate", candidates), ("anchor", anchors), ("logprob", values)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let file = fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn write_own(path: &Path, matrix: &Matrix, rows: std::ops::Range<usize>) {
    let anchors = matrix.zero_shot.len();
    let mut writer = MatrixWriter::create(path, anchors, false, "{}").unwrap();
    for place in rows {
        let values = &matrix.one_shot[place * anchors..(place + 1) * anchors];
        writer.write(&[&name(place)], anchors, MatrixRows::Narrow(values), None).unwrap();
    }
    writer.finish().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn shards_of_a_matrix_add_up_to_the_whole(matrix in matrix(), cut in 0_usize..12) {
        let folder = Folder::new("shards");
        let (parts, out) = ([folder.path("a.arrow"), folder.path("b.arrow")], folder.path("out.parquet"));
        let cut = cut.min(matrix.rows);
        write_own(&parts[0], &matrix, 0..cut);
        write_own(&parts[1], &matrix, cut..matrix.rows);
        let wanted: Vec<Row> = (0..matrix.rows).map(|place| matrix.obvious(name(place), place)).collect();
        let mut bytes = Vec::new();
        for threads in [1, 2] {
            let summary = run(&parts, &matrix.zero_shot, &out, threads).unwrap();
            prop_assert_eq!(summary.nan_pairs, matrix.one_shot.iter().filter(|value| value.is_nan()).count() as u64);
            prop_assert_eq!(summary.histogram.iter().sum::<u64>(), matrix.rows as u64);
            prop_assert_eq!(read(&out), wanted.clone());
            bytes.push(fs::read(&out).unwrap());
        }
        prop_assert_eq!(&bytes[0], &bytes[1]);
    }

    #[test]
    fn pairs_in_any_order_add_up_to_rows(
        matrix in matrix(),
        text in any::<bool>(),
        group_rows in 1_usize..50,
        keys in proptest::collection::vec(any::<u32>(), 10 * 20),
        shuffled in any::<bool>(),
    ) {
        let folder = Folder::new("pairs");
        let (path, out) = (folder.path("pairs.parquet"), folder.path("out.parquet"));
        let mut pairs = matrix.pairs();
        if shuffled {
            pairs.sort_by_key(|pair| keys[pair.0 * matrix.zero_shot.len() + pair.1]);
        }
        write_pairs(&path, &pairs, text, group_rows);
        let (mut places, mut wanted) = (HashSet::new(), Vec::new());
        for &(place, _, _) in &pairs {
            if places.insert(place) {
                wanted.push(matrix.obvious(if text { name(place) } else { place.to_string() }, place));
            }
        }
        for threads in [1, 2] {
            run(std::slice::from_ref(&path), &matrix.zero_shot, &out, threads).unwrap();
            prop_assert_eq!(read(&out), wanted.clone());
        }
    }

    #[test]
    fn a_missing_pair_and_a_pair_twice_are_named(matrix in matrix(), which in any::<prop::sample::Index>()) {
        let folder = Folder::new("holes");
        let (path, out) = ([folder.path("pairs.parquet")], folder.path("out.parquet"));
        prop_assume!(matrix.zero_shot.len() > 1);
        let mut pairs = matrix.pairs();
        let gone = pairs.remove(which.index(pairs.len()));
        write_pairs(&path[0], &pairs, false, 7);
        match run(&path, &matrix.zero_shot, &out, 2) {
            Err(LogprobsError::MissingPairs { candidate, anchor, pairs, candidates, .. }) => {
                prop_assert_eq!((candidate, anchor), (gone.0.to_string(), gone.1.to_string()));
                prop_assert_eq!((pairs, candidates), (1, 1));
            }
            other => prop_assert!(false, "{:?}", other),
        }
        pairs.extend([gone, gone]);
        write_pairs(&path[0], &pairs, false, 7);
        match run(&path, &matrix.zero_shot, &out, 2) {
            Err(LogprobsError::PairTwice { candidate, anchor, .. }) => {
                prop_assert_eq!((candidate, anchor), (gone.0.to_string(), gone.1.to_string()));
            }
            other => prop_assert!(false, "{:?}", other),
        }
        prop_assert!(!out.exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_files_are_refused_or_read(
        kind in 0_usize..3,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = Folder::new("damaged");
        let (path, out) = ([folder.path("input")], folder.path("out.parquet"));
        let matrix = Matrix { rows: 5, one_shot: vec![-1.0; 15], zero_shot: vec![-2.0; 3] };
        match kind {
            0 => write_own(&path[0], &matrix, 0..5),
            1 => write_pairs(&path[0], &matrix.pairs(), true, 6),
            _ => {
                let dict = b"{'descr': '<f4', 'fortran_order': False, 'shape': (5, 3), }";
                let mut array = [b"\x93NUMPY\x01\x00\x46\x00", dict.as_slice()].concat();
                array.resize(80, b' ');
                array.extend([0; 60]);
                fs::write(&path[0], array).unwrap();
            }
        }
        let mut bytes = fs::read(&path[0]).unwrap();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(keep.map_or(bytes.len(), |keep| keep.index(bytes.len())));
        fs::write(&path[0], bytes).unwrap();
        // Any answer will do, except a panic that gets out, or a table beside an error.
        if run(&path, &matrix.zero_shot, &out, 1).is_err() {
            prop_assert!(!out.exists());
        }
    }
}
