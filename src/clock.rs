//! Time as an argument: everything that measures takes a [`Clock`].
//!
//! This is the only file that may call `Instant::now` or `SystemTime::now` (a lint holds the others to it), so that a
//! test can run hours of engine time without sleeping.

use std::fmt::Debug;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// A point on the monotonic clock, in nanoseconds since the clock's own start.
pub type Nanos = u64;

/// A source of monotonic time.
pub trait Clock: Debug + Send + Sync {
    /// The current time.
    fn now(&self) -> Nanos;
}

/// Seconds between two points; zero if `until` lies before `since`.
///
/// ```
/// use ryot_metrics::clock::seconds_between;
/// assert_eq!(seconds_between(1_000_000_000, 3_500_000_000), 2.5);
/// assert_eq!(seconds_between(5, 1), 0.0);
/// ```
pub fn seconds_between(since: Nanos, until: Nanos) -> f64 {
    until.saturating_sub(since) as f64 / 1e9
}

/// The machine's monotonic clock; all instances share one start, so their times compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now(&self) -> Nanos {
        static START: OnceLock<Nanos> = OnceLock::new();
        // What `Instant` reads, without its arithmetic: every token reads it. For 584 years.
        let read = clock_gettime(ClockId::Monotonic);
        let now = (read.tv_sec as Nanos).wrapping_mul(1_000_000_000) + read.tv_nsec as Nanos;
        now.saturating_sub(*START.get_or_init(|| now))
    }
}

/// A reader of the wall clock: seconds since 1970. A plain function, so that options stay `Copy`.
pub type WallClock = fn() -> f64;

/// The machine's wall clock, in seconds since 1970; 0 if it stands before that.
#[allow(clippy::disallowed_methods)] // the one place
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// A clock that stands still until it is told to move. For tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, nanos: Nanos) {
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed)
    }
}
