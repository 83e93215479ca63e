//! The engine in Python: configuration, submission and the native half of a stream.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::boundary::detached;
use super::globals;
use crate::backend::{self, Token};
use crate::clock::seconds_between;
use crate::engine::{
    Delta, Engine, EngineConfig, Finish, Next, Prompt, RequestHandle, SamplingParams, Terms, Wakeup,
};
use crate::error::{Error, Result};
use crate::event::{Event, Mode, Observer, Origin};
use crate::llm::EngineObserver;

/// How long a thread waits before it looks for a signal such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// How an engine is set up. All arguments are keywords.
///
/// Args:
///     ctx_size: KV cells, one per token, shared by all sequences. Default 4096.
///     parallel: The most sequences computed at once, 1 to 256. Default 8.
///     batch_size: The most tokens in one step, at least `parallel`. Default 512.
///     prefill_chunk: The most prompt tokens in a step that also continues answers. Default 64.
///     threads: Threads that compute; 0, the default, takes one per core.
///     max_queue: Requests that may wait beside those that run. Default 256.
///     gpu_layers: Layers of the model on a GPU. Default: all if this build has a GPU backend.
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
    config: EngineConfig,
    #[pyo3(get)]
    gpu_layers: Option<u32>,
}

/// A count that may not be negative, with an error that says so.
fn size(field: &str, value: Option<i64>, default: usize) -> Result<usize> {
    let Some(value) = value else { return Ok(default) };
    usize::try_from(value)
        .map_err(|_| Error::InvalidArgument(format!("{field} is {value}; it must be at least 0")))
}

