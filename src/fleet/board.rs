//! The workers that are there, and the families of a fleet. Pure but for a clock.
//!
//! A worker is there while its last report is younger than `stale_after`; with it go its series. What
//! is known from events alone goes `events_ttl` after the last of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::families::Descs;
use super::load::{Endpoint, KvHitRateEvent, ProcessedEndpoints, WorkerId, mean_and_deviation};
use crate::clock::{Clock, Nanos};
use crate::llm::FleetName;
use crate::metrics::{Desc, LabelSet, Sink, Source, Value};

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

#[derive(Debug)]
struct Worker {
    labels: LabelSet,
    /// Its last report, and when that came.
    report: Option<(Endpoint, Nanos)>,
    hits: Hits,
    /// When its last event came.
    event: Nanos,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    isl_blocks: u64,
    overlap_blocks: u64,
}

impl Worker {
    fn stays(&self, now: Nanos, limits: &BoardLimits) -> bool {
        let young = |since: Nanos, limit: Duration| {
            u128::from(now.saturating_sub(since)) < limit.as_nanos()
        };
        match &self.report {
            Some((_, at)) => young(*at, limits.stale_after),
            None => young(self.event, limits.events_ttl),
        }
    }
}

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

    /// A worker told its load.
    pub(super) fn report(&self, id: &WorkerId, endpoint: Endpoint) -> Result<(), Full> {
        let now = self.clock.now();
        self.with(id, |worker| worker.report = Some((endpoint, now)))
    }

    /// A request met a worker's cache. A worker cannot have found more than was asked for.
    pub(super) fn hit(&self, event: KvHitRateEvent) -> Result<(), Full> {
        let now = self.clock.now();
        self.with(&event.worker_id.into(), |worker| {
            worker.event = now;
            let hits = &mut worker.hits;
            hits.isl_blocks = hits.isl_blocks.saturating_add(event.isl_blocks);
            let found = event.overlap_blocks.min(event.isl_blocks);
            hits.overlap_blocks = hits.overlap_blocks.saturating_add(found);
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
        let mut worker = Worker { labels, report: None, hits: Hits::default(), event: 0 };
        change(&mut worker);
        workers.insert(id.clone(), worker);
        Ok(())
    }

    /// Forgets who has gone; their names.
    pub(super) fn sweep(&self) -> Vec<WorkerId> {
        let now = self.clock.now();
        let mut gone = Vec::new();
        self.workers.lock().retain(|id, worker| {
            let stays = worker.stays(now, &self.limits);
            if !stays {
                gone.push(id.clone());
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
            worker.report.as_ref().map(|(endpoint, _)| (id.clone(), endpoint.clone()))
        });
        ProcessedEndpoints::new(told)
    }
}

/// The value of a worker's family; None where there is none.
fn value(name: FleetName, worker: &Worker) -> Option<f64> {
    let load = worker.report.as_ref().map(|(endpoint, _)| endpoint.data);
    let hits = (worker.event != 0).then_some(worker.hits);
    let of_load = match name {
        FleetName::KvBlocksActive => load.map(|load| load.kv_active_blocks),
        FleetName::KvBlocksTotal => load.map(|load| load.kv_total_blocks),
        FleetName::ActiveSlots => load.map(|load| load.request_active_slots),
        FleetName::TotalSlots => load.map(|load| load.request_total_slots),
        FleetName::HitRateIsl => hits.map(|hits| hits.isl_blocks),
        FleetName::HitRateOverlap => hits.map(|hits| hits.overlap_blocks),
        FleetName::HitRate => {
            return hits
                .filter(|hits| hits.isl_blocks > 0)
                .map(|hits| 100.0 * hits.overlap_blocks as f64 / hits.isl_blocks as f64);
        }
        _ => None,
    };
    of_load.map(|count| count as f64)
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
                .filter_map(|worker| Some((&worker.labels, value(*name, worker)?)))
                .peekable();
            if values.peek().is_none() {
                continue;
            }
            sink.family(desc);
            for (labels, value) in values {
                sink.sample(desc, labels, &Value::Gauge(value).into());
            }
        }
        let loads = here.iter().filter_map(|worker| value(FleetName::KvBlocksActive, worker));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::fleet::load::ForwardPassMetrics;
    use crate::metrics::{Format, Registry, encode};

    const SECOND: Nanos = 1_000_000_000;

    fn board() -> (Arc<Board>, Arc<ManualClock>, Registry) {
        let clock = Arc::new(ManualClock::default());
        clock.advance(SECOND);
        let limits = BoardLimits {
            stale_after: Duration::from_secs(3),
            events_ttl: Duration::from_secs(60),
            max_workers: 3,
        };
        let board = Arc::new(Board::new("backend", "generate", limits, clock.clone()));
        let registry = Registry::default();
        registry.register(board.clone()).unwrap();
        (board, clock, registry)
    }

    fn endpoint(kv_active_blocks: u64) -> Endpoint {
        let data = ForwardPassMetrics {
            kv_active_blocks,
            kv_total_blocks: 100,
            request_active_slots: 1,
            request_total_slots: 8,
        };
        Endpoint { name: String::new(), subject: String::new(), data }
    }

    fn event(worker_id: i64, isl_blocks: u64, overlap_blocks: u64) -> KvHitRateEvent {
        KvHitRateEvent { worker_id, isl_blocks, overlap_blocks }
    }

    fn samples(registry: &Registry) -> Vec<String> {
        let page = encode(registry, Format::Text004);
        page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn the_page_has_the_document_s_families() {
        let (board, _, registry) = board();
        board.report(&1.into(), endpoint(77)).unwrap();
        board.report(&2.into(), endpoint(29)).unwrap();
        board.hit(event(1, 8, 6)).unwrap();
        board.hit(event(1, 2, 0)).unwrap();
        board.hit(event(2, 0, 0)).unwrap();
        let of = |name: &str, worker: u8, value: &str| {
            format!(
                "{name}{{component=\"backend\",endpoint=\"generate\",worker_id=\"{worker}\"}} {value}"
            )
        };
        let all = |name: &str, value: &str| {
            format!("{name}{{component=\"backend\",endpoint=\"generate\"}} {value}")
        };
        let expected = [
            of("llm_kv_blocks_active", 1, "77.0"),
            of("llm_kv_blocks_active", 2, "29.0"),
            of("llm_kv_blocks_total", 1, "100.0"),
            of("llm_kv_blocks_total", 2, "100.0"),
            of("llm_requests_active_slots", 1, "1.0"),
            of("llm_requests_active_slots", 2, "1.0"),
            of("llm_requests_total_slots", 1, "8.0"),
            of("llm_requests_total_slots", 2, "8.0"),
            of("llm_kv_hit_rate_percent", 1, "60.0"),
            of("llm_kv_hit_rate_isl_blocks", 1, "10.0"),
            of("llm_kv_hit_rate_isl_blocks", 2, "0.0"),
            of("llm_kv_hit_rate_overlap_blocks", 1, "6.0"),
            of("llm_kv_hit_rate_overlap_blocks", 2, "0.0"),
            all("llm_load_avg", "53.0"),
            all("llm_load_std", "24.0"),
        ];
        assert_eq!(samples(&registry), expected);
    }

    #[test]
    fn a_worker_that_has_gone_leaves_no_series() {
        let (board, clock, registry) = board();
        board.report(&1.into(), endpoint(77)).unwrap();
        board.hit(event(1, 8, 6)).unwrap();
        clock.advance(2 * SECOND);
        board.report(&2.into(), endpoint(29)).unwrap();
        board.hit(event(1, 8, 6)).unwrap(); // no sign of life: an event may be late
        clock.advance(SECOND);
        let left = samples(&registry);
        assert!(left.iter().all(|line| !line.contains("worker_id=\"1\"")), "{left:?}");
        assert!(left.last().unwrap().ends_with(" 0.0"));
        assert_eq!(board.sweep(), [WorkerId::from(1)]);
        clock.advance(60 * SECOND);
        assert_eq!(samples(&registry), Vec::<String>::new());
        assert!(board.live().endpoints.is_empty());
    }

    #[test]
    fn a_worker_known_from_events_alone_stays_for_their_time() {
        let (board, clock, registry) = board();
        board.hit(event(7, 4, 9)).unwrap(); // more was found than asked for: nonsense is cut off
        clock.advance(59 * SECOND);
        let overlap = "llm_kv_hit_rate_overlap_blocks{component=\"backend\",\
                       endpoint=\"generate\",worker_id=\"7\"} 4.0";
        assert!(samples(&registry).iter().any(|line| line == overlap));
        clock.advance(SECOND);
        assert_eq!(board.sweep(), [WorkerId::from(7)]);
    }

    #[test]
    fn the_number_of_workers_has_a_limit() {
        let (board, clock, _) = board();
        for id in 1..=3 {
            board.report(&id.into(), endpoint(1)).unwrap();
        }
        assert_eq!(board.report(&4.into(), endpoint(1)), Err(Full));
        board.report(&3.into(), endpoint(2)).unwrap();
        clock.advance(3 * SECOND);
        board.sweep();
        board.report(&4.into(), endpoint(1)).unwrap();
    }
}
