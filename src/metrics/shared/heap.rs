//! The memory of a mapping under its lock: cells, changes that happen as a whole or not at all,
//! and pieces of memory that are handed out and taken back.
//!
//! A change is first written to a log in the header and then published by one store of its
//! length; who takes the lock next carries out what a killed process left there. So whatever is
//! written under the lock through a [`Change`] is whole, at whatever instant its writer dies.
//! New memory is filled before the change that makes it reachable.

use std::time::Duration;

use parking_lot::MutexGuard;

use super::super::mapping::SEGMENT_CELLS;
use super::super::sync::{AtomicU64, Ordering, fence, yield_now};
use super::backing::Backing;
use super::table::{LOOK, PROCESSES_LIMIT, entry};
use super::{Home, Shared, corrupt};
use crate::clock::{Clock, MonotonicClock};
use crate::error::{Error, Result};

/// Where things are in the header, in cells.
pub(super) mod header {
    pub(in super::super) const MAGIC: u64 = 0;
    pub(in super::super) const VERSION: u64 = 1;
    pub(in super::super) const BOOT: u64 = 2;
    /// Cells that are allocated in the file.
    pub(in super::super) const SIZE: u64 = 3;
    /// Cells that were handed out.
    pub(in super::super) const USED: u64 = 4;
    pub(in super::super) const FIRST_FAMILY: u64 = 5;
    pub(in super::super) const LAST_FAMILY: u64 = 6;
    /// Grows with each change of what families and series there are.
    pub(in super::super) const CHANGES: u64 = 7;
    /// The number of the series that was made last.
    pub(in super::super) const SERIAL: u64 = 8;
    /// A number made of the namespace in which processes know each other.
    pub(in super::super) const NAMESPACE: u64 = 9;
    /// Heads of the lists of free pieces, by the logarithm of their length.
    pub(in super::super) const FREE: u64 = 10;
    /// Changes after which a value is in other cells than before: those that were begun, and those
    /// that are done.
    pub(in super::super) const MOVES_BEGUN: u64 = 28;
    pub(in super::super) const MOVES_ENDED: u64 = 29;
    pub(in super::super) const LOG_LEN: u64 = 31;
    pub(in super::super) const LOG: u64 = 32;
    pub(in super::super) const PROCESSES: u64 = 256;
    /// What is handed out begins here.
    pub(in super::super) const END: u64 =
        PROCESSES + super::entry::LEN * super::PROCESSES_LIMIT as u64;
}

/// Writes a cell under the lock.
pub(super) fn put(cell: &AtomicU64, value: u64) {
    #[cfg(all(test, not(feature = "loom")))]
    crash::step();
    cell.store(value, Ordering::Release);
}

/// Lets a test's thread die at any of its writes.
#[cfg(all(test, not(feature = "loom")))]
pub(super) mod crash {
    use std::cell::Cell;

    thread_local!(static LEFT: Cell<u64> = const { Cell::new(u64::MAX) });

    /// From now on, so many writes are done.
    pub(in super::super) fn after(writes: u64) {
        LEFT.set(writes);
    }

    pub(super) fn step() {
        LEFT.set(LEFT.get().checked_sub(1).expect("the test's crash"));
    }
}

/// The most cells that one change may write.
const LOG_LIMIT: usize = 100;

/// The lock of a mapping, held. The kernel's, so it ends with the process at the latest.
#[derive(Debug)]
pub(in super::super) struct Guard<'a> {
    pub(super) shared: &'a Shared,
    home: MutexGuard<'a, Home>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.home.backing.unlock();
    }
}

/// Times that who waits for the lock gives others the processor, before it sleeps between.
const YIELDS: u32 = 100;
const NAP: Duration = Duration::from_micros(200);

impl<'a> Guard<'a> {
    /// Waits for the lock.
    ///
    /// # Errors
    /// [`Error::Io`] after the longest wait, and at once in the second after such a wait: whoever
    /// has it was stopped, and nobody else is to stand still for that.
    pub(super) fn new(shared: &'a Shared, home: MutexGuard<'a, Home>) -> Result<Self> {
        let action = || format!("lock {}", shared.path.display());
        let mut begun = None;
        let mut turns = 0;
        while !home.backing.try_lock().map_err(Error::io(action()))? {
            let now = MonotonicClock.now();
            let begun = *begun.get_or_insert(now);
            let wait = shared.wait.load(Ordering::Relaxed);
            let late = now.saturating_sub(begun) >= wait;
            if !cfg!(feature = "loom") && (late || now < shared.stalled.load(Ordering::Relaxed)) {
                if late {
                    shared.stalled.store(now + LOOK, Ordering::Relaxed);
                }
                let why = format!("another process has kept it for {} s", wait as f64 / 1e9);
                let error = std::io::Error::new(std::io::ErrorKind::TimedOut, why);
                return Err(Error::io(action())(error));
            }
            turns += 1;
            if turns < YIELDS || cfg!(feature = "loom") {
                yield_now();
            } else {
                std::thread::sleep(NAP);
            }
        }
        Ok(Self { shared, home })
    }

    pub(super) fn backing(&self) -> &Backing {
        &self.home.backing
    }

    pub(super) fn get(&self, at: u64) -> Result<u64> {
        Ok(self.shared.cells(at, 1)?[0].load(Ordering::Acquire))
    }

