//! The switch for `_created` samples, one for the process: they double the lines of a page that
//! is not asked for as OpenMetrics.

use std::sync::atomic::{AtomicBool, Ordering};

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Leaves the times of creation out of every page, from now on.
pub fn disable_created_metrics() {
    ENABLED.store(false, Ordering::Relaxed);
}

/// Puts the times of creation onto every page again: the default.
pub fn enable_created_metrics() {
    ENABLED.store(true, Ordering::Relaxed);
}

/// Whether pages show times of creation.
pub fn created_enabled() -> bool {
    ENABLED.load(Ordering::Relaxed)
}
