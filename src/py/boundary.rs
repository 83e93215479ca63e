//! The one door out of the interpreter: whatever may take long runs without the GIL.

use pyo3::prelude::*;

/// Runs `work` without the GIL.
pub(super) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    #[allow(clippy::disallowed_methods)] // this is the door
    py.detach(work)
}
