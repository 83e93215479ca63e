//! A `with` block of a request: the part of `InferenceContext` that every request runs through.
//!
//! What few requests need is in the Python class that extends it, by methods that are called from
//! here: `_outer_request` finds the request that the block is part of, `_texts` makes labels of
//! what is no text, `_fail` ends it by an exception, `_charge` asks what it costs, `_ignored` and
//! `_entered_again` hear of calls that come too late.

use parking_lot::Mutex;
use pyo3::exceptions::{PyTypeError, PyUnicodeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyString};

use super::current::{Place, Variable};
use super::facts::Number;
use super::request::{PyRequest, kind_of, status_of};
use crate::clock::{Nanos, seconds_between};
use crate::error::Error;
use crate::event::{FinishReason, Mode};
use crate::llm::{Severity, Status};

/// Numbers of tokens and of sequences are below it.
pub(super) const MAX_COUNT: i64 = 1 << 31;

/// A number of tokens or sequences; what it is instead if it is none.
struct Count(Result<u64, String>);

impl<'a, 'py> FromPyObject<'a, 'py> for Count {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        // What is equal to an integer of Python's may be of any library.
        let converted = || {
            let number = object.py().get_type::<PyInt>().call1((object,)).ok()?;
            if number.eq(object).ok()? { number.extract().ok() } else { None }
        };
        let number = object.extract::<i64>().ok().or_else(converted);
        let number = number.filter(|number| (0..MAX_COUNT).contains(number));
        let shown =
            || object.repr().map_or_else(|_| "something odd".to_owned(), |it| it.to_string());
        Ok(Self(number.map(|number| number as u64).ok_or_else(shown)))
    }
}

/// A label: the text that is said now, or the object that was given, or the default.
fn label<'a>(
    py: Python<'a>,
    said: Option<&'a str>,
    given: Option<&'a Py<PyAny>>,
    default: &'a str,
) -> PyResult<&'a str> {
    match (said, given) {
        (Some(said), _) => Ok(said),
        (None, Some(given)) => given.bind(py).cast::<PyString>()?.to_str(),
        (None, None) => Ok(default),
    }
}

/// Whether an answer that ended for this reason was cut off.
///
/// # Errors
/// `ValueError` for another reason.
fn truncated_of(reason: &str) -> PyResult<bool> {
    let known = [FinishReason::Stop, FinishReason::Length].map(FinishReason::as_str);
    let text = || format!("reason is {reason:?}; it must be one of {}", known.join(", "));
    let found = known.iter().position(|known| *known == reason);
    Ok(found.ok_or_else(|| Error::InvalidArgument(text()))? == 1)
}

/// A request that is open between `_open` and `_close`.
#[pyclass(frozen, subclass, name = "Block", module = "ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyBlock {
    /// As given, be it text or not: clients choose it.
    model: Option<Py<PyAny>>,
    endpoint: Option<Py<PyAny>>,
    mode: Mode,
    batch_size: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The one that is open, or was last.
    request: Option<PyRequest>,
    is_open: bool,
    streamed: bool,
    /// When it was opened, on its recorder's clock, and when that was on Python's.
    began: Nanos,
    start_time: Option<f64>,
    stated: Option<Status>,
    status: Option<Status>,
    place: Option<Place>,
}

impl PyBlock {
    /// Opens a request, or a part of this one; false if the block is open already.
    fn open(
        &self,
        py: Python<'_>,
        outer: Option<&PyRequest>,
        texts: Option<&(String, String)>,
    ) -> PyResult<bool> {
        let mut state = self.state.lock();
        if state.is_open {
            return Ok(false);
        }
        let request = if let Some(outer) = outer {
            PyRequest::part_of(outer)
        } else {
            let (model, endpoint) = texts.map(|(model, endpoint)| (&**model, &**endpoint)).unzip();
            let model = label(py, model, self.model.as_ref(), "default")?;
            let endpoint = label(py, endpoint, self.endpoint.as_ref(), "")?;
            PyRequest::open(model, endpoint, self.mode, self.batch_size)
        };
        let began = request.began();
        *state = State { request: Some(request), is_open: true, began, ..State::default() };
        Ok(true)
    }

    /// The same, where labels may be anything, since clients choose them.
    fn open_anyhow(slf: &Bound<'_, Self>, outer: Option<&PyRequest>) -> PyResult<bool> {
        let py = slf.py();
        slf.get().open(py, outer, None).or_else(|error| {
            if !error.is_instance_of::<PyTypeError>(py)
                && !error.is_instance_of::<PyUnicodeError>(py)
            {
                return Err(error);
            }
            let texts = slf.call_method0(intern!(py, "_texts"))?.extract()?;
            slf.get().open(py, outer, Some(&texts))
        })
    }

