//! The engine's Unix socket in Python.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use serde_json::value::to_raw_value;

use super::boundary::detached;
use super::engine::PyEngine;
use super::serve::seconds;
use crate::serve::uds::{Server, UdsConfig, UdsLimits};

/// A thread that answers an engine's clients on a Unix socket without the interpreter.
///
/// `ryot_metrics.uds.serve_uds` starts one and says what the arguments mean.
#[pyclass(frozen, name = "NativeUdsServer", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyUdsServer(Server);

#[pymethods]
impl PyUdsServer {
    #[new]
    #[pyo3(signature = (
        engine, path, *, max_connections=None, max_frame_bytes=None, max_line_bytes=None,
        max_prompt_bytes=None, max_unsent_bytes=None, idle_timeout=None, frame_timeout=None,
        write_timeout=None
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        py: Python<'_>,
        engine: &PyEngine,
        path: PathBuf,
        max_connections: Option<usize>,
        max_frame_bytes: Option<usize>,
        max_line_bytes: Option<usize>,
        max_prompt_bytes: Option<usize>,
        max_unsent_bytes: Option<usize>,
        idle_timeout: Option<f64>,
        frame_timeout: Option<f64>,
        write_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let default = UdsLimits::default();
        let limits = UdsLimits {
            max_connections: max_connections.unwrap_or(default.max_connections),
            max_frame_bytes: max_frame_bytes.unwrap_or(default.max_frame_bytes),
            max_line_bytes: max_line_bytes.unwrap_or(default.max_line_bytes),
            max_prompt_bytes: max_prompt_bytes.unwrap_or(default.max_prompt_bytes),
            max_unsent_bytes: max_unsent_bytes.unwrap_or(default.max_unsent_bytes),
            idle_timeout: seconds("idle_timeout", idle_timeout, default.idle_timeout)?,
            frame_timeout: seconds("frame_timeout", frame_timeout, default.frame_timeout)?,
            write_timeout: seconds("write_timeout", write_timeout, default.write_timeout)?,
        };
        let (client, observer) = engine.parts();
        let metrics = Arc::new(move |sessions| {
            to_raw_value(&observer.scorecard(Some(sessions)))
                .expect("numbers and text keys are JSON")
        });
        let config = UdsConfig { path, limits };
        Ok(Self(detached(py, || Server::start(client, metrics, config))?))
    }

    /// The path of the socket.
    #[getter]
    fn address(&self) -> PyResult<String> {
        Ok(self.0.address()?.to_string())
    }

    /// Refuses requests from now on and waits for those that run, for so many seconds at most;
    /// whether they have ended.
    fn drain(&self, py: Python<'_>, patience: f64) -> PyResult<bool> {
        let patience = seconds("seconds", Some(patience), Duration::ZERO)?;
        Ok(detached(py, || self.0.drain(patience))?)
    }

    /// Removes the file, cancels the requests that run, and tells their clients. Without effect
    /// the second time.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.shutdown(py)
    }
}
