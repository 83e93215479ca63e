//! The binding: the only place that names pyo3. A method here converts, calls the core, converts
//! back; a branch about the domain belongs into the core.

// Docstrings are Python's, with its own markup.
#![allow(clippy::doc_markdown, clippy::doc_link_with_quotes)]

mod asked;
mod awaitable;
mod block;
mod boundary;
mod callbacks;
mod children;
mod current;
mod drops;
mod engine;
mod engine_config;
mod errors;
mod exchange;
mod facts;
mod fleet;
mod fork;
mod frame;
mod globals;
mod gpu;
mod handle;
mod isolated;
mod metric;
mod pipeline;
mod prompt;
mod recent;
mod registry;
mod request;
mod sampling;
mod serve;
mod settings;
mod stream;
mod uds;
mod values;

use pyo3::prelude::*;

use crate::llm::{PROFILES, RYOT};

/// The names of all profiles, the catalogue's own first.
fn profiles() -> Vec<&'static str> {
    std::iter::once(RYOT).chain(PROFILES.iter().map(|profile| profile.name)).collect()
}

/// The native part of `ryot_metrics`.
#[pymodule]
mod _ryot_metrics {
    use pyo3::prelude::*;
    use pyo3::types::PyTuple;

    use crate::llm::Name;

    #[pymodule_export]
    use super::block::PyBlock;
    #[pymodule_export]
    use super::engine::{PyEngine, PyStream, PyWakeup};
    #[pymodule_export]
    use super::engine_config::PyEngineConfig;
    #[pymodule_export]
    use super::errors::{
        DecodeError, DuplicateTimeseries, EngineClosedError, OutOfMemoryError, QueueFullError,
        RyotError,
    };
    #[pymodule_export]
    use super::exchange::PyExchange;
    #[pymodule_export]
    use super::facts::{
        record_batch_processed, record_cache_eviction, record_inference_error,
        record_kv_cache_lookup, record_model_load_attempt, record_model_load_time,
        record_prompt_reuse, record_queue_wait, record_retry, record_startup_phase,
        set_model_dtype, update_cache_metrics, update_gpu_memory, update_gpu_memory_percentage,
        update_gpu_metrics, update_gpu_utilization, update_kv_cache_size, update_kv_cache_usage,
        update_queue_metrics, update_token_throughput,
    };
    #[pymodule_export]
    use super::fleet::{PyFleet, PyWorker};
    #[pymodule_export]
    use super::gpu::watch_gpus;
    #[pymodule_export]
    use super::isolated::PyIsolated;
    #[pymodule_export]
    use super::metric::{Floor, PyCounter, PyEnum, PyGauge, PyHistogram, PyInfo, PySummary};
    #[pymodule_export]
    use super::metric::{disable_created_metrics, enable_created_metrics};
    #[pymodule_export]
    use super::pipeline::PyPipeline;
    #[pymodule_export]
    use super::registry::{PyRegistry, encode, negotiate};
    #[pymodule_export]
    use super::request::{PyRequest, catalogue, count_dropped, set_prices};
    #[pymodule_export]
    use super::sampling::PySamplingParams;
    #[pymodule_export]
    use super::serve::{PyServer, choose_coding, compress};
    #[pymodule_export]
    use super::settings::apply_settings;
    #[pymodule_export]
    use super::stream::PyAsyncStream;
    #[pymodule_export]
    use super::uds::PyUdsServer;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        super::globals::claim(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("DEBUG_BUILD", cfg!(debug_assertions))?;
        module.add("PROFILES", PyTuple::new(module.py(), super::profiles())?)?;
        module.add("MAX_COUNT", super::block::MAX_COUNT)?;
        module.add("REGISTRY", PyRegistry::global())?;
        super::fork::register(module)?;
        module.add("current", super::current::Variable::of(module.py())?.itself())?;
        let recorder = super::globals::recorder();
        for (name, family) in [("system_info", Name::SystemInfo), ("model_info", Name::ModelInfo)] {
            module.add(name, PyInfo::of(recorder.family(family).clone()))?;
        }
        Ok(())
    }
}
