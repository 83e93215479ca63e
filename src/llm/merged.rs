//! A family without the labels that only other profiles show: sums over them.
//!
//! Must not know: which families have such labels, and what they mean.

use indexmap::IndexMap;

use crate::metrics::{Desc, LabelSet, NativeSnapshot, Reading, Sample, Sink, Value};

/// What the series of one shown label set add up to.
#[derive(Default)]
struct Sums {
    value: f64,
    counts: Vec<u64>,
    native: Option<NativeSnapshot>,
}

/// Takes one family down, to give it with fewer labels: those of a description, which are the
/// first of each series. Counters and histograms add up; of native histograms, of which each shown
/// label set must have one, the last is kept.
pub(super) struct Merged<'a> {
    desc: &'a Desc,
    /// With the bounds as they came.
    shown: Option<Desc>,
    groups: IndexMap<Box<[Box<str>]>, Sums, ahash::RandomState>,
}

impl<'a> Merged<'a> {
    pub(super) fn new(desc: &'a Desc) -> Self {
        Self { desc, shown: None, groups: IndexMap::default() }
    }

    /// Gives the family, if there was one.
    pub(super) fn give(&self, sink: &mut dyn Sink) {
        let Some(desc) = &self.shown else { return };
        let names: Vec<&str> = desc.label_names.iter().map(AsRef::as_ref).collect();
        sink.family(desc);
        for (values, sums) in &self.groups {
            let value = if sums.counts.is_empty() {
                Value::Counter(sums.value)
            } else {
                Value::Histogram { bounds: &desc.bounds, counts: &sums.counts, sum: sums.value }
            };
            let labels = LabelSet::new(&names, values, true);
            let native = sums.native.as_ref();
            sink.sample(desc, &labels, &Reading { native, ..value.into() });
        }
    }
}

impl Sink for Merged<'_> {
    fn family(&mut self, desc: &Desc) {
        let label_names = self.desc.label_names.clone();
        self.shown = Some(Desc { label_names, ..desc.clone() });
    }

    fn sample(&mut self, _: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        let values = labels.values()[..self.desc.label_names.len()].into();
        let sums = self.groups.entry(values).or_default();
        match reading.value {
            Value::Counter(value) => sums.value += value,
            Value::Histogram { counts, sum, .. } => {
                sums.value += sum;
                sums.counts.resize(counts.len(), 0);
                sums.counts.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
            }
            _ => {} // only sums have labels that are not shown
        }
        sums.native = reading.native.cloned();
    }

    fn raw(&mut self, _: &Desc, _: &Sample) {}

    fn is_prompt(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Family, Kind, Options, Snapshots, Source};

    /// Samples of a family with the labels `a` and `b`, without `b`.
    fn without_b(kind: Kind, write: impl Fn(&Family)) -> Vec<(String, String, f64)> {
        let desc = |names: &[&str]| Desc::new(kind, "x", "", names).unwrap();
        let stored = Desc { bounds: [1.0].into(), ..desc(&["a", "b"]) };
        let options = Options { created: false, omit_empty_labels: true, ..Options::default() };
        let family = Family::new(stored, options);
        write(&family);
        let (shown, mut snapshots) = (desc(&["a"]), Snapshots::default());
        let mut merged = Merged::new(&shown);
        family.collect(&mut merged);
        merged.give(&mut snapshots);
        let labels = |pairs: Vec<(String, String)>| {
            pairs
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        let all = snapshots.into_inner().remove(0).samples.into_iter();
        all.map(|it| (it.name, labels(it.labels), it.value)).collect()
    }

    /// Series that differ in what is not shown are one, the others stay apart.
    #[test]
    fn counters_add_up_by_the_labels_that_are_shown() {
        let samples = without_b(Kind::Counter, |family| {
            for (labels, value) in [(["1", "x"], 1.0), (["2", "x"], 2.0), (["1", ""], 4.0)] {
                family.series(&labels).add(value);
            }
        });
        let row = |labels: &str, value| ("x_total".to_owned(), labels.to_owned(), value);
        assert_eq!(samples, [row("a=1", 5.0), row("a=2", 2.0)]);
    }

    /// Buckets, count and sum are those of all series together.
    #[test]
    fn histograms_add_up_bucket_by_bucket() {
        let samples = without_b(Kind::Histogram, |family| {
            family.series(&["1", "x"]).observe(0.5);
            family.series(&["1", "y"]).observe_n(2.0, 2);
        });
        let values: Vec<f64> = samples.iter().map(|(_, _, value)| *value).collect();
        assert_eq!(values, [1.0, 3.0, 3.0, 4.5], "{samples:?}");
    }
}
