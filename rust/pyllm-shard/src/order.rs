//! A turnstile: threads that took tickets pass in the order of their numbers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a waiting thread sleeps before it looks again whether the work was stopped.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A value that is handed to the holder of ticket 0, then 1, and so on.
pub(crate) struct InOrder<T> {
    turn: Mutex<(u64, T)>,
    passed: Condvar,
}

impl<T> InOrder<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { turn: Mutex::new((0, value)), passed: Condvar::new() }
    }

    /// Waits for the ticket's turn, works on the value and lets the next ticket pass; `None` once `stopped` is true.
    pub(crate) fn at_turn<R>(&self, ticket: u64, stopped: &AtomicBool, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut turn = lock(&self.turn);
        while turn.0 != ticket {
            if stopped.load(Ordering::Relaxed) {
                return None;
            }
            turn = self.passed.wait_timeout(turn, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        let result = work(&mut turn.1);
        turn.0 += 1;
        drop(turn);
        self.passed.notify_all();
        Some(result)
    }

    pub(crate) fn into_inner(self) -> T {
        self.turn.into_inner().unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Locks; what a panicking thread left is only read to end the work.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the work when its thread ends in a panic, so that nobody waits for a turn that never comes.
pub(crate) struct StopOnPanic<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_pass_in_order_from_any_thread() {
        let gate = InOrder::new(Vec::new());
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for first in 0..4_u64 {
                let (gate, stopped) = (&gate, &stopped);
                scope.spawn(move || {
                    for ticket in (first..100).step_by(4) {
                        gate.at_turn(ticket, stopped, |seen| seen.push(ticket));
                    }
                });
            }
        });
        assert_eq!(gate.into_inner(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_stopped_gate_lets_nobody_wait() {
        let gate = InOrder::new(());
        assert_eq!(gate.at_turn(1, &AtomicBool::new(true), |()| ()), None);
    }
}
