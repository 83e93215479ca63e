//! The children of a labelled metric, and the label values that a call's arguments name.
//!
//! Must not know what a metric measures.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use indexmap::IndexMap;
use parking_lot::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::{PyDict, PyString, PyTuple};
use pyo3::{PyClass, PyClassInitializer};
use smallvec::SmallVec;

use super::handle::Handle;
use super::recent::{Recent, identity};
use super::registry::pairs;
use crate::metrics::{Desc, Family, Key, OwnedKey};

/// A metric class, as its children need it.
pub(super) trait Metric: PyClass<Frozen = True> + Sync {
    /// What is behind the object.
    fn handle(&self) -> &Handle;

    /// None in a child.
    fn children(&self) -> Option<&Children<Self>>;

    /// The child with this series.
    fn of(handle: Handle) -> Self;
}

/// The child with these label values, by position or by keyword.
pub(super) fn labels<M: Metric + Into<PyClassInitializer<M>>>(
    metric: &M,
    labelvalues: &Bound<'_, PyTuple>,
    labelkwargs: Option<&Bound<'_, PyDict>>,
) -> PyResult<Py<M>> {
    let py = labelvalues.py();
    let family = &metric.handle().family;
    let Some(parent) = metric.children() else {
        return Err(PyValueError::new_err(format!(
            "{} already has labels set; can't chain calls to .labels()",
            family.desc().name
        )));
    };
    drop(parent.follow(family));
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
        drop(parent.forget(py));
    }
    // Outside of the lock: making an object may run Python's collector.
    let child = Py::new(py, M::of(metric.handle().child(family.series(&texts))))?;
    Ok(parent.keep(py, &texts, child))
}

/// Takes the series with these label values off the page.
pub(super) fn remove<M: Metric>(metric: &M, labelvalues: &Bound<'_, PyTuple>) -> PyResult<()> {
    let Some(parent) = metric.children() else { return Ok(()) };
    let family = &metric.handle().family;
    let values = values_of(family.desc(), &parent.names, labelvalues, None)?;
    let texts = texts(&values)?;
    family.remove(&texts);
    parent.remove(&texts);
    Ok(())
}

/// Takes all series of a labelled metric off the page.
pub(super) fn clear<M: Metric>(metric: &M) {
    let Some(parent) = metric.children().filter(|it| !it.names.is_empty()) else { return };
    metric.handle().family.clear();
    drop(parent.remove_where(|_| true));
}

/// Takes the series that have all of these labels off the page.
pub(super) fn remove_by_labels<M: Metric>(metric: &M, labels: &Bound<'_, PyDict>) -> PyResult<()> {
    let wanted = pairs(Some(labels))?;
    let family = &metric.handle().family;
    let names = &family.desc().label_names;
    let place = |name: &str| names.iter().position(|known| **known == *name);
    let mut places = Vec::with_capacity(wanted.len());
    for (name, value) in &wanted {
        let unknown = || PyValueError::new_err(format!("Unknown label names: {name}"));
        places.push((place(name).ok_or_else(unknown)?, value.as_str()));
    }
    let chosen =
        |values: &[Box<str>]| places.iter().all(|&(index, value)| *values[index] == *value);
    family.remove_where(chosen);
    let dropped = metric.children().map(|parent| parent.remove_where(chosen));
    drop(dropped); // when no lock is held
    Ok(())
}

type ChildMap<C> = IndexMap<OwnedKey, Py<C>, ahash::RandomState>;

/// Children by label values, and the label names as Python has them: what makes `labels` cheap.
/// A child is one object for the life of its series, as in `prometheus_client`.
#[derive(Debug)]
pub(super) struct Children<C> {
    names: Vec<Py<PyString>>,
    map: RwLock<ChildMap<C>>,
    recent: Recent<C>,
    /// How many there must be for a look at which can be forgotten.
    sweep_at: AtomicUsize,
    /// The removals by other processes that were followed.
    edits: AtomicU64,
}

/// Fewer children are never looked through for idle ones.
const SWEEP: usize = 64;

impl<C: Metric> Children<C> {
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
    fn follow(&self, family: &Family) -> Vec<Py<C>> {
        let edits = family.edits();
        if edits == self.edits.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.edits.store(edits, Ordering::Relaxed);
        let replaced = |child: &Py<C>| {
            child.get().handle().series.as_ref().is_some_and(|series| family.replaced(series))
        };
        self.split_off(|_, child| replaced(child))
    }

    /// The child with these values.
    fn find<V: AsRef<str>>(&self, py: Python<'_>, values: &[V]) -> Option<Py<C>> {
        self.map.read().get(&Key(values)).map(|child| child.clone_ref(py))
    }

    /// Keeps a new child, and gives it back, or the one that another thread kept meanwhile.
    fn keep<V: AsRef<str>>(&self, py: Python<'_>, values: &[V], child: Py<C>) -> Py<C> {
        let mut children = self.map.write();
        children.entry(OwnedKey::new(values)).or_insert(child).clone_ref(py)
    }

    /// Forgets the child with these values.
    fn remove<V: AsRef<str>>(&self, values: &[V]) {
        let child = self.map.write().swap_remove(&Key(values));
        self.recent.clear();
        drop(child); // not under the lock: it may be the last reference
    }

    /// Forgets the children whose values are chosen, and gives them back: a last reference must be
    /// dropped when no lock is held, since it may run code of Python.
    fn remove_where(&self, chosen: impl Fn(&[Box<str>]) -> bool) -> Vec<Py<C>> {
        self.split_off(|key, _| chosen(key.values()))
    }

    /// Forgets the children that are idle and that nobody else holds, whenever there are twice as
    /// many as after the last time; gives them back, as [`remove_where`](Self::remove_where) does.
    fn forget(&self, py: Python<'_>) -> Vec<Py<C>> {
        if self.map.read().len() < self.sweep_at.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.recent.clear(); // it holds some
        #[allow(deprecated)] // what replaces it is `unsafe`
        let unheld = |child: &Py<C>| child.get_refcnt(py) == 1;
        let gone = self.split_off(|_, child| unheld(child) && child.get().handle().is_idle());
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
fn values_of<'py>(
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
fn texts<'a>(values: &'a [Bound<'_, PyAny>]) -> PyResult<Values<Cow<'a, str>>> {
    values.iter().map(value_text).collect()
}
