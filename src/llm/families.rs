//! The stored families of the catalogue, each made with its first write.
//!
//! A histogram is stored with the bounds of every page that shows it, in whatever profile, and
//! each page shows the sums over its own: nothing is written twice. So it is with labels that only
//! other profiles show.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::catalogue::{CATALOGUE, Name, Row, Shape};
use super::computed::{Computed, give};
use super::merged::Merged;
use super::profile::PROFILES;
use crate::error::Result;
use crate::metrics::{
    Desc, Family, GaugeMode, Merge, NativeOptions, Options, Rebucketed, SERIES_LIMIT, Sampling,
    Shared, Sink, Source,
};

/// How a family is made.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// The bounds that its own page shows; none for a histogram that is only native.
    pub(super) bounds: Vec<f64>,
    pub(super) native: Option<NativeOptions>,
    pub(super) series_limit: usize,
}

impl Plan {
    pub(super) fn of(row: &Row) -> Self {
        let bounds = if let Shape::Histogram(bounds) = row.shape { bounds } else { &[] };
        Self { bounds: bounds.to_vec(), native: None, series_limit: SERIES_LIMIT }
    }
}

/// One family's place.
#[derive(Debug)]
pub(super) struct Slot {
    name: Name,
    plan: RwLock<Plan>,
    family: OnceLock<Arc<Family>>,
    /// A gauge is always recorded, for its steps up and down must meet.
    sampling: Option<Arc<Sampling>>,
    hidden: AtomicBool,
    /// With worker processes, where all families are.
    shared: Arc<OnceLock<Arc<Shared>>>,
}

impl Slot {
    fn new(name: Name, shared: Arc<OnceLock<Arc<Shared>>>) -> Self {
        let row = name.row();
        let sampled = matches!(row.shape, Shape::Counter | Shape::Untyped | Shape::Histogram(_));
        Self {
            name,
            plan: RwLock::new(Plan::of(row)),
            family: OnceLock::new(),
            sampling: sampled.then(Arc::default),
            hidden: AtomicBool::new(false),
            shared,
        }
    }

    fn get(&self) -> &Arc<Family> {
        self.family.get().unwrap_or_else(|| {
            let plan = self.plan.read(); // held, so that a change of plan is not too late
            self.family.get_or_init(|| self.make(&plan))
        })
    }

    fn make(&self, plan: &Plan) -> Arc<Family> {
        let options = Options {
            series_limit: Some(plan.series_limit),
            omit_empty_labels: true,
            absent_if_empty: true,
            created: false,
            sampling: self.sampling.clone(),
            ..Options::default()
        };
        let row = self.name.row();
        let mut desc = describe(row);
        desc.label_names =
            row.labels.iter().chain(row.unshown).map(|name| (*name).into()).collect();
        desc.bounds = stored_bounds(self.name, &plan.bounds).into();
        desc.native = plan.native;
        desc.mode = mode(self.name);
        let family = Family::new(desc, options);
        if let Some(shared) = self.shared.get()
            && let Err(error) = family.share(shared)
        {
            shared.report(error.to_string());
        }
        family
    }

    /// The family, unless nothing was written or it is switched off.
    pub(super) fn shown(&self) -> Option<&Arc<Family>> {
        self.family.get().filter(|_| !self.hidden.load(Ordering::Relaxed))
    }

    /// Gives the family with the bounds that its own page shows.
    fn collect(&self, family: &Arc<Family>, sink: &mut dyn Sink) {
        if matches!(self.name.row().shape, Shape::Histogram(_)) {
            family.collect(&mut Rebucketed::new(&self.plan().bounds, sink));
        } else {
            family.collect(sink);
        }
    }

    /// How the family is made, or was.
    pub(super) fn plan(&self) -> Plan {
        self.plan.read().clone()
    }

    /// Whether it has been made: its buckets stay as they are.
    pub(super) fn is_made(&self) -> bool {
        self.family.get().is_some()
    }

    /// Changes how the family is made. False if it is too late for that; a limit of series is
    /// never too late.
    pub(super) fn set_plan(&self, plan: &Plan) -> bool {
        let mut now = self.plan.write();
        if let Some(family) = self.family.get() {
            family.set_series_limit(plan.series_limit);
            now.series_limit = plan.series_limit;
        } else {
            *now = plan.clone();
        }
        *now == *plan
    }

    /// Records every n-th observation of a histogram, or, with 0, switches the family off.
    pub(super) fn set_every(&self, every: u64) {
        self.hidden.store(every == 0, Ordering::Relaxed);
        if let Some(sampling) = &self.sampling {
            sampling.set(every);
        }
    }
}

/// What worker processes have of a gauge. Most say how much of something there is in each, so they
/// add up; devices and caches that all of them see are as whoever looked last says.
fn mode(name: Name) -> GaugeMode {
    let merge = match name {
        Name::EngineDecodeMin => Merge::Min,
        Name::EngineDecodeMax => Merge::Max,
        Name::ActiveRequests
        | Name::QueueDepth
        | Name::EngineActive
        | Name::EngineSlots
        | Name::EngineQueued
        | Name::EngineBudget
        | Name::KvCacheSize
        | Name::PrefixResident
        | Name::PipelineActive
        | Name::PipelineStageActive => Merge::Sum,
        _ => Merge::MostRecent,
    };
    GaugeMode { merge, is_live: true }
}

/// The description of a row as its own page has it, without buckets.
pub(super) fn describe(row: &Row) -> Desc {
    Desc::new(row.shape.kind(), row.name, row.help, row.labels).expect("a row is a valid family")
}

