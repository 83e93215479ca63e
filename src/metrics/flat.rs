//! Values taken apart into samples, as `prometheus_client` names and orders them. The encoders
//! use it where the straight way does not fit; Python's `collect()` is made of it.

use super::desc::{Desc, Kind};
use super::labels::LabelSet;
use super::number::format_number;
use super::registry::Registry;
use super::sample::{Pairs, Sample};
use super::sink::{Reading, Sink, Value};

/// A family with all its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The family's name, without the suffix of its kind.
    pub name: String,
    /// The help text.
    pub help: String,
    /// The type.
    pub kind: Kind,
    /// The unit, or empty.
    pub unit: String,
    /// Its samples, in the order of the page.
    pub samples: Vec<Sample>,
}

/// All families of a registry with their samples.
///
/// ```
/// use ryot_metrics::metrics::{Desc, Family, Kind, Registry, collect};
/// let registry = Registry::default();
/// Family::register(Desc::new(Kind::Gauge, "depth", "", &[])?, &registry)?;
/// assert_eq!(collect(&registry)[0].samples[0].name, "depth");
/// # Ok::<(), ryot_metrics::error::Error>(())
/// ```
pub fn collect(registry: &Registry) -> Vec<Snapshot> {
    let mut snapshots = Snapshots::default();
    registry.collect(&mut snapshots);
    snapshots.0
}

/// A sink that keeps every sample.
#[derive(Debug, Default)]
pub struct Snapshots(Vec<Snapshot>);

impl Snapshots {
    /// The families that it was given.
    pub fn into_inner(self) -> Vec<Snapshot> {
        self.0
    }
}

impl Sink for Snapshots {
    fn family(&mut self, desc: &Desc) {
        self.0.push(Snapshot {
            name: desc.name.to_string(),
            help: desc.help.to_string(),
            kind: desc.kind,
            unit: desc.unit.to_string(),
            samples: Vec::new(),
        });
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        flatten(desc, labels, reading, &mut |sample| self.raw(desc, &sample));
    }

    fn raw(&mut self, _: &Desc, sample: &Sample) {
        if let Some(family) = self.0.last_mut() {
            family.samples.push(sample.clone());
        }
    }

    fn is_prompt(&self) -> bool {
        true
    }
}

/// Takes a reading apart.
pub(super) fn flatten(
    desc: &Desc,
    labels: &LabelSet,
    reading: &Reading<'_>,
    take: &mut dyn FnMut(Sample),
) {
    let mut flat = Flat { desc, labels: owned(labels.pairs(&desc.label_names)), reading, take };
    flat.value();
    if let Some(created) = reading.created {
        flat.push("_created", None, created);
    }
}

fn owned<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Pairs {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

struct Flat<'a> {
    desc: &'a Desc,
    labels: Pairs,
    reading: &'a Reading<'a>,
    take: &'a mut dyn FnMut(Sample),
}

impl Flat<'_> {
    fn value(&mut self) {
        match self.reading.value {
            Value::Counter(value) => self.push_with("_total", None, value, Some(0)),
            Value::Gauge(value) => self.push("", None, value),
            Value::Info { names, labels } => {
                self.labels.extend(owned(labels.pairs(names)));
                self.push("_info", None, 1.0);
            }
            Value::StateSet { states, current } => {
                for (index, state) in states.iter().enumerate() {
                    let on = if index == current { 1.0 } else { 0.0 };
                    self.push("", Some(state.to_string()), on);
                }
            }
            Value::Summary { count, sum, quantiles } => {
                for &(quantile, value) in quantiles {
                    self.push("", Some(number(quantile)), value);
                }
                self.push("_count", None, count as f64);
                self.push("_sum", None, sum);
            }
            Value::Histogram { bounds, counts, sum } => self.histogram(bounds, counts, sum),
        }
    }

    fn histogram(&mut self, bounds: &[f64], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (index, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(index).copied().unwrap_or(f64::INFINITY);
            self.push_with("_bucket", Some(number(bound)), total as f64, Some(index));
        }
        self.push("_count", None, total as f64);
        if has_sum(bounds) {
            self.push("_sum", None, sum);
        }
    }

    fn push(&mut self, suffix: &str, added: Option<String>, value: f64) {
        self.push_with(suffix, added, value, None);
    }

    fn push_with(
        &mut self,
        suffix: &str,
        added: Option<String>,
        value: f64,
        exemplar: Option<usize>,
    ) {
        let mut labels = self.labels.clone();
        labels.extend(added.map(|value| (self.desc.added_label().to_owned(), value)));
        let exemplar = exemplar.and_then(|index| self.reading.exemplars.get(index)?.clone());
        let name = [&*self.desc.name, suffix].concat();
        (self.take)(Sample { name, labels, value, timestamp: None, exemplar });
    }
}

/// A histogram that may observe negative values has no sum: it would not be a counter.
pub(super) fn has_sum(bounds: &[f64]) -> bool {
    bounds.first().is_none_or(|&bound| bound >= 0.0)
}

fn number(value: f64) -> String {
    let mut out = String::new();
    format_number(value, &mut out);
    out
}
