//! Registries in Python, and collectors that are written in Python.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList};

use super::boundary::{attached, detached_in_core};
use super::callbacks::{Age, Callback};
use super::globals;
use super::metric::source_of;
use crate::error::{Error, Result};
use crate::metrics::{
    self, Desc, Exemplar, Kind, Pairs, Registry, Sample, Selection, Sink, Source, Timestamp,
};
use crate::serve::on_scrape_thread;

/// A set of families that are exposed together.
///
/// Args:
///     auto_describe: A collector without `describe` is asked for its families when it is
///         registered, so that duplicates are found. Default False.
///     target_info: Labels of the sample `target_info`.
///     support_collectors_without_names: A restricted page asks collectors of unknown names too.
///     labels: Constant labels of every sample of this registry.
///
/// Raises:
///     ValueError: For a malformed label name.
///
/// Example:
///     >>> from ryot_metrics.client import CollectorRegistry, Counter, generate_latest
///     >>> registry = CollectorRegistry(labels={"zone": "a"})
///     >>> Counter("jobs", "Jobs done.", registry=registry).inc()
///     >>> b'jobs_total{zone="a"} 1.0' in generate_latest(registry)
///     True
#[pyclass(frozen, name = "CollectorRegistry", module = "ryot_metrics.client")]
#[derive(Debug)]
pub(super) struct PyRegistry {
    core: Arc<Registry>,
    collectors: Arc<Mutex<Vec<Arc<PyCollector>>>>,
    auto_describe: bool,
    /// The names of the samples that this view of the registry shows.
    only: Option<Vec<String>>,
    /// The profile of this view of the registry; None: the registry's own.
    profile: Option<&'static str>,
}

impl PyRegistry {
    pub(super) fn global() -> Self {
        Self {
            core: globals::registry(),
            collectors: Arc::default(),
            auto_describe: true,
            only: None,
            profile: None,
        }
    }

    pub(super) fn core(&self) -> &Arc<Registry> {
        &self.core
    }

    /// The names that this view shows, if it does not show all.
    fn names(&self) -> Option<Vec<&str>> {
        self.only.as_ref().map(|names| names.iter().map(String::as_str).collect())
    }

    /// The profile that this view shows, if it is not the registry's own.
    pub(super) fn profile(&self) -> Option<&'static str> {
        self.profile
    }
}