#[pymethods]
impl PyEngineConfig {
    #[new]
    #[pyo3(signature = (
        *, ctx_size=None, parallel=None, batch_size=None, prefill_chunk=None, threads=None,
        max_queue=None, gpu_layers=None
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
    ) -> PyResult<Self> {
        let default = EngineConfig::default();
        let config = EngineConfig {
            ctx_size: size("ctx_size", ctx_size, default.ctx_size)?,
            parallel: size("parallel", parallel, default.parallel)?,
            batch_size: size("batch_size", batch_size, default.batch_size)?,
            prefill_chunk: size("prefill_chunk", prefill_chunk, default.prefill_chunk)?,
            threads: size("threads", threads, default.threads)?,
            max_queue: size("max_queue", max_queue, default.max_queue)?,
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

    fn __repr__(&self) -> String {
        let EngineConfig { ctx_size, parallel, batch_size, prefill_chunk, threads, max_queue } =
            self.config;
        let gpu_layers = self.gpu_layers.map_or("None".into(), |layers| layers.to_string());
        format!(
            "EngineConfig(ctx_size={ctx_size}, parallel={parallel}, batch_size={batch_size}, \
             prefill_chunk={prefill_chunk}, threads={threads}, max_queue={max_queue}, \
             gpu_layers={gpu_layers})"
        )
    }
}

/// How an answer is drawn and when it ends. All arguments are keywords.
///
/// Args:
///     max_tokens: The most tokens in the answer. Default 16; None for as many as fit: an equal
///         share of the context, or 256 if that is more.
///     temperature: 0 always takes the likeliest token. Default 1.0.
///     top_k: Keeps the k likeliest tokens; 0, the default, or -1 keeps all.
///     top_p: Keeps the likeliest tokens whose probabilities reach this sum. Default 1.0.
///     min_p: Keeps tokens at least this likely relative to the likeliest. Default 0.0.
///     seed: Makes the draws repeatable. Default None.
///     stop: A string, or up to 16, that end the answer and are not part of it. Default None.
///     repetition_penalty: Above 1 makes tokens of the last 64 less likely. Default 1.0.
///     ignore_eos: Goes on after the model's own end. Default False.
///
/// Raises:
///     ValueError: If a value is outside its range; the text names value and range.
///
/// Example:
///     >>> from ryot_metrics import SamplingParams
///     >>> SamplingParams(max_tokens=5, temperature=0.0).max_tokens
///     5
#[pyclass(frozen, name = "SamplingParams", module = "ryot_metrics")]
#[derive(Clone, Debug)]
pub(super) struct PySamplingParams(SamplingParams);

#[derive(FromPyObject)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

#[pymethods]
impl PySamplingParams {
    #[new]
    #[pyo3(signature = (
        *, max_tokens=Some(16), temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=None,
        stop=None, repetition_penalty=1.0, ignore_eos=false
    ))]
    #[allow(clippy::too_many_arguments)] // keywords in Python
    fn new(
        max_tokens: Option<i64>,
        temperature: f32,
        top_k: i32,
        top_p: f32,
        min_p: f32,
        seed: Option<i64>,
        stop: Option<Stop>,
        repetition_penalty: f32,
        ignore_eos: bool,
    ) -> PyResult<Self> {
        let params = SamplingParams {
            max_tokens: match max_tokens {
                Some(count) => Some(size("max_tokens", Some(count), 0)?),
                None => None,
            },
            temperature,
            top_k,
            top_p,
            min_p,
            seed: seed.map(i64::cast_unsigned),
            stop: match stop {
                None => Vec::new(),
                Some(Stop::One(text)) => vec![text],
                Some(Stop::Many(texts)) => texts,
            },
            repetition_penalty,
            ignore_eos,
        };
        params.validate()?;
        Ok(Self(params))
    }

    #[getter]
    fn max_tokens(&self) -> Option<usize> {
        self.0.max_tokens
    }

    #[getter]
    fn temperature(&self) -> f32 {
        self.0.temperature
    }

    #[getter]
    fn top_k(&self) -> i32 {
        self.0.top_k
    }

    #[getter]
    fn top_p(&self) -> f32 {
        self.0.top_p
    }

    #[getter]
    fn min_p(&self) -> f32 {
        self.0.min_p
    }

    #[getter]
    fn seed(&self) -> Option<i64> {
        self.0.seed.map(u64::cast_signed)
    }

    #[getter]
    fn stop(&self) -> Vec<String> {
        self.0.stop.clone()
    }

    #[getter]
    fn repetition_penalty(&self) -> f32 {
        self.0.repetition_penalty
    }

    #[getter]
    fn ignore_eos(&self) -> bool {
        self.0.ignore_eos
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Keeps a model load's event until it is known on which device the model is.
#[derive(Debug, Default)]
struct Later(Mutex<Vec<Event>>);

impl Observer for Later {
    fn observe(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

fn start(model: &str, name: &str, config: &PyEngineConfig) -> Result<Engine> {
    let later = Later::default();
    let recorder = globals::recorder().clone();
    let clock = recorder.clock().clone();
    let loaded = backend::load(model, config.gpu_layers, &later, &*clock);
    let device = loaded.as_ref().map_or("", |model| &*model.info().device);
    if !["", "cpu", "toy"].contains(&device) && recorder.gpu_model().is_none() {
        recorder.attribute_gpu(None, name);
    }
    let observer = Arc::new(EngineObserver::new(recorder, name, device));
    later.0.into_inner().iter().for_each(|event| observer.observe(event));
    Engine::start(loaded?, config.config.clone(), observer, clock)
}

#[derive(FromPyObject)]
enum PyPrompt {
    Text(String),
    Tokens(Vec<Token>),
}

/// The native half of `ryot_metrics.Engine`.
#[pyclass(frozen, name = "NativeEngine", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyEngine(Engine);

#[pymethods]
impl PyEngine {
    #[new]
    fn new(py: Python<'_>, model: &str, name: &str, config: &PyEngineConfig) -> PyResult<Self> {
        Ok(Self(detached(py, || start(model, name, config))?))
    }

    #[pyo3(signature = (
        prompt, params, endpoint, mode, parents, add_special, *, priority="interactive",
        ttft_ms=None, tbt_ms=None, tenant="", deadline_ms=None
    ))]
    #[allow(clippy::too_many_arguments)] // called from one place
    fn submit(
        &self,
        py: Python<'_>,
        prompt: PyPrompt,
        params: &PySamplingParams,
        endpoint: &str,
        mode: &str,
        parents: Vec<u64>,
        add_special: bool,
        priority: &str,
        ttft_ms: Option<f64>,
        tbt_ms: Option<f64>,
        tenant: &str,
        deadline_ms: Option<f64>,
    ) -> PyResult<PyStream> {
        let origin = Origin { endpoint: endpoint.into(), mode: Mode::parse(mode)?, parents };
        let prompt = match prompt {
            PyPrompt::Text(text) => Prompt::Text { text, add_special },
            PyPrompt::Tokens(tokens) => Prompt::Tokens(tokens),
        };
        let terms = Terms::new(priority, ttft_ms, tbt_ms, tenant, deadline_ms)?;
        let params = params.0.clone();
        let handle = detached(py, || self.0.submit(prompt, params, terms, origin))?;
        Ok(PyStream { handle, finish: OnceLock::new() })
    }

    fn tokenize(&self, py: Python<'_>, text: &str, add_special: bool) -> PyResult<Vec<Token>> {
        Ok(detached(py, || self.0.model().tokenize(text, add_special, true))?)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.stats()?;
        let dict = PyDict::new(py);
        dict.set_item("running", stats.running)?;
        dict.set_item("waiting", stats.waiting)?;
        dict.set_item("reserved_cells", stats.reserved_cells)?;
        dict.set_item("used_cells", stats.used_cells)?;
        dict.set_item("steps", stats.steps)?;
        Ok(dict)
    }

    fn model_info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = self.0.model().info();
        let dict = PyDict::new(py);
        dict.set_item("name", &info.name)?;
        dict.set_item("architecture", &info.architecture)?;
        dict.set_item("context_train", info.context_train)?;
        dict.set_item("vocab_size", info.vocab_size)?;
        dict.set_item("parameters", info.parameters)?;
        dict.set_item("size_bytes", info.size_bytes)?;
        dict.set_item("device", &info.device)?;
        dict.set_item("chat_template", info.chat_template.as_deref())?;
        dict.set_item("bos_token", info.bos_text.as_deref().unwrap_or_default())?;
        dict.set_item("eos_token", info.eos_text.as_deref().unwrap_or_default())?;
        Ok(dict)
    }

    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }
}

