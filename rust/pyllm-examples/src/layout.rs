//! The columns of rows and their types.

use std::collections::HashSet;

use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef};
use hashbrown::HashMap;

use crate::kinds::Kind;

/// Columns that every table of examples begins with, in this order.
pub(crate) const CANONICAL: [&str; 8] =
    ["id", "source_file", "source_row", "instruction", "input", "output", "messages", "tools"];
/// Columns that scoring adds; those that every scoring run writes stand first.
pub(crate) const SCORES: [&str; 8] = [
    "golden_score",
    "wins",
    "anchors_scored",
    "mean_gain_nats",
    "demo_tokens",
    "answer_tokens",
    "anchor_wins",
    "one_shot_nats",
];
const ALWAYS_SCORED: usize = 6;

/// One turn of a conversation, as a column has it.
pub(crate) fn message_fields() -> Fields {
    Fields::from(vec![
        Field::new("role", DataType::Utf8, true),
        Field::new("content", DataType::Utf8, true),
        Field::new("trained", DataType::Boolean, true),
    ])
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    /// Its name in the data.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// A known key without any value was read as absent; nothing of it is left to keep.
    pub(crate) kept: bool,
}

/// The columns of rows and the narrowest types that hold every value exactly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    pub(crate) columns: Vec<Column>,
    /// All keys are columns, and none is canonical.
    pub(crate) table: bool,
    /// Score columns that tables of ours had, one bit each.
    pub(crate) own_scores: u8,
}

impl Layout {
    /// Takes in the columns of later rows.
    pub fn join(&mut self, other: &Self) {
        self.table |= other.table;
        self.own_scores |= other.own_scores;
        let mut places: HashMap<String, usize> =
            self.columns.iter().enumerate().map(|(place, column)| (column.name.clone(), place)).collect();
        for column in &other.columns {
            if let Some(&place) = places.get(&column.name) {
                self.columns[place].kind.join(&column.kind);
                self.columns[place].kept |= column.kept;
            } else {
                places.insert(column.name.clone(), self.columns.len());
                self.columns.push(column.clone());
            }
        }
    }

    /// Whether rows of the other layout can be stored in this one: joining would change nothing.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut joined = self.clone();
        joined.join(other);
        joined.columns == self.columns && joined.table == self.table
    }

    /// The schema that [`crate::Rows::to_batch`] builds: the canonical columns, then the others.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let mut fields = if self.table { Vec::new() } else { canonical_fields() };
        for (column, name) in self.named() {
            fields.push(Field::new(name, column.kind.data_type().unwrap_or(DataType::Utf8), true));
        }
        Schema::new(fields).into()
    }

    /// Columns whose names were taken, as (name in the data, name in the schema).
    #[must_use]
    pub fn renamed(&self) -> Vec<(String, String)> {
        let names = self.named().into_iter().filter(|(column, name)| column.name != *name);
        names.map(|(column, name)| (column.name.clone(), name)).collect()
    }

    /// Score columns of an earlier run that are left out.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let own = SCORES.into_iter().enumerate().filter(|(bit, _)| self.own_scores >> bit & 1 == 1);
        let mut names: Vec<String> = own.map(|(_, name)| name.to_owned()).collect();
        if self.scored() {
            let scores = self.columns.iter().filter(|column| column.kept && SCORES.contains(&column.name.as_str()));
            names.extend(scores.map(|column| column.name.clone()));
        }
        names
    }

    /// Columns (by their names in the data) that hold values of different types and are kept as JSON text.
    #[must_use]
    pub fn mixed(&self) -> Vec<String> {
        let named = self.named().into_iter().filter(|(column, _)| column.kind.data_type().is_none());
        named.map(|(column, _)| column.name.clone()).collect()
    }

    /// The columns that are stored, with the names they get.
    pub(crate) fn named(&self) -> Vec<(&Column, String)> {
        if self.table {
            return self.columns.iter().map(|column| (column, column.name.clone())).collect();
        }
        let scored = self.scored();
        let kept = self
            .columns
            .iter()
            .filter(|column| column.kept && !(scored && SCORES.contains(&column.name.as_str())))
            .collect::<Vec<_>>();
        let mut taken: HashSet<String> = kept.iter().map(|column| column.name.clone()).collect();
        let is_ours = |name: &str| CANONICAL.contains(&name) || SCORES.contains(&name);
        kept.into_iter()
            .map(|column| {
                let mut name = column.name.clone();
                if is_ours(&name) {
                    while is_ours(&name) || taken.contains(&name) {
                        name.insert_str(0, "original_");
                    }
                    taken.insert(name.clone());
                }
                (column, name)
            })
            .collect()
    }

    /// Whether a scoring run left all of its columns here.
    fn scored(&self) -> bool {
        !self.table
            && SCORES[..ALWAYS_SCORED]
                .iter()
                .all(|score| self.columns.iter().any(|column| column.kept && column.name == *score))
    }
}

fn canonical_fields() -> Vec<Field> {
    CANONICAL
        .into_iter()
        .map(|name| {
            let (found, nullable) = match name {
                "id" | "source_file" => (DataType::Utf8, false),
                "source_row" => (DataType::UInt64, false),
                "messages" => {
                    (DataType::List(Field::new_list_field(DataType::Struct(message_fields()), true).into()), true)
                }
                _ => (DataType::Utf8, true),
            };
            Field::new(name, found, nullable)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(names: &[&str]) -> Layout {
        let column = |name: &&str| Column { name: (*name).to_owned(), kind: Kind::Text, kept: true };
        Layout { columns: names.iter().map(column).collect(), table: false, own_scores: 0 }
    }

    fn others(layout: &Layout) -> Vec<String> {
        layout.schema().fields().iter().skip(CANONICAL.len()).map(|field| field.name().clone()).collect()
    }

    #[test]
    fn names_that_are_taken_are_changed_until_they_are_free() {
        let found = layout(&["id", "n", "original_id", "wins"]);
        assert_eq!(others(&found), ["original_original_id", "n", "original_id", "original_wins"]);
        assert_eq!(found.renamed().len(), 2);
        assert!(found.left_out().is_empty());
    }

    #[test]
    fn scores_of_an_earlier_run_are_left_out_where_all_of_them_stand() {
        let mut found = layout(&SCORES[..7]);
        found.join(&layout(&["note"]));
        assert_eq!(others(&found), ["note"]);
        assert_eq!(found.left_out(), &SCORES[..7]);
        assert_eq!(others(&layout(&SCORES[1..3])), ["original_wins", "original_anchors_scored"]);
    }

    #[test]
    fn a_layout_covers_what_joining_does_not_change() {
        let mut found = layout(&["a", "b"]);
        assert!(found.covers(&layout(&["b"])) && found.covers(&layout(&["b", "a"])));
        assert!(!found.covers(&layout(&["c"])));
        let mut numbers = layout(&["a"]);
        numbers.columns[0].kind = Kind::Number(1);
        assert!(!found.covers(&numbers));
        found.join(&numbers);
        assert_eq!(found.mixed(), ["a"]);
        assert!(found.covers(&numbers));
    }
}
