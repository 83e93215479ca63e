//! The engine's size and policies in Python. Knows no engine.

use pyo3::prelude::*;

use crate::clock::Nanos;
use crate::engine::{EngineConfig, MAX_MILLIS, Overload, PolicyKind};
use crate::error::{Error, Result};

/// How an engine is set up. All arguments are keywords.
///
/// Args:
///     ctx_size: KV cells, one per token, of all sequences together. Default 4096.
///     kv_unified: Whether any sequence may use any cell, and several the same. Otherwise each of the
///         `parallel` has as many cells for itself: no sequence is longer than that, prefixes are
///         copied instead of shared, `cache_sequences` and `idle_cells` mean nothing, and no step
///         reads the cells of others, so that many answers of much the same length are decoded
///         faster. Default True.
///     parallel: The most sequences computed at once, 1 to 256. Default 8.
///     batch_size: The most tokens in one step, at least `parallel`. Default 512.
///     prefill_chunk: The most prompt tokens in a step that also continues answers, whatever the
///         policy allows. Default 512.
///     threads: Threads that compute; 0, the default, takes one per core.
///     max_queue: Requests that may wait beside those that run. Default 256.
///     gpu_layers: Layers of the model on a GPU. Default: all if this build has a GPU backend.
///     policy: How many prompt tokens a step takes: `slo`, the default, by the time that promises
///         leave; `uma`, by an average of step times with a guard of latencies.
///     step_ms: The most milliseconds that prompts add to a step; twice that while interactive
///         requests wait for a place, and for their prompts where all answers under way have
///         promises (`tbt_ms`) that bear it. Default 65.
///     lone_step_ms: The most milliseconds of a step that holds prompts alone, while no answer is
///         under way: it is given up as soon as an interactive request or the cancellation of one of
///         the prompts comes; for that, other steps are given up too, where promises bear it. None
///         is on a GPU. Default 500; not above `step_ms`: no step is given up.
///     ttft_ms: The promise for the first token of interactive requests that name none, in
///         milliseconds. Default None.
///     tbt_ms: The promise for the time between two tokens of interactive requests that name none,
///         in milliseconds. Default None.
///     overload: What happens to a request whose first token cannot come as promised: `relegate`,
///         the default, makes it a background request that goes before those that came as such;
///         `reject` refuses it with `QueueFullError`;
///         `accept` lets it wait.
///     fairness_tokens: How many weighted tokens one tenant may be ahead of another of its priority.
///         Default 1024.
///     prefix_cache: Whether prompts begin with what was computed for others. Default True.
///     isolate_tenants: Whether this is so only within a tenant: otherwise timings tell one tenant
///         what another has asked. Default False.
///     cache_sequences: Sequences that keep cached prefixes beside the `parallel` that run, at
///         most 256. Default 56.
///     idle_cells: Cells of cached prefixes past which the least worth go to the host's memory,
///         although nobody needs their cells: on a CPU each step has to pass over them. Only
///         where `host_cache_bytes` has room for a whole context. Default: 0 on a CPU, all on a GPU.
///     host_cache_bytes: Bytes of the host's memory for prefixes that left the KV cache and for
///         preempted requests; 0 computes them again. Default 512 MiB.
///
/// Raises:
///     ValueError: If a value is outside its range; the text names value and range.
///
/// Example:
///     >>> from ryot_metrics import EngineConfig
///     >>> EngineConfig(parallel=4).parallel
///     4
#[pyclass(frozen, name = "EngineConfig", module = "ryot_metrics")]
#[derive(Clone, Debug)]
pub(super) struct PyEngineConfig {
    pub(super) config: EngineConfig,
    #[pyo3(get)]
    pub(super) gpu_layers: Option<u32>,
}

