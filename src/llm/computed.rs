//! Families that are computed when a page is written: ratios, rates over rolling windows, and what
//! the package says of itself.
//!
//! A rate or a ratio that somebody else measured can be reported. It stands in the family's own
//! series, and on the page only as long as nothing was counted from which the figure follows: of
//! one model there is never a counted and a reported figure at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use indexmap::IndexMap;
use parking_lot::RwLock;

use super::catalogue::{Name, Shape};
use super::families::Families;
use super::rates::{FIVE_MINUTES, MINUTE, Rates};
use crate::clock::{Clock, Nanos, seconds_between};
use crate::metrics::{Desc, LabelSet, Sink, Value};

/// Label values in the order of the row, and the value.
pub(super) type Samples = Vec<(Vec<String>, f64)>;

/// What the computed families are computed from.
#[derive(Debug)]
pub(super) struct Computed {
    pub(super) families: Arc<Families>,
    pub(super) rates: Arc<Rates>,
    pub(super) clock: Arc<dyn Clock>,
    /// What requests do, in OpenTelemetry's words.
    pub(super) operation: RwLock<Box<str>>,
    /// When the first engine of each model was ready.
    pub(super) engines: RwLock<IndexMap<Arc<str>, Nanos>>,
    /// Nanoseconds that the last page took; 0 before the first.
    pub(super) page_nanos: Arc<AtomicU64>,
}

fn labels(values: &[&str]) -> Vec<String> {
    values.iter().map(|&value| value.to_owned()).collect()
}

impl Computed {
    /// The samples of a computed family; none if there is nothing to compute it from.
    pub(super) fn samples(&self, name: Name) -> Samples {
        match name {
            Name::TokensPerSecond => self.tokens_per_second(),
            Name::TokensPerMinute => self.tokens_per_minute(),
            Name::TokenEfficiency => self.token_efficiency(),
            Name::MemoryEfficiency => self.memory_efficiency(),
            Name::KvCacheHitRatio => self.hit_ratios(),
            Name::EngineBytesPerToken => self.bytes_per_token(),
            Name::EngineIdleRatio => self.idle_ratios(),
            Name::ScrapeSeconds => self.scrape_seconds(),
            Name::SeriesCount => self.series_count(),
            Name::UnsharedCount => self.unshared_count(),
            _ => Vec::new(),
        }
    }

    /// The value of each series of a family.
    fn values(&self, name: Name) -> Samples {
        let family = self.families.slot(name).shown();
        let all = family.map(|family| family.all()).unwrap_or_default();
        let value = |values: &[Box<str>]| values.iter().map(ToString::to_string).collect();
        all.iter().map(|series| (value(series.labels().values()), series.get())).collect()
    }

    /// The value of one series of a family, if it was written.
    pub(super) fn value(&self, name: Name, values: &[impl AsRef<str>]) -> Option<f64> {
        let series = self.families.slot(name).shown()?.find(values);
        series.map(|series| series.get())
    }

    /// What was reported for models of which no token was counted.
    fn reported_rates(&self) -> Samples {
        let mut reported = self.values(Name::TokensPerSecond);
        reported.retain(|(labels, _)| !self.rates.knows(&labels[0]));
        reported
    }

    fn tokens_per_second(&self) -> Samples {
        let now = self.clock.now();
        let mut samples = self.reported_rates();
        for window in self.rates.windows() {
            samples.extend(self.rates.over(window.slots, now).into_iter().map(|rate| {
                let labels = labels(&[&rate.model, &window.name, rate.batch_size]);
                (labels, rate.tokens_per_second)
            }));
        }
        samples.sort_by(|a, b| a.0[0].cmp(&b.0[0])); // stable: windows stay in their order
        samples
    }

    fn tokens_per_minute(&self) -> Samples {
        let mut sums: Vec<(Arc<str>, f64)> = Vec::new();
        for rate in self.rates.over(FIVE_MINUTES, self.clock.now()) {
            match sums.last_mut() {
                Some((model, sum)) if *model == rate.model => *sum += rate.tokens_per_second,
                _ => sums.push((rate.model, rate.tokens_per_second)),
            }
        }
        let counted = sums.into_iter().map(|(model, sum)| (labels(&[&model]), sum * 60.0));
        let reported = self.reported_rates().into_iter();
        counted.chain(reported.map(|(values, rate)| (labels(&[&values[0]]), rate * 60.0))).collect()
    }

    /// Absent without a reading of the GPU's memory. Of several GPUs, their mean counts.
    fn token_efficiency(&self) -> Samples {
        let mut readings: HashMap<String, (f64, f64)> = HashMap::new();
        for (mut values, percent) in self.values(Name::GpuMemoryPercentage) {
            let (sum, count) = readings.entry(values.swap_remove(0)).or_default();
            *sum += percent;
            *count += 1.0;
        }
        let efficiency = |model: &str, batch_size: &str, rate: f64| {
            let (sum, count) = readings.get(model).filter(|(sum, _)| *sum > 0.0)?;
            let dtype = self.rates.of(model).dtype();
            Some((labels(&[model, batch_size, dtype]), rate / (sum / count)))
        };
        let counted = self.rates.over(MINUTE, self.clock.now()).into_iter();
        let counted = counted
            .filter_map(|rate| efficiency(&rate.model, rate.batch_size, rate.tokens_per_second));
        let reported = self.reported_rates().into_iter();
        counted
            .chain(reported.filter_map(|(values, rate)| efficiency(&values[0], "", rate)))
            .collect()
    }

