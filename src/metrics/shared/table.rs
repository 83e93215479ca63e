//! The processes of a mapping: a table in its header, in which each has a place while it is there.

use super::super::sync::{AtomicU64, Ordering};
use super::heap::{Guard, header};
use super::process::Identity;
use super::{Shared, refused};
use crate::clock::{Clock, MonotonicClock};
use crate::error::Result;

/// The most processes that write one mapping at a time.
pub const PROCESSES_LIMIT: usize = if cfg!(feature = "loom") { 64 } else { 256 };
/// The time between two looks at which processes are still there, in nanoseconds.
pub(super) const LOOK: u64 = 1_000_000_000;

/// Cells of a place in the table.
pub(super) mod entry {
    pub(in super::super) const PID: u64 = 0;
    pub(in super::super) const STARTED: u64 = 1;
    /// Series that the process counts alone.
    pub(in super::super) const ALONE: u64 = 2;
    pub(in super::super) const LEN: u64 = 3;
}

impl Shared {
    /// Where this process is in the table.
    pub(super) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    pub(super) fn entry(&self, slot: usize) -> Result<&'static [AtomicU64]> {
        self.cells(header::PROCESSES + entry::LEN * slot as u64, entry::LEN)
    }

    /// The process in a place of the table.
    fn process(&self, slot: usize) -> Result<Option<Identity>> {
        let cells = self.entry(slot)?;
        let [pid, started] =
            [entry::PID, entry::STARTED].map(|at| cells[at as usize].load(Ordering::Acquire));
        Ok((pid != 0).then_some(Identity { pid, started }))
    }

    fn gone(&self) -> Result<Vec<usize>> {
        let mut gone = Vec::new();
        for slot in (0..PROCESSES_LIMIT).filter(|slot| *slot != self.slot()) {
            if self.process(slot)?.is_some_and(|it| !it.is_alive()) {
                gone.push(slot);
            }
        }
        Ok(gone)
    }

    /// Takes away what processes left that are no more: at most once a second.
    pub(in super::super) fn tidy(&self) -> Result<()> {
        let (now, looked) = (MonotonicClock.now(), self.looked.load(Ordering::Relaxed));
        if now.saturating_sub(looked) < LOOK {
            return Ok(());
        }
        self.looked.store(now, Ordering::Relaxed);
        let gone = self.gone()?;
        if gone.is_empty() {
            return Ok(());
        }
        let guard = self.lock()?;
        // Another process may have done it meanwhile, and given a place to a new one.
        gone.into_iter().try_for_each(|slot| guard.bury_if_dead(slot))
    }

    /// This process counts a series alone, since the mapping could not take it; or no more.
    pub(in super::super) fn note_alone(&self, is_alone: bool) {
        if self.slot() < PROCESSES_LIMIT
            && let Ok(cells) = self.entry(self.slot())
        {
            let one = if is_alone { 1 } else { u64::MAX };
            cells[entry::ALONE as usize].fetch_add(one, Ordering::Relaxed);
        }
    }

    /// How many series processes count alone, each in its own memory, because the mapping could
    /// not take them.
    pub fn alone(&self) -> u64 {
        let count = |slot| self.entry(slot).ok().map(|cells| &cells[entry::ALONE as usize]);
        let counts = (0..PROCESSES_LIMIT).filter_map(count);
        counts.map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

impl Guard<'_> {
    /// Gives this process a place in the table.
    pub(super) fn enter(&self) -> Result<()> {
        let shared = self.shared;
        let own = Identity::own()
            .ok_or_else(|| refused(&shared.path, "the system has no /proc to know processes by"))?;
        shared.slot.store(PROCESSES_LIMIT, Ordering::Relaxed);
        for slot in shared.gone()? {
            self.bury_if_dead(slot)?;
        }
        for slot in 0..PROCESSES_LIMIT {
            if shared.process(slot)?.is_none() {
                let cells = shared.entry(slot)?;
                cells[entry::ALONE as usize].store(0, Ordering::Release);
                cells[entry::STARTED as usize].store(own.started, Ordering::Release);
                cells[entry::PID as usize].store(own.pid, Ordering::Release);
                shared.slot.store(slot, Ordering::Relaxed);
                return Ok(());
            }
        }
        Err(refused(&shared.path, &format!("{PROCESSES_LIMIT} processes write it, the most")))
    }

    fn bury_if_dead(&self, slot: usize) -> Result<()> {
        if self.shared.process(slot)?.is_none_or(Identity::is_alive) {
            return Ok(());
        }
        self.leave(slot)
    }

    /// Takes away what a process had that is no more, and its place.
    fn leave(&self, slot: usize) -> Result<()> {
        self.bury(slot)?;
        let cells = self.shared.entry(slot)?;
        cells[entry::ALONE as usize].store(0, Ordering::Release);
        cells[entry::PID as usize].store(0, Ordering::Release);
        Ok(())
    }

    /// Takes away what a process had of each series.
    pub(super) fn bury(&self, slot: usize) -> Result<()> {
        self.each(|place, at| {
            self.bury_nodes(place, at, slot)?;
            self.free(at, slot)
        })
    }

    /// Whether another process writes the mapping.
    pub(super) fn others(&self) -> Result<bool> {
        let others = (0..PROCESSES_LIMIT).filter(|slot| *slot != self.shared.slot());
        for slot in others {
            if self.shared.process(slot)?.is_some_and(Identity::is_alive) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Shared {
    /// Leaves the table, unless the process is a fork that never entered it.
    fn drop(&mut self) {
        let slot = self.slot();
        if slot < PROCESSES_LIMIT
            && self.home.get_mut().pid == std::process::id()
            && let Ok(guard) = self.lock()
        {
            let _ = guard.leave(slot);
        }
    }
}
