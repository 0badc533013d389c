//! Why rows cannot be clustered.

/// Why rows cannot be clustered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KmeansError {
    /// No cluster is wanted.
    #[error("`k` is 0, but at least one cluster is wanted")]
    NoClusters,
    /// Each cluster needs a row of its own.
    #[error("`k` is {k}, but there are only {limit} rows")]
    TooManyClusters {
        /// Clusters wanted.
        k: usize,
        /// Rows given (or the most that labels can count).
        limit: usize,
    },
    /// A share is wanted.
    #[error("`tolerance` is {tolerance}, but a finite share of 0 or more is wanted")]
    Tolerance {
        /// The value given.
        tolerance: f64,
    },
    /// Rows without coordinates.
    #[error("the rows have no columns")]
    NoDimensions,
    /// The values do not fill whole rows.
    #[error("{values} values do not make whole rows of {dim} columns")]
    Shape {
        /// Values given.
        values: usize,
        /// Columns of a row.
        dim: usize,
    },
    /// A coordinate is NaN or infinite.
    #[error("row {row} is not finite: column {column} is {value}")]
    NotFinite {
        /// First such row, counted from 0.
        row: usize,
        /// First such column in it, counted from 0.
        column: usize,
        /// What stands there.
        value: f32,
    },
    /// A row was chosen that is not there.
    #[error("row {row} was chosen, but there are only {rows} rows")]
    NoSuchRow {
        /// The row, counted from 0.
        row: u32,
        /// Rows given.
        rows: usize,
    },
    /// Initial centroids do not fit the rows or `k`.
    #[error("{values} values do not make {k} initial centroids of {dim} columns")]
    InitialShape {
        /// Values given.
        values: usize,
        /// Clusters wanted.
        k: usize,
        /// Columns of a row.
        dim: usize,
    },
    /// A coordinate of an initial centroid is NaN or infinite.
    #[error("initial centroid {centroid} is not finite: column {column} is {value}")]
    InitialNotFinite {
        /// First such centroid, counted from 0.
        centroid: usize,
        /// First such column in it, counted from 0.
        column: usize,
        /// What stands there.
        value: f32,
    },
    /// The caller asked for the end.
    #[error("interrupted")]
    Interrupted,
}
