//! Which columns of a table hold candidates, anchors and log-probabilities.

use std::path::Path;

use arrow_schema::{DataType, Schema};

use crate::error::LogprobsError;

/// Names of columns, where the user gives them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// Ids of candidates.
    pub candidate: Option<String>,
    /// Ids of anchors.
    pub anchor: Option<String>,
    /// Log-probabilities.
    pub value: Option<String>,
}

/// The columns of one table, by their places in its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Columns {
    /// A row for each candidate, with a list of log-probabilities in anchor order; rows without an id are numbered.
    Rows { candidate: Option<usize>, value: usize },
    /// A row for each pair.
    Pairs { candidate: usize, anchor: usize, value: usize },
}

const CANDIDATES: [&str; 5] = ["id", "candidate", "candidate_id", "row", "row_id"];
const PAIR_CANDIDATES: [&str; 5] = ["candidate", "candidate_id", "id", "row", "row_id"];
const ANCHORS: [&str; 3] = ["anchor", "anchor_id", "task"];
const VALUES: [&str; 6] = ["logprob", "log_prob", "logprobs", "log_probs", "one_shot_nats", "value"];
const ZERO_SHOT_VALUES: [&str; 9] = [
    "zero_shot_nats",
    "zero_shot",
    "zero_shot_logprob",
    "logprob",
    "log_prob",
    "logprobs",
    "log_probs",
    "nats",
    "value",
];
const ZERO_SHOT_ANCHORS: [&str; 4] = ["anchor", "anchor_id", "task", "id"];

impl Columns {
    /// Finds the columns of a table of one-shot sums.
    pub(crate) fn of(path: &Path, schema: &Schema, names: &ColumnNames) -> Result<Self, LogprobsError> {
        let value = match &names.value {
            Some(name) => named(path, schema, name)?,
            None => found(path, schema, &VALUES, "the log-probabilities", is_list)
                .or_else(|_| found(path, schema, &VALUES, "the log-probabilities", DataType::is_floating))?,
        };
        if is_list(schema.field(value).data_type()) {
            let candidate = match &names.candidate {
                Some(name) => Some(named(path, schema, name)?),
                None => CANDIDATES.iter().find_map(|name| id_column(schema, name)),
            };
            return Ok(Self::Rows { candidate, value });
        }
        if !is_number(schema.field(value).data_type()) {
            return Err(wrong_type(path, schema, value, "numbers or lists of numbers"));
        }
        let candidate = id_of_pairs(path, schema, names.candidate.as_ref(), &PAIR_CANDIDATES, "the candidates")?;
        let anchor = id_of_pairs(path, schema, names.anchor.as_ref(), &ANCHORS, "the anchors")?;
        Ok(Self::Pairs { candidate, anchor, value })
    }

    /// Finds the columns of a table of zero-shot sums: names of anchors, if there are any, and the sums.
    pub(crate) fn of_zero_shot(
        path: &Path,
        schema: &Schema,
        names: &ColumnNames,
    ) -> Result<(Option<usize>, usize), LogprobsError> {
        let value = match &names.value {
            Some(name) => named(path, schema, name)?,
            None => found(path, schema, &ZERO_SHOT_VALUES, "the zero-shot sums", |of| of.is_floating() || is_list(of))?,
        };
        let of = schema.field(value).data_type();
        if is_list(of) {
            return Ok((None, value));
        }
        if !is_number(of) {
            return Err(wrong_type(path, schema, value, "numbers or one list of numbers"));
        }
        let anchor = match &names.anchor {
            Some(name) => Some(named(path, schema, name)?),
            None => ZERO_SHOT_ANCHORS.iter().find_map(|name| id_column(schema, name)),
        };
        Ok((anchor, value))
    }

