//! The general client in Python: registries and metrics, named and called as in
//! `prometheus_client`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use super::boundary::detached;
use super::globals;
use crate::metrics::{
    self, Desc, Family, Format, Kind, LabelSet, Options, Registry, Series, Sink, Value,
    format_number,
};

/// `prometheus_client`'s default buckets.
const DEFAULT_BUCKETS: &[f64] = &[
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    f64::INFINITY,
];

/// A set of families that are exposed together.
///
/// Example:
///     >>> from ryot_metrics.client import CollectorRegistry, Counter, generate_latest
///     >>> registry = CollectorRegistry()
///     >>> Counter("jobs", "Jobs done.", registry=registry).inc()
///     >>> b"jobs_total 1.0" in generate_latest(registry)
///     True
#[pyclass(frozen, name = "CollectorRegistry", module = "ryot_metrics.client")]
#[derive(Debug)]
pub(super) struct PyRegistry(Arc<Registry>);

impl PyRegistry {
    pub(super) fn global(py: Python<'_>) -> PyResult<Py<Self>> {
        Py::new(py, Self(globals::registry()))
    }

    pub(super) fn core(&self) -> &Arc<Registry> {
        &self.0
    }
}

#[pymethods]
impl PyRegistry {
    #[new]
    fn new() -> Self {
        Self(Arc::default())
    }

    /// The value of the sample with this name and exactly these labels, or None.
    ///
    /// Args:
    ///     name: The sample's name, suffix included: `jobs_total`, `latency_bucket`.
    ///     labels: Its labels; a bucket's `le` is one of them.
    #[pyo3(signature = (name, labels=None))]
    fn get_sample_value(&self, name: &str, labels: Option<HashMap<String, String>>) -> Option<f64> {
        let wanted = labels.unwrap_or_default();
        let samples = self.samples().into_iter().flat_map(|family| family.4);
        let matches = |sample: &SampleRow| {
            sample.0 == name
                && sample.1.len() == wanted.len()
                && sample.1.iter().all(|(label, value)| wanted.get(label) == Some(value))
        };
        samples.into_iter().find(matches).map(|sample| sample.2)
    }
}

/// What the four classes share: a family, and one of its series unless labels are missing.
#[derive(Debug)]
struct Handle {
    family: Arc<Family>,
    series: Option<Arc<Series>>,
}

/// The arguments that all constructors share.
struct Spec<'a> {
    kind: Kind,
    /// Namespace, subsystem, name.
    parts: [&'a str; 3],
    documentation: &'a str,
    labelnames: Vec<String>,
    unit: &'a str,
    buckets: Vec<f64>,
}

impl Handle {
    fn new(spec: &Spec<'_>, registry: Target) -> PyResult<Self> {
        let parts: Vec<&str> = spec.parts.into_iter().filter(|part| !part.is_empty()).collect();
        let mut name = parts.join("_");
        if spec.kind == Kind::Counter {
            name.truncate(name.strip_suffix("_total").unwrap_or(&name).len());
        }
        if !spec.unit.is_empty() && !name.ends_with(&format!("_{}", spec.unit)) {
            name = format!("{name}_{}", spec.unit);
        }
        let labels: Vec<&str> = spec.labelnames.iter().map(String::as_str).collect();
        let mut desc =
            Desc::new(spec.kind, &name, spec.documentation, &labels)?.with_unit(spec.unit)?;
        if spec.kind == Kind::Histogram {
            desc = desc.with_bounds(&spec.buckets)?;
        }
        let family = Family::new(desc, Options::default());
        match registry {
            Target::Default => globals::registry().register(family.clone())?,
            Target::Given(registry) => registry.register(family.clone())?,
            Target::Unregistered => {}
        }
        let series = labels.is_empty().then(|| family.series::<&str>(&[]));
        Ok(Self { family, series })
    }

    fn series(&self) -> PyResult<&Series> {
        self.series.as_deref().ok_or_else(|| {
            let kind = self.family.desc().kind.as_str();
            PyValueError::new_err(format!("{kind} metric is missing label values"))
        })
    }

    fn labels(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let values = self.values(args, kwargs)?;
        Ok(Self { family: self.family.clone(), series: Some(self.family.series(&values)) })
    }

