//! What can be wrong with tables of log-probabilities.

use std::path::{Path, PathBuf};

use pyllm_golden::GoldenError;

/// Why log-probabilities cannot be aggregated.
#[derive(Debug, thiserror::Error)]
pub enum LogprobsError {
    /// The file is not there, or the system does not let it be read.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The table cannot be written: no permission, no room.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The file is in no format that is known.
    #[error("{} is neither Parquet, nor Arrow IPC, nor a NumPy array", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file is torn, or its parts do not fit together.
    #[error("{} is damaged and cannot be read as {format}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it began like.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A `NumPy` array has another type or shape.
    #[error("{} holds {found}, but {wanted} is wanted", path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
        /// What it should hold.
        wanted: &'static str,
    },
    /// A column that was named, or that is needed, is not there.
    #[error("column `{column}` is missing from {} (found {found})", path.display())]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns that are there.
        found: String,
    },
    /// No column, or more than one, could be what is wanted.
    #[error("{} has {number} that could be {wanted} (found {found})", path.display())]
    WhichColumn {
        /// The file.
        path: PathBuf,
        /// How many there are.
        number: &'static str,
        /// What is wanted.
        wanted: &'static str,
        /// The columns that are there.
        found: String,
    },
    /// A column holds values of another type.
    #[error("column `{column}` of {} holds {found}, not {wanted}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The types that do.
        wanted: &'static str,
    },
    /// A row lacks its name.
    #[error("`{column}` of row {row} of {} is null", path.display())]
    NullId {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The row, from 0.
        row: u64,
    },
    /// Rows have more or fewer values than there are anchors.
    #[error("row {row} of {} has {found} log-probabilities, but there are {wanted} anchors", path.display())]
    Ragged {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u64,
        /// Its values.
        found: usize,
        /// Anchors of the zero-shot sums.
        wanted: usize,
    },
    /// The zero-shot sums are not as many as the anchors that a file names.
    #[error("{} has {found} anchors, but there are {wanted} zero-shot sums", path.display())]
    AnchorCount {
        /// The file.
        path: PathBuf,
        /// Anchors it names.
        found: usize,
        /// Zero-shot sums.
        wanted: usize,
    },
    /// There is nothing to compare with.
    #[error("{} holds no zero-shot sums", path.display())]
    NoAnchors {
        /// The file.
        path: PathBuf,
    },
    /// Two zero-shot sums have one name.
    #[error("anchor `{anchor}` stands twice in the zero-shot sums")]
    AnchorTwice {
        /// The anchor.
        anchor: String,
    },
    /// A pair is with an anchor that has no zero-shot sum.
    #[error("anchor `{anchor}` of row {row} of {} has no zero-shot sum", path.display())]
    UnknownAnchor {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: u64,
        /// The anchor.
        anchor: String,
    },
    /// A matrix names an anchor that has no zero-shot sum.
    #[error("anchor `{anchor}` of {} has no zero-shot sum", path.display())]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The anchor.
        anchor: String,
    },
    /// A pair stands twice.
    #[error("candidate `{candidate}` has anchor `{anchor}` twice in {}", path.display())]
    PairTwice {
        /// The file.
        path: PathBuf,
        /// The candidate.
        candidate: String,
        /// The anchor.
        anchor: String,
    },
    /// Pairs are not there.
    #[error(
        "candidate `{candidate}` of {} has no log-probability for anchor `{anchor}` \
         (pairs missing: {pairs}, of candidates: {candidates})",
        path.display()
    )]
    MissingPairs {
        /// The file in which the candidate first appears.
        path: PathBuf,
        /// The first candidate that is not whole.
        candidate: String,
        /// The first anchor it lacks.
        anchor: String,
        /// How many pairs are missing in all.
        pairs: u64,
        /// How many candidates are not whole.
        candidates: u64,
    },
    /// The files do not agree on what an id is.
    #[error("ids of {} are {found}, but those of {} are {wanted}", path.display(), first.display())]
    MixedIds {
        /// The file.
        path: PathBuf,
        /// Type of its ids.
        found: String,
        /// The file before it.
        first: PathBuf,
        /// Type of the ids of that file.
        wanted: String,
    },
    /// Rows of lists and pairs cannot be added up together.
    #[error("{} has a row for each pair, but {} has a row for each candidate", pairs.display(), rows.display())]
    MixedLayouts {
        /// A file of pairs.
        pairs: PathBuf,
        /// A file of rows.
        rows: PathBuf,
    },
    /// There is no file to read.
    #[error("no file of log-probabilities is given")]
    NoInputs,
    /// The scores cannot be computed.
    #[error(transparent)]
    Golden(#[from] GoldenError),
    /// The caller asked for the end.
    #[error("interrupted")]
    Interrupted,
}

impl LogprobsError {
    /// What to try.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MissingPairs { .. } => {
                Some("add them, or give --missing skip to score over the pairs that are there")
            }
            Self::WhichColumn { .. } => Some("name the columns: --candidate-column, --anchor-column, --value-column"),
            Self::UnknownAnchor { .. } | Self::UnknownColumn { .. } => {
                Some("anchors are named by the zero-shot file; without names they are numbered from 0")
            }
            Self::Ragged { .. } | Self::AnchorCount { .. } => Some("is this the zero-shot file of these rows?"),
            _ => None,
        }
    }

    /// An error of the system while a file was read.
    pub(crate) fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), reason: reason_of(error) }
    }

    /// An error of the system while a file was written.
    pub(crate) fn write(path: &Path, error: &std::io::Error) -> Self {
        Self::Write { path: path.to_owned(), reason: reason_of(error) }
    }

    /// An error of a reader of formats; the first line of what it says.
    pub(crate) fn damaged(path: &Path, format: &'static str, error: impl std::fmt::Display) -> Self {
        let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
        Self::Damaged { path: path.to_owned(), format, reason }
    }

    /// The same error, `rows` further down in its file.
    pub(crate) fn further_down(mut self, rows: u64) -> Self {
        if let Self::NullId { row, .. } | Self::Ragged { row, .. } | Self::UnknownAnchor { row, .. } = &mut self {
            *row += rows;
        }
        self
    }
}

/// What the system says, without its number, in the form of our messages.
fn reason_of(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}
