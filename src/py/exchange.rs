//! An HTTP request and its response, for Python's middlewares: they pass on what goes by.
//!
//! What few requests need is in the Python class that extends it, by methods that are called from
//! here: `_cause` classifies an exception, `_charge` asks what a request costs, `_unmeasured` logs
//! what could not be measured, which must not fail the user's request.

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyString, PyTuple};

use super::request::{PyRequest, kind_of, status_of};
use crate::event::Mode;
use crate::llm::{Body, Cause, Exchange};

/// A request that is open until its response has left; the scope of what answers it.
#[pyclass(frozen, subclass, name = "Exchange", module = "ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyExchange {
    request: PyRequest,
    exchange: Exchange,
    /// The exception that the app's framework answered itself, as far as it says so.
    failure: Mutex<Option<Py<PyAny>>>,
}

/// A field of a message; None if the message is none, or lacks it.
fn field<'py>(
    message: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match message.cast::<PyDict>() {
        Ok(message) => message.get_item(name),
        Err(_) => Ok(message.get_item(name).ok()),
    }
}

/// Calls with the bytes of an object that is some.
fn with_bytes<R>(object: &Bound<'_, PyAny>, call: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    if let Ok(bytes) = object.cast::<PyBytes>() {
        return Ok(call(bytes.as_bytes()));
    }
    if let Ok(bytes) = object.cast::<PyByteArray>() {
        return Ok(call(&bytes.to_vec()));
    }
    let bytes = object.py().get_type::<PyBytes>().call1((object,))?;
    Ok(call(bytes.cast::<PyBytes>()?.as_bytes()))
}

/// The length that a `Content-Length` announces; None if it announces none.
fn length_of(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok())?
}

impl PyExchange {
    /// The head of an ASGI response, whose names are lower case.
    fn starts(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        let Some(status) = field(message, intern!(py, "status"))? else { return Ok(()) };
        let (mut content_type, mut length) = (None, None);
        if let Some(headers) = field(message, intern!(py, "headers"))? {
            for header in headers.try_iter()? {
                let header = header?;
                let at = |index| match header.cast::<PyTuple>() {
                    Ok(pair) => pair.get_item(index),
                    Err(_) => header.get_item(index),
                };
                let name = at(0)?;
                let Ok(name) = name.cast::<PyBytes>() else { continue };
                match name.as_bytes() {
                    b"content-length" => length = with_bytes(&at(1)?, length_of)?,
                    b"content-type" => content_type = Some(with_bytes(&at(1)?, <[u8]>::to_vec)?),
                    _ => {}
                }
            }
        }
        self.exchange.responds(status.extract()?, &content_type.unwrap_or_default(), length);
        Ok(())
    }

    /// What a message to the server means; whether `passed` is to be told of its end.
    fn read(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let Some(kind) = field(message, intern!(py, "type"))? else { return Ok(false) };
        match kind.cast::<PyString>()?.to_str()? {
            "http.response.body" => {
                if let Some(body) = field(message, intern!(py, "body"))? {
                    Self::produces(slf, &body)?;
                }
                Ok(!more(message)? || this.exchange.is_timed())
            }
            "http.response.start" => this.starts(message).map(|()| false),
            kind => Ok(kind == "http.response.pathsend"),
        }
    }

    /// Asks what the tokens of a finished request cost, if only Python knows.
    fn charge(slf: &Bound<'_, Self>, tokens: Option<[u64; 2]>) -> PyResult<()> {
        let Some(tokens) = tokens else { return Ok(()) };
        let request = slf.get().request.clone();
        let tokens: (u64, u64) = tokens.into();
        slf.call_method1(intern!(slf.py(), "_charge"), (request, tokens)).map(drop)
    }

