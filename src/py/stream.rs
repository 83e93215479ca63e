//! An async generator as a request: each of its steps, and to whom the time in between belongs.
//!
//! The generator's code runs in a context of its own, a copy of its consumer's in which the request
//! is current, as if it were a task: so whatever it calls, and the tasks that it begins, belong to
//! the request, and nothing of its consumer's does. To set and reset the variable for each step
//! costs ten times as much.

use std::ffi::CStr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyStopAsyncIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PyTuple};

use super::awaitable::{self, Around, Class};
use super::current::Variable;
use super::request::PyRequest;

/// What a stream is asked for.
#[derive(Debug)]
enum Ask {
    Next,
    Send(Py<PyAny>),
    Throw(Py<PyTuple>),
    Close,
}

impl Ask {
    /// As Python calls it in its errors.
    const fn name(&self) -> &'static str {
        match self {
            Self::Next | Self::Send(_) => "anext",
            Self::Throw(_) => "athrow",
            Self::Close => "aclose",
        }
    }
}

/// A request that its stream has begun.
#[derive(Debug)]
struct Open {
    /// Python's `Run`.
    run: Py<PyAny>,
    request: PyRequest,
    /// Types whose items are a token each.
    counted: Py<PyFrozenSet>,
    /// The address of one of them, that of the last such item.
    last_counted: AtomicUsize,
    context: Py<PyAny>,
}

impl Open {
    /// Whether an item is a token.
    fn counts(&self, item: &Bound<'_, PyAny>) -> bool {
        let class = item.get_type_ptr() as usize;
        if class == self.last_counted.load(Relaxed) {
            return true;
        }
        let counted = self.counted.bind(item.py()).contains(item.get_type()).unwrap_or(false);
        if counted {
            self.last_counted.store(class, Relaxed);
        }
        counted
    }
}

/// An async generator whose steps are measured.
///
/// What few streams need is in the Python class that extends it. It has no lock, since each would
/// be taken twice for a token: the interpreter's is held whenever a field changes.
#[pyclass(frozen, subclass, weakref, name = "AsyncStream", module = "ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyAsyncStream {
    stream: Py<PyAny>,
    /// Gives the `Run`, at the first step.
    begin: Py<PyAny>,
    open: OnceLock<Open>,
    is_running: AtomicBool,
    /// Its request has ended, or will never begin.
    is_over: AtomicBool,
}

impl PyAsyncStream {
    fn ask(slf: &Bound<'_, Self>, ask: Ask) -> PyResult<Py<PyAny>> {
        let step = Step { stream: slf.clone().unbind(), ask };
        awaitable::new(slf.py(), step).map(Bound::unbind)
    }

    /// What is open, if anything is.
    fn open(&self) -> Option<&Open> {
        self.open.get().filter(|_| !self.is_over.load(Relaxed))
    }

    /// Opens its request, and a context in which that is current.
    fn opened(&self, py: Python<'_>) -> PyResult<&Open> {
        let run = self.begin.bind(py).call0()?;
        let request = run.getattr(intern!(py, "request"))?;
        let counted = run.getattr(intern!(py, "counted"))?.cast_into::<PyFrozenSet>()?.unbind();
        let context = awaitable::copied_context(py)?;
        awaitable::in_context(&context, || Variable::of(py)?.set(&request))?;
        let request = request.cast::<PyRequest>()?.get().clone();
        let (run, context) = (run.unbind(), context.unbind());
        let last_counted = AtomicUsize::default();
        Ok(self.open.get_or_init(|| Open { run, request, counted, last_counted, context }))
    }

    /// The next step begins; the context that it runs in.
    fn begins<'py>(&self, py: Python<'py>, ask: &Ask) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.is_running.load(Relaxed) {
            let name = ask.name();
            let text = format!("{name}(): asynchronous generator is already running");
            return Err(PyRuntimeError::new_err(text));
        }
        self.is_running.store(true, Relaxed);
        let is_new = self.open.get().is_none();
        if is_new && matches!(ask, Ask::Throw(_) | Ask::Close) {
            self.is_over.store(true, Relaxed); // it never began
        }
        if self.is_over.load(Relaxed) {
            return Ok(None);
        }
        let open = match self.open.get() {
            Some(open) => open,
            None => self.opened(py).inspect_err(|_| self.is_running.store(false, Relaxed))?,
        };
        open.request.resumed();
        Ok(Some(open.context.bind(py).clone()))
    }

    /// A step gave an item.
    fn gave(&self, item: &Bound<'_, PyAny>) {
        self.is_running.store(false, Relaxed);
        let Some(open) = self.open() else { return };
        if open.counts(item) {
            return open.request.item();
        }
        let py = item.py();
        let run = open.run.bind(py);
        if let Err(error) = run.call_method1(intern!(py, "produced"), (item,)) {
            error.write_unraisable(py, Some(run));
        }
    }

    /// The stream ended: by itself, or by this.
    fn ends(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>) {
        self.is_running.store(false, Relaxed);
        let Some(open) = self.open() else { return };
        self.is_over.store(true, Relaxed);
        let run = open.run.bind(py);
        if let Err(error) = run.call_method1(intern!(py, "end"), (error,)) {
            error.write_unraisable(py, Some(run));
        }
    }

    /// The same, since its consumer wants no more.
    fn ends_by_consumer(&self, py: Python<'_>) {
        match py.get_type::<PyGeneratorExit>().call0() {
            Ok(exit) => self.ends(py, Some(&exit)),
            Err(error) => error.write_unraisable(py, None),
        }
    }
}