    /// Absent where more is used than reserved: a driver reserves memory for itself alone, which
    /// says nothing of an allocator.
    fn memory_efficiency(&self) -> Samples {
        let reserved = self.values(Name::GpuMemoryReserved).into_iter();
        let ratio = |(values, reserved): (Vec<String>, f64)| {
            let used = self.value(Name::GpuMemory, &[&*values[0], "used", &*values[1]])?;
            (reserved > 0.0 && used <= reserved).then(|| (values, used / reserved))
        };
        reserved.filter_map(ratio).collect()
    }

    fn hit_ratios(&self) -> Samples {
        let queries = self.values(Name::KvCacheQueries);
        let counted =
            |model: &str| queries.iter().any(|(values, n)| values[0] == model && *n > 0.0);
        let mut reported = self.values(Name::KvCacheHitRatio);
        reported.retain(|(values, _)| !counted(&values[0]));
        let ratio = |(values, queries): &(Vec<String>, f64)| {
            let hits = self.value(Name::KvCacheHits, values).unwrap_or(0.0);
            (*queries > 0.0).then(|| (values.clone(), hits / queries))
        };
        queries.iter().filter_map(ratio).chain(reported).collect()
    }

    /// The hit ratio of each model, whatever the context.
    pub(super) fn hit_ratios_by_model(&self) -> Samples {
        let mut totals: Vec<(String, [f64; 2])> = Vec::new();
        for (values, queries) in self.values(Name::KvCacheQueries) {
            let hits = self.value(Name::KvCacheHits, &values).unwrap_or(0.0);
            match totals.iter_mut().find(|(model, _)| *model == values[0]) {
                Some((_, total)) => *total = [total[0] + hits, total[1] + queries],
                None => totals.push((values[0].clone(), [hits, queries])),
            }
        }
        totals.retain(|(_, [_, queries])| *queries > 0.0);
        let reported = self.values(Name::KvCacheHitRatio).into_iter();
        let reported: Vec<_> = reported
            .filter(|(values, _)| totals.iter().all(|(model, _)| *model != values[0]))
            .map(|(values, ratio)| (labels(&[&values[0]]), ratio))
            .collect();
        let counted =
            totals.into_iter().map(|(model, [hits, queries])| (vec![model], hits / queries));
        counted.chain(reported).collect()
    }

    /// Absent before the first token, and where nothing is known of the model's size.
    fn bytes_per_token(&self) -> Samples {
        let moved = self.values(Name::EngineBytesMoved).into_iter();
        let per_token = |(values, bytes): (Vec<String>, f64)| {
            let tokens = [Name::EngineDecodeTokens, Name::EnginePrefillTokens]
                .map(|name| self.value(name, &values).unwrap_or(0.0));
            let tokens = tokens[0] + tokens[1];
            (bytes > 0.0 && tokens > 0.0).then(|| (values, bytes / tokens))
        };
        moved.filter_map(per_token).collect()
    }

    fn idle_ratios(&self) -> Samples {
        let now = self.clock.now();
        let ratio = |(model, began): (&Arc<str>, &Nanos)| {
            let idle = self.value(Name::EngineIdle, &[model])?;
            let seconds = seconds_between(*began, now);
            // Several engines of one model can be idle at once.
            (seconds > 0.0).then(|| (labels(&[model]), (idle / seconds).min(1.0)))
        };
        self.engines.read().iter().filter_map(ratio).collect()
    }

    fn scrape_seconds(&self) -> Samples {
        match self.page_nanos.load(Ordering::Relaxed) {
            0 => Vec::new(),
            nanos => vec![(Vec::new(), nanos as f64 / 1e9)],
        }
    }

    /// Absent where nothing is shared.
    fn unshared_count(&self) -> Samples {
        self.families.alone().map(|series| (Vec::new(), series as f64)).into_iter().collect()
    }

    fn series_count(&self) -> Samples {
        let stored = Name::ALL.iter().filter(|name| name.row().shape != Shape::Computed);
        match stored.filter_map(|name| Some(self.families.slot(*name).shown()?.len())).sum() {
            0_usize => Vec::new(),
            series => vec![(Vec::new(), series as f64)],
        }
    }
}

/// Gives a computed family to a page; nothing if it has no sample.
pub(super) fn give(desc: &Desc, samples: &Samples, sink: &mut dyn Sink) {
    if samples.is_empty() {
        return;
    }
    sink.family(desc);
    for (values, value) in samples {
        let labels = LabelSet::new(&desc.label_names, values, true);
        sink.sample(desc, &labels, &Value::Gauge(*value).into());
    }
}
