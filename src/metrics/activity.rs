//! Whether a series is still written. Writers leave a mark, scrapes read the clock: the hot path
//! pays one store, and nothing where nobody asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::arena;

/// When a series was last written, as far as scrapes have noticed.
#[derive(Debug)]
pub(super) struct Activity {
    /// Written since the last scrape.
    written: AtomicBool,
    /// Not written for longer than it may be.
    idle: AtomicBool,
    /// The bits of the time of the scrape that last noticed a write.
    noticed: AtomicU64,
}

impl Activity {
    /// A series that was just made counts as written.
    pub(super) fn new() -> Self {
        Self {
            written: AtomicBool::new(true),
            idle: AtomicBool::new(false),
            noticed: AtomicU64::new(0),
        }
    }

    /// Leaves the mark of a write.
    pub(super) fn note_write(&self) {
        self.written.store(true, Ordering::Relaxed);
    }

    /// Takes note, at a scrape, of what was written; whether the series is idle. Times are in
    /// seconds.
    pub(super) fn look(&self, now: f64, ttl: f64) -> bool {
        if self.written.swap(false, Ordering::Relaxed) {
            self.noticed.store(now.to_bits(), Ordering::Relaxed);
        }
        let idle = now - arena::get(&self.noticed) >= ttl;
        self.idle.store(idle, Ordering::Relaxed);
        idle
    }

    /// Whether it was idle at the scrape that last looked.
    pub(super) fn is_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_the_scrape_that_noticed_the_last_write() {
        let activity = Activity::new();
        assert_eq!([activity.look(5.0, 10.0), activity.look(14.0, 10.0)], [false, false]);
        activity.note_write();
        assert!(!activity.look(16.0, 10.0) && !activity.look(25.0, 10.0));
        assert!(activity.look(26.0, 10.0) && activity.is_idle());
    }
}
