//! The children that `labels` gave last, by the identity of the strings it was given.
//!
//! Most call sites name their labels with the same string objects each time; comparing pointers
//! then takes the place of hashing and comparing texts. A slot keeps its strings alive, so that no
//! other object can have their addresses. Only strings are kept: the text of another object may
//! change.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use smallvec::SmallVec;

/// Slots of one family; a power of two.
const SLOTS: usize = 64;

/// A taken slot is given to another child at each so many misses: call sites whose strings are
/// always new must not pay for a place that they never use again.
const MISSES: u32 = 8;

/// The addresses of a call's label values, in the order of the label names.
pub(super) type Identity = SmallVec<[usize; 8]>;

/// The identity of a call's values; None if keywords are not in the order of the names.
pub(super) fn identity(
    names: &[Py<PyString>],
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
) -> Option<Identity> {
    let Some(kwargs) = kwargs else {
        return Some(args.iter_borrowed().map(|value| value.as_ptr() as usize).collect());
    };
    if !args.is_empty() || kwargs.len() != names.len() {
        return None;
    }
    let in_order = |((key, value), name): ((Bound<'_, PyAny>, Bound<'_, PyAny>), &Py<PyString>)| {
        key.is(name).then(|| value.as_ptr() as usize)
    };
    kwargs.iter().zip(names).map(in_order).collect()
}

#[derive(Debug)]
struct Slot<C> {
    values: Box<[Py<PyString>]>,
    child: Py<C>,
}

/// What was given last.
#[derive(Debug)]
pub(super) struct Recent<C> {
    slots: RwLock<Vec<Option<Slot<C>>>>,
    /// How often children were forgotten: one that was looked up before is not kept after.
    epoch: AtomicU32,
    misses: AtomicU32,
}

impl<C> Default for Recent<C> {
    fn default() -> Self {
        Self { slots: RwLock::default(), epoch: AtomicU32::new(0), misses: AtomicU32::new(0) }
    }
}

impl<C> Recent<C> {
    pub(super) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn find(&self, py: Python<'_>, identity: &[usize]) -> Option<Py<C>> {
        let slots = self.slots.read();
        let slot = slots.get(place(identity))?.as_ref()?;
        let same = slot.values.len() == identity.len()
            && slot.values.iter().zip(identity).all(|(value, it)| value.as_ptr() as usize == *it);
        same.then(|| slot.child.clone_ref(py))
    }

    /// Keeps a child that was found or made since `epoch`.
    pub(super) fn keep(&self, epoch: u32, values: &[Bound<'_, PyAny>], child: &Py<C>) {
        let exact =
            |value: &Bound<'_, PyAny>| Some(value.cast_exact::<PyString>().ok()?.clone().unbind());
        let Some(strings) = values.iter().map(exact).collect::<Option<Box<[_]>>>() else { return };
        let [first, ..] = values else { return };
        let identity: Identity = values.iter().map(|value| value.as_ptr() as usize).collect();
        let place = place(&identity);
        let mut slots = self.slots.write();
        if slots.is_empty() {
            slots.resize_with(SLOTS, || None);
        }
        let free = slots[place].is_none()
            || self.misses.fetch_add(1, Ordering::Relaxed).is_multiple_of(MISSES);
        if !free || self.epoch() != epoch {
            return;
        }
        let child = child.clone_ref(first.py());
        let old = slots[place].replace(Slot { values: strings, child });
        drop(slots);
        drop(old); // not under the lock: it may hold last references
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        let mut slots = self.slots.write();
        self.epoch.fetch_add(1, Ordering::Release);
        let old = std::mem::take(&mut *slots);
        drop(slots);
        drop(old); // not under the lock: it may hold last references
    }
}

fn place(identity: &[usize]) -> usize {
    // Objects begin at multiples of 16; the multiplier is that of FxHash.
    let mix = |hash: usize, it: &usize| {
        (hash.rotate_left(5) ^ (it >> 4)).wrapping_mul(0x517c_c1b7_2722_0a95)
    };
    identity.iter().fold(0, mix) >> (usize::BITS - SLOTS.trailing_zeros())
}
