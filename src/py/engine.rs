//! The engine in Python: configuration, submission and the native half of a stream.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::asked::{PyOrigin, PyTerms};
use super::boundary::detached;
use super::engine_config::PyEngineConfig;
use super::globals;
use super::prompt::PyPrompt;
use super::sampling::PySamplingParams;
use crate::backend::{self, Adapter, Model, ModelInfo, Token};
use crate::clock::seconds_between;
use crate::engine::{
    Client, Delta, EmbedParams, Engine, EngineConfig, Finish, Next, Pooling, Prompt, RequestHandle,
    Wakeup,
};
use crate::error::Result;
use crate::event::{Event, Observer};
use crate::llm::EngineObserver;

/// How long a thread waits before it looks for a signal such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// Keeps a model load's event until it is known on which device the model is, and whether it is let
/// in.
#[derive(Debug, Default)]
struct Later(Mutex<Vec<Event>>);

impl Observer for Later {
    fn observe(&self, event: &Event) {
        self.0.lock().push(event.clone());
    }
}

impl Later {
    fn tell(self, observer: &EngineObserver) {
        self.0.into_inner().iter().for_each(|event| observer.observe(event));
    }
}

/// A model, what hears of its work, and what that has not heard yet.
type Loaded = (Arc<dyn Model>, Arc<EngineObserver>, Later);

fn load(model: &str, name: &str, config: &PyEngineConfig, adapters: &[Adapter]) -> Result<Loaded> {
    let later = Later::default();
    let recorder = globals::recorder().clone();
    let clock = recorder.clock().clone();
    let loaded = backend::load(model, config.gpu_layers, adapters, &later, &*clock);
    let device = loaded.as_ref().map_or("", |model| &*model.info().device);
    if !["", "cpu", "toy"].contains(&device) && recorder.gpu_model().is_none() {
        recorder.attribute_gpu(None, name);
    }
    let observer = Arc::new(EngineObserver::new(recorder, name, device));
    match loaded {
        Ok(model) => Ok((model, observer, later)),
        Err(error) => {
            later.tell(&observer);
            Err(error)
        }
    }
}

/// Bytes that a model takes in an engine of this size: its weights, all KV cells, and the most of the
/// host's memory for its cache.
fn memory(info: &ModelInfo, config: &EngineConfig) -> u64 {
    let cells = info.kv_bytes_per_token.unwrap_or(0) * config.ctx_size as u64;
    info.size_bytes + cells + config.host_cache_bytes
}

/// The native half of `ryot_metrics.Engine`.
#[pyclass(frozen, name = "NativeEngine", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyEngine(Engine, Arc<EngineObserver>);

#[pymethods]
impl PyEngine {
    #[new]
    #[pyo3(signature = (model, name, config, adapters=Vec::new(), admit=None))]
    fn new(
        py: Python<'_>,
        model: &str,
        name: &str,
        config: &PyEngineConfig,
        adapters: Vec<(String, PathBuf, f32)>,
        admit: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let adapter =
            |(name, path, scale): (String, _, _)| Adapter { name: name.into(), path, scale };
        let adapters: Vec<Adapter> = adapters.into_iter().map(adapter).collect();
        let (model, observer, later) = detached(py, || load(model, name, config, &adapters))?;
        let sizes = config.config.clone();
        if let Some(admit) = admit {
            admit
                .call1((memory(model.info(), &sizes),))
                .inspect_err(|_| observer.load_refused())?;
        }
        later.tell(&observer);
        let clock = globals::recorder().clock().clone();
        let engine = detached(py, || Engine::start(model, sizes, observer.clone(), clock))?;
        Ok(Self(engine, observer))
    }

    fn submit(
        &self,
        py: Python<'_>,
        prompt: PyPrompt,
        params: &PySamplingParams,
        add_special: bool,
        origin: PyOrigin,
        terms: PyTerms,
    ) -> PyResult<PyStream> {
        let origin = origin.parse()?;
        let terms = terms.for_model(self.0.model().info())?;
        let (prompt, params) = (prompt.for_engine(add_special), params.0.clone());
        let handle = detached(py, || self.0.submit(prompt, params, terms, origin))?;
        let model = Arc::clone(self.0.model());
        Ok(PyStream { handle, model, finish: OnceLock::new() })
    }

