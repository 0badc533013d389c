//! Anchors: their zero-shot sums, and which of them a name means.

use std::collections::HashMap;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::DataType;

use crate::columns::{ColumnNames, Columns};
use crate::error::LogprobsError;
use crate::ids::{Ids, id_type};
use crate::input::{Body, Input, Memory, open_body};
use crate::npy::Values;
use crate::rows::as_floats;

/// Rows of a table of anchors that are read at once.
const BATCH_ROWS: usize = 4096;

/// Numbers up to which names of anchors are looked up in a plain table.
const MOST_NUMBERS: usize = 1 << 20;

/// No anchor.
pub(crate) const NONE: u32 = u32::MAX;

/// Zero-shot sums, with the names of their anchors if they have any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ZeroShot {
    /// Names of the anchors, in order; numbers as their digits. None: anchors are numbered from 0.
    pub names: Option<Vec<String>>,
    /// The sums, in the same order.
    pub nats: Vec<f64>,
}

/// Reads zero-shot sums: a `NumPy` vector, or a Parquet or Arrow table with a row for each anchor or one list.
///
/// # Errors
/// The file cannot be read, or has no column that could be meant.
pub fn read_zero_shot(path: &Path, names: &ColumnNames) -> Result<ZeroShot, LogprobsError> {
    let body = open_body(path)?;
    let mut read = ZeroShot::default();
    let mut memory = Memory::default();
    if let Body::Npy(matrix) = &body {
        if matrix.dimensions != 1 && matrix.rows != 1 && matrix.anchors != 1 {
            let found = format!("an array of shape ({}, {})", matrix.rows, matrix.anchors);
            return Err(LogprobsError::Array { path: path.to_owned(), found, wanted: "a vector" });
        }
        matrix.read(path, 0..matrix.rows, &mut memory, |values| {
            match values {
                Values::Narrow(values) => read.nats.extend(values.iter().map(|&value| f64::from(value))),
                Values::Wide(values) => read.nats.extend_from_slice(values),
            }
            Ok(())
        })?;
    } else if let Some(schema) = body.schema() {
        let (anchor, value) = Columns::of_zero_shot(path, &schema, names)?;
        let columns = Columns::Rows { candidate: anchor, value };
        let input = Input { path: path.to_owned(), body, columns, anchors: None, provenance: None };
        let places = columns.projection();
        let place_of = |column: usize| places.iter().position(|&place| place == column).unwrap_or_default();
        let mut found = anchor.map(|_| Vec::new());
        for unit in input.units(0) {
            input.read_batches(&unit.part, BATCH_ROWS, &mut memory, &mut |batch| {
                if let (Some(found), Some(column)) = (&mut found, anchor) {
                    let name = schema.field(column).name();
                    let ids = Ids::of(path, name, batch.column(place_of(column)))?;
                    found.extend((0..batch.num_rows()).map(|row| ids.get(row).to_string()));
                }
                read.nats.extend(sums_of(path, batch, place_of(value))?);
                Ok(())
            })?;
        }
        read.names = found;
    }
    if read.nats.is_empty() {
        return Err(LogprobsError::NoAnchors { path: path.to_owned() });
    }
    Ok(read)
}

/// The sums of a batch; a null is no number.
fn sums_of(path: &Path, batch: &RecordBatch, place: usize) -> Result<Vec<f64>, LogprobsError> {
    let column = batch.column(place);
    let values = match column.data_type() {
        DataType::FixedSizeList(..) | DataType::List(_) | DataType::LargeList(_) => {
            if batch.num_rows() > 1 {
                let found = format!("{} lists", batch.num_rows());
                return Err(LogprobsError::Array {
                    path: path.to_owned(),
                    found,
                    wanted: "one list of zero-shot sums",
                });
            }
            match column.data_type() {
                DataType::FixedSizeList(..) => column.as_fixed_size_list().value(0),
                DataType::List(_) => column.as_list::<i32>().value(0),
                _ => column.as_list::<i64>().value(0),
            }
        }
        _ => ArrayRef::clone(column),
    };
    let values = as_floats(path, &values)?;
    Ok(match values.as_primitive_opt::<Float32Type>() {
        Some(narrow) => narrow.iter().map(|value| value.map_or(f64::NAN, f64::from)).collect(),
        None => values.as_primitive::<Float64Type>().iter().map(|value| value.unwrap_or(f64::NAN)).collect(),
    })
}

/// The zero-shot sums in the order in which a matrix names its anchors.
pub(crate) fn in_order_of(zero_shot: &ZeroShot, path: &Path, wanted: &[String]) -> Result<ZeroShot, LogprobsError> {
    if wanted.len() != zero_shot.nats.len() {
        let (found, wanted) = (wanted.len(), zero_shot.nats.len());
        return Err(LogprobsError::AnchorCount { path: path.to_owned(), found, wanted });
    }
    let Some(names) = zero_shot.names.as_ref().filter(|names| names.as_slice() != wanted) else {
        return Ok(zero_shot.clone());
    };
    let places = places_of(names)?;
    let find = |name: &String| {
        places
            .get(name.as_str())
            .map(|&place| zero_shot.nats[place as usize])
            .ok_or_else(|| LogprobsError::UnknownColumn { path: path.to_owned(), anchor: name.clone() })
    };
    let nats = wanted.iter().map(find).collect::<Result<_, _>>()?;
    places_of(wanted)?;
    Ok(ZeroShot { names: Some(wanted.to_vec()), nats })
}