    fn values(
        &self,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Vec<String>> {
        let names = &self.family.desc().label_names;
        if names.is_empty() {
            let name = &self.family.desc().name;
            return Err(PyValueError::new_err(format!(
                "No label names were set when constructing {name}"
            )));
        }
        let text = |value: Bound<'_, PyAny>| value.str()?.extract::<String>();
        match kwargs.filter(|kwargs| !kwargs.is_empty()) {
            Some(_) if !args.is_empty() => {
                Err(PyValueError::new_err("Can't pass both *args and **kwargs"))
            }
            Some(kwargs) if kwargs.len() != names.len() => {
                Err(PyValueError::new_err("Incorrect label names"))
            }
            Some(kwargs) => names
                .iter()
                .map(|name| match kwargs.get_item(&**name)? {
                    Some(value) => text(value),
                    None => Err(PyValueError::new_err("Incorrect label names")),
                })
                .collect(),
            None if args.len() != names.len() => {
                Err(PyValueError::new_err("Incorrect label count"))
            }
            None => args.iter().map(text).collect(),
        }
    }

    fn remove(&self, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let values = self.values(args, None)?;
        self.family.remove(&values);
        Ok(())
    }

    fn clear(&self) {
        self.family.clear();
        if self.family.desc().label_names.is_empty() {
            self.family.series::<&str>(&[]);
        }
    }
}

/// The `registry` argument: left out, None or a registry.
enum Target {
    Default,
    Unregistered,
    Given(Arc<Registry>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Target {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self::Unregistered);
        }
        Ok(Self::Given(object.cast::<PyRegistry>()?.get().0.clone()))
    }
}

