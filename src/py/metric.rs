//! Metrics in Python, named and called as in `prometheus_client`.

use std::collections::BTreeMap;
use std::sync::Arc;

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::boundary::detached_in_core;
use super::handle::{Children, Handle, Spec, Target, exemplar_of, texts, values_of};
use super::recent::identity;
use super::registry::{families_of, pairs};
use super::values::for_each_value;
use crate::clock::unix_seconds;
use crate::error::{Error, Result};
use crate::metrics::{self, Desc, Family, GaugeMode, Kind, NativeOptions, Quantiles, Source};

/// `prometheus_client`'s default buckets.
const DEFAULT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Refuses a limit that would leave nothing.
fn positive(name: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if value.is_nan() || value <= 0.0 => {
            Err(Error::InvalidArgument(format!("{name} is {value}; it must be above 0")))
        }
        _ => Ok(()),
    }
}

/// A class of `ryot_metrics.client.timing`.
fn timing<'py>(py: Python<'py>, class: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("ryot_metrics.client.timing")?.getattr(class)
}

macro_rules! metric_class {
    (
        $(#[$doc:meta])* $class:ident, $name:literal, $kind:expr,
        extra($($argument:ident: $type:ty = $default:expr),*) $desc:ident => $finish:expr,
        { $($methods:tt)* }
    ) => {
        $(#[$doc])*
        #[pyclass(frozen, name = $name, module = "ryot_metrics.client")]
        #[derive(Debug)]
        pub(super) struct $class {
            handle: Handle,
            /// None in a child.
            children: Option<Box<Children<Self>>>,
        }

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (
                name, documentation, labelnames=vec![], namespace="", subsystem="", unit="",
                registry=Target::Default $(, $argument=$default)*,
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
                registry: Target,
                $($argument: $type,)*
                series_limit: Option<usize>,
                idle_ttl: Option<f64>,
                exist_ok: bool,
            ) -> PyResult<Self> {
                positive("series_limit", series_limit.map(|limit| limit as f64))?;
                positive("idle_ttl", idle_ttl)?;
                let spec = Spec {
                    kind: $kind,
                    parts: [namespace, subsystem, name],
                    documentation,
                    labelnames,
                    unit,
                    series_limit,
                    idle_ttl,
                    exist_ok,
                };
                let handle = Handle::new(&spec, &registry, |$desc: Desc| $finish)?;
                let children = Some(Box::new(Children::new(py, handle.family.desc())));
                Ok(Self { handle, children })
            }

            /// The series with these label values, by position or by keyword. Keep it where speed
            /// matters: it is the lookup that costs.
            ///
            /// Raises:
            ///     ValueError: If the values do not match the label names.
            #[pyo3(signature = (*labelvalues, **labelkwargs))]
            fn labels(
                &self,
                labelvalues: &Bound<'_, PyTuple>,
                labelkwargs: Option<&Bound<'_, PyDict>>,
            ) -> PyResult<Py<Self>> {
                let py = labelvalues.py();
                let family = &self.handle.family;
                let Some(parent) = &self.children else {
                    return Err(PyValueError::new_err(format!(
                        "{} already has labels set; can't chain calls to .labels()",
                        family.desc().name
                    )));
                };
                drop(parent.follow(family, |child| &child.handle));
                let recent = &parent.recent;
                let identity = identity(&parent.names, labelvalues, labelkwargs);
                if let Some(child) = identity.and_then(|identity| recent.find(py, &identity)) {
                    return Ok(child);
                }
                let epoch = recent.epoch();
                let values = values_of(family.desc(), &parent.names, labelvalues, labelkwargs)?;
                let texts = texts(&values)?;
                if let Some(child) = parent.find(py, &texts) {
                    recent.keep(epoch, &values, &child);
                    return Ok(child);
                }
                if family.forgets() {
                    drop(parent.forget(py, |child| child.handle.is_idle()));
                }
                // Outside of the lock: making an object may run Python's collector.
                let handle = self.handle.child(family.series(&texts));
                let child = Py::new(py, Self { handle, children: None })?;
                Ok(parent.keep(py, &texts, child))
            }

            /// Takes the series with these label values off the page.
            #[pyo3(signature = (*labelvalues))]
            fn remove(&self, labelvalues: &Bound<'_, PyTuple>) -> PyResult<()> {
                let Some(parent) = &self.children else { return Ok(()) };
                let family = &self.handle.family;
                let values = values_of(family.desc(), &parent.names, labelvalues, None)?;
                let texts = texts(&values)?;
                family.remove(&texts);
                parent.remove(&texts);
                Ok(())
            }

            /// Takes all series off the page.
            fn clear(&self) {
                let Some(parent) = self.children.as_ref().filter(|it| !it.names.is_empty()) else {
                    return;
                };
                self.handle.family.clear();
                drop(parent.remove_where(|_| true));
            }

            /// Takes the series that have all of these labels off the page.
            ///
            /// Args:
            ///     labels: Values by label name; some of the labels may be left out.
            ///
            /// Raises:
            ///     ValueError: If there is no such label.
            fn remove_by_labels(&self, labels: &Bound<'_, PyDict>) -> PyResult<()> {
                let wanted = pairs(Some(labels))?;
                let names = &self.handle.family.desc().label_names;
                let place = |name: &str| names.iter().position(|known| **known == *name);
                let mut places = Vec::with_capacity(wanted.len());
                for (name, value) in &wanted {
                    let unknown = || PyValueError::new_err(format!("Unknown label names: {name}"));
                    places.push((place(name).ok_or_else(unknown)?, value.as_str()));
                }
                let chosen = |values: &[Box<str>]| {
                    places.iter().all(|&(index, value)| *values[index] == *value)
                };
                self.handle.family.remove_where(chosen);
                let dropped = self.children.as_ref().map(|parent| parent.remove_where(chosen));
                drop(dropped); // when no lock is held
                Ok(())
            }

            /// The family as it stands now, in a list of `ryot_metrics.client.Metric`.
            fn collect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
                families_of(py, detached_in_core(py, || self.handle.snapshots()))
            }

            /// The family without samples.
            fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
                let mut families = self.handle.snapshots();
                for family in &mut families {
                    family.samples.clear();
                }
                families_of(py, families)
            }

            $($methods)*
        }
    };
}

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
    pub(super) fn of(family: Arc<Family>) -> Self {
        Self { handle: Handle::of(family), children: None }
    }
}

/// What a registry has of a metric, if this object is one.
pub(super) fn source_of(object: &Bound<'_, PyAny>) -> Option<Arc<dyn Source>> {
    macro_rules! try_classes {
        ($($class:ty),*) => {
            $(if let Ok(metric) = object.cast::<$class>() {
                return Some(metric.get().handle.source.clone());
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
