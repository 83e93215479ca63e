//! Runs of cells in a mapping, by label values, that are on no page: what pages are computed from.
//! They are never removed.

use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Mutex;

use super::desc::{Desc, Kind};
use super::family::Options;
use super::labels::{Key, OwnedKey};
use super::link::written;
use super::series::TAIL;
use super::shared::{FamilyPlace, Guard, Shared};
use super::sync::AtomicU64;
use crate::error::Result;

/// Label values, and their run.
type Run = (Vec<Box<str>>, &'static [AtomicU64]);

/// The runs of one name.
#[derive(Debug)]
pub struct Runs {
    shared: Arc<Shared>,
    place: FamilyPlace,
    len: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: u64,
    changes: u64,
    runs: IndexMap<OwnedKey, &'static [AtomicU64], ahash::RandomState>,
}

impl Runs {
    /// Runs of `len` cells under this name, which is like a family's, with these label names.
    ///
    /// # Errors
    /// If another process has such a name with another length or other labels.
    pub fn new(shared: &Arc<Shared>, name: &str, labels: &[&str], len: usize) -> Result<Self> {
        let desc = Desc::new(Kind::Unknown, name, "", labels)?;
        let written = written(&desc, &Options::default(), true);
        let place = shared.family(&written, (len + TAIL) as u64, 0)?;
        Ok(Self { shared: shared.clone(), place, len, known: Mutex::default() })
    }

    /// The run with these label values, all zero if it is new.
    ///
    /// # Errors
    /// If the mapping is full or damaged.
    pub fn get(&self, values: &[&str]) -> Result<&'static [AtomicU64]> {
        let mut known = self.known.lock();
        if let Some(run) = known.runs.get(&Key(values)) {
            return Ok(run);
        }
        let guard = self.shared.lock()?;
        self.look(&guard, &mut known)?;
        if !known.runs.contains_key(&Key(values)) {
            guard.new_child(self.place, values, &mut Vec::new())?;
            self.look(&guard, &mut known)?;
        }
        Ok(known.runs.get(&Key(values)).copied().unwrap_or_default())
    }

    /// All runs with their label values.
    ///
    /// # Errors
    /// If the mapping is damaged.
    pub fn all(&self) -> Result<Vec<Run>> {
        let mut known = self.known.lock();
        let changes = self.shared.changes();
        if known.changes != changes {
            self.look(&self.shared.lock()?, &mut known)?;
            known.changes = changes;
        }
        Ok(known.runs.iter().map(|(key, run)| (key.values().to_vec(), *run)).collect())
    }

    fn look(&self, guard: &Guard<'_>, known: &mut Known) -> Result<()> {
        for listed in guard.children_after(self.place, known.last)? {
            let values = guard.values(listed.child)?;
            let run = self.shared.run(self.place, listed.child)?;
            known.runs.insert(OwnedKey::new(&values), &run[..self.len]);
            known.last = listed.child.at;
        }
        Ok(())
    }
}
