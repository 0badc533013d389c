//! Every Rust error, variant by variant, as the Python class that `pyllm.errors` has for it.
//!
//! No arm catches all: a new variant does not compile until its class is chosen here.

use numpy::{Element, PyReadonlyArray, PyUntypedArrayMethods, ndarray};
use pyllm_golden::GoldenError;
use pyllm_kmeans::KmeansError;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::{PyErr, PyResult};
use rayon::ThreadPoolBuildError;

/// The classes of `pyllm.errors`.
mod python {
    pyo3::import_exception!(pyllm.errors, InputError);
    pyo3::import_exception!(pyllm.errors, PrerequisiteError);
    pyo3::import_exception!(pyllm.errors, SettingError);
}

/// What can be wrong before a crate is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BindingError {
    /// Arrays are borrowed as one slice of memory.
    #[error("array `{name}` is not C-contiguous: pass `numpy.ascontiguousarray({name})`")]
    NotContiguous {
        /// The argument.
        name: &'static str,
    },
    /// The mask has the right number of values in the wrong shape, or another number.
    #[error("`left_out` is {found:?}, but `one_shot_nats` is {wanted:?}")]
    LeftOutShape {
        /// Shape of the mask.
        found: [usize; 2],
        /// Shape of the sums.
        wanted: [usize; 2],
    },
    /// The system refuses more threads.
    #[error("could not start the threads (`threads` is {threads}): {source}")]
    Threads {
        /// Threads asked for; 0 for all cores.
        threads: usize,
        /// Why not.
        source: ThreadPoolBuildError,
    },
}

/// The array as one slice of memory, row after row, or the error that names the argument.
pub(crate) fn contiguous<'a, T: Element, D: ndarray::Dimension>(
    name: &'static str,
    array: &'a PyReadonlyArray<'_, T, D>,
) -> PyResult<&'a [T]> {
    // Asked for, because a slice of an array in Fortran's order is handed out too, column after column.
    match array.as_slice() {
        Ok(slice) if array.is_c_contiguous() => Ok(slice),
        Ok(_) | Err(_) => Err(BindingError::NotContiguous { name }.into_py_err()),
    }
}

/// The Python exception of a Rust error.
pub(crate) trait IntoPyErr {
    /// Converts; the message stays as it is.
    fn into_py_err(self) -> PyErr;
}

impl IntoPyErr for BindingError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::NotContiguous { .. } | Self::LeftOutShape { .. } => python::InputError::new_err(message),
            Self::Threads { .. } => python::PrerequisiteError::new_err(message),
        }
    }
}

impl IntoPyErr for GoldenError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::OneShotShape { .. } | Self::LeftOutShape { .. } | Self::TooManyAnchors { .. } => {
                python::InputError::new_err(message)
            }
        }
    }
}

impl IntoPyErr for KmeansError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::NoClusters | Self::TooManyClusters { .. } | Self::Tolerance { .. } => {
                python::SettingError::new_err(message)
            }
            Self::NoDimensions | Self::Shape { .. } | Self::NotFinite { .. } => python::InputError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}
