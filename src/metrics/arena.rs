//! Memory for series: runs of 64-bit atomic cells, handed out from large segments.
//!
//! A run is a slice that lives as long as the process, so the hot path is one pointer away from
//! its cells and needs neither a lock nor a reference count. A run that is dropped goes to a
//! free list for its length and is handed out again, zeroed; segments themselves are never
//! returned to the system. Cells can be moved, once, to a run that other processes write too.

use std::collections::HashMap;
use std::ops::Deref;

use parking_lot::Mutex;

use super::mapping::Place;
use super::sync::{AtomicU64, Ordering};

/// Cells in one segment: 64 KiB.
const SEGMENT_CELLS: usize = 8192;

static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

#[derive(Default)]
struct Arena {
    /// What is left of the newest segment.
    rest: &'static [AtomicU64],
    /// Returned runs by length.
    free: HashMap<usize, Vec<&'static [AtomicU64]>>,
}

impl Arena {
    fn take(&mut self, len: usize) -> &'static [AtomicU64] {
        if let Some(run) = self.free.get_mut(&len).and_then(Vec::pop) {
            return run;
        }
        if self.rest.len() < len {
            self.rest = fresh(len.max(SEGMENT_CELLS));
        }
        let (run, rest) = self.rest.split_at(len);
        self.rest = rest;
        run
    }
}

fn fresh(len: usize) -> &'static [AtomicU64] {
    Box::leak((0..len).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>())
}

fn take(len: usize) -> &'static [AtomicU64] {
    if cfg!(feature = "loom") {
        return fresh(len); // its atomics are of one run of a model
    }
    ARENA.lock().get_or_insert_default().take(len)
}

/// An owned run of cells, all zero at first.
#[derive(Debug)]
pub(super) struct Cells {
    place: Place,
    owned: &'static [AtomicU64],
}

impl Cells {
    pub(super) fn new(len: usize) -> Self {
        let owned = take(len);
        Self { place: Place::new(owned), owned }
    }

    /// Has a run of the same length in their place; what they hold stays behind, see
    /// [`own`](Self::own).
    pub(super) fn move_to(&self, run: &'static [AtomicU64]) {
        self.place.set(run);
    }

    /// The run that they began with.
    pub(super) fn own(&self) -> &'static [AtomicU64] {
        self.owned
    }
}

impl Deref for Cells {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        self.place.get()
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        if cfg!(feature = "loom") {
            return;
        }
        for cell in self.owned {
            cell.store(0, Ordering::Relaxed);
        }
        let mut arena = ARENA.lock();
        arena.get_or_insert_default().free.entry(self.owned.len()).or_default().push(self.owned);
    }
}

/// Adds to a cell that holds the bits of an `f64`.
pub(super) fn add(cell: &AtomicU64, amount: f64) {
    let mut old = cell.load(Ordering::Relaxed);
    loop {
        let new = (f64::from_bits(old) + amount).to_bits();
        match cell.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => old = now,
        }
    }
}

/// Reads a cell that holds the bits of an `f64`.
pub(super) fn get(cell: &AtomicU64) -> f64 {
    f64::from_bits(cell.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_run_is_zeroed_and_handed_out_again() {
        let len = 4321; // a length that no other test uses
        let first = Cells::new(len);
        first[7].store(9, Ordering::Relaxed);
        let address = first.as_ptr();
        drop(first);
        let second = Cells::new(len);
        assert_eq!(second.as_ptr(), address);
        assert!(second.iter().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn a_run_longer_than_a_segment_gets_one_of_its_own() {
        assert_eq!(Cells::new(3 * SEGMENT_CELLS).len(), 3 * SEGMENT_CELLS);
    }

    #[test]
    fn concurrent_adds_lose_nothing() {
        let cells = Cells::new(1);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| add(&cells[0], 0.5)));
            }
        });
        assert!((get(&cells[0]) - 20_000.0).abs() < f64::EPSILON);
    }
}
