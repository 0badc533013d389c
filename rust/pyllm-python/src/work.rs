//! Runs work away from the interpreter, on threads of its own, and answers Ctrl-C meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rayon::ThreadPoolBuilder;

use crate::error::{BindingError, IntoPyErr};

/// How long Ctrl-C may go unnoticed.
const SIGNALS_EVERY: Duration = Duration::from_millis(50);

/// Runs `work` in a rayon pool made for this call, never in the global one: 0 threads means all cores.
///
/// Python hands signals to its main thread only, so the calling thread does no work: it waits and looks for signals.
/// Once one raises, the flag that `work` is given turns true, and its exception is returned when `work` has ended.
/// A pool lives as long as the call because its threads would not survive a fork.
pub(crate) fn run<T: Send>(py: Python<'_>, threads: usize, work: impl FnOnce(&AtomicBool) -> T + Send) -> PyResult<T> {
    py.detach(|| {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|source| BindingError::Threads { threads, source }.into_py_err())?;
        let interrupted = AtomicBool::new(false);
        let (result, finished) = sync_channel(1);
        pool.in_place_scope(|scope| {
            let flag = &interrupted;
            // Nobody listens any more once a signal has been answered.
            scope.spawn(move |_| drop(result.send(work(flag))));
            loop {
                match finished.recv_timeout(SIGNALS_EVERY) {
                    Ok(value) => return Ok(value),
                    Err(RecvTimeoutError::Timeout) => {
                        #[expect(
                            clippy::redundant_closure_for_method_calls,
                            reason = "the method has one lifetime only"
                        )]
                        let signals = Python::attach(|py| py.check_signals());
                        if let Err(signal) = signals {
                            interrupted.store(true, Ordering::Relaxed);
                            return Err(signal);
                        }
                    }
                    // The work panicked: the scope raises that when it closes, and this is never seen.
                    Err(RecvTimeoutError::Disconnected) => {
                        return Err(PyRuntimeError::new_err("the work ended without a result"));
                    }
                }
            }
        })
    })
}
