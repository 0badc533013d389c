//! A matrix of rows, borrowed.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::distance::norm;
use crate::error::KmeansError;

/// Rows that are looked at between two looks at `interrupted`.
const CHECKED_ROWS: usize = 256;

/// Rows of `dim` coordinates each, one after the other, in single or half precision.
#[derive(Debug, Clone, Copy)]
pub struct Points<'a> {
    values: Values<'a>,
    dim: usize,
    /// The rows meant, where they are not all.
    chosen: Option<&'a [u32]>,
}

#[derive(Debug, Clone, Copy)]
enum Values<'a> {
    Single(&'a [f32]),
    Half(&'a [f16]),
}

impl<'a> Points<'a> {
    /// Borrows rows.
    ///
    /// # Errors
    /// `dim` is 0, or the values do not make whole rows.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self, KmeansError> {
        Self::checked(Values::Single(values), values.len(), dim)
    }

    /// Borrows rows in half precision; they are widened a block at a time, which changes no value.
    ///
    /// # Errors
    /// `dim` is 0, or the values do not make whole rows.
    pub fn half(values: &'a [f16], dim: usize) -> Result<Self, KmeansError> {
        Self::checked(Values::Half(values), values.len(), dim)
    }

    fn checked(values: Values<'a>, count: usize, dim: usize) -> Result<Self, KmeansError> {
        if dim == 0 {
            Err(KmeansError::NoDimensions)
        } else if !count.is_multiple_of(dim) {
            Err(KmeansError::Shape { values: count, dim })
        } else {
            Ok(Self { values, dim, chosen: None })
        }
    }

    /// Some of the rows, by number; errors go on naming rows by their number in the whole.
    ///
    /// # Errors
    /// A number is beyond the last row.
    pub fn select(self, chosen: &'a [u32]) -> Result<Self, KmeansError> {
        match chosen.iter().find(|&&row| row as usize >= self.rows()) {
            Some(&row) => Err(KmeansError::NoSuchRow { row, rows: self.rows() }),
            None => Ok(self.only(chosen)),
        }
    }

    /// Some of all rows, by number.
    pub(crate) fn only(self, chosen: &'a [u32]) -> Self {
        Self { chosen: Some(chosen), ..self }
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(self) -> usize {
        let count = match self.values {
            Values::Single(values) => values.len(),
            Values::Half(values) => values.len(),
        };
        self.chosen.map_or(count / self.dim, <[u32]>::len)
    }

    /// Coordinates of a row.
    #[must_use]
    pub fn dim(self) -> usize {
        self.dim
    }

    /// What rows of this selection are numbered in the matrix.
    pub(crate) fn numbers(self, rows: &[usize]) -> Vec<u32> {
        rows.iter().map(|&row| self.chosen.map_or(row as u32, |chosen| chosen[row])).collect()
    }

    fn start(self, row: usize) -> usize {
        self.chosen.map_or(row, |chosen| chosen[row] as usize) * self.dim
    }

    /// A row, which is widened into `buffer` if need be.
    pub(crate) fn row<'b>(self, row: usize, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let start = self.start(row);
        match self.values {
            Values::Single(values) => &values[start..start + self.dim],
            Values::Half(values) => {
                buffer.resize(self.dim, 0.0);
                values[start..start + self.dim].convert_to_f32_slice(buffer);
                buffer
            }
        }
    }

    /// `count` rows from `first` on, with rows of zeros where there are no more; copied into `buffer` if need be.
    pub(crate) fn block<'b>(self, first: usize, count: usize, buffer: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let last = self.rows().min(first + count);
        if let (Values::Single(values), None) = (self.values, self.chosen)
            && last == first + count
        {
            return &values[first * self.dim..last * self.dim];
        }
        buffer.clear();
        buffer.resize(count * self.dim, 0.0);
        for (row, copy) in (first..last).zip(buffer.chunks_exact_mut(self.dim)) {
            let start = self.start(row);
            match self.values {
                Values::Single(values) => copy.copy_from_slice(&values[start..start + self.dim]),
                Values::Half(values) => values[start..start + self.dim].convert_to_f32_slice(copy),
            }
        }
        buffer
    }

    /// The Euclidean norm of every row, rounded up.
    ///
    /// # Errors
    /// A value is NaN or infinite: the first one is named. Or it was interrupted.
    pub(crate) fn norms(self, interrupted: &(dyn Fn() -> bool + Sync)) -> Result<Vec<f32>, KmeansError> {
        let mut norms = vec![0.0_f32; self.rows()];
        let blocks = norms.par_chunks_mut(CHECKED_ROWS).enumerate();
        let bad = blocks.map_init(Vec::new, |buffer, (block, norms)| {
            if interrupted() {
                return Some(KmeansError::Interrupted);
            }
            for (offset, found) in norms.iter_mut().enumerate() {
                let number = block * CHECKED_ROWS + offset;
                let row = self.row(number, buffer);
                let exact = norm(row);
                if !exact.is_finite() {
                    let column = row.iter().position(|value| !value.is_finite()).unwrap_or(0);
                    let number = self.chosen.map_or(number, |chosen| chosen[number] as usize);
                    return Some(KmeansError::NotFinite { row: number, column, value: row[column] });
                }
                *found = rounded_up(exact);
            }
            None
        });
        match bad.find_map_first(|error| error) {
            Some(error) => Err(error),
            None => Ok(norms),
        }
    }
}

