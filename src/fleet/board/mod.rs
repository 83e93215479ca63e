//! The workers that are there, and the families of a fleet. Pure but for a clock.
//!
//! A worker is there while its last report is younger than `stale_after`; with it go its series.
//! What is known from events alone goes `events_ttl` after the last of them.

#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::families::Descs;
use super::load::{Endpoint, KvHitRateEvent, ProcessedEndpoints, WorkerId, mean_and_deviation};
use crate::clock::Clock;
use crate::llm::FleetName;
use crate::metrics::{Desc, LabelSet, Sink, Source, Value};
pub(super) use worker::Hits;
use worker::{Report, Worker};

/// The workers of one component's endpoint.
#[derive(Debug)]
pub(super) struct Board {
    descs: Descs,
    labels: [String; 2],
    limits: BoardLimits,
    clock: Arc<dyn Clock>,
    workers: Mutex<BTreeMap<WorkerId, Worker>>,
}

/// How long, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct BoardLimits {
    pub(super) stale_after: Duration,
    pub(super) events_ttl: Duration,
    pub(super) max_workers: usize,
}

/// There is no place for one more worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Board {
    pub(super) fn new(
        component: &str,
        endpoint: &str,
        limits: BoardLimits,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            descs: Descs::new(),
            labels: [component.to_owned(), endpoint.to_owned()],
            limits,
            clock,
            workers: Mutex::default(),
        }
    }

    /// A worker told its load, or its page did; `counted` is what its cache had looked up and found
    /// by then, which is less than before if it began anew.
    pub(super) fn report(
        &self,
        id: &WorkerId,
        source: &'static str,
        endpoint: Endpoint,
        counted: Option<Hits>,
    ) -> Result<(), Full> {
        let at = self.clock.now();
        self.with(id, |worker| {
            worker.report = Some(Report { source, endpoint, at });
            if let Some(hits) = counted {
                worker.event = Some(at);
                worker.count(hits);
            }
        })
    }

    /// A request met a worker's cache.
    pub(super) fn hit(&self, event: KvHitRateEvent) -> Result<(), Full> {
        let now = self.clock.now();
        self.with(&event.worker_id.into(), |worker| {
            worker.event = Some(now);
            worker.hits.add(event.isl_blocks, event.overlap_blocks);
        })
    }

    fn with(&self, id: &WorkerId, change: impl FnOnce(&mut Worker)) -> Result<(), Full> {
        let mut workers = self.workers.lock();
        if let Some(worker) = workers.get_mut(id) {
            change(worker);
            return Ok(());
        }
        if workers.len() >= self.limits.max_workers {
            return Err(Full);
        }
        let [component, endpoint] = &self.labels;
        let labels = LabelSet::new(
            FleetName::KvBlocksActive.row().labels,
            &[component.as_str(), endpoint, &id.0],
            true,
        );
        let mut worker = Worker::new(labels);
        change(&mut worker);
        workers.insert(id.clone(), worker);
        Ok(())
    }

    /// Forgets who has gone; their names.
    pub(super) fn sweep(&self) -> Vec<String> {
        let now = self.clock.now();
        let mut gone = Vec::new();
        self.workers.lock().retain(|id, worker| {
            let stays = worker.stays(now, &self.limits);
            if !stays {
                let report = worker.report.take();
                gone.push(report.map_or_else(|| id.name(), |report| report.endpoint.name));
            }
            stays
        });
        gone
    }

    /// Those who are there and have told their load.
    pub(super) fn live(&self) -> ProcessedEndpoints {
        let now = self.clock.now();
        let workers = self.workers.lock();
        let here = workers.iter().filter(|(_, worker)| worker.stays(now, &self.limits));
        let told = here.filter_map(|(id, worker)| {
            worker.report.as_ref().map(|report| (id.clone(), report.endpoint.clone()))
        });
        ProcessedEndpoints::new(told)
    }

    /// How many of them this source told of.
    pub(super) fn count(&self, source: &str) -> usize {
        let now = self.clock.now();
        let workers = self.workers.lock();
        let here = workers.values().filter(|worker| worker.stays(now, &self.limits));
        here.filter(|it| it.report.as_ref().is_some_and(|it| it.source == source)).count()
    }
}

impl Source for Board {
    fn describe(&self) -> Vec<&Desc> {
        FleetName::BOARD.iter().map(|name| self.descs.get(*name)).collect()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let now = self.clock.now();
        let workers = self.workers.lock();
        let here: Vec<&Worker> =
            workers.values().filter(|worker| worker.stays(now, &self.limits)).collect();
        for name in FleetName::BOARD {
            let desc = self.descs.get(*name);
            let mut values = here
                .iter()
                .filter_map(|worker| Some((&worker.labels, worker.value(*name)?)))
                .peekable();
            if values.peek().is_none() {
                continue;
            }
            sink.family(desc);
            for (labels, value) in values {
                sink.sample(desc, labels, &Value::Gauge(value).into());
            }
        }
        let loads = here.iter().filter_map(|worker| worker.value(FleetName::KvBlocksActive));
        if loads.clone().next().is_none() {
            return;
        }
        let (mean, deviation) = mean_and_deviation(loads);
        let labels = LabelSet::new(FleetName::LoadAvg.row().labels, &self.labels, true);
        for (name, value) in [(FleetName::LoadAvg, mean), (FleetName::LoadStd, deviation)] {
            let desc = self.descs.get(name);
            sink.family(desc);
            sink.sample(desc, &labels, &Value::Gauge(value).into());
        }
    }
}
