//! The class `Gauge`.

use pyo3::prelude::*;

use super::{metric_class, timing};
use crate::clock::unix_seconds;
use crate::metrics::{GaugeMode, Kind};

metric_class! {
    /// A value that goes up and down.
    ///
    /// Args as `Counter`, and:
    ///     multiprocess_mode: What the page shows of the values of worker processes that share a
    ///         mapping: `all` of them with the label `pid`, their `sum`, the least (`min`), the
    ///         greatest (`max`) or the last (`mostrecent`); as `liveall`, `livesum` and so on only
    ///         of processes that are there. Default `all`. Without effect in a single process.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Gauge
    ///     >>> registry = CollectorRegistry()
    ///     >>> depth = Gauge("depth", "Jobs that wait.", registry=registry)
    ///     >>> depth.inc(3); depth.dec(); depth.inc(0.5)
    ///     >>> registry.get_sample_value("depth")
    ///     2.5
    PyGauge, "Gauge", Kind::Gauge, extra(multiprocess_mode: &str = "all") desc => {
        Ok(desc.with_mode(GaugeMode::parse(multiprocess_mode)?))
    }, {
        /// Adds `amount`.
        #[pyo3(signature = (amount=1.0))]
        fn inc(&self, amount: f64) -> PyResult<()> {
            self.handle.series()?.add(amount);
            Ok(())
        }

        /// Subtracts `amount`.
        #[pyo3(signature = (amount=1.0))]
        fn dec(&self, amount: f64) -> PyResult<()> {
            self.handle.series()?.add(-amount);
            Ok(())
        }

        /// Sets the value.
        fn set(&self, value: f64) -> PyResult<()> {
            self.handle.series()?.set(value);
            Ok(())
        }

        /// Sets the value to the seconds since 1970.
        fn set_to_current_time(&self) -> PyResult<()> {
            self.handle.series()?.set(unix_seconds());
            Ok(())
        }

        /// Lets a function without arguments say the value when a page is written.
        fn set_function(&self, f: Py<PyAny>) -> PyResult<()> {
            self.handle.source.set(self.handle.series()?, f);
            Ok(())
        }

        /// Counts the blocks, or the calls of a decorated function, that have not ended.
        fn track_inprogress<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
            let (inc, dec) = (this.getattr("inc")?, this.getattr("dec")?);
            timing(this.py(), "InprogressTracker")?.call1((inc, dec))
        }

        /// Sets the seconds that a block, or each call of a decorated function, took.
        fn time<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
            timing(this.py(), "Timer")?.call1((this.getattr("set")?,))
        }
    }
}
