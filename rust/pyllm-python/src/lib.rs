//! The Python face of the Rust crates: the module `pyllm._core`.
//!
//! Each function borrows arrays without copying, lets go of the interpreter for the work, and converts the result.
//! Errors become the classes of `pyllm.errors`; Ctrl-C is answered while the work runs.

mod error;
mod examples;
mod golden;
mod kmeans;
mod logprobs;
mod pack;
mod shard;
mod work;

/// Blocks of rows are built and dropped all day long: this allocator keeps their memory, the system's hands it back to the
/// kernel and asks for it again, page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exact, CPU-bound work of pyllm.
#[pyo3::pymodule]
mod _core {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::examples::{ReadRows, read_rows};

    #[pymodule_export]
    use crate::golden::{GoldenScores, golden_scores, golden_wins};

    #[pymodule_export]
    use crate::kmeans::{KMeansResult, kmeans};

    #[pymodule_export]
    use crate::pack::{PackSummary, Packer, Packing, RowTokenizer, pack_best_fit};

    #[pymodule_export]
    use crate::shard::{ShardSummary, shard};

    #[pymodule_export]
    use crate::logprobs::{AggregateSummary, MatrixWriter, aggregate_logprobs, logprobs_metadata, read_zero_shot};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
