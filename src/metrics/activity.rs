//! Whether a series is still written. Writers leave a mark, scrapes read the clock: the hot path
//! pays one store, and nothing where nobody asked.

use super::arena;
use super::sync::{AtomicU64, Ordering};

/// Cells that it needs.
pub(super) const CELLS: usize = 3;

/// When a series was last written, as far as scrapes have noticed: whether it was written since
/// the last scrape, whether it was not for longer than it may be, and the bits of the time of the
/// scrape that last noticed a write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Activity<'a>(pub(super) &'a [AtomicU64]);

impl Activity<'_> {
    /// Leaves the mark of a write; a series that was just made has it too.
    pub(super) fn note_write(self) {
        self.0[0].store(1, Ordering::Relaxed);
    }

    /// Takes note, at a scrape, of what was written; whether the series is idle. Times are in
    /// seconds.
    pub(super) fn look(self, now: f64, ttl: f64) -> bool {
        let [written, idle, noticed] = [&self.0[0], &self.0[1], &self.0[2]];
        if written.swap(0, Ordering::Relaxed) != 0 {
            noticed.store(now.to_bits(), Ordering::Relaxed);
        }
        let is_idle = now - arena::get(noticed) >= ttl;
        idle.store(u64::from(is_idle), Ordering::Relaxed);
        is_idle
    }

    /// Whether it was idle at the scrape that last looked.
    pub(super) fn is_idle(self) -> bool {
        self.0[1].load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_from_the_scrape_that_noticed_the_last_write() {
        let cells = [(); CELLS].map(|()| AtomicU64::new(0));
        let activity = Activity(&cells);
        activity.note_write();
        assert_eq!([activity.look(5.0, 10.0), activity.look(14.0, 10.0)], [false, false]);
        activity.note_write();
        assert!(!activity.look(16.0, 10.0) && !activity.look(25.0, 10.0));
        assert!(activity.look(26.0, 10.0) && activity.is_idle());
    }
}
