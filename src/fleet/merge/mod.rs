//! The families of all workers as one: sums of counters and histograms that never go down, and
//! gauges of the workers that are there. Pure but for a clock.
//!
//! A counter's total is the sum of its increments, as they are seen: what a worker has counted
//! stays counted when it goes, and a counter that begins anew adds what it has since. A worker that
//! comes back within `FORGET` goes on where it was.

mod family;
mod shown;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use parking_lot::Mutex;

use super::rules::Rules;
use super::total::increment;
use crate::clock::{Clock, Nanos};
use crate::llm::FLEET;
use crate::metrics::wire::{Metric, MetricFamily, MetricType};
use family::Family;

/// How long a worker's last counts are kept, in case it comes back.
const FORGET: Duration = Duration::from_secs(60 * 60);

/// Adds workers' pages up.
#[derive(Debug)]
pub(super) struct Merger {
    rules: Rules,
    stale_after: Duration,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    families: IndexMap<String, Family>,
    workers: HashMap<Arc<str>, Worker>,
}

/// The places of a family and a series of it.
type Place = (usize, usize);

#[derive(Debug, Default)]
struct Worker {
    /// What its counters said last.
    last: HashMap<Place, Metric>,
    /// What its gauges say.
    gauges: Vec<(Place, f64)>,
    at: Nanos,
}

/// What of a page could not be added up, in words.
pub(super) type Refused = BTreeSet<String>;

impl Merger {
    pub(super) fn new(rules: Rules, stale_after: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { rules, stale_after, clock, state: Mutex::default() }
    }

    /// Takes a worker's page in.
    pub(super) fn update(&self, name: &Arc<str>, page: Vec<MetricFamily>) -> Refused {
        let mut refused = Refused::new();
        let mut state = self.state.lock();
        let State { families, workers } = &mut *state;
        let worker = workers.entry(Arc::clone(name)).or_default();
        worker.at = self.clock.now();
        worker.gauges.clear();
        for family in page.into_iter().filter(|family| self.takes(family)) {
            if let Err(reason) = self.take(families, worker, family) {
                refused.insert(reason);
            }
        }
        refused
    }

    /// Whether a family is to be added up. Times of creation are facts of a worker's own.
    fn takes(&self, family: &MetricFamily) -> bool {
        let own = FLEET
            .iter()
            .any(|row| family.name.strip_suffix("_total").unwrap_or(&family.name) == row.name);
        let created = family.kind() == MetricType::Gauge && family.name.ends_with("_created");
        !own && !created && self.rules.takes(&family.name)
    }

    fn take(
        &self,
        families: &mut IndexMap<String, Family>,
        worker: &mut Worker,
        from: MetricFamily,
    ) -> Result<(), String> {
        let kind = from.kind();
        let index = match families.get_index_of(&from.name) {
            Some(index) => index,
            None => families.insert_full(from.name.clone(), Family::of(&from)?).0,
        };
        let family = &mut families[index];
        if family.kind != kind {
            let text = format!("{} is a {kind:?} and elsewhere a {:?}", from.name, family.kind);
            return Err(text);
        }
        for metric in from.metrics {
            let place = (index, family.place(&metric, self.rules.series_limit)?);
            if let Some(value) = value_of(kind, &metric) {
                worker.gauges.push((place, value));
                continue;
            }
            if let Some(more) = increment(worker.last.get(&place), &metric) {
                family.series[place.1].total.add(more);
            }
            worker.last.insert(place, metric);
        }
        Ok(())
    }

    /// Forgets the counts of workers that went long ago.
    pub(super) fn sweep(&self) {
        let now = self.clock.now();
        self.state
            .lock()
            .workers
            .retain(|_, worker| u128::from(now.saturating_sub(worker.at)) < FORGET.as_nanos());
    }

    /// How many workers are there.
    pub(super) fn live(&self) -> usize {
        let now = self.clock.now();
        self.state.lock().workers.values().filter(|worker| self.is_live(worker, now)).count()
    }

    fn is_live(&self, worker: &Worker, now: Nanos) -> bool {
        u128::from(now.saturating_sub(worker.at)) < self.stale_after.as_nanos()
    }
}

/// The value of a gauge, or of what behaves as one.
fn value_of(kind: MetricType, metric: &Metric) -> Option<f64> {
    match kind {
        MetricType::Gauge => Some(metric.gauge.unwrap_or_default().value),
        MetricType::Untyped => Some(metric.untyped.unwrap_or_default().value),
        _ => None,
    }
}
