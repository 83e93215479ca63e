//! What is behind an object of a metric class: a family, and a series of it.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::boundary::{attached, detached_in_core};
use super::callbacks::{Age, Callback};
use super::globals;
use super::registry::{PyRegistry, families_of};
use crate::error::{Error, Result};
use crate::metrics::{
    self, Desc, Exemplar, Family, Kind, Options, Registry, Series, Shared, Sink, Source,
};
use crate::serve::on_scrape_thread;

/// The `registry` argument: left out, None or a registry.
pub(super) enum Target {
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
        Ok(Self::Given(object.cast::<PyRegistry>()?.get().core().clone()))
    }
}

/// The arguments that all constructors share.
pub(super) struct Spec<'a> {
    pub(super) kind: Kind,
    /// Namespace, subsystem, name.
    pub(super) parts: [&'a str; 3],
    pub(super) documentation: &'a str,
    pub(super) labelnames: Vec<String>,
    pub(super) unit: &'a str,
    /// What goes beyond `prometheus_client`.
    pub(super) series_limit: Option<usize>,
    pub(super) idle_ttl: Option<f64>,
    pub(super) exist_ok: bool,
}

impl Spec<'_> {
    fn desc(&self) -> Result<Desc> {
        let parts: Vec<&str> = self.parts.into_iter().filter(|part| !part.is_empty()).collect();
        let mut name = parts.join("_");
        if self.kind == Kind::Counter {
            name.truncate(name.strip_suffix("_total").unwrap_or(&name).len());
        }
        if !self.unit.is_empty() && !name.ends_with(&format!("_{}", self.unit)) {
            name = format!("{name}_{}", self.unit);
        }
        let labels: Vec<&str> = self.labelnames.iter().map(String::as_str).collect();
        Desc::new(self.kind, &name, self.documentation, &labels)?.with_unit(self.unit)
    }
}

/// Refuses a limit that would leave nothing.
fn positive(name: &str, value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if value.is_nan() || value <= 0.0 => {
            Err(Error::InvalidArgument(format!("{name} is {value}; it must be above 0")))
        }
        _ => Ok(()),
    }
}

/// A family, and one of its series unless labels are missing.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) family: Arc<Family>,
    pub(super) series: Option<Arc<Series>>,
    /// What a registry has of it.
    pub(super) source: Arc<Functions>,
}

impl Handle {
    /// Makes a family; `finish` adds to its description what its kind needs.
    pub(super) fn new(
        spec: &Spec<'_>,
        registry: &Target,
        finish: impl FnOnce(Desc) -> Result<Desc>,
    ) -> Result<Self> {
        positive("series_limit", spec.series_limit.map(|limit| limit as f64))?;
        positive("idle_ttl", spec.idle_ttl)?;
        let desc = finish(spec.desc()?)?;
        let registry = match registry {
            Target::Default => Some(globals::registry()),
            Target::Given(registry) => Some(registry.clone()),
            Target::Unregistered => None,
        };
        if let Some(first) = registry.as_ref().filter(|_| spec.exist_ok).and_then(|registry| {
            let source: Arc<dyn Any + Send + Sync> = registry.find(&desc.name)?;
            source.downcast::<Functions>().ok().filter(|first| *first.family.desc() == desc)
        }) {
            return Ok(Self::around(first));
        }
        let (series_limit, idle_ttl) = (spec.series_limit, spec.idle_ttl);
        let options = Options { series_limit, idle_ttl, ..Options::default() };
        let family = Family::new(desc, options);
        let source = Arc::new(Functions::new(family.clone(), registry.clone()));
        if let Some(registry) = registry {
            registry.register(source.clone())?;
        }
        Ok(Self::around(source))
    }

    fn around(source: Arc<Functions>) -> Self {
        let family = source.family.clone();
        let series = family.desc().label_names.is_empty().then(|| family.series::<&str>(&[]));
        Self { family, series, source }
    }

    /// A family of the catalogue, which is absent until it is written.
    pub(super) fn of(family: Arc<Family>) -> Self {
        let source = Arc::new(Functions::new(family.clone(), None));
        Self { family, series: None, source }
    }

