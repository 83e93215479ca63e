//! The binding: the only place that names pyo3. A method here converts, calls the core, converts
//! back; a branch about the domain belongs into the core.

// Docstrings are Python's, with its own markup.
#![allow(clippy::doc_markdown)]

mod boundary;
mod client;
mod engine;
mod errors;
mod globals;
mod request;
mod serve;

use pyo3::prelude::*;

/// The native part of `ryot_metrics`.
#[pymodule]
mod _ryot_metrics {
    use pyo3::prelude::*;

    use crate::llm::Name;

    #[pymodule_export]
    use super::client::{PyCounter, PyGauge, PyHistogram, PyInfo, PyRegistry};
    #[pymodule_export]
    use super::client::{collect, encode, negotiate};
    #[pymodule_export]
    use super::engine::{PyEngine, PyEngineConfig, PySamplingParams, PyStream, PyWakeup};
    #[pymodule_export]
    use super::errors::{
        DecodeError, EngineClosedError, OutOfMemoryError, QueueFullError, RyotError,
    };
    #[pymodule_export]
    use super::request::PyRequest;
    #[pymodule_export]
    use super::request::catalogue;
    #[pymodule_export]
    use super::serve::PyServer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
        module.add("REGISTRY", PyRegistry::global(module.py())?)?;
        let recorder = super::globals::recorder();
        for (name, family) in [("system_info", Name::SystemInfo), ("model_info", Name::ModelInfo)] {
            module.add(name, PyInfo::of(recorder.family(family).clone()))?;
        }
        Ok(())
    }
}