macro_rules! metric_class {
    (
        $(#[$doc:meta])* $class:ident, $name:literal, $kind:expr,
        buckets($($argument:ident = $default:expr)?), { $($methods:tt)* }
    ) => {
        $(#[$doc])*
        #[pyclass(frozen, name = $name, module = "ryot_metrics.client")]
        #[derive(Debug)]
        pub(super) struct $class(Handle);

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (
                name, documentation, labelnames=vec![], namespace="", subsystem="", unit="",
                registry=Target::Default $(, $argument=$default)?
            ))]
            #[allow(clippy::too_many_arguments)] // prometheus_client's signature
            fn new(
                name: &str,
                documentation: &str,
                labelnames: Vec<String>,
                namespace: &str,
                subsystem: &str,
                unit: &str,
                registry: Target,
                $($argument: Vec<f64>)?
            ) -> PyResult<Self> {
                let spec = Spec {
                    kind: $kind,
                    parts: [namespace, subsystem, name],
                    documentation,
                    labelnames,
                    unit,
                    buckets: [$($argument,)? vec![]].into_iter().next().unwrap_or_default(),
                };
                Handle::new(&spec, registry).map(Self)
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
            ) -> PyResult<Self> {
                self.0.labels(labelvalues, labelkwargs).map(Self)
            }

            /// Takes the series with these label values off the page.
            #[pyo3(signature = (*labelvalues))]
            fn remove(&self, labelvalues: &Bound<'_, PyTuple>) -> PyResult<()> {
                self.0.remove(labelvalues)
            }

            /// Takes all series off the page.
            fn clear(&self) {
                self.0.clear();
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
    PyCounter, "Counter", Kind::Counter, buckets(), {
        /// Adds `amount`, which must not be negative.
        ///
        /// Raises:
        ///     ValueError: If it is negative, or labels are missing.
        #[pyo3(signature = (amount=1.0))]
        fn inc(&self, amount: f64) -> PyResult<()> {
            if amount < 0.0 {
                return Err(PyValueError::new_err(
                    "Counters can only be incremented by non-negative amounts.",
                ));
            }
            self.0.series()?.add(amount);
            Ok(())
        }
    }
}

metric_class! {
    /// A value that goes up and down. The arguments are those of `Counter`.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Gauge
    ///     >>> registry = CollectorRegistry()
    ///     >>> depth = Gauge("depth", "Jobs that wait.", registry=registry)
    ///     >>> depth.inc(3); depth.dec(); depth.inc(0.5)
    ///     >>> registry.get_sample_value("depth")
    ///     2.5
    PyGauge, "Gauge", Kind::Gauge, buckets(), {
        /// Adds `amount`.
        #[pyo3(signature = (amount=1.0))]
        fn inc(&self, amount: f64) -> PyResult<()> {
            self.0.series()?.add(amount);
            Ok(())
        }

        /// Subtracts `amount`.
        #[pyo3(signature = (amount=1.0))]
        fn dec(&self, amount: f64) -> PyResult<()> {
            self.0.series()?.add(-amount);
            Ok(())
        }

        /// Sets the value.
        fn set(&self, value: f64) -> PyResult<()> {
            self.0.series()?.set(value);
            Ok(())
        }
    }
}

metric_class! {
    /// Observations counted in buckets, with their sum.
    ///
    /// Args as `Counter`, and:
    ///     buckets: Ascending upper bounds; `+Inf` is added if it is not the last. The default is
    ///         prometheus_client's, 5 ms to 10 s.
    ///
    /// Example:
    ///     >>> from ryot_metrics.client import CollectorRegistry, Histogram
    ///     >>> registry = CollectorRegistry()
    ///     >>> size = Histogram("size", "Sizes.", buckets=(1, 2), registry=registry)
    ///     >>> size.observe(1.5)
    ///     >>> registry.get_sample_value("size_bucket", {"le": "2.0"})
    ///     1.0
    PyHistogram, "Histogram", Kind::Histogram, buckets(buckets = DEFAULT_BUCKETS.to_vec()), {
        /// Counts one observation.
        fn observe(&self, amount: f64) -> PyResult<()> {
            self.0.series()?.observe(amount);
            Ok(())
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
    PyInfo, "Info", Kind::Info, buckets(), {
        /// Sets the facts, names and values.
        ///
        /// Raises:
        ///     ValueError: If a fact has the name of a label.
        fn info(&self, val: BTreeMap<String, String>) -> PyResult<()> {
            let names = &self.0.family.desc().label_names;
            if let Some(name) = names.iter().find(|name| val.contains_key(&***name)) {
                return Err(PyValueError::new_err(format!(
                    "Overlapping labels for Info metric: {name} is a label and a fact"
                )));
            }
            let facts: Vec<_> = val.into_iter().collect();
            if names.is_empty() {
                self.0.family.series::<&str>(&[]).set_info(&facts);
            } else {
                self.0.series()?.set_info(&facts);
            }
            Ok(())
        }
    }
}

impl PyInfo {
    /// The class around a family of the catalogue, which is absent until its facts are set.
    pub(super) fn of(family: Arc<Family>) -> Self {
        Self(Handle { family, series: None })
    }
}

/// The page of a registry, as bytes.
#[pyfunction]
pub(super) fn encode<'py>(
    py: Python<'py>,
    registry: &PyRegistry,
    openmetrics: bool,
) -> Bound<'py, PyBytes> {
    let format = if openmetrics { Format::OpenMetrics1 } else { Format::Text004 };
    let page = detached(py, || metrics::encode(&registry.0, format));
    PyBytes::new(py, page.as_bytes())
}

/// Whether an `Accept` header asks for OpenMetrics, and the content type of the answer.
#[pyfunction]
pub(super) fn negotiate(accept: &str) -> (bool, &'static str) {
    let format = Format::negotiate(accept);
    (format == Format::OpenMetrics1, format.content_type())
}

type SampleRow = (String, Vec<(String, String)>, f64);
type FamilyRow = (String, String, &'static str, String, Vec<SampleRow>);

/// All families of a registry: name, documentation, type, unit, and samples (name, labels, value).
#[pyfunction]
pub(super) fn collect(py: Python<'_>, registry: &PyRegistry) -> Vec<FamilyRow> {
    detached(py, || registry.samples())
}

impl PyRegistry {
    fn samples(&self) -> Vec<FamilyRow> {
        let mut samples = Samples::default();
        self.0.collect(&mut samples);
        samples.0
    }
}

/// A sink that keeps every sample.
#[derive(Default)]
struct Samples(Vec<FamilyRow>);

impl Sink for Samples {
    fn family(&mut self, desc: &Desc) {
        let row = (
            desc.name.to_string(),
            desc.help.to_string(),
            desc.kind.as_str(),
            desc.unit.to_string(),
        );
        self.0.push((row.0, row.1, row.2, row.3, Vec::new()));
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, value: Value<'_>) {
        let Some(family) = self.0.last_mut() else { return };
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let labels: Vec<_> = labels.pairs(&desc.label_names).map(owned).collect();
        let mut push = |suffix: &str, extra: Option<(String, String)>, value: f64| {
            let labels = labels.iter().cloned().chain(extra).collect();
            family.4.push((format!("{}{suffix}", desc.name), labels, value));
        };
        match value {
            Value::Counter(value) => push("_total", None, value),
            Value::Gauge(value) => push("", None, value),
            Value::Info { names, labels: facts } => {
                let mut all = labels.clone();
                all.extend(facts.pairs(names).map(owned));
                family.4.push((format!("{}_info", desc.name), all, 1.0));
            }
            Value::Histogram { bounds, counts, sum } => {
                let mut total = 0;
                for (index, count) in counts.iter().enumerate() {
                    total += count;
                    let mut bound = String::new();
                    let value = bounds.get(index).copied().unwrap_or(f64::INFINITY);
                    format_number(value, &mut bound);
                    push("_bucket", Some(("le".into(), bound)), total as f64);
                }
                push("_count", None, total as f64);
                push("_sum", None, sum);
            }
        }
    }
}
