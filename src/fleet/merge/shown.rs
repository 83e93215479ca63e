//! How the families of all workers stand on the page. Pure but for a clock.

use std::collections::HashMap;
use std::sync::Arc;

use super::family::Family;
use super::{Merger, Place, Worker};
use crate::fleet::rules::Mode;
use crate::metrics::wire::MetricType;
use crate::metrics::{Desc, Kind, LabelSet, Reading, Sink, Source, Value};

/// The label that tells workers apart where each has a series of its own.
const WORKER: &str = "worker";

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