    /// Carries out a change that was published and perhaps not finished.
    pub(super) fn replay(&self) -> Result<()> {
        let head = self.shared.cells(0, header::END)?;
        let len = head[header::LOG_LEN as usize].load(Ordering::Acquire) as usize;
        if len > LOG_LIMIT {
            return Err(corrupt(&self.shared.path, "its log is too long"));
        }
        for pair in head[header::LOG as usize..].chunks_exact(2).take(len) {
            let [at, value] = [&pair[0], &pair[1]].map(|cell| cell.load(Ordering::Acquire));
            put(&self.shared.cells(at, 1)?[0], value);
        }
        put(&head[header::LOG_LEN as usize], 0);
        Ok(())
    }

    pub(super) fn change(&self) -> Change<'_> {
        Change { guard: self, writes: Vec::new() }
    }

    /// The bytes of a piece of memory.
    pub(super) fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>> {
        let cells = self.shared.cells(at, len.div_ceil(8))?;
        let bytes = cells.iter().flat_map(|cell| cell.load(Ordering::Acquire).to_le_bytes());
        Ok(bytes.take(len as usize).collect())
    }

    fn grow(&self) -> Result<()> {
        let size = self.get(header::SIZE)?;
        self.shared.allocate(&self.home.backing, size + SEGMENT_CELLS)?;
        self.shared.cells(header::SIZE, 1)?[0].store(size + SEGMENT_CELLS, Ordering::Release);
        self.shared.map(&self.home.backing)
    }
}

/// Cells to be written together. Without [`commit`](Self::commit), nothing has happened.
#[derive(Debug)]
pub(super) struct Change<'a> {
    guard: &'a Guard<'a>,
    writes: Vec<(u64, u64)>,
}

impl Change<'_> {
    /// A cell as it will be.
    pub(super) fn get(&self, at: u64) -> Result<u64> {
        let pending = self.writes.iter().find(|write| write.0 == at);
        pending.map_or_else(|| self.guard.get(at), |write| Ok(write.1))
    }

    pub(super) fn set(&mut self, at: u64, value: u64) {
        match self.writes.iter_mut().find(|write| write.0 == at) {
            Some(write) => write.1 = value,
            None => self.writes.push((at, value)),
        }
    }

    pub(super) fn add(&mut self, at: u64, amount: u64) -> Result<u64> {
        let value = self.get(at)?.wrapping_add(amount);
        self.set(at, value);
        Ok(value)
    }

    /// Takes memory for so many cells, all zero.
    pub(super) fn take(&mut self, cells: u64) -> Result<u64> {
        let len = cells.next_power_of_two();
        if len > SEGMENT_CELLS {
            let text = format!("{cells} cells do not fit into a segment of {SEGMENT_CELLS}");
            return Err(Error::InvalidArgument(text));
        }
        let list = header::FREE + u64::from(len.trailing_zeros());
        let mut at = self.get(list)?;
        if at == 0 {
            at = self.take_new(len)?;
        } else {
            let next = self.get(at)?;
            self.set(list, next);
        }
        let memory = self.guard.shared.cells(at, len)?;
        for cell in memory {
            put(cell, 0);
        }
        Ok(at)
    }

    fn take_new(&mut self, len: u64) -> Result<u64> {
        let used = self.get(header::USED)?;
        let left = SEGMENT_CELLS - used % SEGMENT_CELLS;
        let at = if left < len { used + left } else { used };
        while at + len > self.guard.get(header::SIZE)? {
            self.guard.grow()?;
        }
        self.set(header::USED, at + len);
        Ok(at)
    }

    /// Gives memory back that nobody can reach any more, nor looks at without the lock.
    pub(super) fn give_back(&mut self, at: u64, cells: u64) -> Result<()> {
        let list = header::FREE + u64::from(cells.next_power_of_two().trailing_zeros());
        let next = self.get(list)?;
        // Beyond its first cell the piece is left as it is; that one is written with the rest.
        self.set(at, next);
        self.set(list, at);
        Ok(())
    }

    /// Puts bytes into new memory.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<u64> {
        let len = (bytes.len() as u64).div_ceil(8).max(1);
        let at = self.take(len)?;
        let memory = self.guard.shared.cells(at, len)?;
        for (cell, chunk) in memory.iter().zip(bytes.chunks(8)) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            put(cell, u64::from_le_bytes(word));
        }
        Ok(at)
    }

    /// Gives back the memory of so many bytes.
    pub(super) fn give_back_bytes(&mut self, at: u64, len: u64) -> Result<()> {
        self.give_back(at, len.div_ceil(8).max(1))
    }

    /// The same where a value is in other cells afterwards, for [`Shared::whole`].
    pub(super) fn commit_move(mut self) -> Result<()> {
        let moves = self.get(header::MOVES_BEGUN)?.wrapping_add(1);
        self.writes.insert(0, (header::MOVES_BEGUN, moves));
        self.writes.push((header::MOVES_ENDED, moves));
        self.commit()?;
        fence(Ordering::Release); // what its owner writes next comes after
        Ok(())
    }

    /// Writes all, or nothing if this process dies.
    pub(super) fn commit(self) -> Result<()> {
        assert!(self.writes.len() <= LOG_LIMIT, "a change of {} cells", self.writes.len());
        let head = self.guard.shared.cells(0, header::END)?;
        let log: &[AtomicU64] = &head[header::LOG as usize..];
        for (pair, (at, value)) in log.chunks_exact(2).zip(&self.writes) {
            put(&pair[0], *at);
            put(&pair[1], *value);
        }
        put(&head[header::LOG_LEN as usize], self.writes.len() as u64);
        self.guard.replay()
    }
}
