//! A catalogue of its own and a clock that stands still, for a test in Python.

use std::sync::Arc;

use pyo3::prelude::*;

use super::drops::DropLog;
use super::globals;
use super::registry::PyRegistry;
use crate::clock::{Clock, ManualClock};
use crate::llm::{RYOT, Recorder, Settings};

/// What requests are recorded into, and timed by, between `enter` and `leave`.
///
/// `ryot_metrics.testing` makes one per test. It has the settings of the process as they are now,
/// without sampling, since a test counts each observation, and with the catalogue's own names,
/// whatever the default profile.
///
/// Args:
///     registry: Gets the families of the catalogue.
///
/// Raises:
///     ValueError: If the registry has one of their names already.
#[pyclass(frozen, name = "Isolated", module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct PyIsolated {
    recorder: Arc<Recorder>,
    clock: Arc<ManualClock>,
}

#[pymethods]
impl PyIsolated {
    #[new]
    fn new(registry: &PyRegistry) -> PyResult<Self> {
        let clock = Arc::new(ManualClock::default());
        let usual = globals::usual().settings();
        let settings = Settings { profile: RYOT.to_owned(), sampling: Vec::new(), ..usual };
        let recorder = Arc::new(Recorder::new(registry.core(), clock.clone(), &settings)?);
        registry.core().register(Arc::new(DropLog::new(&recorder)))?;
        Ok(Self { recorder, clock })
    }

    /// The clock's time in nanoseconds; 0 at first.
    #[getter]
    fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Moves the clock forward.
    fn advance(&self, nanos: u64) {
        self.clock.advance(nanos);
    }

    /// From now on, requests and engines of this process begin here.
    fn enter(&self) {
        globals::replace(self.recorder.clone());
    }

    /// From now on they begin where they did before. What has begun here also ends here.
    fn leave(&self) {
        globals::reinstate(&self.recorder);
    }
}
