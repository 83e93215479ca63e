//! The two doors of the interpreter: out of it, for whatever may take long, and into it, for
//! callbacks. No lock of this crate is held through either.

use pyo3::prelude::*;

use crate::fork;

/// Runs `work` without the GIL.
pub(super) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    #[allow(clippy::disallowed_methods)] // this is the door
    py.detach(work)
}

/// Runs `work` without the GIL, where it takes locks of the core: no fork comes between.
pub(super) fn detached_in_core<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    detached(py, || {
        let _pass = fork::pass();
        work()
    })
}

/// Runs `work` with the GIL if the interpreter is not at its end, for threads that may outlive it.
pub(super) fn try_attached(work: impl for<'py> FnOnce(Python<'py>)) {
    #[allow(clippy::disallowed_methods)] // this is the door
    let _ = Python::try_attach(work);
}

/// Runs `work` with the GIL, on whatever thread this is.
pub(super) fn attached<T>(work: impl for<'py> FnOnce(Python<'py>) -> T) -> T {
    #[allow(clippy::disallowed_methods)] // this is the door
    Python::attach(work)
}
