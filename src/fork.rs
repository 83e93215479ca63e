//! Keeps forks apart from threads that hold this crate's locks without the interpreter's.
//!
//! A fork copies memory with the locks in it, and not the thread that would release them: a child
//! forked while a thread makes a page, or records an engine's event, would wait for ever at its
//! first new series. Threads with the GIL need no care, since who forks in Python has it. All
//! others take a [`pass`]; who forks calls [`close`] before and [`open`] after, and [`in_child`]
//! there. Nobody waits longer than [`LONGEST_WAIT`]: a stuck collector must not stop a fork, nor a
//! forgotten gate the scrapes.
//!
//! Atomics alone, because a lock here would have the same fate.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long one side waits for the other.
pub const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_micros(50);

static GATE: Gate = Gate { busy: AtomicUsize::new(0), closed: AtomicUsize::new(0) };

#[derive(Debug)]
struct Gate {
    /// Threads that hold a pass.
    busy: AtomicUsize,
    /// How many want to fork.
    closed: AtomicUsize,
}

/// The right to hold locks; it ends when this is dropped.
#[derive(Debug)]
pub struct Pass(&'static Gate);

impl Drop for Pass {
    fn drop(&mut self) {
        lower(&self.0.busy);
    }
}

/// Waits while somebody forks.
pub fn pass() -> Pass {
    GATE.pass()
}

/// Lets nobody begin, and waits for the end of what has begun.
pub fn close() {
    GATE.close();
}

/// Takes one [`close`] back.
pub fn open() {
    lower(&GATE.closed);
}

/// Opens the gate in a forked child, which has none of the threads.
pub fn in_child() {
    GATE.busy.store(0, Ordering::SeqCst);
    GATE.closed.store(0, Ordering::SeqCst);
}

impl Gate {
    fn pass(&'static self) -> Pass {
        // Said first and looked after, by both sides: one of them sees the other.
        self.busy.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self);
        if self.closed.load(Ordering::SeqCst) > 0 {
            lower(&self.busy);
            wait_while(|| self.closed.load(Ordering::SeqCst) > 0);
            self.busy.fetch_add(1, Ordering::SeqCst);
        }
        pass
    }

    fn close(&self) {
        self.closed.fetch_add(1, Ordering::SeqCst);
        wait_while(|| self.busy.load(Ordering::SeqCst) > 0);
    }
}

/// One less, but never less than none.
fn lower(count: &AtomicUsize) {
    let _ = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
}

fn wait_while(blocked: impl Fn() -> bool) {
    let looks = LONGEST_WAIT.as_micros() / LOOK.as_micros();
    for _ in 0..looks {
        if !blocked() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn gate() -> &'static Gate {
        Box::leak(Box::new(Gate { busy: AtomicUsize::new(0), closed: AtomicUsize::new(0) }))
    }

    #[test]
    fn work_waits_for_all_forks() {
        let gate = gate();
        gate.close();
        gate.close();
        let opened = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _pass = gate.pass();
                assert!(opened.load(Ordering::SeqCst));
            });
            lower(&gate.closed);
            opened.store(true, Ordering::SeqCst);
            lower(&gate.closed);
        });
        lower(&gate.closed); // one too many does nothing
        drop(gate.pass());
        assert_eq!(gate.busy.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_fork_waits_for_all_work() {
        let gate = gate();
        let done = AtomicBool::new(false);
        let passes = [gate.pass(), gate.pass()];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                gate.close();
                assert!(done.load(Ordering::SeqCst));
            });
            done.store(true, Ordering::SeqCst);
            drop(passes);
        });
    }
}
