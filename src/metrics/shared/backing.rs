//! What a mapping is in: a file that the kernel locks; for tests of the protocol, plain memory.
//!
//! Must not know what is in the cells.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::super::mapping::map_file;
use super::super::sync::AtomicU64;

/// Where the cells are.
#[derive(Debug)]
pub(super) enum Backing {
    File(File),
    #[cfg(test)]
    Memory(std::sync::Arc<Memory>),
}

impl Backing {
    /// A file, which is made with the permissions 0600 if there is none.
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.open(path).map(Self::File)
    }

    /// The same for a forked child: the lock of a descriptor that is inherited would be the
    /// parent's too.
    pub(super) fn reopen(&self) -> std::io::Result<Self> {
        match self {
            Self::File(file) => {
                let own = format!("/dev/fd/{}", file.as_raw_fd());
                OpenOptions::new().read(true).write(true).open(own).map(Self::File)
            }
            #[cfg(test)]
            Self::Memory(memory) => Ok(Self::Memory(memory.clone())),
        }
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> std::io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory.len()),
        }
    }

    /// Has so many bytes at least, so that touching them cannot fail.
    pub(super) fn make_room(&self, bytes: u64) -> std::io::Result<()> {
        match self {
            Self::File(file) => make_room(file, bytes),
            #[cfg(test)]
            Self::Memory(memory) => {
                memory.grow(bytes);
                Ok(())
            }
        }
    }

    /// The cells of a segment.
    pub(super) fn map(&self, segment: usize) -> std::io::Result<&'static [AtomicU64]> {
        match self {
            Self::File(file) => map_file(file, segment),
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory.segment(segment)),
        }
    }

    /// Takes the lock, if nobody has it.
    pub(super) fn try_lock(&self) -> std::io::Result<bool> {
        match self {
            Self::File(file) => match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(true),
                Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
                Err(error) => Err(error.into()),
            },
            #[cfg(test)]
            Self::Memory(memory) => Ok(memory.try_lock()),
        }
    }

    /// Gives the lock back.
    pub(super) fn unlock(&self) {
        match self {
            Self::File(file) => drop(flock(file, FlockOperation::Unlock)),
            #[cfg(test)]
            Self::Memory(memory) => memory.unlock(),
        }
    }
}

#[cfg(target_os = "linux")]
fn make_room(file: &File, bytes: u64) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    Ok(fallocate(file, FallocateFlags::empty(), 0, bytes)?)
}

/// Nothing is shared where processes cannot be told apart; see [`super::process::Identity::own`].
#[cfg(not(target_os = "linux"))]
fn make_room(file: &File, bytes: u64) -> std::io::Result<()> {
    file.set_len(bytes)
}

/// A file's stand-in, which several [`Shared`](super::Shared) have, each a process of its own.
#[cfg(test)]
#[derive(Debug)]
pub(in super::super) struct Memory {
    locked: AtomicU64,
    segments: parking_lot::Mutex<Vec<&'static [AtomicU64]>>,
}

#[cfg(test)]
impl Memory {
    pub(in super::super) fn new() -> std::sync::Arc<Self> {
        let segments = parking_lot::Mutex::default();
        std::sync::Arc::new(Self { locked: AtomicU64::new(0), segments })
    }

    fn len(&self) -> u64 {
        self.segments.lock().len() as u64 * super::SEGMENT_BYTES
    }

    fn grow(&self, bytes: u64) {
        let mut segments = self.segments.lock();
        while (segments.len() as u64) < bytes / super::SEGMENT_BYTES {
            let cells = (0..super::SEGMENT_CELLS).map(|_| AtomicU64::new(0));
            segments.push(Box::leak(cells.collect()));
        }
    }

    fn segment(&self, index: usize) -> &'static [AtomicU64] {
        self.segments.lock()[index]
    }

    fn try_lock(&self) -> bool {
        use super::super::sync::Ordering;
        self.locked.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    fn unlock(&self) {
        self.locked.store(0, super::super::sync::Ordering::Release);
    }
}