/// A count that may not be negative, with an error that says so.
pub(super) fn size(field: &str, value: Option<i64>, default: usize) -> Result<usize> {
    let Some(value) = value else { return Ok(default) };
    usize::try_from(value)
        .map_err(|_| Error::InvalidArgument(format!("{field} is {value}; it must be at least 0")))
}

fn nanos(field: &str, millis: f64) -> Result<Nanos> {
    if millis > 0.0 && millis <= MAX_MILLIS {
        return Ok((millis * 1e6) as Nanos);
    }
    Err(Error::InvalidArgument(format!(
        "{field} is {millis}; it must be above 0 and at most {MAX_MILLIS}"
    )))
}

fn promise(field: &str, millis: Option<f64>) -> Result<Option<Nanos>> {
    millis.map(|millis| nanos(field, millis)).transpose()
}

fn millis(nanos: Nanos) -> f64 {
    nanos as f64 / 1e6
}

#[pymethods]
impl PyEngineConfig {
    #[new]
    #[pyo3(signature = (
        *, ctx_size=None, parallel=None, batch_size=None, prefill_chunk=None, threads=None,
        max_queue=None, gpu_layers=None, policy="slo", step_ms=None, ttft_ms=None, tbt_ms=None,
        overload="relegate", fairness_tokens=None, prefix_cache=true, isolate_tenants=false,
        cache_sequences=None, host_cache_bytes=None, idle_cells=None,
        lone_step_ms=None, kv_unified=true
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        ctx_size: Option<i64>,
        parallel: Option<i64>,
        batch_size: Option<i64>,
        prefill_chunk: Option<i64>,
        threads: Option<i64>,
        max_queue: Option<i64>,
        gpu_layers: Option<i64>,
        policy: &str,
        step_ms: Option<f64>,
        ttft_ms: Option<f64>,
        tbt_ms: Option<f64>,
        overload: &str,
        fairness_tokens: Option<i64>,
        prefix_cache: bool,
        isolate_tenants: bool,
        cache_sequences: Option<i64>,
        host_cache_bytes: Option<i64>,
        idle_cells: Option<i64>,
        lone_step_ms: Option<f64>,
        kv_unified: bool,
    ) -> PyResult<Self> {
        let default = EngineConfig::default();
        let whole = |field, value, default: u64| {
            Ok::<_, Error>(size(field, value, default as usize)? as u64)
        };
        let config = EngineConfig {
            ctx_size: size("ctx_size", ctx_size, default.ctx_size)?,
            kv_unified,
            parallel: size("parallel", parallel, default.parallel)?,
            batch_size: size("batch_size", batch_size, default.batch_size)?,
            prefill_chunk: size("prefill_chunk", prefill_chunk, default.prefill_chunk)?,
            threads: size("threads", threads, default.threads)?,
            max_queue: size("max_queue", max_queue, default.max_queue)?,
            policy: PolicyKind::parse(policy)?,
            step: step_ms.map_or(Ok(default.step), |millis| nanos("step_ms", millis))?,
            lone_step: lone_step_ms
                .map_or(Ok(default.lone_step), |millis| nanos("lone_step_ms", millis))?,
            ttft: promise("ttft_ms", ttft_ms)?,
            tbt: promise("tbt_ms", tbt_ms)?,
            overload: Overload::parse(overload)?,
            fairness_tokens: whole("fairness_tokens", fairness_tokens, default.fairness_tokens)?,
            prefix_cache,
            isolate_tenants,
            cache_sequences: size("cache_sequences", cache_sequences, default.cache_sequences)?,
            idle_cells: idle_cells.map(|cells| size("idle_cells", Some(cells), 0)).transpose()?,
            host_cache_bytes: whole(
                "host_cache_bytes",
                host_cache_bytes,
                default.host_cache_bytes,
            )?,
        };
        config.validate()?;
        let gpu_layers = match gpu_layers {
            Some(layers) => {
                Some(size("gpu_layers", Some(layers), 0)?.try_into().unwrap_or(u32::MAX))
            }
            None => None,
        };
        Ok(Self { config, gpu_layers })
    }

    #[getter]
    fn ctx_size(&self) -> usize {
        self.config.ctx_size
    }

    #[getter]
    fn kv_unified(&self) -> bool {
        self.config.kv_unified
    }

    /// The most tokens of a prompt and its answer: `ctx_size`, or the part of a sequence.
    #[getter]
    fn longest(&self) -> usize {
        self.config.longest().0
    }

    #[getter]
    fn parallel(&self) -> usize {
        self.config.parallel
    }

    #[getter]
    fn batch_size(&self) -> usize {
        self.config.batch_size
    }

    #[getter]
    fn prefill_chunk(&self) -> usize {
        self.config.prefill_chunk
    }

    #[getter]
    fn threads(&self) -> usize {
        self.config.threads
    }

    #[getter]
    fn max_queue(&self) -> usize {
        self.config.max_queue
    }

    #[getter]
    fn policy(&self) -> &'static str {
        self.config.policy.as_str()
    }

    #[getter]
    fn step_ms(&self) -> f64 {
        millis(self.config.step)
    }

    #[getter]
    fn lone_step_ms(&self) -> f64 {
        millis(self.config.lone_step)
    }

    #[getter]
    fn ttft_ms(&self) -> Option<f64> {
        self.config.ttft.map(millis)
    }

    #[getter]
    fn tbt_ms(&self) -> Option<f64> {
        self.config.tbt.map(millis)
    }

    #[getter]
    fn overload(&self) -> &'static str {
        self.config.overload.as_str()
    }

    #[getter]
    fn fairness_tokens(&self) -> u64 {
        self.config.fairness_tokens
    }

    #[getter]
    fn prefix_cache(&self) -> bool {
        self.config.prefix_cache
    }

    #[getter]
    fn isolate_tenants(&self) -> bool {
        self.config.isolate_tenants
    }

    #[getter]
    fn cache_sequences(&self) -> usize {
        self.config.cache_sequences
    }

    #[getter]
    fn idle_cells(&self) -> Option<usize> {
        self.config.idle_cells
    }

    #[getter]
    fn host_cache_bytes(&self) -> u64 {
        self.config.host_cache_bytes
    }

    fn __repr__(&self) -> String {
        let option = |millis: Option<f64>| millis.map_or("None".into(), |value| value.to_string());
        let flag = |value| if value { "True" } else { "False" };
        let fields = [
            ("ctx_size", self.ctx_size().to_string()),
            ("kv_unified", flag(self.kv_unified()).to_owned()),
            ("parallel", self.parallel().to_string()),
            ("batch_size", self.batch_size().to_string()),
            ("prefill_chunk", self.prefill_chunk().to_string()),
            ("threads", self.threads().to_string()),
            ("max_queue", self.max_queue().to_string()),
            ("gpu_layers", self.gpu_layers.map_or("None".into(), |layers| layers.to_string())),
            ("policy", format!("'{}'", self.policy())),
            ("step_ms", self.step_ms().to_string()),
            ("lone_step_ms", self.lone_step_ms().to_string()),
            ("ttft_ms", option(self.ttft_ms())),
            ("tbt_ms", option(self.tbt_ms())),
            ("overload", format!("'{}'", self.overload())),
            ("fairness_tokens", self.fairness_tokens().to_string()),
            ("prefix_cache", flag(self.prefix_cache()).to_owned()),
            ("isolate_tenants", flag(self.isolate_tenants()).to_owned()),
            ("cache_sequences", self.cache_sequences().to_string()),
            ("idle_cells", self.idle_cells().map_or("None".into(), |cells| cells.to_string())),
            ("host_cache_bytes", self.host_cache_bytes().to_string()),
        ];
        let fields = fields.map(|(name, value)| format!("{name}={value}"));
        format!("EngineConfig({})", fields.join(", "))
    }
}
