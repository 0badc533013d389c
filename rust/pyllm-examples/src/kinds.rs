//! What the values of a column have in common: the narrowest type that holds them all exactly.

use arrow_schema::{DataType, Field, Fields};

use crate::values::{Store, Text, Value};

const INTEGER: u8 = 1;
const FRACTION: u8 = 2;
/// Larger than floats hold exactly.
const INEXACT: u8 = 4;
const NEGATIVE: u8 = 8;
/// Above 64 bits with a sign.
const UNSIGNED: u8 = 16;
/// Beyond 64 bits of either sort.
const HUGE: u8 = 32;

const EXACT: u64 = 1 << 53;

/// A point of the lattice: joining goes from `Empty` up to `Mixed`, whatever the order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Only nulls so far.
    Empty,
    /// True or false.
    Bool,
    /// Numbers with any of the traits above.
    Number(u8),
    /// Text.
    Text,
    /// Lists of one kind.
    List(Box<Self>),
    /// Objects of equal keys, in the order of the first.
    Struct(Vec<(String, Self)>),
    /// Columns of one Arrow type.
    Arrow(DataType),
    /// Nothing in common.
    Mixed,
}

impl Kind {
    /// Takes in a value.
    pub(crate) fn observe<'a>(&mut self, store: &Store<'a>, value: Value<'a>) {
        match (&mut *self, value) {
            (_, Value::Null)
            | (Self::Mixed, _)
            | (Self::Text, Value::Text(_) | Value::Foreign(..))
            | (Self::Bool, Value::Bool(_)) => {}
            (Self::Number(traits), Value::Int(number)) => *traits |= integer(number),
            (Self::Number(traits), Value::Float(_)) => *traits |= FRACTION,
            (Self::Number(traits), Value::Big(digits)) => *traits |= big(store, digits),
            (Self::List(item), Value::List(start, len)) => {
                for &value in store.items(start, len) {
                    item.observe(store, value);
                }
                if **item == Self::Mixed {
                    *self = Self::Mixed;
                }
            }
            (Self::Struct(fields), Value::Object(start, len)) => {
                if !observe_fields(fields, store, start, len) {
                    *self = Self::Mixed;
                }
            }
            (Self::Empty, value) => *self = Self::of(store, value),
            (Self::Arrow(found), value) => {
                *self = Self::general(found);
                self.observe(store, value);
            }
            _ => *self = Self::Mixed,
        }
    }

    fn of<'a>(store: &Store<'a>, value: Value<'a>) -> Self {
        let mut kind = match value {
            Value::Null => return Self::Empty,
            Value::Bool(_) => return Self::Bool,
            Value::Text(_) | Value::Foreign(..) => return Self::Text,
            Value::Int(_) | Value::Big(_) | Value::Float(_) => Self::Number(0),
            Value::List(..) => Self::List(Box::new(Self::Empty)),
            Value::Object(_, 0) => return Self::Mixed,
            Value::Object(start, len) => Self::Struct(
                store
                    .object(start, len)
                    .iter()
                    .map(|member| (store.text(member.key).to_owned(), Self::Empty))
                    .collect(),
            ),
        };
        kind.observe(store, value);
        kind
    }

    /// Takes in the values that another kind stands for.
    pub(crate) fn join(&mut self, other: &Self) {
        match (&mut *self, other) {
            (_, Self::Empty) | (Self::Mixed, _) | (Self::Text, Self::Text) | (Self::Bool, Self::Bool) => {}
            (Self::Number(traits), Self::Number(others)) => *traits |= others,
            (Self::List(item), Self::List(others)) => {
                item.join(others);
                if **item == Self::Mixed {
                    *self = Self::Mixed;
                }
            }
            (Self::Struct(fields), Self::Struct(others)) => {
                if !join_fields(fields, others) {
                    *self = Self::Mixed;
                }
            }
            (Self::Empty, other) => *self = other.clone(),
            (Self::Arrow(found), Self::Arrow(others)) if found == others => {}
            (Self::Arrow(found), other) => {
                *self = Self::general(found);
                self.join(other);
            }
            (_, Self::Arrow(others)) => self.join(&Self::general(others)),
            _ => *self = Self::Mixed,
        }
    }

    /// What an Arrow column has in common with other columns.
    fn general(found: &DataType) -> Self {
        match found {
            DataType::Null => Self::Empty,
            DataType::Boolean => Self::Bool,
            DataType::Int8 | DataType::Int16 | DataType::Int32 => Self::Number(INTEGER | NEGATIVE),
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => Self::Number(INTEGER),
            DataType::Int64 => Self::Number(INTEGER | NEGATIVE | INEXACT),
            DataType::UInt64 => Self::Number(INTEGER | UNSIGNED | INEXACT),
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Number(FRACTION),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text,
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                match Self::general(item.data_type()) {
                    Self::Mixed => Self::Mixed,
                    item => Self::List(Box::new(item)),
                }
            }
            DataType::Struct(fields) if !fields.is_empty() => {
                let fields: Vec<_> =
                    fields.iter().map(|field| (field.name().clone(), Self::general(field.data_type()))).collect();
                if fields.iter().any(|(_, kind)| *kind == Self::Mixed) { Self::Mixed } else { Self::Struct(fields) }
            }
            _ => Self::Mixed,
        }
    }

    /// The type that holds all values, or `None` where only JSON text does.
    pub(crate) fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Empty | Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Number(traits) => return number_type(*traits),
            Self::List(item) => DataType::List(Field::new_list_field(item.data_type()?, true).into()),
            Self::Struct(fields) => {
                let fields: Option<Fields> =
                    fields.iter().map(|(name, kind)| Some(Field::new(name, kind.data_type()?, true))).collect();
                DataType::Struct(fields?)
            }
            Self::Arrow(found) => found.clone(),
            Self::Mixed => return None,
        })
    }
}

