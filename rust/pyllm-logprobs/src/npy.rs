//! `NumPy` arrays of log-probabilities: `.npy` files of `rows x anchors` float32 or float64.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use arrow_buffer::ScalarBuffer;

use crate::error::LogprobsError;
use crate::input::Memory;

const FORMAT: &str = "a NumPy array";

/// An open array; a vector is one row.
#[derive(Debug)]
pub(crate) struct NpyMatrix {
    file: File,
    offset: u64,
    pub(crate) rows: u64,
    pub(crate) anchors: usize,
    /// How many dimensions the file says it has.
    pub(crate) dimensions: usize,
    wide: bool,
}

/// Values of some rows.
#[derive(Debug)]
pub(crate) enum Values {
    Narrow(ScalarBuffer<f32>),
    Wide(ScalarBuffer<f64>),
}

impl NpyMatrix {
    /// Reads the header and checks that the data behind it is all there.
    pub(crate) fn open(path: &Path, file: File) -> Result<Self, LogprobsError> {
        let torn = |_| LogprobsError::damaged(path, FORMAT, "its header is torn");
        let mut start = [0_u8; 12];
        file.read_exact_at(&mut start, 0).map_err(torn)?;
        let (bytes, begin) = match start[6] {
            1 => (usize::from(u16::from_le_bytes([start[8], start[9]])), 10),
            _ => (u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize, 12),
        };
        let length = file.metadata().map_err(|error| LogprobsError::read(path, &error))?.len();
        if (bytes + begin) as u64 > length {
            return Err(LogprobsError::damaged(path, FORMAT, "its header is torn"));
        }
        let mut header = vec![0_u8; bytes];
        file.read_exact_at(&mut header, begin as u64).map_err(torn)?;
        let header = String::from_utf8_lossy(&header);
        let wide = match field(&header, "descr").trim_matches(['\'', '"']) {
            "<f4" => false,
            "<f8" => true,
            other => return Err(unwanted(path, format!("values of type `{other}`"))),
        };
        let shape: Option<Vec<u64>> = field(&header, "shape")
            .trim_matches(['(', ')'])
            .split(',')
            .map(str::trim)
            .filter(|size| !size.is_empty())
            .map(|size| size.parse().ok())
            .collect();
        let (rows, anchors, dimensions) = match shape.as_deref() {
            Some(&[anchors]) => (1, anchors, 1),
            Some(&[rows, anchors]) => (rows, anchors, 2),
            _ => return Err(unwanted(path, format!("an array of shape {}", field(&header, "shape")))),
        };
        if field(&header, "fortran_order") == "True" && rows > 1 && anchors > 1 {
            return Err(unwanted(path, "columns one after the other (Fortran's order)".to_owned()));
        }
        let size = if wide { 8 } else { 4 };
        let wanted = rows.checked_mul(anchors).and_then(|values| values.checked_mul(size));
        let offset = (begin + bytes) as u64;
        if wanted != Some(length - offset) {
            let reason = format!("{} bytes of values for {rows} rows x {anchors}", length - offset);
            return Err(LogprobsError::damaged(path, FORMAT, reason));
        }
        let anchors = usize::try_from(anchors).map_err(|error| LogprobsError::damaged(path, FORMAT, error))?;
        Ok(Self { file, offset, rows, anchors, dimensions, wide })
    }

    /// Rows that fit into so many bytes, at least one.
    pub(crate) fn rows_in(&self, bytes: usize) -> usize {
        (bytes / self.row_bytes().max(1)).max(1)
    }

    fn row_bytes(&self) -> usize {
        self.anchors * if self.wide { 8 } else { 4 }
    }

    /// Reads some rows and hands them on; memory is taken back afterwards.
    pub(crate) fn read(
        &self,
        path: &Path,
        rows: Range<u64>,
        memory: &mut Memory,
        take: impl FnOnce(&Values) -> Result<(), LogprobsError>,
    ) -> Result<(), LogprobsError> {
        let count = (rows.end - rows.start) as usize;
        let offset = self.offset + rows.start * self.row_bytes() as u64;
        let buffer = memory.read(&self.file, path, offset, count * self.row_bytes())?;
        let held = buffer.clone();
        let values = if self.wide {
            Values::Wide(ScalarBuffer::new(buffer, 0, count * self.anchors))
        } else {
            Values::Narrow(ScalarBuffer::new(buffer, 0, count * self.anchors))
        };
        take(&values)?;
        drop(values);
        memory.take_back(held);
        Ok(())
    }
}

/// The value of a key in the header, which is a Python dict of three plain values.
fn field<'a>(header: &'a str, key: &str) -> &'a str {
    let Some(begin) = header.find(&format!("'{key}':")) else { return "" };
    let value = header[begin + key.len() + 3..].trim_start();
    let end = if value.starts_with('(') { value.find(')').map(|end| end + 1) } else { value.find([',', '}']) };
    value[..end.unwrap_or(value.len())].trim()
}

fn unwanted(path: &Path, found: String) -> LogprobsError {
    let wanted = "a C-ordered array of rows x anchors, float32 or float64 (`<f4`, `<f8`)";
    LogprobsError::Array { path: path.to_owned(), found, wanted }
}