fn places_of(names: &[String]) -> Result<HashMap<&str, u32>, LogprobsError> {
    let mut places = HashMap::with_capacity(names.len());
    for (place, name) in names.iter().enumerate() {
        if places.insert(name.as_str(), place as u32).is_some() {
            return Err(LogprobsError::AnchorTwice { anchor: name.clone() });
        }
    }
    Ok(places)
}

/// Which anchor a name of a pair means.
#[derive(Debug)]
pub(crate) struct AnchorIndex {
    names: Option<HashMap<String, u32>>,
    /// Names that are whole numbers from 0 on: which anchor each is, or [`NONE`].
    small: Vec<u32>,
    /// Other names that are whole numbers.
    numbers: HashMap<i64, u32>,
    anchors: usize,
    shown: Option<Vec<String>>,
}

impl AnchorIndex {
    pub(crate) fn new(zero_shot: &ZeroShot) -> Result<Self, LogprobsError> {
        let anchors = zero_shot.nats.len();
        let Some(names) = &zero_shot.names else {
            let small = (0..anchors as u32).collect();
            return Ok(Self { names: None, small, numbers: HashMap::new(), anchors, shown: None });
        };
        let places = places_of(names)?;
        let (mut small, mut numbers) = (Vec::new(), HashMap::new());
        for (name, &place) in &places {
            let Ok(number) = name.parse::<i64>() else { continue };
            match usize::try_from(number) {
                Ok(near) if near < MOST_NUMBERS => {
                    small.resize(small.len().max(near + 1), NONE);
                    small[near] = place;
                }
                _ => {
                    numbers.insert(number, place);
                }
            }
        }
        let names_map = places.into_iter().map(|(name, place)| (name.to_owned(), place)).collect();
        Ok(Self { names: Some(names_map), small, numbers, anchors, shown: Some(names.clone()) })
    }

    /// How many anchors there are.
    pub(crate) fn anchors(&self) -> usize {
        self.anchors
    }

    /// How a message calls an anchor.
    pub(crate) fn name(&self, anchor: usize) -> String {
        self.shown.as_ref().map_or_else(|| anchor.to_string(), |names| names[anchor].clone())
    }

    fn of_number(&self, number: i64) -> u32 {
        usize::try_from(number)
            .ok()
            .and_then(|place| self.small.get(place).copied())
            .or_else(|| self.numbers.get(&number).copied())
            .unwrap_or(NONE)
    }

    fn of_text(&self, text: &str) -> u32 {
        match &self.names {
            Some(names) => names.get(text).copied().unwrap_or(NONE),
            None => text.parse::<u32>().ok().filter(|&number| (number as usize) < self.anchors).unwrap_or(NONE),
        }
    }

    /// The anchors of a column.
    ///
    /// # Errors
    /// A name is null or is that of no anchor; rows are counted from the start of the column.
    pub(crate) fn places(&self, path: &Path, column: &str, values: &ArrayRef) -> Result<Vec<u32>, LogprobsError> {
        let places: Vec<u32> = match values.data_type() {
            DataType::Dictionary(_, of) if id_type(of) == Some(DataType::Utf8) => {
                if values.logical_nulls().is_some_and(|nulls| nulls.null_count() > 0) {
                    Ids::of(path, column, values)?;
                }
                let codes = values.as_any_dictionary();
                let names = Ids::of(path, column, codes.values())?;
                let of_code: Vec<u32> =
                    (0..codes.values().len()).map(|code| self.of_text(&names.get(code).to_string())).collect();
                match codes.keys().as_primitive_opt::<arrow_array::types::Int32Type>() {
                    Some(keys) => keys.values().iter().map(|&key| of_code[key.cast_unsigned() as usize]).collect(),
                    None => codes.normalized_keys().into_iter().map(|key| of_code[key]).collect(),
                }
            }
            _ => match Ids::of(path, column, values)? {
                Ids::Number(numbers) => numbers.values().iter().map(|&number| self.of_number(number)).collect(),
                Ids::Unsigned(numbers) => {
                    let of = |&number: &u64| i64::try_from(number).map_or(NONE, |number| self.of_number(number));
                    numbers.values().iter().map(of).collect()
                }
                Ids::Text(texts) => texts.iter().map(|text| text.map_or(NONE, |text| self.of_text(text))).collect(),
            },
        };
        if let Some(row) = places.iter().position(|&place| place == NONE) {
            let anchor = Ids::of(path, column, &values.slice(row, 1))?.get(0).to_string();
            return Err(LogprobsError::UnknownAnchor { path: path.to_owned(), row: row as u64, anchor });
        }
        Ok(places)
    }
}