    /// Tells the open request something; what comes too late is ignored and logged.
    fn tell<R: Default>(
        slf: &Bound<'_, Self>,
        method: &str,
        tell: impl FnOnce(&mut State, &PyRequest) -> R,
    ) -> PyResult<R> {
        let mut state = slf.get().state.lock();
        let request = if state.is_open { state.request.take() } else { None };
        let Some(request) = request else {
            drop(state); // what logs is the service's own code
            slf.call_method1(intern!(slf.py(), "_ignored"), (method,))?;
            return Ok(R::default());
        };
        let told = tell(&mut state, &request);
        state.request = Some(request);
        Ok(told)
    }

    /// The same with a number of tokens; what is none is dropped and counted.
    fn tell_count(
        slf: &Bound<'_, Self>,
        method: &str,
        count: Count,
        tell: impl FnOnce(&State, &PyRequest, u64),
    ) -> PyResult<()> {
        Self::tell(slf, method, |state, request| match count.0 {
            Ok(count) => tell(state, request, count),
            Err(value) => request.drop_count(method, &value),
        })
    }
}

#[pymethods]
impl PyBlock {
    #[new]
    #[pyo3(
        signature = (model=None, *, endpoint=None, mode="standard", batch_size=Count(Ok(0))),
        text_signature = "(model='default', *, endpoint='', mode='standard', batch_size=0)"
    )]
    fn new(
        model: Option<Py<PyAny>>,
        endpoint: Option<Py<PyAny>>,
        mode: &str,
        batch_size: Count,
    ) -> PyResult<Self> {
        let batch_size = batch_size.0.unwrap_or_default() as usize;
        Ok(Self { model, endpoint, mode: Mode::parse(mode)?, batch_size, state: Mutex::default() })
    }

    /// The label `model`.
    #[getter]
    fn model(&self, py: Python<'_>) -> Py<PyAny> {
        let default = || intern!(py, "default").clone().into_any().unbind();
        self.model.as_ref().map_or_else(default, |model| model.clone_ref(py))
    }

    #[getter]
    fn _endpoint(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.endpoint.as_ref().map(|endpoint| endpoint.clone_ref(py))
    }

    /// When the block was entered, in seconds of `time.monotonic()`; 0.0 before.
    #[getter]
    fn start_time(&self, py: Python<'_>) -> PyResult<f64> {
        let Some(request) = self.state.lock().request.clone() else { return Ok(0.0) };
        let now: f64 = py.import("time")?.call_method0("monotonic")?.extract()?;
        let mut state = self.state.lock();
        let since = now - seconds_between(state.began, request.now());
        Ok(*state.start_time.get_or_insert(since))
    }

    /// None in the block; then `success`, `error`, `timeout`, `partial` or `cancelled`.
    #[getter]
    fn status(&self) -> Option<&'static str> {
        self.state.lock().status.map(Status::as_str)
    }

    /// Tokens of the completion so far.
    #[getter]
    fn token_count(&self) -> u64 {
        let state = self.state.lock();
        state.request.as_ref().map_or(0, PyRequest::token_count)
    }

    /// A token was produced now: the first gives the TTFT, each other an inter-token latency.
    fn token(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::tell(slf, "token", |state, request| {
            state.streamed = true;
            request.token();
        })
    }

    /// Adds tokens without timing them.
    fn add_tokens(slf: &Bound<'_, Self>, count: Count) -> PyResult<()> {
        let add = |_: &State, request: &PyRequest, count| request.add_tokens(count);
        Self::tell_count(slf, "add_tokens", count, add)
    }

    /// The completion has this many tokens in all; saying it twice counts it once.
    fn set_token_count(slf: &Bound<'_, Self>, count: Count) -> PyResult<()> {
        Self::tell_count(slf, "set_token_count", count, |_, request, count| {
            request.set_token_count(count);
        })
    }

    /// The prompt has this many tokens.
    fn set_prompt_tokens(slf: &Bound<'_, Self>, count: Count) -> PyResult<()> {
        Self::tell_count(slf, "set_prompt_tokens", count, |_, request, count| {
            request.set_prompt_tokens(count as usize);
        })
    }

    /// Why the answer ended: `stop`, by itself, or `length`, at its limit of tokens.
    ///
    /// Raises:
    ///     ValueError: For another reason.
    fn set_finish_reason(slf: &Bound<'_, Self>, reason: &str) -> PyResult<()> {
        let truncated = truncated_of(reason)?;
        Self::tell(slf, "set_finish_reason", |_, request| request.set_truncated(truncated))
    }

    /// Records a time to first token that the caller measured, in seconds.
    fn set_ttft(slf: &Bound<'_, Self>, seconds: Number) -> PyResult<()> {
        Self::tell(slf, "set_ttft", |state, request| {
            state.streamed = true;
            request.set_ttft(seconds);
        })
    }

    /// Records an inter-token latency that the caller measured, in seconds.
    fn record_inter_token_latency(slf: &Bound<'_, Self>, seconds: Number) -> PyResult<()> {
        Self::tell(slf, "record_inter_token_latency", |_, request| {
            request.record_inter_token_latency(seconds);
        })
    }

    /// The request waits in a queue from now on.
    fn queued(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::tell(slf, "queued", |_, request| request.queued())
    }

    /// The request left the queue.
    fn scheduled(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::tell(slf, "scheduled", |_, request| request.scheduled())
    }

    /// Ends the block under this status, whatever it raises.
    ///
    /// Raises:
    ///     ValueError: For a status that the catalogue does not have.
    fn set_status(slf: &Bound<'_, Self>, status: &str) -> PyResult<()> {
        let status = status_of(status)?;
        Self::tell(slf, "set_status", |state, _| state.stated = Some(status))
    }

    /// The request that is open, or was last.
    #[getter]
    fn _request(&self) -> Option<PyRequest> {
        self.state.lock().request.clone()
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        Self::_enter(slf, 0)
    }

    /// Opens the block for the caller at this depth.
    fn _enter<'py>(slf: &Bound<'py, Self>, depth: u32) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let before = Variable::of(py)?.get(py)?;
        let outer = if before.is_none() {
            None
        } else {
            let found = slf.call_method0(intern!(py, "_outer_request"))?;
            found.extract::<Option<Bound<'_, PyRequest>>>()?
        };
        if Self::open_anyhow(slf, outer.as_ref().map(Bound::get))? {
            let place = Place::enter(slf, before, depth)?;
            slf.get().state.lock().place = Some(place);
        } else {
            slf.call_method0(intern!(py, "_entered_again"))?;
        }
        Ok(slf.clone())
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !error.is_none() {
            slf.call_method1(intern!(py, "_fail"), (error,))?;
        } else if let Some(bill) = Self::_close(slf, "success", None, None)? {
            slf.call_method1(intern!(py, "_charge"), bill)?;
        }
        let left = slf.get().state.lock().place.as_mut().and_then(|place| {
            Some((place.outer.clone_ref(py), place.token.take()?, place.frame.take()))
        });
        left.map_or(Ok(()), |(outer, token, _frame)| Place::leave(slf, outer, token))
    }

    /// The frame of a generator that holds the block open across its `yield`s.
    #[getter]
    fn _frame(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.lock();
        state.place.as_ref()?.frame.as_ref().map(|frame| frame.clone_ref(py))
    }

    /// What was current before.
    #[getter]
    fn _outer(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.lock().place.as_ref().map(|place| place.outer.clone_ref(py))
    }

    #[allow(clippy::needless_pass_by_value)] // as Python's garbage collector calls it
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        let Some(place) = &state.place else { return Ok(()) };
        place.traverse(&visit)
    }

    /// Ends the block, and its request unless that is an outer one.
    ///
    /// Returns:
    ///     None; or the request and the tokens that it must be charged for, as of
    ///     `Request.finish`.
    #[pyo3(signature = (status="success", error_type=None, severity=None))]
    fn _close(
        slf: &Bound<'_, Self>,
        status: &str,
        error_type: Option<&str>,
        severity: Option<&str>,
    ) -> PyResult<Option<(PyRequest, (u64, u64))>> {
        let (status, kind) = (status_of(status)?, error_type.map(kind_of));
        Self::tell(slf, "__exit__", |state, request| {
            let partial = status == Status::Error && state.streamed;
            let status = state.stated.unwrap_or(if partial { Status::Partial } else { status });
            (state.status, state.is_open) = (Some(status), false);
            let tokens = request.end(status, kind, severity.and_then(Severity::parse))?;
            Some((request.clone(), tokens))
        })
    }
}
