//! The context variable that says which request the running code belongs to.
//!
//! Its value is a request, a scope or a block; which of them still counts is decided by
//! `tracking.current_request`.

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::frame;

/// `inspect.CO_GENERATOR` and `inspect.CO_ASYNC_GENERATOR`.
const GENERATORS: u32 = 0x20 | 0x200;

static VARIABLE: PyOnceLock<Variable> = PyOnceLock::new();

/// The variable, with its methods bound.
#[derive(Debug)]
pub(super) struct Variable {
    itself: Py<PyAny>,
    get: Py<PyAny>,
    set: Py<PyAny>,
    reset: Py<PyAny>,
    /// The code that asked last, and whether it is a generator's: a service has few blocks, and
    /// reading a code's flags costs as much as the rest of the question.
    asked: Mutex<Option<(Py<PyAny>, bool)>>,
}

impl Variable {
    /// The only one.
    pub(super) fn of(py: Python<'_>) -> PyResult<&Self> {
        VARIABLE.get_or_try_init(py, || {
            let default = PyDict::new(py);
            default.set_item("default", py.None())?;
            let class = py.import("contextvars")?.getattr("ContextVar")?;
            let itself = class.call(("ryot_request",), Some(&default))?;
            let method = |name| Ok::<_, PyErr>(itself.getattr(name)?.unbind());
            let (get, set, reset) = (method("get")?, method("set")?, method("reset")?);
            let asked = Mutex::default();
            Ok(Self { itself: itself.unbind(), get, set, reset, asked })
        })
    }

    /// As Python knows it.
    pub(super) fn itself(&self) -> &Py<PyAny> {
        &self.itself
    }

    /// Its value here.
    pub(super) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get.bind(py).call0()
    }

    /// Sets it here.
    pub(super) fn set(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.set.bind(value.py()).call1((value,)).map(drop)
    }

    /// The frame of the running code, or of its caller at this depth, if it is a generator's:
    /// such a frame can be suspended, and what runs then is its consumer.
    fn generator(&self, py: Python<'_>, depth: u32) -> PyResult<Option<Py<PyAny>>> {
        let Some((frame, code)) = frame::running(py, depth)? else { return Ok(None) };
        let known = self.asked.lock().as_ref().filter(|(asked, _)| asked.is(&code)).map(|it| it.1);
        let is_generator = known.map_or_else(|| self.ask(&code), Ok)?;
        Ok(is_generator.then(|| frame.unbind()))
    }

    fn ask(&self, code: &Bound<'_, PyAny>) -> PyResult<bool> {
        let flags: u32 = code.getattr(intern!(code.py(), "co_flags"))?.extract()?;
        let is_generator = flags & GENERATORS != 0;
        // What is let go may run Python's collector: outside of the lock.
        let before = self.asked.lock().replace((code.clone().unbind(), is_generator));
        drop(before);
        Ok(is_generator)
    }
}

/// Where an object that became current stands.
#[derive(Debug)]
pub(super) struct Place {
    /// What was current before. A task that was begun in the block may ask for it after its end.
    pub(super) outer: Py<PyAny>,
    /// The frame of a generator that holds the block open across its `yield`s.
    pub(super) frame: Option<Py<PyAny>>,
    /// What makes `outer` current again; None after the end.
    pub(super) token: Option<Py<PyAny>>,
}

impl Place {
    /// Makes it current for the caller at this depth, after `outer`.
    pub(super) fn enter(
        itself: &Bound<'_, PyAny>,
        outer: Bound<'_, PyAny>,
        depth: u32,
    ) -> PyResult<Self> {
        let (py, current) = (itself.py(), Variable::of(itself.py())?);
        let frame = current.generator(py, depth)?;
        let token = current.set.bind(py).call1((itself,))?.unbind();
        Ok(Self { outer: outer.unbind(), frame, token: Some(token) })
    }

    /// Makes `outer` current again, if it is current still.
    pub(super) fn leave(
        itself: &Bound<'_, PyAny>,
        outer: Py<PyAny>,
        token: Py<PyAny>,
    ) -> PyResult<()> {
        let (py, current) = (itself.py(), Variable::of(itself.py())?);
        if !current.get(py)?.is(itself) {
            return Ok(());
        }
        match current.reset.bind(py).call1((token,)) {
            // A generator may be closed in another context than it began in.
            Err(error) if error.is_instance_of::<PyValueError>(py) => {
                current.set.bind(py).call1((outer,)).map(drop)
            }
            other => other.map(drop),
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.outer)?;
        visit.call(&self.frame)?;
        visit.call(&self.token)
    }
}