#[pymethods]
impl PyRegistry {
    #[new]
    #[pyo3(signature = (
        auto_describe=false, target_info=None, support_collectors_without_names=false, *,
        labels=None
    ))]
    fn new(
        auto_describe: bool,
        target_info: Option<&Bound<'_, PyDict>>,
        support_collectors_without_names: bool,
        labels: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let core = Registry::with_labels(pairs(labels)?)?;
        core.set_target_info(pairs(target_info)?)?;
        core.ask_unnamed(support_collectors_without_names);
        let (core, collectors) = (Arc::new(core), Arc::default());
        Ok(Self { core, collectors, auto_describe, only: None, profile: None })
    }

    /// Adds a metric, or any object with a method `collect` that gives families.
    ///
    /// Raises:
    ///     ValueError: If one of its names is taken.
    fn register(&self, collector: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(source) = source_of(collector) {
            return Ok(self.core.register(source)?);
        }
        let descs = described(collector, self.auto_describe)?;
        let object = collector.clone().unbind();
        let said = Arc::new(Said { object, last: Mutex::default() });
        let age = Age::new(&self.core, &collector.get_type().name()?.extract::<String>()?);
        let source = Arc::new(PyCollector { descs, said, age });
        self.core.register(source.clone())?;
        self.collectors.lock().push(source);
        Ok(())
    }

    /// Takes a metric or a collector off again.
    ///
    /// Raises:
    ///     KeyError: If it is not registered.
    fn unregister(&self, collector: &Bound<'_, PyAny>) -> PyResult<()> {
        let missing = || pyo3::exceptions::PyKeyError::new_err(collector.clone().unbind());
        if let Some(source) = source_of(collector) {
            return if self.core.unregister(&source) { Ok(()) } else { Err(missing()) };
        }
        let mut collectors = self.collectors.lock();
        let place = collectors.iter().position(|it| it.said.object.is(collector));
        let source = collectors.remove(place.ok_or_else(missing)?);
        drop(collectors);
        let source: Arc<dyn Source> = source;
        self.core.unregister(&source);
        Ok(())
    }

    /// A view of this registry that shows only the samples of these names, suffixes included.
    fn restricted_registry(&self, names: Vec<String>) -> Self {
        Self {
            core: self.core.clone(),
            collectors: self.collectors.clone(),
            auto_describe: self.auto_describe,
            only: Some(names),
            profile: self.profile,
        }
    }

    /// A view of this registry that shows the families of language models under the names of a
    /// profile: `ryot`, `vllm` or `otel`. All other families are the same.
    ///
    /// Raises:
    ///     ValueError: For an unknown profile, and for a registry that has none.
    ///
    /// Example:
    ///     >>> from ryot_metrics import InferenceContext
    ///     >>> from ryot_metrics.client import REGISTRY, generate_latest
    ///     >>> with InferenceContext("gpt4"):
    ///     ...     pass
    ///     >>> b"vllm:num_requests_running{" in generate_latest(REGISTRY.with_profile("vllm"))
    ///     True
    fn with_profile(&self, name: &str) -> PyResult<Self> {
        let profile = Some(self.core.check_profile(name)?);
        Ok(Self {
            core: self.core.clone(),
            collectors: self.collectors.clone(),
            auto_describe: self.auto_describe,
            only: self.only.clone(),
            profile,
        })
    }

    /// The names of the profiles, the first of which is shown unless another is asked for.
    #[getter]
    fn profiles(&self) -> Vec<&'static str> {
        self.core.profiles()
    }

    /// Sets the labels of the sample `target_info`; None or no labels take it off.
    ///
    /// Raises:
    ///     ValueError: If a registered family has that name.
    #[pyo3(signature = (labels))]
    fn set_target_info(&self, labels: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        Ok(self.core.set_target_info(pairs(labels)?)?)
    }

    /// The labels of the sample `target_info`, or None.
    fn get_target_info<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let labels = self.core.target_info();
        if labels.is_empty() { Ok(None) } else { dict(py, labels).map(Some) }
    }

    /// Whether this is a view that shows only some samples.
    #[getter]
    fn is_restricted(&self) -> bool {
        self.only.is_some()
    }

    /// The families as they stand now.
    ///
    /// Returns:
    ///     An iterator over `ryot_metrics.client.Metric`.
    fn collect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        families_of(py, detached_in_core(py, || self.snapshots()))?.try_iter().map(Bound::into_any)
    }

    /// The value of the first sample with this name and exactly these labels, or None.
    ///
    /// Args:
    ///     name: The sample's name, suffix included: `jobs_total`, `latency_bucket`.
    ///     labels: Its labels; a bucket's `le` is one of them.
    #[pyo3(signature = (name, labels=None))]
    fn get_sample_value(
        &self,
        py: Python<'_>,
        name: &str,
        labels: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Option<f64>> {
        let wanted = pairs(labels)?;
        let families = detached_in_core(py, || self.snapshots());
        let mut samples = families.into_iter().flat_map(|family| family.samples);
        let found = samples.find(|sample| {
            sample.name == name
                && sample.labels.len() == wanted.len()
                && wanted.iter().all(|pair| sample.labels.contains(pair))
        });
        Ok(found.map(|sample| sample.value))
    }
}

impl PyRegistry {
    fn snapshots(&self) -> Vec<metrics::Snapshot> {
        let mut snapshots = metrics::Snapshots::default();
        let names = self.names();
        let selection = Selection { names: names.as_deref(), profile: self.profile };
        self.core.collect_selected(selection, &mut snapshots);
        snapshots.into_inner()
    }
}

