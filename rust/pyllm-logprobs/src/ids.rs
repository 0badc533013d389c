//! Ids of candidates: text or whole numbers, as they were given.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, Int64Array, StringArray, UInt64Array};
use arrow_schema::DataType;

use crate::error::LogprobsError;

/// One id. Ids of one run are of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Id {
    Number(i64),
    Unsigned(u64),
    Text(Box<str>),
}

impl fmt::Display for Id {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(out),
            Self::Unsigned(number) => number.fmt(out),
            Self::Text(text) => text.fmt(out),
        }
    }
}

/// A column of ids in one of three types: `Int64`, `UInt64` or `Utf8`.
#[derive(Debug, Clone)]
pub(crate) enum Ids {
    Number(Int64Array),
    Unsigned(UInt64Array),
    Text(StringArray),
}

impl Ids {
    /// Takes a column as it was read. Nulls are refused; `column` names it in that message.
    pub(crate) fn of(path: &Path, column: &str, values: &ArrayRef) -> Result<Self, LogprobsError> {
        if let Some(nulls) = values.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
            let row = (0..values.len()).find(|&row| nulls.is_null(row)).unwrap_or_default() as u64;
            return Err(LogprobsError::NullId { path: path.to_owned(), column: column.to_owned(), row });
        }
        let wanted = id_type(values.data_type()).ok_or_else(|| LogprobsError::ColumnType {
            path: path.to_owned(),
            column: column.to_owned(),
            found: values.data_type().to_string(),
            wanted: "text or whole numbers",
        })?;
        let values = if *values.data_type() == wanted {
            Arc::clone(values)
        } else {
            arrow_cast::cast(values, &wanted).map_err(|error| LogprobsError::damaged(path, "a table", error))?
        };
        Ok(match wanted {
            DataType::Int64 => Self::Number(values.as_primitive::<Int64Type>().clone()),
            DataType::UInt64 => Self::Unsigned(values.as_primitive::<UInt64Type>().clone()),
            _ => Self::Text(values.as_string::<i32>().clone()),
        })
    }

    /// Row numbers from `first` on, for rows that have no names.
    pub(crate) fn numbered(first: u64, rows: usize) -> Self {
        Self::Number((first..).take(rows).map(u64::cast_signed).collect::<Vec<i64>>().into())
    }

    /// The ids of a whole run.
    pub(crate) fn from_ids<'a>(kind: &DataType, ids: impl Iterator<Item = &'a Id>) -> Self {
        match kind {
            DataType::UInt64 => Self::Unsigned(
                ids.map(|id| if let Id::Unsigned(number) = id { *number } else { 0 }).collect::<Vec<_>>().into(),
            ),
            DataType::Utf8 => Self::Text(StringArray::from_iter_values(
                ids.map(|id| if let Id::Text(text) = id { text.as_ref() } else { "" }),
            )),
            _ => Self::Number(
                ids.map(|id| if let Id::Number(number) = id { *number } else { 0 }).collect::<Vec<_>>().into(),
            ),
        }
    }

    pub(crate) fn kind(&self) -> DataType {
        match self {
            Self::Number(_) => DataType::Int64,
            Self::Unsigned(_) => DataType::UInt64,
            Self::Text(_) => DataType::Utf8,
        }
    }

    pub(crate) fn get(&self, row: usize) -> Id {
        match self {
            Self::Number(numbers) => Id::Number(numbers.value(row)),
            Self::Unsigned(numbers) => Id::Unsigned(numbers.value(row)),
            Self::Text(texts) => Id::Text(texts.value(row).into()),
        }
    }

    pub(crate) fn into_array(self) -> ArrayRef {
        match self {
            Self::Number(numbers) => Arc::new(numbers),
            Self::Unsigned(numbers) => Arc::new(numbers),
            Self::Text(texts) => Arc::new(texts),
        }
    }
}

/// The type in which ids of a column are kept.
pub(crate) fn id_type(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Dictionary(_, values) => id_type(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8),
        DataType::UInt64 => Some(DataType::UInt64),
        other if other.is_integer() => Some(DataType::Int64),
        _ => None,
    }
}

/// How messages call a type of ids.
pub(crate) fn kind_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Utf8 => "text",
        DataType::UInt64 => "unsigned 64-bit numbers",
        _ => "whole numbers",
    }
}
