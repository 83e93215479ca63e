//! A registry among worker processes: which mapping it shares, and the families there that others
//! have made, so that the page of each process is the page of all.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};

use super::family::Family;
use super::registry::Registry;
use super::shared::Shared;
use super::sink::Source;
use crate::error::{Error, Result};

/// What a registry knows of other processes.
#[derive(Default)]
pub(super) struct Sharing {
    /// Nothing to do for who is alone.
    on: AtomicBool,
    shared: RwLock<Option<Arc<Shared>>>,
    foreign: Mutex<Foreign>,
    /// Addresses of sources that differ from another process' family of the same name.
    refused: RwLock<Vec<usize>>,
}

#[derive(Default)]
struct Foreign {
    /// The mapping's last family at the last look.
    seen: u64,
    families: Vec<Arc<Family>>,
}

fn address(source: &dyn Source) -> usize {
    std::ptr::from_ref(source).cast::<()>() as usize
}

impl Sharing {
    /// A source is new in the registry.
    pub(super) fn added(&self, source: &dyn Source) {
        let shared = self.shared.read().clone();
        if let Some(shared) = shared {
            self.share(&shared, source);
        }
    }

    fn share(&self, shared: &Arc<Shared>, source: &dyn Source) {
        if let Err(error) = source.share(shared) {
            shared.report(error.to_string());
            self.refused.write().push(address(source));
        }
        self.removed();
    }

    /// A source has left it: what it had may be another process' now.
    pub(super) fn removed(&self) {
        self.foreign.lock().seen = 0;
    }

    pub(super) fn is_refused(&self, source: &dyn Source) -> bool {
        self.on.load(Ordering::Relaxed) && self.refused.read().contains(&address(source))
    }

    /// The families of other processes.
    pub(super) fn foreign(&self) -> Vec<Arc<Family>> {
        if self.on.load(Ordering::Relaxed) {
            self.foreign.lock().families.clone()
        } else {
            Vec::new()
        }
    }

    /// Looks, before a page, which processes and which families there are.
    pub(super) fn look(&self, registry: &Registry) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let Some(shared) = self.shared.read().clone() else { return };
        let found = shared.tidy().and_then(|()| self.find(registry, &shared));
        if let Err(error) = found {
            shared.report(error.to_string());
        }
    }

    fn find(&self, registry: &Registry, shared: &Arc<Shared>) -> Result<()> {
        let last = shared.last_family();
        if self.foreign.lock().seen == last {
            return Ok(());
        }
        let all = shared.lock()?.families()?;
        let theirs = all.into_iter().map(|(_, written)| written);
        let theirs = theirs.filter(|it| !it.hidden && !registry.has(&it.desc.name));
        let theirs: Vec<_> = theirs.collect(); // before the lock: the registry has one too
        let mut foreign = self.foreign.lock();
        let before = std::mem::take(&mut foreign.families);
        for written in theirs {
            let known = before.iter().find(|family| *family.desc() == written.desc);
            let family = known.cloned().map_or_else(|| Family::foreign(shared, written), Ok)?;
            foreign.families.push(family);
        }
        foreign.seen = last;
        Ok(())
    }
}

impl Registry {
    /// Shares all families, those of now and those to come, with the other processes that share
    /// the same file; the page is that of all of them. Families that differ from another process'
    /// count here alone, and [`Shared::take_reports`] says so.
    ///
    /// # Errors
    /// As [`Shared::open`]; [`Error::InvalidArgument`] if a family was written before, or the
    /// registry shares another file.
    pub fn share(&self, path: &Path) -> Result<()> {
        let mut place = self.sharing.shared.write();
        if let Some(shared) = &*place {
            if shared.path() == path {
                return Ok(());
            }
            let (ours, path) = (shared.path().display(), path.display());
            let text = format!("shared is {path}, but this process shares {ours} already");
            return Err(Error::InvalidArgument(text));
        }
        let sources = self.sources();
        sources.iter().try_for_each(|source| source.check_unwritten())?;
        let shared = Shared::open(path)?;
        for source in &sources {
            self.sharing.share(&shared, &**source);
        }
        *place = Some(shared);
        self.sharing.on.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The mapping that it shares.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.sharing.shared.read().clone()
    }

    /// To be called in a forked child before anything is written.
    pub fn after_fork(&self) {
        if self.shared().is_some() {
            self.sources().iter().for_each(|source| source.after_fork());
            self.sharing.foreign().iter().for_each(|family| family.after_fork());
        }
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sharing").field("shared", &self.shared).finish_non_exhaustive()
    }
}