#[pymethods]
impl PyAsyncStream {
    #[new]
    fn new(stream: Py<PyAny>, begin: Py<PyAny>) -> Self {
        let (is_running, is_over) = (AtomicBool::default(), AtomicBool::default());
        Self { stream, begin, open: OnceLock::new(), is_running, is_over }
    }

    /// The generator that it steps.
    #[getter]
    fn _stream(&self, py: Python<'_>) -> Py<PyAny> {
        self.stream.clone_ref(py)
    }

    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::ask(slf, Ask::Next)
    }

    /// The next item, as the answer to a value.
    fn asend(slf: &Bound<'_, Self>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        Self::ask(slf, Ask::Send(value))
    }

    /// The next item, if its code goes on after this exception.
    #[pyo3(signature = (*error))]
    fn athrow(slf: &Bound<'_, Self>, error: Py<PyTuple>) -> PyResult<Py<PyAny>> {
        Self::ask(slf, Ask::Throw(error))
    }

    /// Ends it where it stands.
    fn aclose(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::ask(slf, Ask::Close)
    }

    /// Its consumer has dropped it.
    fn _dropped(&self, py: Python<'_>) {
        if self.open().is_some() {
            self.ends_by_consumer(py);
        }
    }

    // No `__clear__`: whatever it refers to can be cleared, so that no circle is without one.
    #[allow(clippy::needless_pass_by_value)] // as Python's garbage collector calls it
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.stream)?;
        visit.call(&self.begin)?;
        let Some(open) = self.open.get() else { return Ok(()) };
        visit.call(&open.run)?;
        visit.call(&open.counted)?;
        visit.call(&open.context)
    }
}

/// One step of a stream.
#[derive(Debug)]
struct Step {
    stream: Py<PyAsyncStream>,
    ask: Ask,
}

impl Around for Step {
    const NAME: &'static CStr = c"ryot_metrics.AsyncStreamStep";

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn begins<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.stream.get().begins(py, &self.ask)
    }

    fn awaited<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stream = self.stream.get().stream.bind(py);
        match &self.ask {
            Ask::Next => awaitable::next_of(stream),
            Ask::Send(value) => stream.call_method1(intern!(py, "asend"), (value,)),
            Ask::Throw(error) => stream.getattr(intern!(py, "athrow"))?.call1(error.bind(py)),
            Ask::Close => stream.call_method0(intern!(py, "aclose")),
        }
    }

    fn returned(&self, result: &Bound<'_, PyAny>) {
        let py = result.py();
        match self.ask {
            Ask::Close => self.stream.get().ends_by_consumer(py),
            _ => self.stream.get().gave(result),
        }
    }

    fn failed(&self, error: &Bound<'_, PyAny>) {
        let by_itself = error.is_instance_of::<PyStopAsyncIteration>();
        self.stream.get().ends(error.py(), (!by_itself).then_some(error));
    }

    fn closed(&self, py: Python<'_>) {
        self.stream.get().ends_by_consumer(py);
    }

    fn owns(&self) -> [Option<&Py<PyAny>>; 2] {
        let asked = match &self.ask {
            Ask::Send(value) => Some(value),
            Ask::Throw(error) => Some(error.as_any()),
            Ask::Next | Ask::Close => None,
        };
        [Some(self.stream.as_any()), asked]
    }

    fn into_owned(self) -> [Option<Py<PyAny>>; 2] {
        let asked = match self.ask {
            Ask::Send(value) => Some(value),
            Ask::Throw(error) => Some(error.into_any()),
            Ask::Next | Ask::Close => None,
        };
        [Some(self.stream.into_any()), asked]
    }
}
