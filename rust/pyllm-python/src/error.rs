//! Every Rust error, variant by variant, as the Python class that `pyllm.errors` has for it.
//!
//! No arm catches all: a new variant does not compile until its class is chosen here.

use numpy::{Element, PyReadonlyArray, PyUntypedArrayMethods, ndarray};
use pyllm_golden::GoldenError;
use pyllm_kmeans::KmeansError;
use pyllm_logprobs::LogprobsError;
use pyllm_pack::PackError;
use pyllm_shard::ShardError;
use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::types::{PyAnyMethods, PyDict, PyDictMethods};
use pyo3::{PyErr, PyResult, PyTypeInfo, Python};
use rayon::ThreadPoolBuildError;

use crate::examples::ReadRowsError;

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
    /// Rows come in single or half precision.
    #[error("array `{name}` is {found}, but 2-dimensional float32 or float16 is wanted")]
    RowType {
        /// The argument.
        name: &'static str,
        /// Its type, or what it is instead of an array.
        found: String,
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
            Self::NotContiguous { .. } | Self::RowType { .. } | Self::LeftOutShape { .. } => {
                python::InputError::new_err(message)
            }
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
            Self::NoDimensions
            | Self::Shape { .. }
            | Self::NotFinite { .. }
            | Self::NoSuchRow { .. }
            | Self::InitialShape { .. }
            | Self::InitialNotFinite { .. } => python::InputError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}

impl IntoPyErr for PackError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Length { .. } | Self::NoOpenBins | Self::NoRows | Self::Compression { .. } => {
                python::SettingError::new_err(message)
            }
            Self::Sequence { .. }
            | Self::TooManySequences { .. }
            | Self::Arrays { .. }
            | Self::Text { .. }
            | Self::Damaged { .. }
            | Self::Open { .. }
            | Self::Column { .. }
            | Self::NoContent { .. }
            | Self::TooLong { .. } => python::InputError::new_err(message),
            Self::Tokenizer { .. } | Self::Write { .. } => python::PrerequisiteError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}

impl IntoPyErr for ShardError {
    fn into_py_err(self) -> PyErr {
        let (message, hint) = (self.to_string(), self.hint());
        match self {
            Self::Setting(_) | Self::Taken { .. } => hinted::<python::SettingError>(message, hint),
            Self::Read { .. }
            | Self::Empty { .. }
            | Self::Damaged { .. }
            | Self::NoRows { .. }
            | Self::NoGoodRows { .. }
            | Self::BadRow { .. }
            | Self::Unstorable { .. }
            | Self::Changed { .. } => hinted::<python::InputError>(message, hint),
            Self::Write { .. } | Self::Threads { .. } => hinted::<python::PrerequisiteError>(message, hint),
            Self::Encode(_) | Self::Internal(_) => PyRuntimeError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}

/// One of our exceptions with its hint, which is an argument by name.
fn hinted<E: PyTypeInfo>(message: String, hint: Option<String>) -> PyErr {
    Python::attach(|py| {
        let named = PyDict::new(py);
        let made = named.set_item("hint", hint).and_then(|()| py.get_type::<E>().call((message,), Some(&named)));
        made.map_or_else(|error| error, PyErr::from_value)
    })
}

impl IntoPyErr for LogprobsError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        let hint = self.hint();
        match self {
            Self::Golden(error) => error.into_py_err(),
            Self::Read { .. }
            | Self::UnknownFormat { .. }
            | Self::Damaged { .. }
            | Self::Array { .. }
            | Self::NoColumn { .. }
            | Self::WhichColumn { .. }
            | Self::ColumnType { .. }
            | Self::NullId { .. }
            | Self::Ragged { .. }
            | Self::AnchorCount { .. }
            | Self::NoAnchors { .. }
            | Self::AnchorTwice { .. }
            | Self::UnknownAnchor { .. }
            | Self::UnknownColumn { .. }
            | Self::PairTwice { .. }
            | Self::MissingPairs { .. }
            | Self::MixedIds { .. }
            | Self::MixedLayouts { .. } => with_hint(python::InputError::new_err(message), hint),
            Self::NoInputs => python::SettingError::new_err(message),
            Self::Write { .. } => python::PrerequisiteError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}

/// The exception with its `hint` set; without one, should the class not take it.
fn with_hint(error: PyErr, hint: Option<&str>) -> PyErr {
    if let Some(hint) = hint {
        drop(Python::attach(|py| error.value(py).setattr("hint", hint)));
    }
    error
}

impl IntoPyErr for ReadRowsError {
    fn into_py_err(self) -> PyErr {
        let message = self.to_string();
        match self {
            Self::Format(_) | Self::Mode(_) | Self::Shape(_) => python::SettingError::new_err(message),
            Self::Frame { damage, .. } => with_hint(python::InputError::new_err(message), damage.hint()),
            Self::Damaged { .. } | Self::Rows { .. } => python::InputError::new_err(message),
            // Never seen: the exception that asked for the end is raised in its place.
            Self::Interrupted => PyKeyboardInterrupt::new_err(message),
        }
    }
}
