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
use super::sync;
use crate::clock::unix_seconds;
use crate::error::{Error, Result};

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
    pub(super) fn overflowed(&self) -> Option<&'static sync::AtomicU64> {
        self.shared.overflowed(self.place)
    }

    /// Does what edits the family here, of which nothing is to be learned later.
    fn editing<T>(&self, edit: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_current = !self.is_stale();
        let done = edit();
        if is_current {
            self.edits.store(self.shared.edits(self.place), Ordering::Relaxed);
        }
        done
    }

    /// Puts a series into the mapping.
    fn send(&self, guard: &Guard<'_>, series: &Series) -> Result<()> {
        let mut known = self.known.lock();
        let values = series.labels().values();
        let child = self.editing(|| guard.new_child(self.place, values, &mut known.gone))?;
        known.serials.insert(child.at, child.serial);
        drop(known);
        series.attach(Lease::new(&self.shared, self.place, child)?);
        series.take_up_under(guard).map(drop)
    }

    /// Puts those series into the mapping that are not there.
    fn send_all(&self, guard: &Guard<'_>, map: &SeriesMap) -> Result<()> {
        let mut alone = map.values().filter(|series| series.lease.get().is_none());
        alone.try_for_each(|series| {
            self.send(guard, series).inspect_err(|_| self.is_behind(series))
        })?;
        self.behind.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Takes note that a series could not go there.
    fn is_behind(&self, series: &Series) {
        self.behind.store(true, Ordering::Relaxed);
        if series.lease.get().is_none() && !series.is_alone.swap(true, Ordering::Relaxed) {
            self.shared.note_alone(true);
        }
    }

    /// Takes a series off the pages of all.
    fn take_off(&self, guard: &Guard<'_>, series: &Series) -> Result<()> {
        let Some(lease) = series.lease.get() else {
            if series.is_alone.swap(false, Ordering::Relaxed) {
                self.shared.note_alone(false);
            }
            return Ok(());
        };
        if self.editing(|| guard.remove(self.place, lease.child))? {
            self.known.lock().forget(lease.child.at);
        }
        Ok(())
    }

    /// Forgets the idle series that no process uses; this one uses them no more.
    pub(super) fn forget_unused(
        &self,
        map: &mut SeriesMap,
        is_idle: impl Fn(&Arc<Series>) -> bool,
    ) {
        let idle: Vec<_> = map.values().filter(|series| is_idle(series)).cloned().collect();
        if idle.is_empty() {
            return;
        }
        let mut forgotten = HashSet::new();
        let done = self.shared.lock().and_then(|guard| {
            for series in &idle {
                if let Some(lease) = series.lease.get() {
                    lease.leave();
                    if guard.is_used(lease.child)? {
                        continue;
                    }
                }
                self.take_off(&guard, series)?;
                forgotten.insert(Arc::as_ptr(series));
            }
            Ok(())
        });
        if let Err(error) = done {
            self.shared.report(error.to_string());
        }
        map.retain(|_, series| !forgotten.contains(&Arc::as_ptr(series)));
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
            let mut map = self.map().write();
            let Some(guard) = self.sync(link, &mut map) else { return };
            if link.behind.load(Ordering::Relaxed)
                && let Err(error) = link.send_all(&guard, &map)
            {
                link.shared.report(error.to_string());
            }
        }
    }

    /// The same for who holds the map; the lock of the mapping, if it could be had.
    pub(super) fn sync<'a>(&self, link: &'a Link, map: &mut SeriesMap) -> Option<Guard<'a>> {
        let changes = link.shared.changes();
        let report = |error: Error| link.shared.report(error.to_string());
        let guard = link.shared.lock().map_err(report).ok()?;
        let taken = self.take_changes(link, &guard, map);
        match taken {
            Ok(()) => link.changes.store(changes, Ordering::Relaxed),
            Err(error) => report(error),
        }
        Some(guard)
    }

    /// Has what this process needs that writes a series.
    pub(super) fn take_up(&self, series: &Series, guard: Option<Guard<'_>>) {
        if let (Some(link), Some(guard)) = (self.link(), guard)
            && let Err(error) = series.take_up_under(&guard)
        {
            link.shared.report(error.to_string());
        }
    }

    fn take_changes(&self, link: &Link, guard: &Guard<'_>, map: &mut SeriesMap) -> Result<()> {
        let mut known = link.known.lock();
        let edits = link.shared.edits(link.place);
        let edited = edits != link.edits.load(Ordering::Relaxed);
        let last = if edited { 0 } else { known.last };
        if edited {
            known.gone.clear(); // they are all met again
        }
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
    pub(super) fn publish(
        &self,
        link: &Link,
        map: &SeriesMap,
        series: &Series,
        guard: Option<Guard<'_>>,
    ) {
        let Some(guard) = guard else { return link.is_behind(series) };
        let was_behind = link.behind.load(Ordering::Relaxed);
        let sent = link.send(&guard, series);
        let sent = sent.and_then(|()| if was_behind { link.send_all(&guard, map) } else { Ok(()) });
        if let Err(error) = sent {
            link.is_behind(series);
            let name = &self.desc().name;
            link.shared.report(format!("{name} counts in this process alone for now: {error}"));
        }
    }

    /// Takes series off the pages of all processes.
    pub(super) fn withdraw(&self, removed: &[Arc<Series>]) {
        let Some(link) = self.link() else { return };
        let remove = |guard: Guard<'_>| {
            for series in removed {
                link.take_off(&guard, series)?;
                link.known.lock().keep_held(series);
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
            let alone = map.values().filter(|series| series.is_alone.load(Ordering::Relaxed));
            alone.for_each(|_| link.shared.note_alone(true));
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
