//! The families of all workers as one: sums of counters and histograms that never go down, and
//! gauges of the workers that are there. Pure but for a clock.
//!
//! A counter's total is the sum of its increments, as they are seen: what a worker has counted
//! stays counted when it goes, and a counter that begins anew adds what it has since. A worker that
//! comes back within `FORGET` goes on where it was.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use parking_lot::Mutex;

use super::rules::{Mode, Rules};
use super::total::{Total, increment};
use crate::clock::{Clock, Nanos};
use crate::llm::FLEET;
use crate::metrics::wire::{Metric, MetricFamily, MetricType};
use crate::metrics::{Desc, Kind, LabelSet, Reading, Sink, Source, Value};

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

/// A family of all workers together.
#[derive(Debug)]
struct Family {
    kind: MetricType,
    desc: Desc,
    series: IndexMap<Labels, Series>,
}

/// Names and values, as the worker had them.
type Labels = Vec<(String, String)>;

#[derive(Debug)]
struct Series {
    desc: Desc,
    labels: LabelSet,
    total: Total,
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

impl Family {
    fn of(from: &MetricFamily) -> Result<Self, String> {
        let kind = match from.kind() {
            // A counter's name without the suffix stays as it is; the type cannot.
            MetricType::Counter if from.name.ends_with("_total") => Kind::Counter,
            MetricType::Counter | MetricType::Untyped => Kind::Unknown,
            MetricType::Gauge => Kind::Gauge,
            MetricType::Summary => Kind::Summary,
            MetricType::Histogram => Kind::Histogram,
            MetricType::GaugeHistogram => {
                return Err(format!("{} is a gauge histogram", from.name));
            }
        };
        let desc =
            Desc::new(kind, &from.name, &from.help, &[]).map_err(|error| error.to_string())?;
        Ok(Self { kind: from.kind(), desc, series: IndexMap::new() })
    }

    /// The place of a series; a new one if there is room.
    fn place(&mut self, metric: &Metric, limit: usize) -> Result<usize, String> {
        let mut labels: Labels =
            metric.labels.iter().map(|pair| (pair.name.clone(), pair.value.clone())).collect();
        labels.sort_unstable();
        if let Some(place) = self.series.get_index_of(&labels) {
            return Ok(place);
        }
        let name = &self.desc.name;
        if self.series.len() >= limit {
            return Err(format!("{name} has more than {limit} series (series_limit)"));
        }
        let (names, values): (Vec<&str>, Vec<&str>) =
            labels.iter().map(|(name, value)| (&**name, &**value)).unzip();
        let desc =
            Desc::new(self.desc.kind, name, "", &names).map_err(|error| error.to_string())?;
        let set = LabelSet::beside(desc.added_label(), &names, &values, false);
        let series = Series { desc, labels: set, total: Total::default() };
        Ok(self.series.insert_full(labels, series).0)
    }
}

/// What gauges of several workers make.
#[derive(Clone, Copy, Debug)]
struct Gauges {
    sum: f64,
    count: f64,
    min: f64,
    max: f64,
}

impl Gauges {
    fn of(value: f64) -> Self {
        Self { sum: value, count: 1.0, min: value, max: value }
    }

    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    fn value(&self, mode: Mode) -> f64 {
        match mode {
            Mode::Sum | Mode::Each => self.sum,
            Mode::Min => self.min,
            Mode::Max => self.max,
            Mode::Mean => self.sum / self.count,
        }
    }
}

impl Source for Merger {
    fn describe(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        let now = self.clock.now();
        let state = self.state.lock();
        let live = || state.workers.iter().filter(|(_, worker)| self.is_live(worker, now));
        let mut gauges: HashMap<Place, Gauges> = HashMap::new();
        for (place, value) in live().flat_map(|(_, worker)| &worker.gauges) {
            gauges.entry(*place).and_modify(|it| it.add(*value)).or_insert(Gauges::of(*value));
        }
        for (index, (name, family)) in state.families.iter().enumerate() {
            let mode = self.rules.mode(name);
            match family.kind {
                MetricType::Gauge | MetricType::Untyped if mode == Mode::Each => {
                    family.each(index, live(), sink);
                }
                MetricType::Gauge | MetricType::Untyped => {
                    family.gauges(index, &gauges, mode, sink);
                }
                MetricType::Histogram => family.histograms(sink),
                _ => family.totals(sink),
            }
        }
    }
}

impl Family {
    fn gauges(
        &self,
        index: usize,
        values: &HashMap<Place, Gauges>,
        mode: Mode,
        sink: &mut dyn Sink,
    ) {
        let mut shown = false;
        for (place, series) in self.series.values().enumerate() {
            let Some(gauges) = values.get(&(index, place)) else { continue };
            if !std::mem::replace(&mut shown, true) {
                sink.family(&self.desc);
            }
            let value = Value::Gauge(gauges.value(mode));
            sink.sample(&series.desc, &series.labels, &value.into());
        }
    }

