//! Metrics in Python, named and called as in `prometheus_client`: what all classes share.
//!
//! A class is written by [`metric_class`], in the file of its kind; here is no kind.

mod counter;
mod facts;
mod gauge;
mod observed;

use std::sync::Arc;

use pyo3::prelude::*;

pub(super) use self::counter::PyCounter;
pub(super) use self::facts::{PyEnum, PyInfo};
pub(super) use self::gauge::PyGauge;
pub(super) use self::observed::{PyHistogram, PySummary};

use super::children::Metric as _;
use crate::metrics::{self, Source};

/// A class of `ryot_metrics.client.timing`.
fn timing<'py>(py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("ryot_metrics.client.timing")?.getattr(class)
}

/// A class of a metric: its constructor, its children and what it shows of itself; `finish` adds to the
/// description what the kind needs, and the methods are its own.
macro_rules! metric_class {
    (
        $(#[$doc:meta])* $class:ident, $name:literal, $kind:expr,
        extra($($argument:ident: $type:ty = $default:expr),*) $desc:ident => $finish:expr,
        { $($methods:tt)* }
    ) => {
        $(#[$doc])*
        #[pyclass(frozen, name = $name, module = "ryot_metrics.client")]
        #[derive(Debug)]
        pub(in crate::py) struct $class {
            handle: $crate::py::handle::Handle,
            /// None in a child.
            children: Option<Box<$crate::py::children::Children<Self>>>,
        }

        impl $crate::py::children::Metric for $class {
            fn handle(&self) -> &$crate::py::handle::Handle {
                &self.handle
            }

            fn children(&self) -> Option<&$crate::py::children::Children<Self>> {
                self.children.as_deref()
            }

            fn of(handle: $crate::py::handle::Handle) -> Self {
                Self { handle, children: None }
            }
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (
                name, documentation, labelnames=vec![], namespace="", subsystem="", unit="",
                registry=$crate::py::handle::Target::Default $(, $argument=$default)*,
                *, series_limit=None, idle_ttl=None, exist_ok=false
            ))]
            #[allow(clippy::too_many_arguments)] // prometheus_client's signature
            fn new(
                py: Python<'_>,
                name: &str,
                documentation: &str,
                labelnames: Vec<String>,
                namespace: &str,
                subsystem: &str,
                unit: &str,
                registry: $crate::py::handle::Target,
                $($argument: $type,)*
                series_limit: Option<usize>,
                idle_ttl: Option<f64>,
                exist_ok: bool,
            ) -> PyResult<Self> {
                let spec = $crate::py::handle::Spec {
                    kind: $kind,
                    parts: [namespace, subsystem, name],
                    documentation,
                    labelnames,
                    unit,
                    series_limit,
                    idle_ttl,
                    exist_ok,
                };
                let finish = |$desc: $crate::metrics::Desc| $finish;
                let handle = $crate::py::handle::Handle::new(&spec, &registry, finish)?;
                let children = $crate::py::children::Children::new(py, handle.family.desc());
                Ok(Self { handle, children: Some(Box::new(children)) })
            }

            /// The series with these label values, by position or by keyword. Keep it where speed
            /// matters: it is the lookup that costs.
            ///
            /// Raises:
            ///     ValueError: If the values do not match the label names.
            #[pyo3(signature = (*labelvalues, **labelkwargs))]
            fn labels(
                &self,
                labelvalues: &Bound<'_, pyo3::types::PyTuple>,
                labelkwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
            ) -> PyResult<pyo3::Py<Self>> {
                $crate::py::children::labels(self, labelvalues, labelkwargs)
            }

            /// Takes the series with these label values off the page.
            #[pyo3(signature = (*labelvalues))]
            fn remove(&self, labelvalues: &Bound<'_, pyo3::types::PyTuple>) -> PyResult<()> {
                $crate::py::children::remove(self, labelvalues)
            }

            /// Takes all series off the page.
            fn clear(&self) {
                $crate::py::children::clear(self);
            }

            /// Takes the series that have all of these labels off the page.
            ///
            /// Args:
            ///     labels: Values by label name; some of the labels may be left out.
            ///
            /// Raises:
            ///     ValueError: If there is no such label.
            fn remove_by_labels(&self, labels: &Bound<'_, pyo3::types::PyDict>) -> PyResult<()> {
                $crate::py::children::remove_by_labels(self, labels)
            }

            /// The family as it stands now, in a list of `ryot_metrics.client.Metric`.
            fn collect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyList>> {
                self.handle.collect(py)
            }

            /// The family without samples.
            fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyList>> {
                self.handle.describe(py)
            }

            $($methods)*
        }
    };
}
use metric_class;

/// What a registry has of a metric, if this object is one.
pub(super) fn source_of(object: &Bound<'_, PyAny>) -> Option<Arc<dyn Source>> {
    macro_rules! try_classes {
        ($($class:ty),*) => {
            $(if let Ok(metric) = object.cast::<$class>() {
                return Some(metric.get().handle().source.clone());
            })*
        };
    }
    try_classes!(PyCounter, PyGauge, PySummary, PyHistogram, PyInfo, PyEnum);
    None
}

/// What a call costs that does nothing: the floor of the benchmarks.
#[pyclass(frozen, module = "ryot_metrics._ryot_metrics")]
#[derive(Debug)]
pub(super) struct Floor;

#[pymethods]
impl Floor {
    #[new]
    fn new() -> Self {
        Self
    }

    /// Takes a float and does nothing.
    #[allow(clippy::unused_self)]
    fn call(&self, _value: f64) {}
}

/// Leaves the `_created` samples out of all pages.
#[pyfunction]
pub(super) fn disable_created_metrics() {
    metrics::disable_created_metrics();
}

/// Puts the `_created` samples on the pages again; they are there from the start.
#[pyfunction]
pub(super) fn enable_created_metrics() {
    metrics::enable_created_metrics();
}