    /// Their places, rising.
    pub(crate) fn projection(self) -> Vec<usize> {
        let mut places = match self {
            Self::Rows { candidate, value } => candidate.into_iter().chain([value]).collect(),
            Self::Pairs { candidate, anchor, value } => vec![candidate, anchor, value],
        };
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// Whether values of this type are lists of numbers.
pub(crate) fn is_list(of: &DataType) -> bool {
    match of {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            is_number(item.data_type())
        }
        _ => false,
    }
}

fn is_number(of: &DataType) -> bool {
    of.is_numeric()
}

/// Whether values of this type can be ids.
pub(crate) fn is_id(of: &DataType) -> bool {
    match of {
        DataType::Dictionary(_, values) => is_id(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        other => other.is_integer(),
    }
}

fn id_column(schema: &Schema, name: &str) -> Option<usize> {
    schema.index_of(name).ok().filter(|&place| is_id(schema.field(place).data_type()))
}

fn id_of_pairs(
    path: &Path,
    schema: &Schema,
    named_by_user: Option<&String>,
    usual: &[&str],
    wanted: &'static str,
) -> Result<usize, LogprobsError> {
    if let Some(name) = named_by_user {
        let place = named(path, schema, name)?;
        if !is_id(schema.field(place).data_type()) {
            return Err(wrong_type(path, schema, place, "text or whole numbers"));
        }
        return Ok(place);
    }
    usual.iter().find_map(|name| id_column(schema, name)).ok_or_else(|| LogprobsError::WhichColumn {
        path: path.to_owned(),
        number: "no column",
        wanted,
        found: column_list(schema),
    })
}

fn named(path: &Path, schema: &Schema, name: &str) -> Result<usize, LogprobsError> {
    schema.index_of(name).map_err(|_| LogprobsError::NoColumn {
        path: path.to_owned(),
        column: name.to_owned(),
        found: column_list(schema),
    })
}

/// The first usual name of the right type, or else the only column of that type.
fn found(
    path: &Path,
    schema: &Schema,
    usual: &[&str],
    wanted: &'static str,
    fits: impl Fn(&DataType) -> bool,
) -> Result<usize, LogprobsError> {
    let fitting: Vec<usize> =
        (0..schema.fields().len()).filter(|&place| fits(schema.field(place).data_type())).collect();
    let by_name = usual.iter().find_map(|name| fitting.iter().find(|&&place| schema.field(place).name() == name));
    match (by_name, fitting.as_slice()) {
        (Some(&place), _) | (None, &[place]) => Ok(place),
        (None, several) => Err(LogprobsError::WhichColumn {
            path: path.to_owned(),
            number: if several.is_empty() { "no column" } else { "more than one column" },
            wanted,
            found: column_list(schema),
        }),
    }
}

fn wrong_type(path: &Path, schema: &Schema, place: usize, wanted: &'static str) -> LogprobsError {
    let field = schema.field(place);
    LogprobsError::ColumnType {
        path: path.to_owned(),
        column: field.name().clone(),
        found: field.data_type().to_string(),
        wanted,
    }
}

/// The columns of a table as a message shows them.
fn column_list(schema: &Schema) -> String {
    let shown: Vec<String> = schema.fields().iter().take(12).map(|field| format!("`{}`", field.name())).collect();
    match (shown.is_empty(), schema.fields().len().saturating_sub(shown.len())) {
        (true, _) => "nothing".to_owned(),
        (false, 0) => shown.join(", "),
        (false, more) => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_schema::Field;

    use super::*;

    fn schema(fields: &[(&str, DataType)]) -> Schema {
        Schema::new(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>())
    }

    fn list(of: DataType) -> DataType {
        DataType::List(Arc::new(Field::new_list_field(of, true)))
    }

    fn of(fields: &[(&str, DataType)], names: &ColumnNames) -> Result<Columns, String> {
        Columns::of(Path::new("t"), &schema(fields), names).map_err(|error| error.to_string())
    }

    #[test]
    fn usual_names_and_types_are_found() {
        let none = ColumnNames::default();
        let scored = [
            ("id", DataType::Utf8),
            ("golden_score", DataType::Float64),
            ("anchor_wins", list(DataType::Boolean)),
            ("one_shot_nats", list(DataType::Float64)),
        ];
        assert_eq!(of(&scored, &none), Ok(Columns::Rows { candidate: Some(0), value: 3 }));
        let pairs = [("x", DataType::Float32), ("anchor", DataType::Int16), ("candidate", DataType::Int32)];
        assert_eq!(of(&pairs, &none), Ok(Columns::Pairs { candidate: 2, anchor: 1, value: 0 }));
        assert_eq!(of(&[("x", list(DataType::Float32))], &none), Ok(Columns::Rows { candidate: None, value: 0 }));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let none = ColumnNames::default();
        let two = [("a", DataType::Float32), ("b", DataType::Float64)];
        let error = "t has more than one column that could be the log-probabilities (found `a`, `b`)";
        assert_eq!(of(&two, &none), Err(error.to_owned()));
        let names = ColumnNames { value: Some("c".to_owned()), ..none.clone() };
        assert_eq!(of(&two, &names), Err("column `c` is missing from t (found `a`, `b`)".to_owned()));
        let names = ColumnNames { value: Some("a".to_owned()), ..none };
        assert_eq!(of(&two, &names), Err("t has no column that could be the candidates (found `a`, `b`)".to_owned()));
    }
}