    /// Every worker's own series, with its name as a label.
    fn each<'a>(
        &self,
        index: usize,
        workers: impl Iterator<Item = (&'a Arc<str>, &'a Worker)>,
        sink: &mut dyn Sink,
    ) {
        let mut workers: Vec<_> = workers.collect();
        workers.sort_unstable_by_key(|worker| worker.0);
        let mut shown = false;
        for (name, worker) in workers {
            for ((_, place), value) in worker.gauges.iter().filter(|it| it.0.0 == index) {
                if !std::mem::replace(&mut shown, true) {
                    sink.family(&self.desc);
                }
                let Some((labels, _)) = self.series.get_index(*place) else { continue };
                let all = labels.iter().map(|(name, value)| (&**name, &**value));
                let all = all.filter(|label| label.0 != WORKER).chain([(WORKER, &**name)]);
                let (names, values): (Vec<&str>, Vec<&str>) = all.unzip();
                let Ok(desc) = Desc::new(self.desc.kind, &self.desc.name, "", &names) else {
                    continue;
                };
                let labels = LabelSet::new(&names, &values, false);
                sink.sample(&desc, &labels, &Value::Gauge(*value).into());
            }
        }
    }

    fn totals(&self, sink: &mut dyn Sink) {
        sink.family(&self.desc);
        for series in self.series.values() {
            let mut take =
                |reading: &Reading<'_>| sink.sample(&series.desc, &series.labels, reading);
            match self.desc.kind {
                Kind::Unknown => take(&Value::Gauge(series.total.value()).into()),
                _ => series.total.give(&[], &mut take),
            }
        }
    }

    /// Only bounds that every worker has can be added up.
    fn histograms(&self, sink: &mut dyn Sink) {
        let mut layouts = self.series.values().flat_map(|series| series.total.layouts());
        let mut bounds = layouts.next().map(<[f64]>::to_vec).unwrap_or_default();
        layouts.for_each(|layout| bounds.retain(|bound| layout.contains(bound)));
        let mut desc = self.desc.clone();
        desc.bounds = bounds.into();
        sink.family(&desc);
        for series in self.series.values() {
            let mut own = series.desc.clone();
            own.bounds.clone_from(&desc.bounds);
            series
                .total
                .give(&desc.bounds, &mut |reading| sink.sample(&own, &series.labels, reading));
        }
    }
}

