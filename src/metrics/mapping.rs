//! A file's memory as runs of atomic cells, and a place that can point to another run later.
//!
//! Unsafe is allowed here, for the mapping itself. Must not know what is in the cells.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr;
use std::slice;

use parking_lot::RwLock;
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::sync::{AtomicPtr, AtomicU64, Ordering};

/// Cells of one segment of a file: a megabyte.
pub(super) const SEGMENT_CELLS: u64 =
    if cfg!(any(feature = "loom", miri)) { 1024 } else { 131_072 };
/// Its bytes.
pub(super) const SEGMENT_BYTES: u64 = SEGMENT_CELLS * 8;

/// The segments of a file that this process has mapped, in the file's order. None is ever
/// unmapped.
#[derive(Debug, Default)]
pub(super) struct Segments(RwLock<Vec<&'static [AtomicU64]>>);

impl Segments {
    /// A segment, if it is mapped.
    pub(super) fn get(&self, index: usize) -> Option<&'static [AtomicU64]> {
        self.0.read().get(index).copied()
    }

    /// Has the segments up to this one, those that are new by `map`.
    ///
    /// # Errors
    /// Those of `map`.
    pub(super) fn map_to(
        &self,
        index: usize,
        map: impl Fn(usize) -> std::io::Result<&'static [AtomicU64]>,
    ) -> std::io::Result<()> {
        let mut mapped = self.0.write();
        while mapped.len() <= index {
            let segment = map(mapped.len())?;
            mapped.push(segment);
        }
        Ok(())
    }
}

/// Maps a segment of a file, which must have been allocated.
///
/// # Errors
/// The system's.
pub(super) fn map_file(file: &File, segment: usize) -> std::io::Result<&'static [AtomicU64]> {
    if cfg!(feature = "loom") {
        return Err(std::io::ErrorKind::Unsupported.into()); // its atomics are more than memory
    }
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
    let (bytes, offset) = (SEGMENT_BYTES as usize, segment as u64 * SEGMENT_BYTES);
    // SAFETY: the kernel chooses fresh addresses, so no memory of this process changes.
    let start = unsafe { mmap(ptr::null_mut(), bytes, protection, flags, file.as_fd(), offset) }?;
    // SAFETY: the mapping has this length, begins at a page and is never unmapped; every pattern
    // of bits is a valid cell. All processes reach the memory through atomics alone, and the file,
    // which is theirs only, never shrinks.
    Ok(unsafe { slice::from_raw_parts(start.cast(), SEGMENT_CELLS as usize) })
}

/// Where a run of cells is: one load away. It can be moved while others write, who may then write
/// once more where it was.
#[derive(Debug)]
pub(super) struct Place {
    first: AtomicPtr<AtomicU64>,
    len: usize,
}

impl Place {
    pub(super) fn new(run: &'static [AtomicU64]) -> Self {
        Self { first: AtomicPtr::new(run.as_ptr().cast_mut()), len: run.len() }
    }

    pub(super) fn get(&self) -> &'static [AtomicU64] {
        let first = self.first.load(Ordering::Acquire);
        // SAFETY: `new` and `set` alone store here: the start of a slice of this length that lives
        // as long as the process.
        unsafe { slice::from_raw_parts(first, self.len) }
    }

    /// Moves it to another run of the same length.
    pub(super) fn set(&self, run: &'static [AtomicU64]) {
        assert_eq!(run.len(), self.len, "a place keeps its length");
        self.first.store(run.as_ptr().cast_mut(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_moves_and_keeps_what_was_written() {
        let run = || {
            Box::leak((0..3).map(|_| AtomicU64::new(0)).collect::<Box<[_]>>())
                as &'static [AtomicU64]
        };
        let (first, second) = (run(), run());
        let place = Place::new(first);
        place.get()[2].store(5, Ordering::Relaxed);
        place.set(second);
        place.get()[2].store(7, Ordering::Relaxed);
        let at = |run: &[AtomicU64]| run[2].load(Ordering::Relaxed);
        assert_eq!((at(first), at(second)), (5, 7));
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn two_mappings_of_a_file_are_the_same_memory() {
        let path = std::env::temp_dir().join(format!("ryot-mapping-{}", std::process::id()));
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path);
        open().unwrap().set_len(2 * SEGMENT_BYTES).unwrap();
        let [a, b] = [(); 2].map(|()| {
            let segments = Segments::default();
            segments.map_to(1, |index| map_file(&open().unwrap(), index)).unwrap();
            segments.get(1).unwrap()
        });
        std::fs::remove_file(&path).unwrap();
        a[9].store(4, Ordering::Relaxed);
        assert_eq!(b[9].load(Ordering::Relaxed), 4);
    }
}
