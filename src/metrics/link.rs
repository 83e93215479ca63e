//! A family in a mapping that worker processes share: it catches up with what others have done.
//!
//! The lock of the family's map is taken before that of the mapping. What cannot be written there
//! (a full disk) counts here, and goes there at the next chance.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::desc::Desc;
use super::family::{Family, Options, SeriesMap};
use super::labels::{Key, OwnedKey};
use super::lease::{Lease, lengths};
use super::series::Series;
use super::shared::{FamilyPlace, Guard, Shared, Written};
use crate::clock::unix_seconds;
use crate::error::Result;

/// Where a family is, and what was seen of it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) shared: Arc<Shared>,
    place: FamilyPlace,
    /// The mapping's changes and this family's edits at the last look.
    changes: AtomicU64,
    edits: AtomicU64,
    /// Some series are not in the mapping.
    behind: AtomicBool,
    known: Mutex<Known>,
}

/// The series that were seen.
#[derive(Debug, Default)]
struct Known {
    last: u64,
    /// The numbers of series by where they are.
    serials: HashMap<u64, u64>,
    /// Where series were that are no more.
    gone: Vec<u64>,
    /// Removed, and held by somebody here.
    held: Vec<Weak<Series>>,
}

impl Known {
    fn forget(&mut self, at: u64) -> Option<u64> {
        self.gone.push(at);
        self.serials.remove(&at)
    }

    fn keep_held(&mut self, series: &Arc<Series>) {
        self.held.retain(|it| it.strong_count() > 0);
        self.held.push(Arc::downgrade(series));
    }
}

pub(super) fn written(desc: &Desc, options: &Options, hidden: bool) -> Written {
    Written {
        desc: desc.clone(),
        omit_empty: options.omit_empty_labels,
        absent_if_empty: options.absent_if_empty,
        created: options.created,
        idle_ttl: options.idle_ttl,
        series_limit: options.series_limit,
        hidden,
    }
}

impl Link {
    /// Finds or makes the family in the mapping.
    pub(super) fn new(shared: &Arc<Shared>, desc: &Desc, options: &Options) -> Result<Self> {
        let (run, node) = lengths(desc);
        let place = shared.family(&written(desc, options, false), run, node)?;
        Ok(Self {
            shared: shared.clone(),
            place,
            changes: AtomicU64::new(u64::MAX),
            edits: AtomicU64::new(0),
            behind: AtomicBool::new(true),
            known: Mutex::default(),
        })
    }

    /// Whether series were removed that may be in the map.
    pub(super) fn is_stale(&self) -> bool {
        self.shared.edits(self.place) != self.edits.load(Ordering::Relaxed)
    }

    /// How often the family was full, in all processes.
    pub(super) fn overflowed(&self) -> Option<&'static AtomicU64> {
        self.shared.overflowed(self.place)
    }

    /// Puts a series into the mapping.
    fn send(&self, guard: &Guard<'_>, series: &Series) -> Result<()> {
        let mut known = self.known.lock();
        let child = guard.new_child(self.place, series.labels().values(), &mut known.gone)?;
        known.serials.insert(child.at, child.serial);
        drop(known);
        series.attach(Lease::new(&self.shared, self.place, child)?);
        series.take_part_under(guard)
    }

    /// Puts those series into the mapping that are not there.
    fn send_all(&self, guard: &Guard<'_>, map: &SeriesMap) -> Result<()> {
        let mut alone = map.values().filter(|series| series.lease.get().is_none());
        alone.try_for_each(|series| self.send(guard, series))?;
        self.behind.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Grows when another process' removals were seen here.
    pub(super) fn edits(&self) -> u64 {
        self.edits.load(Ordering::Relaxed)
    }
}

impl Family {
    /// Catches up, if there is anything to catch up with.
    pub(super) fn catch_up(&self) {
        let Some(link) = self.link() else { return };
        let seen = link.changes.load(Ordering::Relaxed);
        if seen != link.shared.changes() || link.behind.load(Ordering::Relaxed) {
            self.sync(link, &mut self.map().write());
        }
    }

