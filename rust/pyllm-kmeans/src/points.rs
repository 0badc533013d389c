//! A matrix of rows, borrowed.

use rayon::prelude::*;

use crate::error::KmeansError;

/// Rows of `dim` coordinates each, one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Points<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> Points<'a> {
    /// Borrows rows.
    ///
    /// # Errors
    /// `dim` is 0, or the values do not make whole rows.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self, KmeansError> {
        if dim == 0 {
            Err(KmeansError::NoDimensions)
        } else if !values.len().is_multiple_of(dim) {
            Err(KmeansError::Shape { values: values.len(), dim })
        } else {
            Ok(Self { values, dim })
        }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        self.values.len() / self.dim
    }

    /// Coordinates of a row.
    #[must_use]
    pub fn dim(self) -> usize {
        self.dim
    }

    pub(crate) fn row(self, row: usize) -> &'a [f32] {
        &self.values[row * self.dim..(row + 1) * self.dim]
    }

    /// The values of up to `count` rows.
    pub(crate) fn rows_from(self, first: usize, count: usize) -> &'a [f32] {
        let last = self.rows().min(first + count);
        &self.values[first * self.dim..last * self.dim]
    }

    pub(crate) fn copy_rows(self, rows: &[usize]) -> Vec<f32> {
        let mut copy = Vec::with_capacity(rows.len() * self.dim);
        for &row in rows {
            copy.extend_from_slice(self.row(row));
        }
        copy
    }

    /// Names the first value that is NaN or infinite.
    pub(crate) fn check_finite(self) -> Result<(), KmeansError> {
        match self.values.par_iter().position_first(|value| !value.is_finite()) {
            None => Ok(()),
            Some(at) => {
                Err(KmeansError::NotFinite { row: at / self.dim, column: at % self.dim, value: self.values[at] })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_columns_and_broken_rows_are_refused() {
        assert_eq!(Points::new(&[], 0).unwrap_err(), KmeansError::NoDimensions);
        assert_eq!(Points::new(&[1.0; 5], 2).unwrap_err(), KmeansError::Shape { values: 5, dim: 2 });
    }

    #[test]
    fn the_first_bad_value_is_named() {
        let values = [0.0, 1.0, 2.0, f32::NEG_INFINITY, f32::NAN, 5.0];
        let error = Points::new(&values, 2).unwrap().check_finite().unwrap_err();
        assert_eq!(error, KmeansError::NotFinite { row: 1, column: 1, value: f32::NEG_INFINITY });
        assert_eq!(error.to_string(), "row 1 is not finite: column 1 is -inf");
    }
}
