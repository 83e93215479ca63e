//! Python's forks go through the gate of [`crate::fork`].

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::boundary::detached;
use super::globals;
use crate::fork;

#[pyfunction]
fn before_fork(py: Python<'_>) {
    detached(py, fork::close); // who holds a pass may need the interpreter to end
}

#[pyfunction]
fn after_fork_in_parent() {
    fork::open();
}

#[pyfunction]
fn after_fork_in_child(py: Python<'_>) {
    fork::in_child();
    detached(py, globals::after_fork);
}

/// Has the interpreter close the gate around each `os.fork`.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let Some(register) = py.import("os")?.getattr_opt("register_at_fork")? else {
        return Ok(()); // a system without forks
    };
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, module)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(after_fork_in_child, module)?)?;
    register.call((), Some(&hooks))?;
    Ok(())
}
