//! Which processes hold and use a series.
//!
//! A process *holds* the memory of each series that it knows: as long as one does, the memory is
//! of that series. It *uses* one of a family that forgets idle series when somebody there may write
//! it: as long as one does, the series is not forgotten. Both are a bit for each process, which are
//! taken under the lock and end with the process.

use super::super::sync::{AtomicU64, Ordering};
use super::children::{Child, child};
use super::families::LIVE;
use super::heap::Guard;
use super::{PROCESSES_LIMIT, Shared};
use crate::error::Result;

fn mark(slot: usize) -> (usize, u64) {
    (slot / 64, 1 << (slot % 64))
}

impl Shared {
    fn bits(&self, at: u64, field: u64) -> Result<&'static [AtomicU64]> {
        self.cells(at + field, child::WORDS)
    }

    fn take(&self, at: u64, field: u64) -> Result<()> {
        let slot = self.slot();
        if slot < PROCESSES_LIMIT {
            let (word, bit) = mark(slot);
            self.bits(at, field)?[word].fetch_or(bit, Ordering::AcqRel);
        }
        Ok(())
    }

    fn give_back(&self, at: u64, field: u64) {
        let slot = self.slot();
        if slot < PROCESSES_LIMIT
            && let Ok(bits) = self.bits(at, field)
        {
            let (word, bit) = mark(slot);
            bits[word].fetch_and(!bit, Ordering::AcqRel);
        }
    }

    fn is_any(&self, at: u64, field: u64) -> Result<bool> {
        Ok(self.bits(at, field)?.iter().any(|word| word.load(Ordering::Acquire) != 0))
    }

    /// This process holds a series from now on.
    pub(in super::super) fn hold(&self, at: u64) -> Result<()> {
        self.take(at, child::HELD)
    }

    /// It does so no more.
    pub(in super::super) fn release(&self, at: u64) {
        self.give_back(at, child::USED);
        self.give_back(at, child::HELD);
    }

    /// Nobody in this process writes a series any more.
    pub(in super::super) fn leave(&self, at: u64) {
        self.give_back(at, child::USED);
    }
}

impl Guard<'_> {
    /// Whether a process holds a series.
    pub(super) fn is_held(&self, at: u64) -> Result<bool> {
        self.shared.is_any(at, child::HELD)
    }

    /// Whether a process uses a series.
    pub(in super::super) fn is_used(&self, of: Child) -> Result<bool> {
        self.shared.is_any(of.at, child::USED)
    }

    /// This process uses a series from now on; false if it is there no more.
    pub(in super::super) fn use_child(&self, of: Child) -> Result<bool> {
        let is_there = self.is_there(of)? && self.get(of.at + child::STATE)? == LIVE;
        if is_there {
            self.shared.take(of.at, child::USED)?;
        }
        Ok(is_there)
    }

    /// Ends what a process held and used that is no more.
    pub(super) fn free(&self, at: u64, slot: usize) -> Result<()> {
        let (word, bit) = mark(slot);
        for field in [child::USED, child::HELD] {
            self.shared.bits(at, field)?[word].fetch_and(!bit, Ordering::AcqRel);
        }
        Ok(())
    }
}
