//! What can go wrong, with the file and the row in the message.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why no shards were written.
#[derive(Debug, Error)]
pub enum ShardError {
    /// A source cannot be opened or read.
    #[error("cannot read {shown}: {reason}")]
    Read {
        /// The source as it was named.
        shown: String,
        /// What the system says.
        reason: String,
    },
    /// A source holds no bytes, or blanks only.
    #[error("{shown} is empty")]
    Empty {
        /// The source as it was named.
        shown: String,
        /// Whether it is standard input.
        piped: bool,
    },
    /// A source is torn, damaged, or in no format that is known.
    #[error("{shown} {problem}")]
    Damaged {
        /// The source as it was named.
        shown: String,
        /// What is wrong with it, where.
        problem: String,
        /// What to try.
        hint: Option<String>,
    },
    /// A source is sound, but has no records.
    #[error("{shown} holds no rows")]
    NoRows {
        /// The source as it was named.
        shown: String,
    },
    /// None of a source's rows can be read.
    #[error("{message}")]
    NoGoodRows {
        /// The whole message, with the first bad row.
        message: String,
        /// What to try.
        hint: Option<String>,
    },
    /// Bad rows are refused.
    #[error("{shown}: {place}{more}")]
    BadRow {
        /// The source as it was named.
        shown: String,
        /// The first bad row and what is wrong with it.
        place: String,
        /// How many more there are.
        more: String,
    },
    /// The rows of a block do not fit one table.
    #[error("{shown} cannot be stored: {reason}")]
    Unstorable {
        /// The source as it was named.
        shown: String,
        /// Why not, from which row on.
        reason: String,
    },
    /// A source was changed while it was read.
    #[error("{shown} changed while it was read")]
    Changed {
        /// The source as it was named.
        shown: String,
    },
    /// The folder holds what another command left there.
    #[error("`--out {folder}` {problem}")]
    Taken {
        /// The folder.
        folder: String,
        /// What stands in it.
        problem: String,
        /// What to try.
        hint: String,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Setting(String),
    /// A file cannot be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The system refuses more threads.
    #[error("could not start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// What the system says.
        reason: String,
    },
    /// Parquet refuses the columns: a bug.
    #[error("internal error: cannot encode the columns: {0}")]
    Encode(#[from] parquet::errors::ParquetError),
    /// The caller asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// Something that cannot happen: a bug.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ShardError {
    /// What to try next, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged { hint, .. } | Self::NoGoodRows { hint, .. } => hint.clone(),
            Self::Empty { piped: true, .. } => Some("the command before it may have failed".to_owned()),
            Self::BadRow { .. } => Some("without `--strict`, bad rows are left out and named".to_owned()),
            Self::Taken { hint, .. } => Some(hint.clone()),
            Self::Changed { .. } => Some("run the command again when nothing writes to it".to_owned()),
            Self::Read { .. }
            | Self::Empty { piped: false, .. }
            | Self::NoRows { .. }
            | Self::Setting(_)
            | Self::Unstorable { .. }
            | Self::Write { .. }
            | Self::Threads { .. }
            | Self::Encode(_)
            | Self::Interrupted
            | Self::Internal(_) => None,
        }
    }

    pub(crate) fn read(shown: &str, error: &io::Error) -> Self {
        Self::Read { shown: shown.to_owned(), reason: reason_of(error) }
    }

    pub(crate) fn write(path: &Path, error: &io::Error) -> Self {
        Self::Write { path: path.to_owned(), reason: reason_of(error) }
    }

    pub(crate) fn damaged(shown: &str, problem: impl Into<String>) -> Self {
        Self::Damaged { shown: shown.to_owned(), problem: problem.into(), hint: None }
    }
}

/// What the system says about an error, without its number and in lower case.
pub(crate) fn reason_of(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = text.find(" (os error").map_or(text.as_str(), |end| &text[..end]);
    lowered(plain)
}

/// The text with its first letter in lower case.
pub(crate) fn lowered(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}
