//! The classes whose values are words: `Enum` and `Info`.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::metric_class;
use crate::metrics::{Family, Kind};
use crate::py::handle::Handle;

metric_class! {
    /// One of a closed set of states, which has the value 1, all others 0.
    ///
    /// Args as `Counter`, and:
    ///     states: The states; the first is the current one until another is set.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Enum
    ///     >>> registry = CollectorRegistry()
    ///     >>> task = Enum("task", "Task.", states=["idle", "busy"], registry=registry)
    ///     >>> task.state("busy")
    ///     >>> registry.get_sample_value("task", {"task": "busy"})
    ///     1.0
    PyEnum, "Enum", Kind::StateSet,
    extra(states: Vec<String> = vec![]) desc => {
        desc.with_states(&states.iter().map(String::as_str).collect::<Vec<_>>())
    }, {
        /// Makes this the current state.
        ///
        /// Raises:
        ///     ValueError: If it is none of the states.
        fn state(&self, state: &str) -> PyResult<()> {
            if self.handle.series()?.set_state(state) {
                return Ok(());
            }
            Err(PyValueError::new_err(format!("{state:?} is not in list of states")))
        }
    }
}

metric_class! {
    /// Facts as labels of a sample `<name>_info` with the value 1.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Info
    ///     >>> registry = CollectorRegistry()
    ///     >>> Info("build", "The build.", registry=registry).info({"version": "1.2"})
    ///     >>> registry.get_sample_value("build_info", {"version": "1.2"})
    ///     1.0
    PyInfo, "Info", Kind::Info, extra() desc => Ok(desc), {
        /// Sets the facts, names and values.
        ///
        /// Raises:
        ///     ValueError: If a fact has the name of a label.
        fn info(&self, val: BTreeMap<String, String>) -> PyResult<()> {
            let names = &self.handle.family.desc().label_names;
            if let Some(name) = names.iter().find(|name| val.contains_key(&***name)) {
                return Err(PyValueError::new_err(format!(
                    "Overlapping labels for Info metric: {name} is a label and a fact"
                )));
            }
            let facts: Vec<_> = val.into_iter().collect();
            if names.is_empty() {
                self.handle.family.series::<&str>(&[]).set_info(&facts);
            } else {
                self.handle.series()?.set_info(&facts);
            }
            Ok(())
        }
    }
}

impl PyInfo {
    /// The class around a family of the catalogue, which is absent until its facts are set.
    pub(in crate::py) fn of(family: Arc<Family>) -> Self {
        Self { handle: Handle::of(family), children: None }
    }
}