/// All bounds that some page shows, with these of the family's own.
fn stored_bounds(name: Name, own: &[f64]) -> Vec<f64> {
    let Shape::Histogram(row) = name.row().shape else { return Vec::new() };
    let rows = PROFILES.iter().flat_map(|profile| profile.rows);
    let users = rows.filter(|row| row.terms.iter().any(|term| term.of == name));
    let theirs = users.flat_map(super::derived::DerivedRow::bounds).copied();
    // A view has the row's bounds, whatever the family's own are.
    let mut all: Vec<f64> = own.iter().chain(row).copied().chain(theirs).collect();
    all.sort_unstable_by(f64::total_cmp);
    all.dedup();
    all
}

/// A histogram as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Buckets {
    /// Upper bounds without `+Inf`.
    pub(super) bounds: Vec<f64>,
    /// Observations of each bucket alone; one more than bounds.
    pub(super) counts: Vec<u64>,
    pub(super) sum: f64,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Families {
    slots: Vec<Slot>,
    shared: Arc<OnceLock<Arc<Shared>>>,
    /// The mapping's last family when it was last looked at.
    seen: AtomicU64,
}

impl Families {
    pub(super) fn new() -> Self {
        let shared = Arc::new(OnceLock::new());
        let slots = Name::ALL.iter().map(|name| Slot::new(*name, shared.clone())).collect();
        Self { slots, shared, seen: AtomicU64::new(0) }
    }

    /// The families that were made.
    fn made(&self) -> impl Iterator<Item = &Arc<Family>> {
        self.slots.iter().filter_map(|slot| slot.family.get())
    }

    /// Makes those that another process has written.
    fn look(&self) {
        let Some(shared) = self.shared.get() else { return };
        let last = shared.last_family();
        if self.seen.swap(last, Ordering::Relaxed) == last {
            return;
        }
        let names = match shared.family_names() {
            Ok(names) => names,
            Err(error) => return shared.report(error.to_string()),
        };
        let missing = self.slots.iter().filter(|slot| !slot.is_made());
        for slot in missing.filter(|slot| names.iter().any(|it| it == slot.name.row().name)) {
            slot.get();
        }
    }

    /// The family, which exists from now on.
    pub(super) fn get(&self, name: Name) -> &Arc<Family> {
        self.slot(name).get()
    }

    pub(super) fn slot(&self, name: Name) -> &Slot {
        &self.slots[name as usize]
    }

    /// Series that worker processes count alone; None where they share nothing.
    pub(super) fn alone(&self) -> Option<u64> {
        self.shared.get().map(|shared| shared.alone())
    }

    /// How often each family was full, of those that were.
    pub(super) fn overflowed(&self) -> impl Iterator<Item = (Name, u64)> {
        let made = self.slots.iter().filter_map(|slot| Some((slot.name, slot.family.get()?)));
        made.map(|(name, family)| (name, family.overflowed())).filter(|(_, count)| *count > 0)
    }

    /// A histogram's series that are `chosen` by their label values, added up in the buckets that
    /// its own page shows; None if nothing was observed.
    pub(super) fn histogram(
        &self,
        name: Name,
        chosen: impl Fn(&[Box<str>]) -> bool,
    ) -> Option<Buckets> {
        let slot = self.slot(name);
        let family = slot.shown()?;
        let bounds = slot.plan().bounds;
        let mut sums = Buckets { counts: vec![0; bounds.len() + 1], bounds, sum: 0.0 };
        for series in family.all().iter().filter(|series| chosen(series.labels().values())) {
            sums.sum += series.add_rebucketed(&sums.bounds, &mut sums.counts);
        }
        Some(sums)
    }
}

/// The stored families as one source, so that the overflow count is taken with them.
pub(super) struct Stored {
    computed: Arc<Computed>,
    descs: Vec<Desc>,
}

impl Stored {
    pub(super) fn new(computed: Arc<Computed>) -> Self {
        Self { computed, descs: CATALOGUE.iter().map(describe).collect() }
    }
}

impl Source for Stored {
    fn prepare(&self) {
        self.computed.families.look();
        self.computed.families.made().for_each(|family| family.prepare());
    }

    fn share(&self, shared: &Arc<Shared>) -> Result<()> {
        let families = &self.computed.families;
        let _ = families.shared.set(shared.clone());
        for family in families.made() {
            if let Err(error) = family.share(shared) {
                shared.report(error.to_string());
            }
        }
        if let Err(error) = self.computed.rates.share(shared, self.computed.clock.now()) {
            shared.report(error.to_string());
        }
        Ok(())
    }

    fn check_unwritten(&self) -> Result<()> {
        self.computed.families.made().try_for_each(|family| family.check_unwritten())
    }

    fn after_fork(&self) {
        self.computed.families.made().for_each(|family| family.after_fork());
    }

    fn describe(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let families = &self.computed.families;
        let overflowed: u64 = families.overflowed().map(|(_, count)| count).sum();
        if overflowed > 0 {
            let series = families.get(Name::Dropped).series(&["cardinality"]);
            series.raise(overflowed as f64); // of several processes, each says it
        }
        for (slot, desc) in families.slots.iter().zip(&self.descs) {
            if slot.name.row().shape == Shape::Computed {
                if !slot.hidden.load(Ordering::Relaxed) {
                    give(desc, &self.computed.samples(slot.name), sink);
                }
                continue;
            }
            let Some(family) = slot.shown() else { continue };
            if slot.name.row().unshown.is_empty() {
                slot.collect(family, sink);
            } else {
                let mut merged = Merged::new(desc);
                slot.collect(family, &mut merged);
                merged.give(sink);
            }
        }
    }
}

/// Whether bounds can be those of a histogram.
///
/// # Errors
/// As [`Desc::with_bounds`].
pub(super) fn check_bounds(name: Name, bounds: &[f64]) -> Result<()> {
    describe(name.row()).with_bounds(bounds).map(drop)
}