/// The next larger number in single precision: no smaller than `value` however it was rounded on the way.
pub(crate) fn rounded_up(value: f64) -> f32 {
    (value as f32).next_up()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_columns_and_broken_rows_are_refused() {
        assert_eq!(Points::new(&[], 0).unwrap_err(), KmeansError::NoDimensions);
        assert_eq!(Points::new(&[1.0; 5], 2).unwrap_err(), KmeansError::Shape { values: 5, dim: 2 });
        assert_eq!(Points::half(&[f16::ONE; 5], 2).unwrap_err(), KmeansError::Shape { values: 5, dim: 2 });
    }

    #[test]
    fn the_first_bad_value_is_named() {
        let values = [0.0, 1.0, 2.0, f32::NEG_INFINITY, f32::NAN, 5.0];
        let error = Points::new(&values, 2).unwrap().norms(&|| false).unwrap_err();
        assert_eq!(error, KmeansError::NotFinite { row: 1, column: 1, value: f32::NEG_INFINITY });
        assert_eq!(error.to_string(), "row 1 is not finite: column 1 is -inf");
    }

    #[test]
    fn chosen_rows_keep_their_numbers_in_errors() {
        let points = Points::new(&[1.0, f32::NAN, 3.0, f32::INFINITY], 1).unwrap();
        let error = points.select(&[2, 0, 3]).unwrap().norms(&|| false).unwrap_err();
        assert_eq!(error, KmeansError::NotFinite { row: 3, column: 0, value: f32::INFINITY });
        assert_eq!(points.select(&[0, 4]).unwrap_err(), KmeansError::NoSuchRow { row: 4, rows: 4 });
    }

    #[test]
    fn norms_are_never_too_small() {
        let values = [3.0, 4.0, 0.1, 0.7, f32::MAX, f32::MAX];
        let norms = Points::new(&values, 2).unwrap().norms(&|| false).unwrap();
        for (norm, row) in norms.iter().zip(values.chunks_exact(2)) {
            assert!(f64::from(*norm) >= f64::from(row[0]).hypot(f64::from(row[1])));
        }
    }

    #[test]
    fn blocks_widen_choose_and_fill_up() {
        let halves: Vec<f16> = (0..8).map(|value| f16::from_f32(value as f32 * 0.5)).collect();
        let points = Points::half(&halves, 2).unwrap();
        let mut buffer = Vec::new();
        assert_eq!(points.row(3, &mut buffer), [3.0, 3.5]);
        let chosen = [3, 1];
        assert_eq!(points.only(&chosen).rows(), 2);
        assert_eq!(points.only(&chosen).block(0, 3, &mut buffer), [3.0, 3.5, 1.0, 1.5, 0.0, 0.0]);
        let whole = [1.0, 2.0, 3.0, 4.0];
        let points = Points::new(&whole, 2).unwrap();
        assert_eq!(points.block(0, 2, &mut Vec::new()).as_ptr(), whole.as_ptr());
        assert_eq!(points.block(1, 2, &mut buffer), [3.0, 4.0, 0.0, 0.0]);
    }
}