    /// A row for each prompt. The caller has imported numpy.
    fn embed<'py>(
        &self,
        py: Python<'py>,
        prompts: Vec<PyPrompt>,
        pooling: Option<&str>,
        normalize: bool,
        origin: PyOrigin,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let origin = origin.parse()?;
        let params = EmbedParams { pooling: pooling.map(Pooling::parse).transpose()?, normalize };
        let prompts: Vec<Prompt> =
            prompts.into_iter().map(|prompt| prompt.for_engine(true)).collect();
        let shape = prompts.len();
        let vectors = detached(py, || self.0.embed(prompts, params, &origin))?;
        PyArray1::from_vec(py, vectors.values).reshape([shape, vectors.width])
    }

    fn tokenize(&self, py: Python<'_>, text: &str, add_special: bool) -> PyResult<Vec<Token>> {
        Ok(detached(py, || self.0.model().tokenize(text, add_special, true))?)
    }

    fn detokenize(&self, tokens: PyPrompt) -> PyResult<String> {
        let PyPrompt::Tokens(tokens) = tokens else {
            return Err(PyTypeError::new_err("tokens is a str; it must be a sequence of int"));
        };
        Ok(self.0.model().text(&tokens)?)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.0.stats()?;
        let dict = PyDict::new(py);
        dict.set_item("running", stats.running)?;
        dict.set_item("waiting", stats.waiting)?;
        dict.set_item("used_cells", stats.used_cells)?;
        dict.set_item("cached_cells", stats.cached_cells)?;
        dict.set_item("host_bytes", stats.host_bytes)?;
        dict.set_item("steps", stats.steps)?;
        Ok(dict)
    }

    /// The scorecard of its model, as JSON.
    fn scorecard(&self, py: Python<'_>) -> String {
        detached(py, || self.1.scorecard(None).to_json())
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
        dict.set_item("memory_bytes", memory(info, self.0.config()))?;
        dict.set_item("device", &info.device)?;
        dict.set_item("chat_template", info.chat_template.as_deref())?;
        dict.set_item("bos_token", info.bos_text.as_deref().unwrap_or_default())?;
        dict.set_item("eos_token", info.eos_text.as_deref().unwrap_or_default())?;
        Ok(dict)
    }

    fn clear_cache(&self) -> PyResult<()> {
        Ok(self.0.clear_cache()?)
    }

    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.0.shutdown())?)
    }
}

impl PyEngine {
    /// What submits to it from any thread, and what hears of its work.
    pub(super) fn parts(&self) -> (Client, Arc<EngineObserver>) {
        (Client::clone(&self.0), Arc::clone(&self.1))
    }
}

/// A token, the logarithm of its probability, and its bytes.
type Logprob = (Token, f32, Vec<u8>);

/// A piece of an answer: its text, its token, and the log-probabilities of this and the likeliest.
type Piece = (String, Token, Option<(Logprob, Vec<Logprob>)>);

/// The native half of `ryot_metrics.Stream`.
#[pyclass(frozen, name = "NativeStream", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyStream {
    handle: RequestHandle,
    model: Arc<dyn Model>,
    finish: OnceLock<Finish>,
}

impl PyStream {
    fn ended(&self, finish: Finish) {
        let _ = self.finish.set(finish); // the same again
    }

    fn piece(&self, delta: Delta) -> Piece {
        let Delta { text, token, logprobs, .. } = delta;
        let named = |(token, logprob)| (token, logprob, self.model.piece(token));
        let logprobs =
            logprobs.map(|of| (named((token, of.drawn)), of.top.into_iter().map(named).collect()));
        (text, token, logprobs)
    }
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
                Next::Delta(delta) => return Ok(Some(self.piece(delta))),
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
        Ok((deltas.into_iter().map(|delta| self.piece(delta)).collect(), finished))
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

    /// Tokens of the prompt that were in the prefix cache; None while it runs.
    #[getter]
    fn cached_tokens(&self) -> Option<usize> {
        self.finish.get().map(|finish| finish.cached_tokens)
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
