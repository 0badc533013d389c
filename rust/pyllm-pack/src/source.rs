//! Tables of examples in Parquet, a batch of rows at a time.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::error::{PackError, reason};
use crate::render::{Fields, Turn};

/// Rows that a thread takes at a time.
pub(crate) const BATCH_ROWS: usize = 1024;

/// The columns that are read, all of them text but the turns.
const TEXTS: [&str; 4] = ["id", "instruction", "input", "output"];
const TURNS: &str = "messages";

/// A table that is being read.
pub struct Table {
    name: String,
    rows: u64,
    batches: ParquetRecordBatchReader,
    next_row: u64,
}

/// Rows of a table, and the place of the first.
pub(crate) struct Batch {
    pub(crate) first_row: u64,
    rows: RecordBatch,
}

impl Table {
    /// Opens a table in the canonical schema; `name` is what messages call it.
    ///
    /// # Errors
    /// There is no such file, it is no Parquet, or lacks a column.
    pub fn open(path: &Path, name: &str) -> Result<Self, PackError> {
        let damaged =
            |error: &dyn std::error::Error| PackError::Damaged { file: name.to_owned(), reason: reason(error) };
        let file =
            File::open(path).map_err(|error| PackError::Open { file: name.to_owned(), reason: reason(&error) })?;
        // The types that another writer's own note asks for are passed over: text is text.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder =
            ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|error| damaged(&error))?;
        let roots = columns(builder.schema(), name)?;
        let rows = builder.metadata().file_metadata().num_rows().try_into().unwrap_or_default();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches =
            builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(|error| damaged(&error))?;
        Ok(Self { name: name.to_owned(), rows, batches, next_row: 0 })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The next rows.
    pub(crate) fn next_batch(&mut self) -> Option<Result<Batch, PackError>> {
        Some(match self.batches.next()? {
            Ok(rows) => {
                let first_row = self.next_row;
                self.next_row += rows.num_rows() as u64;
                Ok(Batch { first_row, rows })
            }
            Err(error) => Err(PackError::Damaged { file: self.name.clone(), reason: reason(&error) }),
        })
    }
}

/// Places of the columns that are read.
fn columns(schema: &SchemaRef, file: &str) -> Result<Vec<usize>, PackError> {
    let place = |column: &'static str, fits: &dyn Fn(&DataType) -> bool| match schema.column_with_name(column) {
        Some((place, field)) if fits(field.data_type()) => Ok(place),
        _ => Err(PackError::Column { file: file.to_owned(), column }),
    };
    let mut places = Vec::with_capacity(TEXTS.len() + 1);
    for column in TEXTS {
        places.push(place(column, &|kind| *kind == DataType::Utf8)?);
    }
    places.push(place(TURNS, &is_turns)?);
    Ok(places)
}

fn is_turns(kind: &DataType) -> bool {
    let DataType::List(item) = kind else { return false };
    let DataType::Struct(fields) = item.data_type() else { return false };
    let wanted = [("role", DataType::Utf8), ("content", DataType::Utf8), ("trained", DataType::Boolean)];
    fields.len() == wanted.len()
        && fields.iter().zip(wanted).all(|(field, (name, kind))| field.name() == name && *field.data_type() == kind)
}

/// The turns of a batch, column by column.
struct Turns<'a> {
    lists: &'a ListArray,
    roles: &'a StringArray,
    contents: &'a StringArray,
    trained: &'a BooleanArray,
}

impl Batch {
    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Calls `each` with every row: its place in the table, its id and its fields.
    pub(crate) fn each(
        &self,
        file: &str,
        mut each: impl FnMut(u64, &str, &Fields<'_>) -> Result<(), PackError>,
    ) -> Result<(), PackError> {
        let texts = TEXTS.map(|name| self.rows.column_by_name(name).and_then(AsArray::as_string_opt::<i32>));
        let turns = self.turns();
        let [Some(ids), Some(instructions), Some(inputs), Some(outputs)] = texts else {
            return Err(PackError::Column { file: file.to_owned(), column: TEXTS[0] });
        };
        let Some(turns) = turns else { return Err(PackError::Column { file: file.to_owned(), column: TURNS }) };
        let mut said = Vec::new();
        for place in 0..self.len() {
            let row = self.first_row + place as u64;
            let messages = turns.of(place, &mut said);
            let fields = Fields {
                instruction: text(instructions, place),
                input: text(inputs, place),
                output: text(outputs, place),
                messages: messages.then_some(&said),
            };
            if fields.instruction.is_none() && fields.messages.is_none() {
                return Err(PackError::NoContent { file: file.to_owned(), row });
            }
            each(row, text(ids, place).unwrap_or_default(), &fields)?;
        }
        Ok(())
    }

    fn turns(&self) -> Option<Turns<'_>> {
        let lists = self.rows.column_by_name(TURNS)?.as_list_opt::<i32>()?;
        let items: &StructArray = lists.values().as_struct_opt()?;
        Some(Turns {
            lists,
            roles: items.column(0).as_string_opt()?,
            contents: items.column(1).as_string_opt()?,
            trained: items.column(2).as_boolean_opt()?,
        })
    }
}

impl<'a> Turns<'a> {
    /// Fills in the turns of a row; false when it is no conversation.
    fn of(&self, place: usize, said: &mut Vec<Turn<'a>>) -> bool {
        said.clear();
        if self.lists.is_null(place) {
            return false;
        }
        let offsets = self.lists.offsets();
        let (first, end) = (usize::try_from(offsets[place]), usize::try_from(offsets[place + 1]));
        said.extend((first.unwrap_or_default()..end.unwrap_or_default()).map(|turn| Turn {
            role: text(self.roles, turn).unwrap_or_default(),
            content: text(self.contents, turn).unwrap_or_default(),
            trained: self.trained.is_valid(turn) && self.trained.value(turn),
        }));
        true
    }
}

fn text(column: &StringArray, place: usize) -> Option<&str> {
    column.is_valid(place).then(|| column.value(place))
}