/// Families as objects of Python.
pub(super) fn families_of(
    py: Python<'_>,
    families: Vec<metrics::Snapshot>,
) -> PyResult<Bound<'_, PyList>> {
    let metric = py.import("ryot_metrics.client.families")?.getattr("Metric")?;
    let list = PyList::empty(py);
    for family in families {
        let kind = family.kind.as_str();
        let object = metric.call1((family.name, family.help, kind, family.unit))?;
        let add = object.getattr("add_sample")?;
        for sample in family.samples {
            let labels = dict(py, sample.labels)?;
            let timestamp = sample.timestamp.map(Timestamp::seconds);
            let exemplar = sample.exemplar.map(|it| exemplar_object(py, &it)).transpose()?;
            add.call1((sample.name, labels, sample.value, timestamp, exemplar))?;
        }
        list.append(object)?;
    }
    Ok(list)
}

fn exemplar_object<'py>(py: Python<'py>, exemplar: &Exemplar) -> PyResult<Bound<'py, PyAny>> {
    let class = py.import("ryot_metrics.client.samples")?.getattr("Exemplar")?;
    let timestamp = exemplar.timestamp.map(Timestamp::seconds);
    class.call1((dict(py, exemplar.labels.clone())?, exemplar.value, timestamp))
}

fn dict(py: Python<'_>, pairs: Pairs) -> PyResult<Bound<'_, PyDict>> {
    let dict = PyDict::new(py);
    pairs.into_iter().try_for_each(|(name, value)| dict.set_item(name, value))?;
    Ok(dict)
}

/// Label pairs of a mapping, or none.
pub(super) fn pairs(mapping: Option<&Bound<'_, PyDict>>) -> PyResult<Pairs> {
    let Some(mapping) = mapping else { return Ok(Vec::new()) };
    let text = |value: &Bound<'_, PyAny>| value.str()?.extract::<String>();
    mapping.iter().map(|(name, value)| Ok((text(&name)?, text(&value)?))).collect()
}

/// What a collector says that it will give, if it says so.
fn described(collector: &Bound<'_, PyAny>, auto_describe: bool) -> PyResult<Vec<Desc>> {
    let describe = match collector.getattr_opt("describe")? {
        Some(describe) => describe,
        None if auto_describe => collector.getattr("collect")?,
        None => return Ok(Vec::new()),
    };
    describe.call0()?.try_iter()?.map(|family| desc_of(&family?)).collect()
}

fn desc_of(family: &Bound<'_, PyAny>) -> PyResult<Desc> {
    let name: String = family.getattr("name")?.extract()?;
    let help: String = family.getattr("documentation")?.extract()?;
    let kind: String = family.getattr("type")?.extract()?;
    let unit: String = family.getattr("unit")?.extract()?;
    let kind = Kind::parse(&kind)
        .ok_or_else(|| Error::InvalidArgument(format!("Invalid metric type: {kind}")))?;
    let desc = Desc::new(kind, &name, &help, &[])?;
    Ok(Desc { unit: unit.into(), ..desc })
}

fn sample_of(sample: &Bound<'_, PyAny>) -> PyResult<Sample> {
    let labels = sample.getattr("labels")?;
    let exemplar = sample.getattr("exemplar")?;
    Ok(Sample {
        name: sample.getattr("name")?.extract()?,
        labels: pairs(Some(labels.cast()?))?,
        value: sample.getattr("value")?.extract()?,
        timestamp: timestamp_of(&sample.getattr("timestamp")?)?,
        exemplar: if exemplar.is_none() { None } else { Some(exemplar_of(&exemplar)?.into()) },
    })
}

fn exemplar_of(exemplar: &Bound<'_, PyAny>) -> PyResult<Exemplar> {
    Ok(Exemplar {
        labels: pairs(Some(exemplar.getattr("labels")?.cast()?))?,
        value: exemplar.getattr("value")?.extract()?,
        timestamp: timestamp_of(&exemplar.getattr("timestamp")?)?,
    })
}

fn timestamp_of(timestamp: &Bound<'_, PyAny>) -> PyResult<Option<Timestamp>> {
    if timestamp.is_none() {
        return Ok(None);
    }
    if let Some(seconds) = timestamp.getattr_opt("sec")? {
        let nanos = timestamp.getattr("nsec")?.extract()?;
        return Ok(Some(Timestamp::Exact { seconds: seconds.extract()?, nanos }));
    }
    if timestamp.is_instance_of::<PyInt>() {
        return Ok(Some(Timestamp::Int(timestamp.extract()?)));
    }
    Ok(Some(Timestamp::Float(timestamp.extract()?)))
}

/// Families with their samples, as a collector gave them.
type Given = Vec<(Desc, Vec<Sample>)>;

/// A collector written in Python. What it raises is reported and costs its families, not the page.
#[derive(Debug)]
struct PyCollector {
    descs: Vec<Desc>,
    said: Arc<Said>,
    age: Age,
}

/// The object, and what it said last.
#[derive(Debug)]
struct Said {
    object: Py<PyAny>,
    last: Mutex<Arc<Given>>,
}

impl Said {
    fn ask(&self, py: Python<'_>) -> PyResult<Given> {
        let families = self.object.bind(py).call_method0("collect")?;
        let families = families.try_iter()?.map(|family| {
            let family = family?;
            let samples = family.getattr("samples")?;
            let samples = samples.try_iter()?.map(|sample| sample_of(&sample?));
            Ok((desc_of(&family)?, samples.collect::<PyResult<_>>()?))
        });
        families.collect()
    }
}

impl Callback for Said {
    fn call(&self, py: Python<'_>) {
        let given = self.ask(py).unwrap_or_else(|error| {
            error.write_unraisable(py, Some(self.object.bind(py)));
            Vec::new()
        });
        *self.last.lock() = Arc::new(given);
    }
}

impl Source for PyCollector {
    fn prepare(&self) {
        self.age.ask(&self.said);
    }

    fn describe(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        if !on_scrape_thread() {
            attached(|py| self.said.call(py));
        }
        let last = self.said.last.lock().clone();
        for (desc, samples) in &*last {
            sink.family(desc);
            for sample in samples {
                sink.raw(desc, sample);
            }
        }
    }
}

/// The page of a registry, as bytes.
#[pyfunction]
pub(super) fn encode<'py>(
    py: Python<'py>,
    registry: &PyRegistry,
    format: &str,
    escaping: Option<&str>,
) -> PyResult<Bound<'py, PyBytes>> {
    let exposition = exposition(format, escaping)?;
    let names = registry.names();
    let selection = Selection { names: names.as_deref(), profile: registry.profile };
    let page =
        detached_in_core(py, || metrics::encode_bytes(&registry.core, selection, exposition));
    Ok(PyBytes::new(py, &page))
}

fn exposition(format: &str, escaping: Option<&str>) -> Result<metrics::Exposition> {
    let unknown = |what, value: &str| Error::InvalidArgument(format!("{what} is {value:?}"));
    let format =
        metrics::Format::parse(format).ok_or_else(|| unknown("the unknown format", format))?;
    let escaping = escaping.map(|name| {
        metrics::Escaping::parse(name).ok_or_else(|| unknown("the unknown escaping scheme", name))
    });
    Ok(metrics::Exposition { format, escaping: escaping.transpose()? })
}

/// The format and the escaping that an `Accept` header asks for, and the content type.
#[pyfunction]
pub(super) fn negotiate(accept: &str) -> (&'static str, Option<&'static str>, String) {
    let exposition = metrics::Exposition::negotiate(accept, &metrics::Format::ALL);
    let escaping = exposition.escaping.map(metrics::Escaping::as_str);
    (exposition.format.as_str(), escaping, exposition.content_type().into_owned())
}
