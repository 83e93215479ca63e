//! A mapping that several processes write: opening it, its lock, and the processes in it.
//!
//! The file is a header and then memory that is handed out: descriptions of families, series by
//! label values, and the runs of cells of these. Cells are written with atomics alone and read
//! likewise; all else happens under the kernel's lock on the file, which a dying process releases.
//! A process is a number in the header's table; the series that it holds have its bit, so that
//! memory is used again only when nobody holds it.
//!
//! Must not know: Python, what a page looks like.

mod directory;
mod heap;
mod nodes;
mod notes;
mod process;
mod written;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

pub(super) use self::directory::{Child, Place as FamilyPlace};
pub(super) use self::heap::Guard;
use self::heap::header;
pub(super) use self::notes::CELLS as NOTES;
use self::process::{Identity, boot, namespace};
pub(super) use self::written::Written;
use super::mapping::{SEGMENT_BYTES, SEGMENT_CELLS, Segments};
use crate::clock::{Clock, MonotonicClock};
use crate::error::{Error, Result};

/// The most processes that write one mapping at a time.
pub const PROCESSES_LIMIT: usize = 256;
/// The time between two looks at which processes are still there, in nanoseconds.
const LOOK: u64 = 1_000_000_000;

const MAGIC: u64 = u64::from_le_bytes(*b"ryot-map");
/// Grows with each change of the layout.
const VERSION: u64 = 1;

/// A mapping.
#[derive(Debug)]
pub struct Shared {
    path: PathBuf,
    segments: Segments,
    home: Mutex<Home>,
    /// This process' place in the table.
    slot: AtomicUsize,
    /// When the other processes were last looked at.
    looked: AtomicU64,
    reports: Mutex<Vec<String>>,
}

/// The file as this process opened it: a forked child must not share the lock of its parent.
#[derive(Debug)]
struct Home {
    file: File,
    pid: u32,
}

fn refused(path: &Path, why: &str) -> Error {
    Error::InvalidArgument(format!("{} cannot be shared: {why}", path.display()))
}

fn corrupt(path: &Path, what: &str) -> Error {
    refused(path, &format!("it is damaged ({what}); remove it when no process uses it"))
}

