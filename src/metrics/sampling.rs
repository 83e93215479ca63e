//! Which writes of a family are recorded: all, every n-th, or none. One atomic load for who
//! records everything.

use std::sync::atomic::{AtomicU64, Ordering};

/// Recording of a family's series, shared by all of them; can change at any time.
#[derive(Debug)]
pub struct Sampling {
    /// 0: nothing is recorded.
    every: AtomicU64,
    seen: AtomicU64,
}

impl Default for Sampling {
    /// Everything is recorded.
    fn default() -> Self {
        Self { every: AtomicU64::new(1), seen: AtomicU64::new(0) }
    }
}

impl Sampling {
    /// Records every `every`-th observation of histograms and summaries from now on; 1 records
    /// all, and 0 nothing: counters and gauges stand still then too.
    pub fn set(&self, every: u64) {
        self.every.store(every, Ordering::Relaxed);
    }

    /// How many of `n` more observations are recorded.
    pub(super) fn of(&self, n: u64) -> u64 {
        match self.every.load(Ordering::Relaxed) {
            1 => n,
            0 => 0,
            every => {
                let seen = self.seen.fetch_add(n, Ordering::Relaxed);
                seen.wrapping_add(n) / every - seen / every
            }
        }
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.every.load(Ordering::Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_observation_is_recorded_however_they_come() {
        let sampling = Sampling::default();
        assert_eq!(sampling.of(7), 7);
        sampling.set(10);
        let one_by_one: u64 = (0..95).map(|_| sampling.of(1)).sum();
        assert_eq!((one_by_one, sampling.of(25)), (9, 3));
        sampling.set(0);
        assert_eq!((sampling.of(100), sampling.is_on()), (0, false));
    }
}
