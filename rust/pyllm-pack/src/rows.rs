//! Tokenized rows, many in a few flat arrays.

use std::ops::Range;

/// Rows as token ids, with the spans of them that are trained and a name each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRows {
    ids: Vec<u32>,
    id_ends: Vec<usize>,
    trained: Vec<Range<u32>>,
    trained_ends: Vec<usize>,
    names: String,
    name_ends: Vec<usize>,
}

impl TokenRows {
    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.id_ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.id_ends.is_empty()
    }

    /// Tokens of all rows.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Token ids of all rows, one row after the other.
    #[must_use]
    pub fn all_ids(&self) -> &[u32] {
        &self.ids
    }

    /// Token ids of a row.
    #[must_use]
    pub fn ids(&self, row: usize) -> &[u32] {
        &self.ids[range(&self.id_ends, row)]
    }

    /// The tokens of a row that are trained, as places in it: ascending, apart, none empty.
    #[must_use]
    pub fn trained(&self, row: usize) -> &[Range<u32>] {
        &self.trained[range(&self.trained_ends, row)]
    }

    /// What a row is called.
    #[must_use]
    pub fn name(&self, row: usize) -> &str {
        &self.names[range(&self.name_ends, row)]
    }

    /// Tokens of each row.
    #[must_use]
    pub fn lengths(&self) -> Vec<u32> {
        (0..self.len()).map(|row| range(&self.id_ends, row).len() as u32).collect()
    }

    /// Adds a row.
    pub fn push(&mut self, ids: &[u32], trained: impl IntoIterator<Item = Range<u32>>, name: &str) {
        self.ids.extend_from_slice(ids);
        self.id_ends.push(self.ids.len());
        self.trained.extend(trained);
        self.trained_ends.push(self.trained.len());
        self.names.push_str(name);
        self.name_ends.push(self.names.len());
    }

    /// Adds a row of another.
    pub(crate) fn push_from(&mut self, other: &Self, row: usize) {
        self.push(other.ids(row), other.trained(row).iter().cloned(), other.name(row));
    }
}

fn range(ends: &[usize], row: usize) -> Range<usize> {
    row.checked_sub(1).map_or(0, |before| ends[before])..ends[row]
}

/// Rows of one kind: how many, and the first few by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// How many.
    pub rows: u64,
    /// `file: row N` of the first.
    pub first: Vec<String>,
}

/// How many rows are named.
const MOST_NAMED: usize = 5;

impl Named {
    pub(crate) fn add(&mut self, file: &str, row: u64) {
        self.rows += 1;
        if self.first.len() < MOST_NAMED {
            self.first.push(format!("{file}: row {row}"));
        }
    }

    fn join(&mut self, later: Self) {
        self.rows += later.rows;
        let room = MOST_NAMED - self.first.len();
        self.first.extend(later.first.into_iter().take(room));
    }
}

/// What became of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Rows that came in.
    pub rows_in: u64,
    /// Rows that are packed.
    pub rows_packed: u64,
    /// Their tokens.
    pub tokens: u64,
    /// Those of them that are trained.
    pub trained_tokens: u64,
    /// Rows left out: nothing to train on.
    pub without_answer: Named,
    /// Rows left out: longer than the length.
    pub too_long: Named,
    /// Rows cut at the length, or left out because nothing to train on was left.
    pub truncated: Named,
    /// Rows left out: no token that could be trained was left in the length.
    pub fully_masked: Named,
}

impl Tally {
    pub(crate) fn join(&mut self, later: Self) {
        self.rows_in += later.rows_in;
        self.rows_packed += later.rows_packed;
        self.tokens += later.tokens;
        self.trained_tokens += later.trained_tokens;
        self.without_answer.join(later.without_answer);
        self.too_long.join(later.too_long);
        self.truncated.join(later.truncated);
        self.fully_masked.join(later.fully_masked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went_in() {
        let mut rows = TokenRows::default();
        rows.push(&[1, 2, 3, 4], [1..2, 3..4], "first");
        rows.push(&[4], [], "");
        rows.push(&[5, 6], Some(1..2), "third");
        assert_eq!((rows.len(), rows.tokens(), rows.lengths()), (3, 7, vec![4, 1, 2]));
        assert_eq!((rows.ids(0), rows.trained(0), rows.name(0)), (&[1, 2, 3, 4][..], &[1..2, 3..4][..], "first"));
        assert_eq!((rows.ids(1), rows.trained(1).len(), rows.name(1)), (&[4][..], 0, ""));
        assert_eq!((rows.ids(2), rows.trained(2).first(), rows.name(2)), (&[5, 6][..], Some(&(1..2)), "third"));
    }

    #[test]
    fn the_first_few_are_named() {
        let (mut all, mut later) = (Named::default(), Named::default());
        for row in 0..3 {
            all.add("a", row);
            later.add("b", row);
        }
        all.join(later);
        assert_eq!(all.rows, 6);
        assert_eq!(all.first, ["a: row 0", "a: row 1", "a: row 2", "b: row 0", "b: row 1"]);
    }
}
