//! What can go wrong while packing.

/// Everything that packing refuses.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A packed row holds at least two tokens, or nothing in it can be predicted, and few enough for the tables.
    #[error("`length` is {length}: between 2 and {} is wanted", crate::MOST_TOKENS)]
    Length {
        /// Tokens of a packed row, as asked for.
        length: u32,
    },
    /// Online packing needs a bin to put things into.
    #[error("`open_bins` is 0: at least 1 is wanted")]
    NoOpenBins,
    /// Packed rows in each file.
    #[error("`rows_per_shard` is 0: at least 1 is wanted")]
    NoRows,
    /// A compression that Parquet does not know, or not at that level.
    #[error("compression `{name}` is unknown")]
    Compression {
        /// As asked for.
        name: String,
    },
    /// A sequence that fits no bin.
    #[error("sequence {sequence} has {tokens} tokens, not between 1 and {capacity}")]
    Sequence {
        /// Its place.
        sequence: usize,
        /// Its tokens.
        tokens: u32,
        /// Tokens of a bin.
        capacity: u32,
    },
    /// Places are numbered with 32 bits.
    #[error("{sequences} sequences at once: at most {} are possible", u32::MAX)]
    TooManySequences {
        /// How many there are.
        sequences: usize,
    },
    /// Arrays of tokenized rows that do not belong together.
    #[error("the arrays of the rows do not fit together: {reason}")]
    Arrays {
        /// What does not fit.
        reason: String,
    },
    /// The tokenizer cannot be read by this engine.
    #[error("the tokenizer cannot be used: {reason}")]
    Tokenizer {
        /// Why.
        reason: String,
    },
    /// The tokenizer refuses a text.
    #[error("{file}: row {row}: the tokenizer refuses it: {reason}")]
    Text {
        /// Name of the table.
        file: String,
        /// 0-based row.
        row: u64,
        /// Why.
        reason: String,
    },
    /// A table cannot be read.
    #[error("{file} is damaged and cannot be read as parquet: {reason}")]
    Damaged {
        /// Name of the table.
        file: String,
        /// Why.
        reason: String,
    },
    /// A table cannot be opened.
    #[error("cannot read {file}: {reason}")]
    Open {
        /// Name of the table.
        file: String,
        /// Why.
        reason: String,
    },
    /// A column that every table of examples has.
    #[error("{file}: column `{column}` is missing or has another type than tables of examples give it")]
    Column {
        /// Name of the table.
        file: String,
        /// The column.
        column: &'static str,
    },
    /// A row without content.
    #[error("{file}: row {row} has neither `instruction` nor `messages`")]
    NoContent {
        /// Name of the table.
        file: String,
        /// 0-based row.
        row: u64,
    },
    /// A row above the length, where such rows are an error.
    #[error("{file}: row {row} has {tokens} tokens, more than the length {length}")]
    TooLong {
        /// Name of the table.
        file: String,
        /// 0-based row.
        row: u64,
        /// Its tokens.
        tokens: usize,
        /// Tokens of a packed row.
        length: u32,
    },
    /// Output that cannot be written.
    #[error("cannot write {path}: {reason}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The caller asked for an end.
    #[error("interrupted")]
    Interrupted,
}

/// What an error of the system says, as part of a sentence.
pub(crate) fn reason(error: &dyn std::error::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
