//! Keeps pages and forks apart.
//!
//! A fork copies memory with the locks in it, and not the thread that would release them. While a
//! page is made, the server's thread holds locks of the registry and its families, one after the
//! other: a child forked in that moment would wait for ever at its first new series. So who forks
//! closes the gate before, and opens it after. Nobody waits longer than [`LONGEST_WAIT`]: a stuck
//! collector must not stop a fork, nor a forgotten gate the scrapes.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long one side waits for the other.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The gate; open at first.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A page is being made.
    busy: bool,
    /// How many want to fork.
    closed: usize,
}

/// A page being made; it ends when this is dropped.
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    /// Waits while the gate is closed.
    pub(super) fn pass(&self) -> Pass<'_> {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| state.closed > 0, LONGEST_WAIT);
        state.busy = true;
        Pass(self)
    }

    /// Lets no new page begin, and waits for the end of one that has.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed += 1;
        self.changed.wait_while_for(&mut state, |state| state.busy, LONGEST_WAIT);
    }

    /// Takes one `close` back.
    pub(super) fn open(&self) {
        let mut state = self.state.lock();
        state.closed = state.closed.saturating_sub(1);
        self.changed.notify_all();
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_page_waits_for_all_forks() {
        let gate = Gate::default();
        gate.close();
        gate.close();
        let opened = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _pass = gate.pass();
                assert!(opened.load(Ordering::SeqCst));
            });
            gate.open();
            opened.store(true, Ordering::SeqCst);
            gate.open();
        });
        gate.open(); // one too many does nothing
        drop(gate.pass());
    }

    #[test]
    fn a_fork_waits_for_the_page() {
        let gate = Gate::default();
        let done = AtomicBool::new(false);
        let pass = gate.pass();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                gate.close();
                assert!(done.load(Ordering::SeqCst));
            });
            done.store(true, Ordering::SeqCst);
            drop(pass);
        });
    }
}
