//! Work on threads, results in order: units are taken in order, each sends its results down a pipe of its own, and the
//! caller empties the pipes one after the other. Pipes are short, so memory stays small however far ahead a thread is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};

use crate::error::LogprobsError;

/// Results that may wait in a pipe.
const WAITING: usize = 4;

/// The end of a pipe that a unit writes to, until a thread takes it.
type Held<T> = Mutex<Option<SyncSender<Result<T, LogprobsError>>>>;

/// Does `work` on every unit and hands its results to `consume`, in the order of the units and of the results.
///
/// # Arguments
/// * `work` - gets the unit, memory that stays with the thread, and where results go.
/// * `broken` - the error of a unit whose work panicked: readers of formats may, on files made to break them.
pub(crate) fn in_order<U: Sync, T: Send, M: Default>(
    units: &[U],
    threads: usize,
    work: impl Fn(&U, &mut M, &mut dyn FnMut(T) -> Result<(), LogprobsError>) -> Result<(), LogprobsError> + Sync,
    broken: impl Fn(&U) -> LogprobsError + Sync,
    mut consume: impl FnMut(&U, T) -> Result<(), LogprobsError>,
) -> Result<(), LogprobsError> {
    let guarded = |unit: &U, memory: &mut M, emit: &mut dyn FnMut(T) -> Result<(), LogprobsError>| {
        catch_unwind(AssertUnwindSafe(|| work(unit, memory, emit))).unwrap_or_else(|_| Err(broken(unit)))
    };
    if threads <= 1 || units.len() <= 1 {
        let mut memory = M::default();
        return units.iter().try_for_each(|unit| guarded(unit, &mut memory, &mut |result| consume(unit, result)));
    }
    let (senders, receivers): (Vec<_>, Vec<_>) = units.iter().map(|_| sync_channel(WAITING)).unzip();
    let senders: Vec<Held<T>> = senders.into_iter().map(|sender| Mutex::new(Some(sender))).collect();
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || {
        let mut memory = M::default();
        while !stopped.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = units.get(place) else { return };
            let Some(sender) = senders[place].lock().ok().and_then(|mut held| held.take()) else { return };
            // A pipe without a reader: the caller has stopped.
            let mut emit = |result| sender.send(Ok(result)).map_err(|_| LogprobsError::Interrupted);
            if let Err(error) = guarded(unit, &mut memory, &mut emit) {
                drop(sender.send(Err(error)));
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.min(units.len()) {
            scope.spawn(worker);
        }
        let empty_pipes = || {
            for (unit, receiver) in units.iter().zip(receivers) {
                for result in receiver {
                    consume(unit, result?)?;
                }
            }
            Ok(())
        };
        let ended = empty_pipes();
        stopped.store(true, Ordering::Relaxed);
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(threads: usize, fail_at: Option<u32>) -> (Vec<u32>, Result<(), LogprobsError>) {
        let units: Vec<u32> = (0..50).collect();
        let mut seen = Vec::new();
        let ended = in_order(
            &units,
            threads,
            |unit, (): &mut (), emit| {
                if Some(*unit) == fail_at {
                    return Err(LogprobsError::NoInputs);
                }
                (0..*unit % 7).try_for_each(|part| emit(unit * 10 + part))
            },
            |_| LogprobsError::NoInputs,
            |_, result| {
                seen.push(result);
                Ok(())
            },
        );
        (seen, ended)
    }

    #[test]
    fn results_come_in_order_on_any_number_of_threads() {
        let (expected, ended) = run(1, None);
        assert!(ended.is_ok() && expected.is_sorted() && expected.len() == 147);
        assert_eq!(run(2, None).0, expected);
        assert_eq!(run(5, None).0, expected);
    }

    #[test]
    fn the_first_failing_unit_ends_the_work() {
        for threads in [1, 3] {
            let (seen, ended) = run(threads, Some(20));
            assert!(matches!(ended, Err(LogprobsError::NoInputs)));
            assert_eq!(seen, run(1, None).0[..seen.len()]);
            assert_eq!(seen.last(), Some(&194));
        }
    }
}
