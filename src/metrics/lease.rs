//! A series in a mapping that worker processes share: where it is there, and what each has of it.
//!
//! As long as a process has a lease, the memory is not used for another series. Texts that are
//! written seldom are copies here, which are read again when their version has changed.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::arena;
use super::desc::{Desc, GaugeMode, Kind, Merge};
use super::mirror::{Mirror, mirror_len};
use super::native::{Native, NativeSnapshot};
use super::native_options::NativeOptions;
use super::sample::{Exemplar, Pairs, Timestamp};
use super::series::{Series, TAIL, values_len};
use super::shared::{Child, FamilyPlace, Guard, Shared};
use super::sync::{AtomicU64, Ordering};
use super::window::{Quantiles, shared_quantiles, window_len};
use crate::clock::unix_seconds;
use crate::error::Result;

/// The right to a series of a mapping; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    family: FamilyPlace,
    pub(super) child: Child,
    /// The cells that all processes write.
    pub(super) run: &'static [AtomicU64],
    /// It is one of which each process has a value.
    is_gauge: bool,
    /// This process has a part of its own.
    owns: AtomicBool,
    /// Somebody in this process may write it, and the mapping knows.
    used: AtomicBool,
    /// The version of the texts that were read last.
    seen: std::sync::atomic::AtomicU64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.release(self.child.at);
    }
}

/// The lengths of a family's runs: of a series, and of what each process has of it.
pub(super) fn lengths(desc: &Desc) -> (u64, u64) {
    let run = values_len(desc) + TAIL;
    let node = match (&desc.native, &desc.quantiles) {
        (Some(options), _) => mirror_len(&alone(*options)),
        (_, Some(options)) => window_len(options),
        _ if is_own(desc) => run,
        _ => 0,
    };
    (run as u64, node as u64)
}

/// Whether each process writes a gauge of its own.
fn is_own(desc: &Desc) -> bool {
    desc.kind == Kind::Gauge && desc.mode.is_per_process()
}

/// Whether each process has a part of its own of such a series.
fn is_per_process(desc: &Desc) -> bool {
    is_own(desc) || desc.native.is_some() || desc.quantiles.is_some()
}

/// A native histogram does not begin anew for all processes because one has many buckets: it gets
/// coarser.
fn alone(options: NativeOptions) -> NativeOptions {
    NativeOptions { min_reset_seconds: 0.0, ..options }
}

/// A gauge's last writer, by the time it wrote.
fn latest(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    values.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(value, _)| value)
}