    pub(super) fn child(&self, series: Arc<Series>) -> Self {
        Self { family: self.family.clone(), series: Some(series), source: self.source.clone() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.series.as_ref().is_some_and(|series| series.is_idle())
    }

    pub(super) fn series(&self) -> PyResult<&Arc<Series>> {
        self.series.as_ref().ok_or_else(|| {
            let kind = self.family.desc().kind.as_str();
            PyValueError::new_err(format!("{kind} metric is missing label values"))
        })
    }

    /// The families of this object, as `collect()` gives them.
    pub(super) fn collect<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        families_of(py, detached_in_core(py, || self.snapshots()))
    }

    /// The same without samples.
    pub(super) fn describe<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut families = self.snapshots();
        for family in &mut families {
            family.samples.clear();
        }
        families_of(py, families)
    }

    fn snapshots(&self) -> Vec<metrics::Snapshot> {
        let mut snapshots = metrics::Snapshots::default();
        self.source.collect(&mut snapshots);
        snapshots.into_inner()
    }
}

/// An exemplar of now, from the argument `exemplar`.
pub(super) fn exemplar_of(labels: &Bound<'_, PyDict>, value: f64) -> PyResult<Exemplar> {
    let labels = super::registry::pairs(Some(labels))?;
    Ok(Exemplar::new(labels, value, crate::clock::unix_seconds())?)
}

/// A family whose gauges may be functions of Python, called when a page is written.
#[derive(Debug)]
pub(super) struct Functions {
    family: Arc<Family>,
    calls: Arc<Calls>,
    age: OnceLock<Age>,
    registry: Option<Arc<Registry>>,
}

#[derive(Debug, Default)]
struct Calls(Mutex<Vec<(Weak<Series>, Py<PyAny>)>>);

impl Functions {
    fn new(family: Arc<Family>, registry: Option<Arc<Registry>>) -> Self {
        Self { family, calls: Arc::default(), age: OnceLock::new(), registry }
    }

    /// From now on, `function` says the value of this series.
    pub(super) fn set(&self, series: &Arc<Series>, function: Py<PyAny>) {
        if let Some(registry) = &self.registry {
            self.age.get_or_init(|| Age::new(registry, &self.family.desc().name));
        }
        let mut functions = self.calls.0.lock();
        let series = Arc::downgrade(series);
        let stays = |(other, _): &(Weak<Series>, _)| {
            other.strong_count() > 0 && !Weak::ptr_eq(other, &series)
        };
        let (mut kept, old): (Vec<_>, Vec<_>) =
            std::mem::take(&mut *functions).into_iter().partition(stays);
        kept.push((series.clone(), function));
        *functions = kept;
        drop(functions);
        drop(old); // not under the lock: it may hold last references
    }
}

impl Callback for Calls {
    fn call(&self, py: Python<'_>) {
        let functions: Vec<_> = {
            let functions = self.0.lock();
            functions.iter().map(|(series, it)| (series.clone(), it.clone_ref(py))).collect()
        };
        for (series, function) in functions {
            let Some(series) = series.upgrade() else { continue };
            match function.call0(py).and_then(|value| value.extract::<f64>(py)) {
                Ok(value) => series.set(value),
                Err(error) => error.write_unraisable(py, Some(function.bind(py))),
            }
        }
    }
}

impl Source for Functions {
    fn share(&self, shared: &Arc<Shared>) -> Result<()> {
        self.family.share(shared)
    }

    fn check_unwritten(&self) -> Result<()> {
        self.family.check_unwritten()
    }

    fn after_fork(&self) {
        self.family.after_fork();
    }

    fn prepare(&self) {
        self.family.prepare();
        if let Some(age) = self.age.get() {
            age.ask(&self.calls);
        }
    }

    fn describe(&self) -> Vec<&Desc> {
        vec![self.family.desc()]
    }

    fn collect(&self, sink: &mut dyn Sink) {
        if !on_scrape_thread() && !self.calls.0.lock().is_empty() {
            attached(|py| self.calls.call(py));
        }
        self.family.collect(sink);
    }
}
