//! A mapping that several processes write: its cells and its lock.
//!
//! The file is a header and then memory that is handed out: descriptions of families, series by
//! label values, and the runs of cells of these. Cells are written with atomics alone and read
//! likewise; all else happens under the kernel's lock on the file, which a dying process releases.
//! A process is a number in the header's table; the series that it holds have its bit, so that
//! memory is used again only when nobody holds it.
//!
//! Must not know: Python, what a page looks like.

mod backing;
mod children;
#[cfg(all(test, not(feature = "loom")))]
mod crash;
mod families;
mod heap;
mod holds;
#[cfg(all(test, any(feature = "loom", miri)))]
mod model;
mod nodes;
mod notes;
mod opening;
mod process;
mod table;
mod written;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64 as Own, AtomicUsize};

use parking_lot::Mutex;

use self::backing::Backing;
pub(super) use self::children::Child;
pub(super) use self::families::Place as FamilyPlace;
pub(super) use self::heap::Guard;
use self::heap::header;
pub(super) use self::notes::CELLS as NOTES;
pub use self::table::PROCESSES_LIMIT;
pub(super) use self::written::Written;
use super::mapping::{SEGMENT_BYTES, SEGMENT_CELLS, Segments};
use super::sync::{AtomicU64, Ordering, fence};
use crate::error::{Error, Result};

/// How long a process waits for the lock by default, in seconds. Who has it needs microseconds,
/// unless it was stopped.
pub const LOCK_WAIT_SECONDS: f64 = 1.0;
/// The longest that it can be told to wait; who opens the mapping waits as long.
pub const LOCK_WAIT_MAX_SECONDS: f64 = 60.0;

/// A mapping.
#[derive(Debug)]
pub struct Shared {
    path: PathBuf,
    segments: Segments,
    home: Mutex<Home>,
    /// This process' place in the table.
    slot: AtomicUsize,
    /// When the other processes were last looked at.
    looked: Own,
    /// How long to wait for the lock, and until when not to wait, in nanoseconds.
    wait: Own,
    stalled: Own,
    reports: Mutex<Vec<String>>,
}

/// The file as this process opened it.
#[derive(Debug)]
struct Home {
    backing: Backing,
    pid: u32,
}

fn refused(path: &Path, why: &str) -> Error {
    Error::InvalidArgument(format!("{} cannot be shared: {why}", path.display()))
}

fn corrupt(path: &Path, what: &str) -> Error {
    refused(path, &format!("it is damaged ({what}); remove it when no process uses it"))
}

/// The file of a mapping: a bare name is one in `/dev/shm`.
///
/// ```
/// use ryot_metrics::metrics::shared_path;
/// assert_eq!(shared_path("svc").to_str(), Some("/dev/shm/svc"));
/// assert_eq!(shared_path("./svc").to_str(), Some("./svc"));
/// ```
pub fn shared_path(name: &str) -> PathBuf {
    if name.contains('/') { name.into() } else { Path::new("/dev/shm").join(name) }
}

impl Shared {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has the file so many cells at least, so that touching them cannot fail.
    fn allocate(&self, backing: &Backing, cells: u64) -> Result<()> {
        let action = format!("make room for {} bytes in {}", cells * 8, self.path.display());
        backing.make_room(cells * 8).map_err(Error::io(action))
    }

    /// Maps the file's segments up to this one.
    fn map_to(&self, backing: &Backing, segment: usize) -> Result<()> {
        let mapped = self.segments.map_to(segment, |index| backing.map(index));
        mapped.map_err(Error::io(format!("map {}", self.path.display())))
    }

    /// Maps what the file has by now.
    fn map(&self, backing: &Backing) -> Result<()> {
        let size = self.cells(header::SIZE, 1)?[0].load(Ordering::Acquire);
        self.map_to(backing, (size / SEGMENT_CELLS).saturating_sub(1) as usize)
    }

    /// A run of cells of the file.
    fn cells(&self, at: u64, len: u64) -> Result<&'static [AtomicU64]> {
        let (segment, begin) = ((at / SEGMENT_CELLS) as usize, (at % SEGMENT_CELLS) as usize);
        let cells = self.segments.get(segment);
        let run = cells.and_then(|cells| cells.get(begin..begin.checked_add(len as usize)?));
        run.ok_or_else(|| corrupt(&self.path, &format!("{len} cells at {at} are not in it")))
    }

    /// Waits for the lock.
    ///
    /// # Errors
    /// If its holder keeps it for longer than [`set_lock_wait`](Self::set_lock_wait) says, or the
    /// mapping is damaged.
    pub(super) fn lock(&self) -> Result<Guard<'_>> {
        let mut home = self.home.lock();
        let forked = home.pid != std::process::id();
        if forked {
            let opened = home.backing.reopen();
            let backing = opened.map_err(Error::io(format!("open {}", self.path.display())))?;
            *home = Home { backing, pid: std::process::id() };
        }
        let guard = Guard::new(self, home)?;
        guard.replay()?;
        self.map(guard.backing())?;
        if forked || self.slot() == PROCESSES_LIMIT {
            guard.enter()?;
        }
        Ok(guard)
    }

    /// Waits for the lock for so many seconds at most, 1 by default.
    pub fn set_lock_wait(&self, seconds: f64) {
        self.wait.store((seconds * 1e9) as u64, Ordering::Relaxed);
    }

    /// What is read without the lock while values may move from one cell to another: once more,
    /// with the lock, if they did.
    pub(super) fn whole<T>(&self, read: impl Fn() -> T) -> T {
        let head = |at| self.cells(at, 1).map(|cells| &cells[0]);
        let (Ok(begun), Ok(ended)) = (head(header::MOVES_BEGUN), head(header::MOVES_ENDED)) else {
            return read();
        };
        let moves = ended.load(Ordering::Acquire);
        let value = read();
        fence(Ordering::Acquire);
        if begun.load(Ordering::Relaxed) == moves {
            return value;
        }
        let guard = self.lock();
        let value = read();
        drop(guard);
        value
    }

    /// Grows with each change of what families and series there are.
    pub(super) fn changes(&self) -> u64 {
        self.cells(header::CHANGES, 1).map_or(0, |cells| cells[0].load(Ordering::Acquire))
    }

    /// Changes with each family that is added.
    pub fn last_family(&self) -> u64 {
        self.cells(header::LAST_FAMILY, 1).map_or(0, |cells| cells[0].load(Ordering::Acquire))
    }

    /// The names of all families.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn family_names(&self) -> Result<Vec<String>> {
        let families = self.lock()?.families()?;
        Ok(families.into_iter().map(|(_, written)| written.desc.name.to_string()).collect())
    }

    /// Keeps a sentence for whoever writes logs, once.
    pub fn report(&self, text: String) {
        let mut reports = self.reports.lock();
        if reports.len() < 100 && !reports.contains(&text) {
            reports.push(text);
        }
    }

    /// The sentences that are to be logged.
    pub fn take_reports(&self) -> Vec<String> {
        std::mem::take(&mut *self.reports.lock())
    }
}