fn number_type(traits: u8) -> Option<DataType> {
    let has = |wanted: u8| traits & wanted != 0;
    if has(FRACTION) {
        return (!(has(INTEGER) && has(INEXACT))).then_some(DataType::Float64);
    }
    match (has(HUGE), has(UNSIGNED), has(NEGATIVE)) {
        (true, _, _) | (_, true, true) => None,
        (_, true, false) => Some(DataType::UInt64),
        (_, false, _) => Some(DataType::Int64),
    }
}

fn integer(number: i64) -> u8 {
    INTEGER | if number < 0 { NEGATIVE } else { 0 } | if number.unsigned_abs() > EXACT { INEXACT } else { 0 }
}

fn big<'a>(store: &Store<'a>, digits: Text<'a>) -> u8 {
    INTEGER | INEXACT | if store.text(digits).parse::<u64>().is_ok() { UNSIGNED } else { HUGE }
}

/// Whether the object has just the fields' keys and their kinds do not end mixed.
fn observe_fields(fields: &mut [(String, Kind)], store: &Store<'_>, start: usize, len: usize) -> bool {
    if fields.len() != len {
        return false;
    }
    let members = store.object(start, len);
    fields.iter_mut().enumerate().all(|(place, (name, kind))| {
        let same_place = members.get(place).filter(|member| store.text(member.key) == name.as_str());
        let found = same_place.or_else(|| members.iter().find(|member| store.text(member.key) == name.as_str()));
        found.is_some_and(|member| {
            kind.observe(store, member.value);
            *kind != Kind::Mixed
        })
    })
}

fn join_fields(fields: &mut [(String, Kind)], others: &[(String, Kind)]) -> bool {
    fields.len() == others.len()
        && fields.iter_mut().all(|(name, kind)| {
            others.iter().find(|(other, _)| other == name).is_some_and(|(_, other)| {
                kind.join(other);
                *kind != Kind::Mixed
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Parser;

    /// The type of a column of these JSON values; `None` is JSON text.
    fn type_of(values: &[&'static str]) -> Option<DataType> {
        let (mut whole, mut joined) = (Kind::Empty, Kind::Empty);
        for text in values {
            let mut store = Store::default();
            let value = Parser::new(text).whole(&mut store).expect("parses");
            whole.observe(&store, value);
            joined.join(&Kind::of(&store, value));
        }
        assert_eq!(whole, joined, "{values:?}");
        whole.data_type()
    }

    #[test]
    fn numbers_get_the_narrowest_type_that_is_exact() {
        assert_eq!(type_of(&["null", "1", "-9223372036854775808"]), Some(DataType::Int64));
        assert_eq!(type_of(&["1", "18446744073709551615"]), Some(DataType::UInt64));
        assert_eq!(type_of(&["-1", "18446744073709551615"]), None);
        assert_eq!(type_of(&["18446744073709551616"]), None);
        assert_eq!(type_of(&["1", "2.5", "9007199254740992"]), Some(DataType::Float64));
        assert_eq!(type_of(&["2.5", "9007199254740993"]), None);
        assert_eq!(type_of(&["1", "true"]), None);
        assert_eq!(type_of(&["null"]), Some(DataType::Utf8));
    }

    #[test]
    fn nested_values_share_a_type_all_the_way_down_or_none() {
        let list = |item| DataType::List(Field::new_list_field(item, true).into());
        assert_eq!(type_of(&["[]", "[null]"]), Some(list(DataType::Utf8)));
        assert_eq!(type_of(&["[]", "[[1]]", "[[2.5]]"]), Some(list(list(DataType::Float64))));
        assert_eq!(type_of(&["[1]", r#"["a"]"#]), None);
        let fields = Fields::from(vec![Field::new("b", DataType::Int64, true), Field::new("a", DataType::Utf8, true)]);
        assert_eq!(type_of(&[r#"{"b": 1, "a": null}"#, r#"{"a": "x", "b": 2}"#]), Some(DataType::Struct(fields)));
        assert_eq!(type_of(&[r#"{"a": 1}"#, r#"{"b": 1}"#]), None);
        assert_eq!(type_of(&[r#"{"a": 1}"#, r#"{"a": "x"}"#]), None);
        assert_eq!(type_of(&["{}"]), None);
        assert_eq!(type_of(&["[{}]"]), None);
    }

    #[test]
    fn columns_of_one_arrow_type_keep_it_and_others_meet_in_general() {
        let joined = |types: &[DataType]| {
            let mut kind = Kind::Empty;
            for found in types {
                kind.join(&Kind::Arrow(found.clone()));
            }
            kind.data_type()
        };
        assert_eq!(joined(&[DataType::Int32, DataType::Int32]), Some(DataType::Int32));
        assert_eq!(joined(&[DataType::Int32, DataType::Int64]), Some(DataType::Int64));
        assert_eq!(joined(&[DataType::Float32, DataType::Int8]), Some(DataType::Float64));
        assert_eq!(joined(&[DataType::Date32, DataType::Utf8]), None);
        assert_eq!(joined(&[DataType::Date32]), Some(DataType::Date32));
    }
}
