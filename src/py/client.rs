//! The general client in Python: registries and metrics, named and called as in
//! `prometheus_client`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::RwLock;
use pyo3::PyClass;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use smallvec::SmallVec;

use super::boundary::detached;
use super::globals;
use crate::metrics::{
    self, Desc, Family, Format, Key, Kind, Options, OwnedKey, Registry, Sample, Series,
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
}

/// Children by label values, and the label names as Python has them: what makes `labels` cheap.
/// A child is one object for the life of its series, as in `prometheus_client`.
#[derive(Debug)]
struct Children<C> {
    names: Vec<Py<PyString>>,
    children: RwLock<IndexMap<OwnedKey, Py<C>, ahash::RandomState>>,
}

impl<C: PyClass> Children<C> {
    fn new(py: Python<'_>, desc: &Desc) -> Self {
        let names = desc.label_names.iter().map(|name| PyString::intern(py, name).unbind());
        Self { names: names.collect(), children: RwLock::default() }
    }

    /// The child with these values; made by `make` if it is new.
    fn get<V: AsRef<str>>(
        &self,
        py: Python<'_>,
        values: &[V],
        make: impl FnOnce() -> PyResult<Py<C>>,
    ) -> PyResult<Py<C>> {
        if let Some(child) = self.children.read().get(&Key(values)) {
            return Ok(child.clone_ref(py));
        }
        let new = make()?; // outside of the lock: making an object may run Python's collector
        let mut children = self.children.write();
        Ok(children.entry(OwnedKey::new(values)).or_insert(new).clone_ref(py))
    }
}

/// A label value as text: borrowed from a string, else what `str()` gives.
fn value_text<'a>(value: &'a Bound<'_, PyAny>) -> PyResult<Cow<'a, str>> {
    match value.cast::<PyString>() {
        Ok(text) => Ok(Cow::Borrowed(text.to_str()?)),
        Err(_) => Ok(Cow::Owned(value.str()?.extract()?)),
    }
}

/// Most families have no more labels; others cost an allocation at each lookup.
type Values<T> = SmallVec<[T; 8]>;

/// Puts the values of keywords into the order of the label names.
fn by_keyword<'py>(
    names: &[Py<PyString>],
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<Values<Bound<'py, PyAny>>> {
    let incorrect = || PyValueError::new_err("Incorrect label names");
    if kwargs.len() != names.len() {
        return Err(incorrect());
    }
    // Call sites mostly name labels in their order, and with interned strings: then a comparison
    // of pointers finds each without a hash.
    if kwargs.iter().zip(names).all(|((key, _), name)| key.is(name)) {
        return Ok(kwargs.iter().map(|(_, value)| value).collect());
    }
    let value = |name: &Py<PyString>| kwargs.get_item(name)?.ok_or_else(incorrect);
    names.iter().map(value).collect()
}

/// Hands over the values of a call's arguments, in the order of the label names.
fn with_values<T>(
    desc: &Desc,
    names: &[Py<PyString>],
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    take: impl FnOnce(&[Cow<'_, str>]) -> PyResult<T>,
) -> PyResult<T> {
    if names.is_empty() {
        let text = format!("No label names were set when constructing {}", desc.name);
        return Err(PyValueError::new_err(text));
    }
    let values: Values<Bound<'_, PyAny>> = match kwargs.filter(|given| !given.is_empty()) {
        Some(_) if !args.is_empty() => {
            return Err(PyValueError::new_err("Can't pass both *args and **kwargs"));
        }
        Some(kwargs) => by_keyword(names, kwargs)?,
        None if args.len() != names.len() => {
            return Err(PyValueError::new_err("Incorrect label count"));
        }
        None => args.iter().collect(),
    };
    let texts: Values<Cow<'_, str>> = values.iter().map(value_text).collect::<PyResult<_>>()?;
    take(&texts)
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
                registry=Target::Default $(, $argument=$default)?
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
                let handle = Handle::new(&spec, registry)?;
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
                with_values(family.desc(), &parent.names, labelvalues, labelkwargs, |values| {
                    parent.get(py, values, || {
                        let series = Some(family.series(values));
                        let handle = Handle { family: family.clone(), series };
                        Py::new(py, Self { handle, children: None })
                    })
                })
            }

            /// Takes the series with these label values off the page.
            #[pyo3(signature = (*labelvalues))]
            fn remove(&self, labelvalues: &Bound<'_, PyTuple>) -> PyResult<()> {
                let Some(parent) = &self.children else { return Ok(()) };
                let family = &self.handle.family;
                with_values(family.desc(), &parent.names, labelvalues, None, |values| {
                    family.remove(values);
                    let child = parent.children.write().shift_remove(&Key(values));
                    drop(child); // not under the lock: it may be the last reference
                    Ok(())
                })
            }

            /// Takes all series off the page.
            fn clear(&self) {
                let Some(parent) = self.children.as_ref().filter(|it| !it.names.is_empty()) else {
                    return;
                };
                self.handle.family.clear();
                let children = std::mem::take(&mut *parent.children.write());
                drop(children); // not under the lock
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
            self.handle.series()?.add(amount);
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
            self.handle.series()?.observe(amount);
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
        Self { handle: Handle { family, series: None }, children: None }
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
        let row = |sample: Sample| (sample.name, sample.labels, sample.value);
        let families = metrics::collect(&self.0).into_iter().map(|family| {
            let samples = family.samples.into_iter().map(row).collect();
            (family.name, family.help, family.kind.as_str(), family.unit, samples)
        });
        families.collect()
    }
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
