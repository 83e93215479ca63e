//! The classes that take observations: `Summary` and `Histogram`.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{metric_class, timing};
use crate::metrics::{Kind, NativeOptions, Quantiles};
use crate::py::handle::exemplar_of;
use crate::py::values::for_each_value;

/// `prometheus_client`'s default buckets.
const DEFAULT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

metric_class! {
    /// Observations with their count and sum, and quantiles of the last minutes if asked for.
    ///
    /// Args as `Counter`, and:
    ///     quantiles: The quantiles on the page, each from 0 to 1. Default none.
    ///     window_seconds: Observations count for quantiles so long. Default 600.
    ///     age_buckets: The steps in which they are forgotten. Default 5.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Summary
    ///     >>> registry = CollectorRegistry()
    ///     >>> size = Summary("size", "Sizes.", registry=registry)
    ///     >>> size.observe(1.5); size.observe(2)
    ///     >>> registry.get_sample_value("size_sum")
    ///     3.5
    PySummary, "Summary", Kind::Summary,
    extra(
        quantiles: Option<Vec<f64>> = None, window_seconds: f64 = 600.0, age_buckets: usize = 5
    ) desc => match quantiles {
        Some(objectives) => {
            let objectives = objectives.into();
            desc.with_quantiles(Quantiles { objectives, window_seconds, age_buckets })
        }
        None => Ok(desc),
    }, {
        /// Counts one observation.
        fn observe(&self, amount: f64) -> PyResult<()> {
            self.handle.series()?.observe(amount);
            Ok(())
        }

        /// Counts `count` observations of the same value.
        fn observe_n(&self, amount: f64, count: u64) -> PyResult<()> {
            self.handle.series()?.observe_n(amount, count);
            Ok(())
        }

        /// Counts one observation for each value of a sequence, or of a numpy array of floats.
        fn observe_many(&self, amounts: &Bound<'_, PyAny>) -> PyResult<()> {
            let series = self.handle.series()?;
            for_each_value(amounts, |block| series.observe_all(block))
        }

        /// Observes the seconds that a block, or each call of a decorated function, took.
        fn time<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
            timing(this.py(), "Timer")?.call1((this.getattr("observe")?,))
        }
    }
}

metric_class! {
    /// Observations counted in buckets, with their sum.
    ///
    /// Args as `Counter`, and:
    ///     buckets: Ascending upper bounds; `+Inf` is added if it is not the last. The default is
    ///         prometheus_client's, 5 ms to 10 s. None: only native buckets.
    ///     native_factor: Adds a native histogram, which protobuf pages carry: its buckets grow by
    ///         at most this factor, for example 1.1. Default None.
    ///     native_max_buckets: Its most buckets; past it, it begins anew or gets coarser.
    ///         Default 160, 0 for no limit.
    ///     native_zero_threshold: Values up to this size count as zero. Default 2^-128.
    ///     native_min_reset_seconds: The least time between two new beginnings. Default 3600, 0
    ///         for none.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Histogram
    ///     >>> registry = CollectorRegistry()
    ///     >>> size = Histogram("size", "Sizes.", buckets=(1, 2), registry=registry)
    ///     >>> size.observe(1.5)
    ///     >>> registry.get_sample_value("size_bucket", {"le": "2.0"})
    ///     1.0
    PyHistogram, "Histogram", Kind::Histogram,
    extra(
        buckets: Option<Vec<f64>> = Some(DEFAULT_BUCKETS.to_vec()),
        native_factor: Option<f64> = None, native_max_buckets: usize = 160,
        native_zero_threshold: f64 = NativeOptions::default().zero_threshold,
        native_min_reset_seconds: f64 = 3600.0
    ) desc => {
        let desc = match native_factor {
            Some(factor) => desc.with_native(NativeOptions {
                max_buckets: native_max_buckets,
                zero_threshold: native_zero_threshold,
                min_reset_seconds: native_min_reset_seconds,
                ..NativeOptions::with_factor(factor)?
            })?,
            None => desc,
        };
        match buckets {
            Some(buckets) => desc.with_bounds(&buckets),
            None if native_factor.is_some() => Ok(desc),
            None => desc.with_bounds(&[]),
        }
    }, {
        /// Counts one observation.
        ///
        /// Args:
        ///     amount: The value.
        ///     exemplar: Labels that lead to an example, such as a trace's id; at most 128
        ///         characters in all. Shown on OpenMetrics pages.
        #[pyo3(signature = (amount, exemplar=None))]
        fn observe(&self, amount: f64, exemplar: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
            let series = self.handle.series()?;
            series.observe(amount);
            if let Some(labels) = exemplar {
                series.set_exemplar(exemplar_of(labels, amount)?);
            }
            Ok(())
        }

        /// Counts `count` observations of the same value.
        fn observe_n(&self, amount: f64, count: u64) -> PyResult<()> {
            self.handle.series()?.observe_n(amount, count);
            Ok(())
        }

        /// Counts all values of a sequence, or of a numpy array of float32 or float64, which is
        /// read where it lies. A value that is no number raises before any is counted.
        fn observe_many(&self, amounts: &Bound<'_, PyAny>) -> PyResult<()> {
            let series = self.handle.series()?;
            for_each_value(amounts, |block| series.observe_all(block))
        }

        /// Observes the seconds that a block, or each call of a decorated function, took.
        fn time<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
            timing(this.py(), "Timer")?.call1((this.getattr("observe")?,))
        }
    }
}