    /// The same for who holds the map.
    pub(super) fn sync(&self, link: &Link, map: &mut SeriesMap) {
        let changes = link.shared.changes();
        let done = link.shared.lock().and_then(|guard| {
            self.take_changes(link, &guard, map)?;
            if link.behind.load(Ordering::Relaxed) { link.send_all(&guard, map) } else { Ok(()) }
        });
        match done {
            Ok(()) => link.changes.store(changes, Ordering::Relaxed),
            Err(error) => link.shared.report(error.to_string()),
        }
    }

    fn take_changes(&self, link: &Link, guard: &Guard<'_>, map: &mut SeriesMap) -> Result<()> {
        let mut known = link.known.lock();
        let edits = link.shared.edits(link.place);
        let edited = edits != link.edits.load(Ordering::Relaxed);
        let last = if edited { 0 } else { known.last };
        let (mut gone, mut new) = (HashSet::new(), Vec::new());
        for listed in guard.children_after(link.place, last)? {
            let child = listed.child;
            known.last = child.at;
            let seen = known.serials.get(&child.at) == Some(&child.serial);
            if listed.is_live && !seen {
                gone.extend(known.serials.insert(child.at, child.serial));
                new.push(child);
            } else if !listed.is_live {
                gone.extend(known.forget(child.at));
            }
        }
        if !gone.is_empty() {
            map.retain(|_, series| {
                let stays = series.lease.get().is_none_or(|it| !gone.contains(&it.child.serial));
                if !stays && Arc::strong_count(series) > 1 {
                    known.keep_held(series);
                }
                stays
            });
        }
        for child in new {
            let values = guard.values(child)?;
            let lease = Lease::new(&link.shared, link.place, child)?;
            let place = map.entry(OwnedKey::new(&values));
            let series = place.or_insert_with(|| self.make(&values));
            if series.lease.get().is_some() {
                *series = self.make(&values);
            }
            series.attach(lease);
        }
        link.edits.store(edits, Ordering::Relaxed);
        Ok(())
    }

    /// A new series of the map is in the mapping too, or counts here until it can be.
    pub(super) fn publish(&self, link: &Link, series: &Series) {
        let sent = link.shared.lock().and_then(|guard| link.send(&guard, series));
        if let Err(error) = sent {
            link.behind.store(true, Ordering::Relaxed);
            let name = &self.desc().name;
            link.shared.report(format!("{name} counts in this process alone for now: {error}"));
        }
    }

    /// Takes series off the pages of all processes.
    pub(super) fn withdraw(&self, removed: &[Arc<Series>]) {
        let Some(link) = self.link() else { return };
        let remove = |guard: Guard<'_>| {
            let mut known = link.known.lock();
            for series in removed {
                let Some(lease) = series.lease.get() else { continue };
                if guard.remove(link.place, lease.child)? {
                    known.forget(lease.child.at);
                }
                known.keep_held(series);
            }
            Ok(())
        };
        if let Err(error) = link.shared.lock().and_then(remove) {
            link.shared.report(error.to_string());
        }
    }

    /// In a forked child, every series is this process' too.
    pub(super) fn enter_after_fork(&self) {
        let Some(link) = self.link() else { return };
        let map = self.map().write();
        let held = |guard: Guard<'_>| {
            let removed: Vec<_> = link.known.lock().held.iter().filter_map(Weak::upgrade).collect();
            map.values().chain(&removed).try_for_each(|series| series.after_fork(&guard))
        };
        if let Err(error) = link.shared.lock().and_then(held) {
            link.shared.report(error.to_string());
        }
    }

    /// A family that another process has made.
    pub(super) fn foreign(shared: &Arc<Shared>, written: Written) -> Result<Arc<Self>> {
        let options = Options {
            series_limit: written.series_limit,
            omit_empty_labels: written.omit_empty,
            // Its series are those that others made.
            absent_if_empty: true,
            created: written.created,
            idle_ttl: written.idle_ttl,
            sampling: None,
            now: unix_seconds,
        };
        let family = Self::new(written.desc, options);
        family.link_to(shared)?;
        Ok(family)
    }

    /// Whether a series with these values is another one than this.
    pub(super) fn is_replaced(&self, series: &Arc<Series>) -> bool {
        let now = self.map().read().get(&Key(series.labels().values())).cloned();
        now.is_none_or(|now| !Arc::ptr_eq(&now, series))
    }
}
