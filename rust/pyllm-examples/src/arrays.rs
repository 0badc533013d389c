//! Arrow arrays of values.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{ArrowPrimitiveType, Float64Type, Int64Type, UInt64Type};
use arrow_array::{ArrayRef, ListArray, StructArray, new_null_array};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Fields};

use crate::canonical::write_value;
use crate::error::RowsError;
use crate::values::{Store, Text, Value};

/// A value that is not of the type that its column has.
pub(crate) enum Misfit {
    /// It is of another one.
    Type,
    /// There is too much of it.
    Length,
}

impl Misfit {
    /// The error that names the column.
    pub(crate) fn of(self, column: &str, found: &DataType) -> RowsError {
        match self {
            Self::Type => RowsError::NotCovered { column: column.to_owned(), found: found.to_string() },
            Self::Length => RowsError::TooLong { column: column.to_owned() },
        }
    }
}

/// A column of texts.
pub(crate) fn texts<'a>(
    store: &Store<'a>,
    values: impl ExactSizeIterator<Item = Option<Text<'a>>> + Clone,
) -> Result<ArrayRef, Misfit> {
    let bytes: usize = values.clone().flatten().map(|text| store.text(text).len()).sum();
    i32::try_from(bytes).map_err(|_| Misfit::Length)?;
    let mut builder = StringBuilder::with_capacity(values.len(), bytes);
    for value in values {
        match value {
            Some(text) => builder.append_value(store.text(text)),
            None => builder.append_null(),
        }
    }
    Ok(Arc::new(builder.finish()))
}

/// A column of values as canonical JSON.
pub(crate) fn json_texts<'a>(store: &Store<'a>, values: &[Value<'a>]) -> Result<ArrayRef, Misfit> {
    let mut builder = StringBuilder::new();
    let (mut text, mut bytes) = (String::new(), 0);
    for &value in values {
        if matches!(value, Value::Null) {
            builder.append_null();
            continue;
        }
        text.clear();
        write_value(&mut text, store, value);
        bytes += text.len();
        i32::try_from(bytes).map_err(|_| Misfit::Length)?;
        builder.append_value(&text);
    }
    Ok(Arc::new(builder.finish()))
}

/// A column of values of one type.
pub(crate) fn typed<'a>(store: &Store<'a>, values: &[Value<'a>], wanted: &DataType) -> Result<ArrayRef, Misfit> {
    match wanted {
        DataType::Utf8 => {
            let mut fit = true;
            let found = texts(
                store,
                values.iter().map(|&value| match value {
                    Value::Text(text) => Some(text),
                    Value::Foreign(_, entry) => Some(Text::Stored(entry)),
                    _ => None,
                }),
            )?;
            for value in values {
                fit &= matches!(value, Value::Text(_) | Value::Null | Value::Foreign(..));
            }
            if fit { Ok(found) } else { Err(Misfit::Type) }
        }
        DataType::Boolean => {
            let mut builder = BooleanBuilder::with_capacity(values.len());
            for value in values {
                match value {
                    Value::Bool(yes) => builder.append_value(*yes),
                    Value::Null => builder.append_null(),
                    _ => return Err(Misfit::Type),
                }
            }
            Ok(Arc::new(builder.finish()))
        }
        DataType::Int64 => numbers::<Int64Type>(values, |value| match value {
            Value::Int(number) => Some(number),
            _ => None,
        }),
        DataType::UInt64 => numbers::<UInt64Type>(values, |value| match value {
            Value::Int(number) => u64::try_from(number).ok(),
            Value::Big(digits) => store.text(digits).parse().ok(),
            _ => None,
        }),
        DataType::Float64 => numbers::<Float64Type>(values, |value| match value {
            Value::Float(number) => Some(number),
            Value::Int(number) => Some(number as f64),
            _ => None,
        }),
        DataType::List(item) => {
            let mut items = Vec::new();
            let mut lengths = Vec::with_capacity(values.len());
            for &value in values {
                match value {
                    Value::List(start, len) => {
                        items.extend_from_slice(store.items(start, len));
                        lengths.push(len);
                    }
                    Value::Null => lengths.push(0),
                    _ => return Err(Misfit::Type),
                }
            }
            i32::try_from(items.len()).map_err(|_| Misfit::Length)?;
            let items = typed(store, &items, item.data_type())?;
            let offsets = OffsetBuffer::from_lengths(lengths);
            let list = ListArray::try_new(Arc::clone(item), offsets, items, present(values));
            Ok(Arc::new(list.map_err(|_| Misfit::Type)?))
        }
        DataType::Struct(fields) => objects(store, values, fields),
        other if values.iter().all(|value| matches!(value, Value::Null)) => Ok(new_null_array(other, values.len())),
        _ => Err(Misfit::Type),
    }
}

fn numbers<T: ArrowPrimitiveType>(
    values: &[Value<'_>],
    number: impl Fn(Value<'_>) -> Option<T::Native>,
) -> Result<ArrayRef, Misfit> {
    let mut builder = PrimitiveBuilder::<T>::with_capacity(values.len());
    for &value in values {
        if matches!(value, Value::Null) {
            builder.append_null();
        } else {
            builder.append_value(number(value).ok_or(Misfit::Type)?);
        }
    }
    Ok(Arc::new(builder.finish()))
}

fn objects<'a>(store: &Store<'a>, values: &[Value<'a>], fields: &Fields) -> Result<ArrayRef, Misfit> {
    let mut columns = Vec::with_capacity(fields.len());
    for (place, field) in fields.iter().enumerate() {
        let mut column = Vec::with_capacity(values.len());
        for &value in values {
            column.push(match value {
                Value::Null => Value::Null,
                Value::Object(start, len) if len == fields.len() => {
                    let members = store.object(start, len);
                    let here = members.get(place).filter(|member| store.text(member.key) == field.name().as_str());
                    let found =
                        here.or_else(|| members.iter().find(|member| store.text(member.key) == field.name().as_str()));
                    found.ok_or(Misfit::Type)?.value
                }
                _ => return Err(Misfit::Type),
            });
        }
        columns.push(typed(store, &column, field.data_type())?);
    }
    let array = StructArray::try_new(fields.clone(), columns, present(values));
    Ok(Arc::new(array.map_err(|_| Misfit::Type)?))
}

fn present(values: &[Value<'_>]) -> Option<NullBuffer> {
    let nulls: NullBuffer = values.iter().map(|value| !matches!(value, Value::Null)).collect();
    (nulls.null_count() > 0).then_some(nulls)
}