/// The label that tells workers apart where each has a series of its own.
const WORKER: &str = "worker";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::fleet::exposition::parse;
    use crate::metrics::{Format, Registry, encode};

    struct Bench {
        merger: Arc<Merger>,
        clock: Arc<ManualClock>,
        registry: Registry,
    }

    impl Bench {
        fn new(modes: &[&str]) -> Self {
            let clock = Arc::new(ManualClock::default());
            let rules = Rules::new(
                &["*".into()],
                &modes.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
                3,
            )
            .unwrap();
            let merger = Arc::new(Merger::new(rules, Duration::from_secs(3), clock.clone()));
            let registry = Registry::default();
            registry.register(merger.clone()).unwrap();
            Self { merger, clock, registry }
        }

        fn update(&self, worker: &str, page: &str) -> Refused {
            self.merger.update(&worker.into(), parse("text/plain", page.as_bytes()).unwrap())
        }

        fn page(&self) -> String {
            encode(&self.registry, Format::Text004)
        }

        fn wait(&self, seconds: u64) {
            self.clock.advance(seconds * 1_000_000_000);
        }
    }

    const COUNTER: &str = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\n";

    fn jobs(value: u32) -> String {
        format!("{COUNTER}jobs_total{{queue=\"a\"}} {value}\n")
    }

    #[test]
    fn counters_add_up_and_never_go_down() {
        let bench = Bench::new(&[]);
        let total = |value: &str| format!("{COUNTER}jobs_total{{queue=\"a\"}} {value}\n");
        bench.update("one", &jobs(5));
        bench.update("two", &jobs(7));
        assert_eq!(bench.page(), total("12.0"));
        bench.update("one", &jobs(2)); // it began anew and has counted 2 since
        assert_eq!(bench.page(), total("14.0"));
        bench.wait(100); // both have gone
        assert_eq!(bench.page(), total("14.0"));
        bench.update("two", &jobs(9)); // it was only away
        assert_eq!(bench.page(), total("16.0"));
    }

    #[test]
    fn a_new_time_of_creation_is_a_new_beginning() {
        let bench = Bench::new(&[]);
        let page = |created: u32| {
            format!("# TYPE jobs counter\njobs_total 5\njobs_created {created}\n# EOF\n")
        };
        bench.update("one", &page(100));
        bench.update("one", &page(100));
        bench.update("one", &page(200));
        assert!(bench.page().contains("jobs_total 10.0\n"));
    }

    #[test]
    fn gauges_are_combined_by_their_mode_and_go_with_their_worker() {
        let bench = Bench::new(&["hot=max", "cold=min", "mean*=mean", "own=each"]);
        let page = |value: u32| {
            ["depth", "hot", "cold", "mean_depth", "own"]
                .map(|name| format!("# TYPE {name} gauge\n{name} {value}\n"))
                .concat()
        };
        bench.update("one", &page(2));
        bench.wait(2);
        bench.update("two", &page(6));
        let shown = bench.page();
        for line in [
            "\ndepth 8.0\n",
            "\nhot 6.0\n",
            "\ncold 2.0\n",
            "\nmean_depth 4.0\n",
            "\nown{worker=\"one\"} 2.0\nown{worker=\"two\"} 6.0\n",
        ] {
            assert!(shown.contains(line), "{line} {shown}");
        }
        assert_eq!(bench.merger.live(), 2);
        bench.wait(1);
        assert!(bench.page().contains("\ndepth 6.0\n"));
        assert!(bench.page().contains("\nown{worker=\"two\"} 6.0\n"));
        bench.wait(2);
        assert_eq!((bench.page(), bench.merger.live()), (String::new(), 0));
    }

    fn histogram(bounds: &[(&str, u32)], sum: u32, count: u32) -> String {
        let bucket =
            |(bound, count): &(&str, u32)| format!("wait_bucket{{le=\"{bound}\"}} {count}\n");
        let buckets = bounds.iter().map(bucket).collect::<Vec<_>>().concat();
        "# TYPE wait histogram\n".to_owned()
            + &buckets
            + &format!("wait_bucket{{le=\"+Inf\"}} {count}\nwait_sum {sum}\nwait_count {count}\n")
    }

    #[test]
    fn histograms_add_up_over_the_bounds_that_all_have() {
        let bench = Bench::new(&[]);
        bench.update("one", &histogram(&[("1", 1), ("2", 3), ("4", 4)], 20, 5));
        bench.update("two", &histogram(&[("2", 10), ("4", 20), ("8", 30)], 100, 40));
        bench.update("one", &histogram(&[("1", 2), ("2", 4), ("4", 5)], 21, 6));
        let lines = "wait_bucket{le=\"2.0\"} 14.0\nwait_bucket{le=\"4.0\"} 25.0\n\
                     wait_bucket{le=\"+Inf\"} 46.0\nwait_count 46.0\nwait_sum 121.0\n";
        assert!(bench.page().ends_with(lines), "{}", bench.page());
        bench.update("two", &histogram(&[("2", 1), ("4", 1), ("8", 1)], 3, 2)); // anew
        assert!(bench.page().contains("wait_count 48.0\nwait_sum 124.0\n"));
    }

    #[test]
    fn summaries_have_counts_and_sums_and_no_quantiles() {
        let bench = Bench::new(&[]);
        let page = "# TYPE size summary\nsize{quantile=\"0.5\"} 1\nsize_sum 10\nsize_count 4\n";
        bench.update("one", page);
        bench.update("two", page);
        assert!(bench.page().ends_with("# TYPE size summary\nsize_count 8.0\nsize_sum 20.0\n"));
    }

    #[test]
    fn what_cannot_be_added_up_is_named() {
        let bench = Bench::new(&[]);
        bench.update("one", &jobs(1));
        let refused = bench.update("two", "# TYPE jobs_total gauge\njobs_total 1\ndepth 1\n");
        assert_eq!(
            refused.into_iter().collect::<Vec<_>>(),
            ["jobs_total is a Gauge and elsewhere a Counter"]
        );
        assert!(bench.page().contains("depth 1.0\n"));
        let many = [0, 1, 2, 3, 4].map(|it| format!("many{{a=\"{it}\"}} 1\n")).concat();
        let refused = bench.update("one", &many);
        assert_eq!(refused.first().unwrap(), "many has more than 3 series (series_limit)");
    }

    #[test]
    fn a_fleet_s_own_families_are_not_added_up() {
        let bench = Bench::new(&[]);
        bench.update("one", "# TYPE llm_load_avg gauge\nllm_load_avg 5\n");
        assert_eq!(bench.page(), "");
    }

    #[test]
    fn a_counter_without_the_suffix_keeps_its_name() {
        let bench = Bench::new(&[]);
        bench.update("one", "# TYPE jobs counter\njobs 5\n");
        bench.update("two", "# TYPE jobs counter\njobs 5\n");
        assert!(bench.page().ends_with("# TYPE jobs untyped\njobs 10.0\n"), "{}", bench.page());
    }
}
