//! The Python face of the Rust crates: the module `pyllm._core`.
//!
//! Each function borrows arrays without copying, lets go of the interpreter for the work, and converts the result.
//! Errors become the classes of `pyllm.errors`; Ctrl-C is answered while the work runs.

mod error;
mod golden;
mod kmeans;
mod work;

/// The exact, CPU-bound work of pyllm.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::golden::{GoldenScores, golden_scores};

    #[pymodule_export]
    use crate::kmeans::{KMeansResult, kmeans};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