    fn cause(slf: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<Cause> {
        let found = slf.call_method1(intern!(slf.py(), "_cause"), (error,))?;
        let (status, kind, http_status): (Bound<'_, PyString>, Option<String>, _) =
            found.extract()?;
        let kind = kind.as_deref().map(kind_of);
        Ok(Cause { status: status_of(status.to_str()?)?, kind, http_status })
    }

    fn leave(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let this = slf.get();
        let told = this.failure.lock().take();
        let told =
            told.filter(|_| this.exchange.has_failed()).map(|told| told.into_bound(slf.py()));
        let cause = error.or(told.as_ref()).map(|error| Self::cause(slf, error)).transpose();
        // Whatever went wrong with the cause, the request has ended.
        let (cause, failed) = cause.map_or_else(|error| (None, Some(error)), |cause| (cause, None));
        Self::charge(slf, this.exchange.leaves(cause))?;
        failed.map_or(Ok(()), Err)
    }

    /// Logs what could not be measured; the user's request goes on.
    fn unless<R>(slf: &Bound<'_, Self>, result: PyResult<R>, otherwise: R) -> PyResult<R> {
        result.or_else(|error| {
            slf.call_method1(intern!(slf.py(), "_unmeasured"), (error,))?;
            Ok(otherwise)
        })
    }
}

fn more(message: &Bound<'_, PyAny>) -> PyResult<bool> {
    field(message, intern!(message.py(), "more_body"))?.map_or(Ok(false), |more| more.is_truthy())
}

#[pymethods]
impl PyExchange {
    #[new]
    fn new(
        model: &str,
        endpoint: &str,
        known_route: bool,
        mode: &str,
        may_stream: bool,
        max_body_bytes: usize,
        count_events: bool,
    ) -> PyResult<Self> {
        let request = PyRequest::open(model, endpoint, Mode::parse(mode)?, 0);
        let body = Body { max_bytes: max_body_bytes, count_events, may_stream };
        let exchange = Exchange::new(request.shared().clone(), known_route, body);
        Ok(Self { request, exchange, failure: Mutex::default() })
    }

    /// The request.
    #[getter]
    fn _request(&self) -> PyRequest {
        self.request.clone()
    }

    /// No generator holds it open.
    #[getter]
    #[allow(clippy::unused_self)]
    fn _frame(&self) -> Option<Py<PyAny>> {
        None
    }

    /// It is part of nothing else.
    #[getter]
    #[allow(clippy::unused_self)]
    fn _outer(&self) -> Option<Py<PyAny>> {
        None
    }

    /// Whether it has left its sample.
    #[getter]
    fn finished(&self) -> bool {
        self.exchange.is_finished()
    }
    /// Whether the body is as long as it was announced.
    #[getter]
    fn all_sent(&self) -> bool {
        self.exchange.all_sent()
    }

    /// A message of ASGI is about to be sent; whether `passed` must be told when it was.
    fn passes(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unless(slf, Self::read(slf, message), false)
    }

    /// It was sent: the consumer has taken its time, or has it all.
    fn passed(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        if Self::unless(slf, more(message), false)? {
            slf.get().exchange.resumes();
            return Ok(());
        }
        Self::completes(slf)
    }

    /// A message of ASGI has come from the client.
    fn hears(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let gone = || {
            let kind = field(message, intern!(slf.py(), "type"))?;
            kind.map_or(Ok(false), |kind| kind.eq(intern!(slf.py(), "http.disconnect")))
        };
        if Self::unless(slf, gone(), false)? {
            slf.get().exchange.hangs_up();
        }
        Ok(())
    }

    /// The head of a response that is no message of ASGI.
    fn responds(&self, status: u16, content_type: &str, length: &str) {
        self.exchange.responds(status, content_type.as_bytes(), length_of(length.as_bytes()));
    }

    /// A piece of the body is about to be handed over.
    fn produces(slf: &Bound<'_, Self>, piece: &Bound<'_, PyAny>) -> PyResult<()> {
        let taken = with_bytes(piece, |piece| slf.get().exchange.produces(piece));
        Self::unless(slf, taken, ())
    }

    /// The consumer has taken its time over a piece; the next one's begins.
    fn resumes(&self) {
        self.exchange.resumes();
    }

    /// The client is known to have gone, unless it has its whole answer.
    fn hangs_up(&self) {
        self.exchange.hangs_up();
    }

    /// The framework answers this exception itself.
    fn explains(&self, error: Option<Py<PyAny>>) {
        *self.failure.lock() = error;
    }

    /// The last byte was handed over; an error of the app may still explain a 5xx.
    fn completes(slf: &Bound<'_, Self>) -> PyResult<()> {
        let charged = Self::charge(slf, slf.get().exchange.completes());
        Self::unless(slf, charged, ())
    }

    /// The app is done with the request, by this exception if there is one.
    fn leaves(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        if slf.get().exchange.is_finished() {
            let _ = slf.get().failure.lock().take();
            return Ok(());
        }
        let left = Self::leave(slf, error);
        Self::unless(slf, left, ())
    }

    #[allow(clippy::needless_pass_by_value)] // as Python's garbage collector calls it
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(failure) = self.failure.try_lock() else { return Ok(()) };
        failure.as_ref().map_or(Ok(()), |failure| visit.call(failure))
    }

    fn __clear__(&self) {
        let _ = self.failure.lock().take();
    }
}