#[cfg(target_os = "linux")]
fn make_room(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

/// Nothing is shared where processes cannot be told apart; see [`Identity::own`].
#[cfg(not(target_os = "linux"))]
fn make_room(file: &File, bytes: u64) -> std::io::Result<()> {
    file.set_len(bytes)
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
    /// Opens the mapping of a file, which is made with the permissions 0600 if there is none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the file and what is wrong with it, if it is no mapping, one
    /// of another version, or damaged, and if too many processes write it; [`Error::Io`] where the
    /// system refuses something, such as room on a full disk.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let action = || format!("open {}", path.display());
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(Error::io(action()))?;
        let shared = Self {
            path: path.to_owned(),
            segments: Segments::default(),
            home: Mutex::new(Home { file, pid: std::process::id() }),
            slot: AtomicUsize::new(PROCESSES_LIMIT),
            looked: AtomicU64::new(MonotonicClock.now()),
            reports: Mutex::default(),
        };
        let guard = Guard::new(&shared, shared.home.lock())?;
        shared.begin(&guard)?;
        drop(guard);
        Ok(Arc::new(shared))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn begin(&self, guard: &Guard<'_>) -> Result<()> {
        let file = guard.file();
        let len = file.metadata().map_err(Error::io("look at a mapping"))?.len();
        if len == 0 {
            self.allocate(file, SEGMENT_CELLS)?;
        } else if len % SEGMENT_BYTES != 0 {
            let what = format!("it has {len} bytes, which is no multiple of {SEGMENT_BYTES}");
            return Err(refused(&self.path, &format!("it is no mapping or was cut off: {what}")));
        }
        let mapped = self.segments.map_to(file, 0);
        mapped.map_err(Error::io(format!("map {}", self.path.display())))?;
        self.check_header(guard, len)?;
        guard.replay()?;
        guard.check()?;
        guard.enter()
    }

    fn check_header(&self, guard: &Guard<'_>, len: u64) -> Result<()> {
        let head = self.segments.get(0).unwrap_or_default();
        let [magic, version, made, size] =
            [header::MAGIC, header::VERSION, header::BOOT, header::SIZE]
                .map(|at| head[at as usize].load(Ordering::Acquire));
        let cells = len.max(SEGMENT_BYTES) / 8;
        if magic == 0 {
            // It was just made, or its maker died before it was a mapping.
            let made = |cell: &AtomicU64| cell.load(Ordering::Relaxed) != 0;
            if head.iter().skip(header::FIRST_FAMILY as usize).any(made) {
                return Err(refused(&self.path, "it is no mapping"));
            }
            Self::reset(head, cells);
        } else if magic != MAGIC {
            return Err(refused(&self.path, "it is no mapping"));
        } else if version != VERSION {
            let why = format!("it is a mapping of version {version}; this is version {VERSION}");
            return Err(refused(&self.path, &why));
        } else if size % SEGMENT_CELLS != 0 || size == 0 || size * 8 > len {
            let what = format!("it has {len} bytes of {}", size.saturating_mul(8));
            return Err(corrupt(&self.path, &what));
        } else if made != boot() {
            Self::reset(head, cells); // what it counted ended with the machine
        } else if head[header::NAMESPACE as usize].load(Ordering::Acquire) != namespace() {
            let why = "processes of another container write it; give each container its own, or \
                       remove it when none uses it";
            return Err(refused(&self.path, why));
        }
        self.map(guard.file())
    }

    /// Makes an empty mapping; whoever dies meanwhile leaves what makes the next one do it again.
    fn reset(head: &[AtomicU64], cells: u64) {
        let set = |at: u64, value| head[at as usize].store(value, Ordering::Release);
        (header::FIRST_FAMILY..header::END).for_each(|at| set(at, 0));
        set(header::SIZE, cells);
        set(header::USED, header::END);
        set(header::NAMESPACE, namespace());
        set(header::VERSION, VERSION);
        set(header::BOOT, boot());
        set(header::MAGIC, MAGIC);
    }

    /// Has the file so many cells at least, so that touching them cannot fail.
    fn allocate(&self, file: &File, cells: u64) -> Result<()> {
        let action = format!("make room for {} bytes in {}", cells * 8, self.path.display());
        make_room(file, cells * 8).map_err(Error::io(action))
    }

    /// Maps what the file has by now.
    fn map(&self, file: &File) -> Result<()> {
        let size = self.cells(header::SIZE, 1)?[0].load(Ordering::Acquire);
        let last = (size / SEGMENT_CELLS).saturating_sub(1) as usize;
        let mapped = self.segments.map_to(file, last);
        mapped.map_err(Error::io(format!("map {}", self.path.display())))
    }

    /// A run of cells of the file.
    fn cells(&self, at: u64, len: u64) -> Result<&'static [AtomicU64]> {
        let (segment, begin) = ((at / SEGMENT_CELLS) as usize, (at % SEGMENT_CELLS) as usize);
        let cells = self.segments.get(segment);
        let run = cells.and_then(|cells| cells.get(begin..begin.checked_add(len as usize)?));
        run.ok_or_else(|| corrupt(&self.path, &format!("{len} cells at {at} are not in it")))
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) -> Result<Guard<'_>> {
        let mut home = self.home.lock();
        let forked = home.pid != std::process::id();
        if forked {
            // The lock of a descriptor that is inherited would be the parent's too.
            let own = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&home.file));
            let opened = OpenOptions::new().read(true).write(true).open(own);
            let file = opened.map_err(Error::io(format!("open {}", self.path.display())))?;
            *home = Home { file, pid: std::process::id() };
        }
        let guard = Guard::new(self, home)?;
        guard.replay()?;
        self.map(guard.file())?;
        if forked || self.slot() == PROCESSES_LIMIT {
            guard.enter()?;
        }
        Ok(guard)
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

    /// Where this process is in the table.
    fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    /// The process in a place of the table.
    fn process(&self, slot: usize) -> Result<Option<Identity>> {
        let cells = self.cells(header::PROCESSES + 2 * slot as u64, 2)?;
        let [pid, started] = [&cells[0], &cells[1]].map(|cell| cell.load(Ordering::Acquire));
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
    pub(super) fn tidy(&self) -> Result<()> {
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

impl Guard<'_> {
    /// Gives this process a place in the table.
    fn enter(&self) -> Result<()> {
        let shared = self.shared;
        let own = Identity::own()
            .ok_or_else(|| refused(&shared.path, "the system has no /proc to know processes by"))?;
        shared.slot.store(PROCESSES_LIMIT, Ordering::Relaxed);
        for slot in shared.gone()? {
            self.bury_if_dead(slot)?;
        }
        for slot in 0..PROCESSES_LIMIT {
            if shared.process(slot)?.is_none() {
                let cells = shared.cells(header::PROCESSES + 2 * slot as u64, 2)?;
                cells[1].store(own.started, Ordering::Release);
                cells[0].store(own.pid, Ordering::Release);
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
        self.bury(slot)?;
        self.shared.cells(header::PROCESSES + 2 * slot as u64, 1)?[0].store(0, Ordering::Release);
        Ok(())
    }

    /// Whether another process writes the mapping.
    fn others(&self) -> Result<bool> {
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
            let left =
                guard.bury(slot).and_then(|()| self.cells(header::PROCESSES + 2 * slot as u64, 1));
            if let Ok(cells) = left {
                cells[0].store(0, Ordering::Release);
            }
        }
    }
}
