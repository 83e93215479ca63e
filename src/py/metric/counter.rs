//! The class `Counter`.

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{metric_class, timing};
use crate::clock::unix_seconds;
use crate::metrics::Kind;
use crate::py::handle::exemplar_of;
use crate::py::values::for_each_value;

metric_class! {
    /// A sum that only grows; its sample is called `<name>_total`.
    ///
    /// Args:
    ///     name: The family's name; a suffix `_total` may be left out.
    ///     documentation: The help text.
    ///     labelnames: The names of its labels.
    ///     namespace: A prefix of the name.
    ///     subsystem: A second prefix.
    ///     unit: A suffix of the name.
    ///     registry: Where it is registered; None for nowhere.
    ///     series_limit: The most label sets; past it, new ones share the series `__overflow__`.
    ///         Default no limit.
    ///     idle_ttl: Seconds after which a label set that nobody writes leaves the page. Default
    ///         never.
    ///     exist_ok: A metric that is registered with the same description is returned, as a
    ///         module needs that is loaded again. Default False.
    ///
    /// Raises:
    ///     ValueError: For a malformed, reserved or taken name.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Counter
    ///     >>> registry = CollectorRegistry()
    ///     >>> jobs = Counter("jobs", "Jobs done.", ["queue"], registry=registry)
    ///     >>> jobs.labels("mail").inc()
    ///     >>> registry.get_sample_value("jobs_total", {"queue": "mail"})
    ///     1.0
    PyCounter, "Counter", Kind::Counter, extra() desc => Ok(desc), {
        /// Adds `amount`, which must not be negative.
        ///
        /// Args:
        ///     amount: How much; default 1.
        ///     exemplar: Labels that lead to an example, such as a trace's id; at most 128
        ///         characters in all. Shown on OpenMetrics pages.
        ///
        /// Raises:
        ///     ValueError: If it is negative, or labels are missing.
        #[pyo3(signature = (amount=1.0, exemplar=None))]
        fn inc(&self, amount: f64, exemplar: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
            let series = self.handle.series()?;
            if amount < 0.0 {
                return Err(PyValueError::new_err(
                    "Counters can only be incremented by non-negative amounts.",
                ));
            }
            series.add(amount);
            if let Some(labels) = exemplar {
                series.set_exemplar(exemplar_of(labels, amount)?);
            }
            Ok(())
        }

        /// Adds all values of a sequence, or of a numpy array of floats.
        ///
        /// Raises:
        ///     ValueError: If one is negative; then none is added.
        fn inc_many(&self, amounts: &Bound<'_, PyAny>) -> PyResult<()> {
            let series = self.handle.series()?;
            let (mut sum, mut negative) = (0.0, false);
            for_each_value(amounts, |block| {
                sum += block.iter().sum::<f64>();
                negative |= block.iter().any(|amount| *amount < 0.0);
            })?;
            if negative {
                return Err(PyValueError::new_err(
                    "Counters can only be incremented by non-negative amounts.",
                ));
            }
            series.add(sum);
            Ok(())
        }

        /// Begins anew at 0.
        fn reset(&self) -> PyResult<()> {
            self.handle.series()?.reset(unix_seconds());
            Ok(())
        }

        /// Counts the exceptions that leave a block or a decorated function of any kind.
        ///
        /// Args:
        ///     exception: The class of those that count, or a tuple of several.
        #[pyo3(signature = (exception=None))]
        fn count_exceptions<'py>(
            this: &Bound<'py, Self>,
            exception: Option<Bound<'py, PyAny>>,
        ) -> PyResult<Bound<'py, PyAny>> {
            let py = this.py();
            let all = py.get_type::<PyException>().into_any();
            let inc = this.getattr("inc")?;
            timing(py, "ExceptionCounter")?.call1((inc, exception.unwrap_or(all)))
        }
    }
}
