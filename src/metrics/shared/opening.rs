//! Opening a mapping: making one, and refusing what is none.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Own, AtomicUsize};

use parking_lot::Mutex;

use super::super::sync::{AtomicU64, Ordering};
use super::backing::Backing;
use super::heap::{Guard, header};
use super::process::{boot, namespace};
use super::{
    Home, LOCK_WAIT_MAX_SECONDS, LOCK_WAIT_SECONDS, PROCESSES_LIMIT, SEGMENT_BYTES, SEGMENT_CELLS,
    Segments, Shared, corrupt, refused,
};
use crate::clock::{Clock, MonotonicClock};
use crate::error::{Error, Result};

const MAGIC: u64 = u64::from_le_bytes(*b"ryot-map");
/// Grows with each change of the layout.
const VERSION: u64 = 2;

impl Shared {
    /// Opens the mapping of a file, which is made with the permissions 0600 if there is none.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the file and what is wrong with it, if it is no mapping, one
    /// of another version, or damaged, and if too many processes write it; [`Error::Io`] where the
    /// system refuses something, such as room on a full disk.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let backing = Backing::open(path).map_err(Error::io(format!("open {}", path.display())))?;
        Self::open_in(path, backing)
    }

    pub(super) fn open_in(path: &Path, backing: Backing) -> Result<Arc<Self>> {
        let shared = Self {
            path: path.to_owned(),
            segments: Segments::default(),
            home: Mutex::new(Home { backing, pid: std::process::id() }),
            slot: AtomicUsize::new(PROCESSES_LIMIT),
            looked: Own::new(MonotonicClock.now()),
            wait: Own::new((LOCK_WAIT_MAX_SECONDS * 1e9) as u64),
            stalled: Own::new(0),
            reports: Mutex::default(),
        };
        let guard = Guard::new(&shared, shared.home.lock())?;
        shared.begin(&guard)?;
        drop(guard);
        shared.set_lock_wait(LOCK_WAIT_SECONDS);
        Ok(Arc::new(shared))
    }

    fn begin(&self, guard: &Guard<'_>) -> Result<()> {
        let backing = guard.backing();
        let len = backing.len().map_err(Error::io("look at a mapping"))?;
        if len == 0 {
            self.allocate(backing, SEGMENT_CELLS)?;
        } else if len % SEGMENT_BYTES != 0 {
            let what = format!("it has {len} bytes, which is no multiple of {SEGMENT_BYTES}");
            return Err(refused(&self.path, &format!("it is no mapping or was cut off: {what}")));
        }
        self.map_to(backing, 0)?;
        self.check_header(len)?;
        self.map(backing)?;
        guard.replay()?;
        guard.check()?;
        guard.enter()
    }

    fn check_header(&self, len: u64) -> Result<()> {
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
            reset(head, cells);
        } else if magic != MAGIC {
            return Err(refused(&self.path, "it is no mapping"));
        } else if version != VERSION {
            let why = format!("it is a mapping of version {version}; this is version {VERSION}");
            return Err(refused(&self.path, &why));
        } else if size % SEGMENT_CELLS != 0 || size == 0 || size * 8 > len {
            let what = format!("it has {len} bytes of {}", size.saturating_mul(8));
            return Err(corrupt(&self.path, &what));
        } else if made != boot() {
            reset(head, cells); // what it counted ended with the machine
        } else if head[header::NAMESPACE as usize].load(Ordering::Acquire) != namespace() {
            let why = "processes of another container write it; give each container its own, or \
                       remove it when none uses it";
            return Err(refused(&self.path, why));
        }
        Ok(())
    }
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