impl Lease {
    /// Takes a series that the lock's holder has found.
    pub(super) fn new(shared: &Arc<Shared>, family: FamilyPlace, child: Child) -> Result<Self> {
        shared.hold(child.at)?;
        Ok(Self {
            run: shared.run(family, child)?,
            shared: shared.clone(),
            family,
            child,
            is_gauge: family.is_gauge(),
            owns: AtomicBool::new(false),
            used: AtomicBool::new(false),
            seen: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// The value and the time of each process' part of a gauge.
    fn parts(&self) -> impl Iterator<Item = (f64, f64)> {
        let nodes = self.shared.nodes(self.family, self.child).into_iter();
        let owned = nodes.filter(|node| node.is_owned);
        owned.map(|node| (arena::get(&node.data[0]), arena::get(&node.data[1])))
    }

    /// What dead processes left of a gauge whose mode does not forget them.
    fn left(&self) -> Option<f64> {
        (self.run[1].load(Ordering::Acquire) != 0).then(|| arena::get(&self.run[0]))
    }

    /// The value of a gauge of several processes; None where none of them counts, where each
    /// stands for itself, and of other series.
    pub(super) fn merged(&self, mode: GaugeMode) -> Option<f64> {
        if !self.is_gauge || mode.merge == Merge::All {
            return None;
        }
        self.shared.whole(|| self.merge(mode))
    }

    fn merge(&self, mode: GaugeMode) -> Option<f64> {
        if mode.merge == Merge::MostRecent {
            return latest(self.parts());
        }
        let values = self.parts().map(|(value, _)| value).chain(self.left());
        let merged = values.reduce(|a, b| mode.merge.of(a, b));
        merged.or_else(|| (mode.merge == Merge::Sum).then_some(0.0))
    }

    /// Whether there is a value to show.
    pub(super) fn has_value(&self, mode: GaugeMode) -> bool {
        !self.is_gauge || mode.merge == Merge::All || self.merged(mode).is_some()
    }

    /// The native histograms of all processes as one.
    pub(super) fn native(&self, options: NativeOptions) -> NativeSnapshot {
        let options = alone(options);
        let nodes = self.shared.nodes(self.family, self.child);
        let natives = nodes.iter().filter_map(|node| Mirror(node.data).read(options));
        let merge = |mut all: Native, next| {
            all.merge(next);
            all
        };
        natives.reduce(merge).unwrap_or_else(|| Native::new(options, 0.0)).snapshot()
    }

    /// The quantiles of the windows of all processes.
    pub(super) fn quantiles(&self, options: &Quantiles, now: f64) -> Vec<(f64, f64)> {
        let nodes = self.shared.nodes(self.family, self.child).into_iter();
        shared_quantiles(options, nodes.map(|node| node.data), now)
    }

    /// Nobody in this process writes it any more.
    pub(super) fn leave(&self) {
        self.used.store(false, Ordering::Relaxed);
        self.shared.leave(self.child.at);
    }

    /// The number and the value of each process.
    pub(super) fn by_process(&self) -> Vec<(u64, f64)> {
        self.shared.whole(|| {
            let nodes = self.shared.nodes(self.family, self.child).into_iter();
            let owned = nodes.filter(|node| node.is_owned);
            owned.map(|node| (node.pid, arena::get(&node.data[0]))).collect()
        })
    }

    /// Replaces an exemplar.
    pub(super) fn set_exemplar(&self, places: (usize, usize), exemplar: &Exemplar) {
        let seconds = exemplar.timestamp.map(|it| it.seconds().to_bits());
        let note = (&exemplar.labels, exemplar.value.to_bits(), seconds);
        self.set_note(places, &note);
    }

    /// Replaces the facts of an info.
    pub(super) fn set_facts(&self, facts: &[(String, String)]) {
        self.set_note((0, 1), &facts);
    }

    fn set_note(&self, places: (usize, usize), note: &impl serde::Serialize) {
        let text = serde_json::to_vec(note).unwrap_or_default();
        let set = |guard: Guard<'_>| guard.set_note(self.family, self.child, places, &text);
        if let Err(error) = self.shared.lock().and_then(set) {
            self.shared.report(error.to_string());
        }
    }
}

impl Series {
    /// From now on its cells are those of a mapping; what it counted here goes there.
    pub(super) fn attach(&self, lease: Lease) {
        let Ok(()) = self.lease.set(lease) else { return };
        let Some(lease) = self.lease.get() else { return };
        if self.is_alone.swap(false, Ordering::Relaxed) {
            lease.shared.note_alone(false);
        }
        if !is_own(&self.desc) {
            self.cells.move_to(lease.run);
        }
        self.settle();
        self.begin();
    }

    /// Counts that were made where the cells were before go to where they are.
    pub(super) fn settle(&self) {
        let Some(lease) = self.lease.get() else { return };
        let counted = match self.desc.kind {
            Kind::Counter => 0,
            Kind::Gauge if lease.owns.load(Ordering::Acquire) => 0,
            Kind::Histogram | Kind::Summary => self.desc.bounds.len() + 1,
            _ => return,
        };
        let (now, own) = (&*self.cells, &self.cells.own()[..=counted]);
        if std::ptr::eq(now.as_ptr(), own.as_ptr()) {
            return; // it is no more in the mapping
        }
        let taken = |cell: &AtomicU64| match cell.load(Ordering::Relaxed) {
            0 => 0,
            _ => cell.swap(0, Ordering::Relaxed),
        };
        for (cell, own) in now.iter().zip(&own[..counted]) {
            match taken(own) {
                0 => {}
                count => drop(cell.fetch_add(count, Ordering::Relaxed)),
            }
        }
        match taken(&own[counted]) {
            0 => {}
            sum => arena::add(&now[counted], f64::from_bits(sum)),
        }
    }

    /// Has what a process needs that writes it: a part of its own where each has one, and, where
    /// idle series are forgotten, the mark that it is used. False if it is there no more.
    ///
    /// # Errors
    /// If the mapping is full or damaged; then it counts here, unseen by others.
    pub(super) fn take_up(&self) -> Result<bool> {
        let Some(lease) = self.lease.get() else { return Ok(true) };
        let is_used = !self.forgets || lease.used.load(Ordering::Acquire);
        let has_part = !is_per_process(&self.desc) || lease.owns.load(Ordering::Acquire);
        if is_used && has_part { Ok(true) } else { self.take_up_under(&lease.shared.lock()?) }
    }

    /// The same for who has the lock.
    pub(super) fn take_up_under(&self, guard: &Guard<'_>) -> Result<bool> {
        let Some(lease) = self.lease.get() else { return Ok(true) };
        if self.forgets {
            if !guard.use_child(lease.child)? {
                return Ok(false);
            }
            lease.used.store(true, Ordering::Release);
        }
        if is_per_process(&self.desc) && !lease.owns.load(Ordering::Acquire) {
            self.take_part(lease, guard)?;
        }
        Ok(true)
    }

    fn take_part(&self, lease: &Lease, guard: &Guard<'_>) -> Result<()> {
        let node = guard.node(lease.family, lease.child)?;
        if let (Some(counted), Some(options)) = (&self.native, self.desc.native) {
            let (mut counted, options) = (counted.lock(), alone(options));
            let left = Mirror(node).read(options);
            let fresh = || Native::new(options, unix_seconds());
            counted.native = left.unwrap_or_else(fresh);
            Mirror(node).write(&mut counted.native);
            counted.mirror = Some(Mirror(node));
        } else if let Some(window) = &self.window {
            window.lock().move_to(node);
        } else {
            self.cells.move_to(node);
        }
        lease.owns.store(true, Ordering::Release);
        self.settle();
        Ok(())
    }

    /// In a forked child, holds what the parent held, and has parts of its own.
    pub(super) fn after_fork(&self, guard: &Guard<'_>) -> Result<()> {
        let Some(lease) = self.lease.get() else { return Ok(()) };
        if !guard.is_there(lease.child)? {
            self.cells.move_to(self.cells.own()); // it was removed, and may be another one now
            return Ok(());
        }
        lease.shared.hold(lease.child.at)?;
        if lease.used.load(Ordering::Acquire) {
            guard.use_child(lease.child)?;
        }
        if lease.owns.load(Ordering::Acquire) { self.take_part(lease, guard) } else { Ok(()) }
    }

    /// Reads the texts again that another process may have written.
    pub(super) fn refresh(&self) {
        let Some(lease) = self.lease.get() else { return };
        let version = lease.shared.notes_version(lease.family, lease.child);
        if lease.seen.load(Ordering::Relaxed) == version {
            return;
        }
        let notes = lease.shared.lock().and_then(|it| it.notes(lease.family, lease.child));
        let notes = notes.unwrap_or_default();
        if self.desc.kind == Kind::Info {
            let read = |note: &Option<Vec<u8>>| serde_json::from_slice(note.as_ref()?).ok();
            let facts: Option<Pairs> = notes.first().and_then(read);
            if let Some(facts) = facts {
                self.keep_facts(&facts);
            }
        } else {
            let exemplars = notes.into_iter().map(|note| exemplar(&note?).map(Arc::new));
            *self.exemplars.lock() = exemplars.collect();
        }
        lease.seen.store(version, Ordering::Relaxed);
    }

    /// Whether anything was written, as far as it shows.
    pub(super) fn is_written(&self) -> bool {
        let counted = self.values().iter().any(|cell| cell.load(Ordering::Relaxed) != 0);
        let facts = self.info.read().as_ref().is_some_and(|(names, _)| !names.is_empty());
        counted || facts || !self.exemplars.lock().is_empty()
    }
}

fn exemplar(note: &[u8]) -> Option<Exemplar> {
    let (labels, value, seconds): (Pairs, u64, Option<u64>) = serde_json::from_slice(note).ok()?;
    let timestamp = seconds.map(|bits| Timestamp::Float(f64::from_bits(bits)));
    Some(Exemplar { labels, value: f64::from_bits(value), timestamp })
}
