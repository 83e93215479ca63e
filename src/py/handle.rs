//! What all metric classes share: the family and the series behind an object, the children of a
//! labelled one, and the values that a call's arguments name.

use std::any::Any;
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use pyo3::PyClass;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyString, PyTuple};
use smallvec::SmallVec;

use super::boundary::attached;
use super::callbacks::{Age, Callback};
use super::globals;
use super::recent::Recent;
use super::registry::PyRegistry;
use crate::error::Result;
use crate::metrics::{
    self, Desc, Exemplar, Family, Key, Kind, Options, OwnedKey, Registry, Series, Shared, Sink,
    Source,
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
    pub(super) fn snapshots(&self) -> Vec<metrics::Snapshot> {
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

type ChildMap<C> = IndexMap<OwnedKey, Py<C>, ahash::RandomState>;

/// Children by label values, and the label names as Python has them: what makes `labels` cheap.
/// A child is one object for the life of its series, as in `prometheus_client`.
#[derive(Debug)]
pub(super) struct Children<C> {
    pub(super) names: Vec<Py<PyString>>,
    map: RwLock<ChildMap<C>>,
    pub(super) recent: Recent<C>,
    /// How many there must be for a look at which can be forgotten.
    sweep_at: AtomicUsize,
    /// The removals by other processes that were followed.
    edits: AtomicU64,
}

/// Fewer children are never looked through for idle ones.
const SWEEP: usize = 64;

impl<C: PyClass<Frozen = True> + Sync> Children<C> {
    pub(super) fn new(py: Python<'_>, desc: &Desc) -> Self {
        let names = desc.label_names.iter().map(|name| PyString::intern(py, name).unbind());
        Self {
            names: names.collect(),
            map: RwLock::default(),
            recent: Recent::default(),
            sweep_at: SWEEP.into(),
            edits: AtomicU64::new(0),
        }
    }

    /// Forgets the children whose series another process has removed, and gives them back, as
    /// [`remove_where`](Self::remove_where) does. One load where there is no other process.
    pub(super) fn follow(&self, family: &Family, handle: impl Fn(&C) -> &Handle) -> Vec<Py<C>> {
        let edits = family.edits();
        if edits == self.edits.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.edits.store(edits, Ordering::Relaxed);
        let replaced = |child: &Py<C>| {
            handle(child.get()).series.as_ref().is_some_and(|series| family.replaced(series))
        };
        self.split_off(|_, child| replaced(child))
    }

    /// The child with these values.
    pub(super) fn find<V: AsRef<str>>(&self, py: Python<'_>, values: &[V]) -> Option<Py<C>> {
        self.map.read().get(&Key(values)).map(|child| child.clone_ref(py))
    }

    /// Keeps a new child, and gives it back, or the one that another thread kept meanwhile.
    pub(super) fn keep<V: AsRef<str>>(&self, py: Python<'_>, values: &[V], child: Py<C>) -> Py<C> {
        let mut children = self.map.write();
        children.entry(OwnedKey::new(values)).or_insert(child).clone_ref(py)
    }

    /// Forgets the child with these values.
    pub(super) fn remove<V: AsRef<str>>(&self, values: &[V]) {
        let child = self.map.write().swap_remove(&Key(values));
        self.recent.clear();
        drop(child); // not under the lock: it may be the last reference
    }

    /// Forgets the children whose values are chosen, and gives them back: a last reference must be
    /// dropped when no lock is held, since it may run code of Python.
    pub(super) fn remove_where(&self, chosen: impl Fn(&[Box<str>]) -> bool) -> Vec<Py<C>> {
        self.split_off(|key, _| chosen(key.values()))
    }

    /// Forgets the children that are idle and that nobody else holds, whenever there are twice as
    /// many as after the last time; gives them back, as [`remove_where`](Self::remove_where) does.
    pub(super) fn forget(&self, py: Python<'_>, idle: impl Fn(&C) -> bool) -> Vec<Py<C>> {
        if self.map.read().len() < self.sweep_at.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.recent.clear(); // it holds some
        #[allow(deprecated)] // what replaces it is `unsafe`
        let unheld = |child: &Py<C>| child.get_refcnt(py) == 1;
        let gone = self.split_off(|_, child| unheld(child) && idle(child.get()));
        let next = (2 * self.map.read().len()).max(SWEEP);
        self.sweep_at.store(next, Ordering::Relaxed);
        gone
    }

    fn split_off(&self, chosen: impl Fn(&OwnedKey, &Py<C>) -> bool) -> Vec<Py<C>> {
        let mut children = self.map.write();
        let all = std::mem::take(&mut *children).into_iter();
        let (gone, kept): (ChildMap<C>, _) = all.partition(|(key, child)| chosen(key, child));
        *children = kept;
        drop(children);
        self.recent.clear();
        gone.into_values().collect()
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
pub(super) type Values<T> = SmallVec<[T; 8]>;

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

/// The values that a call's arguments name, in the order of the label names.
pub(super) fn values_of<'py>(
    desc: &Desc,
    names: &[Py<PyString>],
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Values<Bound<'py, PyAny>>> {
    if names.is_empty() {
        let text = format!("No label names were set when constructing {}", desc.name);
        return Err(PyValueError::new_err(text));
    }
    match kwargs.filter(|given| !given.is_empty()) {
        Some(_) if !args.is_empty() => {
            Err(PyValueError::new_err("Can't pass both *args and **kwargs"))
        }
        Some(kwargs) => by_keyword(names, kwargs),
        None if args.len() != names.len() => Err(PyValueError::new_err("Incorrect label count")),
        None => Ok(args.iter().collect()),
    }
}

/// The texts of label values.
pub(super) fn texts<'a>(values: &'a [Bound<'_, PyAny>]) -> PyResult<Values<Cow<'a, str>>> {
    values.iter().map(value_text).collect()
}