/// A piece of an answer: its text, and its token.
type Piece = (String, Token);

/// The native half of `ryot_metrics.Stream`.
#[pyclass(frozen, name = "NativeStream", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyStream {
    handle: RequestHandle,
    finish: OnceLock<Finish>,
}

impl PyStream {
    fn ended(&self, finish: Finish) {
        let _ = self.finish.set(finish); // the same again
    }
}

fn piece(delta: Delta) -> Piece {
    (delta.text, delta.token)
}

#[pymethods]
impl PyStream {
    #[getter]
    fn id(&self) -> u64 {
        self.handle.id()
    }

    #[getter]
    fn prompt_tokens(&self) -> usize {
        self.handle.prompt_tokens()
    }

    /// Waits for the next token; None at the end.
    fn next(&self, py: Python<'_>) -> PyResult<Option<Piece>> {
        loop {
            match detached(py, || self.handle.next_timeout(SIGNAL_INTERVAL))? {
                Next::Delta(delta) => return Ok(Some(piece(delta))),
                Next::Finished(finish) => {
                    self.ended(finish);
                    return Ok(None);
                }
                Next::Pending => py.check_signals()?,
            }
        }
    }

    /// Waits for the end.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        while !detached(py, || self.handle.wait_finished(SIGNAL_INTERVAL))? {
            py.check_signals()?;
        }
        Ok(())
    }

    /// All tokens that are there, without waiting, and whether the end is.
    fn poll(&self) -> PyResult<(Vec<Piece>, bool)> {
        let (deltas, finish) = self.handle.drain()?;
        let finished = finish.is_some();
        if let Some(finish) = finish {
            self.ended(finish);
        }
        Ok((deltas.into_iter().map(piece).collect(), finished))
    }

    /// Wakes this event loop from now on.
    fn attach(&self, wakeup: &PyWakeup) -> PyResult<()> {
        Ok(self.handle.attach(wakeup.0.clone())?)
    }

    fn cancel(&self) -> PyResult<()> {
        Ok(self.handle.cancel()?)
    }

    /// Why the request ended; None while it runs.
    #[getter]
    fn finish_reason(&self) -> Option<&'static str> {
        self.finish.get().map(|finish| finish.reason.as_str())
    }

    /// Text that was held back until the end.
    #[getter]
    fn tail(&self) -> &str {
        self.finish.get().map_or("", |finish| &finish.tail_text)
    }

    /// The error that ended the request.
    #[getter]
    fn error(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let error = self.finish.get()?.error.clone()?;
        Some(PyErr::from(error).into_value(py).into_any())
    }

    /// Seconds from queued to the first token; None without one.
    #[getter]
    fn ttft_seconds(&self) -> Option<f64> {
        let finish = self.finish.get()?;
        Some(seconds_between(finish.queued_at, finish.first_token_at?))
    }

    /// Seconds from queued to finished; None while it runs.
    #[getter]
    fn duration_seconds(&self) -> Option<f64> {
        let finish = self.finish.get()?;
        Some(seconds_between(finish.queued_at, finish.finished_at))
    }
}

/// A pipe that becomes readable when a stream of an event loop has something.
#[pyclass(frozen, name = "Wakeup", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyWakeup(Arc<Wakeup>);

#[pymethods]
impl PyWakeup {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self(Arc::new(Wakeup::new()?)))
    }

    /// The descriptor to watch.
    #[cfg(unix)]
    fn fileno(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.0.reader().as_raw_fd()
    }

    /// To be called before the streams are looked at.
    fn acknowledge(&self) {
        self.0.acknowledge();
    }
}
