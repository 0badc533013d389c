//! What ends a file, and what ends a batch. A row that is bad is no error: see [`crate::BadRow`].

use crate::cutter::Place;

/// Damage that leaves nothing to go on from. The text goes behind the file's name and a space.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The array's own frame, or an element of it, is no JSON; rows count from 0, lines and columns from 1.
    #[error("is not a valid JSON array: row {row}, line {line}, column {column}: {reason}")]
    Array {
        /// The element.
        row: u64,
        /// The line.
        line: u64,
        /// The character on that line.
        column: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Bytes of an array or a CSV file that are no text.
    #[error("is not UTF-8 text: line {line} holds byte 0x{byte:02x}")]
    NotUtf8 {
        /// The line, counted from 1.
        line: u64,
        /// The first byte that does not fit.
        byte: u8,
    },
    /// The first record of a CSV file does not parse.
    #[error("has no CSV header: line 1 {reason}")]
    CsvHeader {
        /// What is wrong with it.
        reason: String,
    },
    /// Two columns of one name.
    #[error("has column `{name}` twice in its CSV header")]
    CsvTwice {
        /// The name.
        name: String,
    },
}

impl FrameError {
    /// The same damage seen from the file, for damage that was found in a block.
    ///
    /// `first_row` is the number of records before the block; `place` is where the block begins.
    #[must_use]
    pub fn at(self, first_row: u64, place: Place) -> Self {
        match self {
            Self::Array { row, line, column, reason } => Self::Array {
                row: row + first_row,
                line: line + place.line,
                column: if line == 1 { column + place.column } else { column },
                reason,
            },
            Self::NotUtf8 { line, byte } => Self::NotUtf8 { line: line + place.line, byte },
            header @ (Self::CsvHeader { .. } | Self::CsvTwice { .. }) => header,
        }
    }

    /// What to try, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Array { .. } => Some("the file may be torn; one object a line (JSONL) can be read around bad rows"),
            Self::NotUtf8 { .. } | Self::CsvHeader { .. } | Self::CsvTwice { .. } => None,
        }
    }
}

/// Why a batch cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The layout was not joined with the block's own.
    #[error("column `{column}` holds a value that does not fit the layout's type {found}")]
    NotCovered {
        /// The column.
        column: String,
        /// Its type in the layout.
        found: String,
    },
    /// More text in one column of one block than Arrow's 32-bit offsets reach.
    #[error("column `{column}` holds more than 2 GiB in one block of rows")]
    TooLong {
        /// The column.
        column: String,
    },
    /// Two columns of one name.
    #[error("column `{column}` stands there twice")]
    Twice {
        /// The name.
        column: String,
    },
    /// Arrow refuses.
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
}
