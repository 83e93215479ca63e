//! How many requests are on their way, and that no more of them come once the server drains.
//!
//! Must not know: what a request is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct Count {
    inside: usize,
    closed: bool,
}

/// Lets requests in, and counts them.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    count: Mutex<Count>,
    left: Condvar,
}

/// A request that was let in; dropping it lets it out.
#[derive(Debug)]
pub(super) struct Pass(Arc<Turnstile>);

impl Turnstile {
    /// Lets one more in, unless it is closed.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Pass> {
        let mut count = self.count.lock();
        if count.closed {
            return None;
        }
        count.inside += 1;
        Some(Pass(Arc::clone(self)))
    }

    /// Lets nobody in any more, and waits until all have left, for so long at most. Whether they
    /// have.
    pub(super) fn close(&self, patience: Duration) -> bool {
        let mut count = self.count.lock();
        count.closed = true;
        !self.left.wait_while_for(&mut count, |count| count.inside > 0, patience).timed_out()
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.count.lock().inside -= 1;
        self.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_enters_once_it_is_closed_and_who_is_inside_leaves() {
        let turnstile = Arc::new(Turnstile::default());
        let passes = (turnstile.enter(), turnstile.enter());
        assert!(passes.0.is_some() && !turnstile.close(Duration::ZERO));
        assert!(turnstile.enter().is_none());
        let leaves = std::thread::spawn(move || drop(passes));
        assert!(turnstile.close(Duration::from_secs(30)));
        leaves.join().unwrap();
    }
}
