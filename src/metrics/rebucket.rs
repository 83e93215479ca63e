//! Histograms in fewer buckets than they are stored in. Exact, because each bound that is shown
//! is a stored one: a shown bucket is the sum of the stored ones that end in it.

use std::sync::Arc;

use super::desc::{Desc, Kind};
use super::labels::LabelSet;
use super::sample::{Exemplar, Sample};
use super::sink::{Reading, Sink, Value};

/// Adds buckets that end at `stored` bounds to buckets that end at `shown` ones. Both ascend and
/// have a last bucket for `+Inf`; every shown bound must be a stored one.
pub(super) fn add_buckets(stored: &[f64], counts: &[u64], shown: &[f64], into: &mut [u64]) {
    for (index, count) in counts.iter().enumerate() {
        into[shown_bucket(stored, index, shown)] += count;
    }
}

/// The shown bucket that a stored one is part of.
fn shown_bucket(stored: &[f64], index: usize, shown: &[f64]) -> usize {
    let end = stored.get(index).copied().unwrap_or(f64::INFINITY);
    shown.partition_point(|bound| *bound < end)
}

#[allow(missing_debug_implementations)] // a sink has none
/// Lets histograms through in fewer buckets, and everything else as it is.
pub struct Rebucketed<'a> {
    shown: &'a [f64],
    inner: &'a mut dyn Sink,
    /// The family that began last, with its new bounds.
    desc: Option<Desc>,
}

impl<'a> Rebucketed<'a> {
    /// Shows histograms with these bounds, all of which they must have.
    pub fn new(shown: &'a [f64], inner: &'a mut dyn Sink) -> Self {
        Self { shown, inner, desc: None }
    }
}

impl Sink for Rebucketed<'_> {
    fn family(&mut self, desc: &Desc) {
        let mut desc = desc.clone();
        if desc.kind == Kind::Histogram {
            desc.bounds = self.shown.into();
        }
        self.inner.family(self.desc.insert(desc));
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        let desc = self.desc.as_ref().unwrap_or(desc);
        let Value::Histogram { bounds, counts, sum } = reading.value else {
            return self.inner.sample(desc, labels, reading);
        };
        let mut merged = vec![0; self.shown.len() + 1];
        add_buckets(bounds, counts, self.shown, &mut merged);
        let exemplars = latest(bounds, reading.exemplars, self.shown);
        let value = Value::Histogram { bounds: self.shown, counts: &merged, sum };
        self.inner.sample(desc, labels, &Reading { value, exemplars: &exemplars, ..*reading });
    }

    fn raw(&mut self, desc: &Desc, sample: &Sample) {
        self.inner.raw(self.desc.as_ref().unwrap_or(desc), sample);
    }

    fn is_prompt(&self) -> bool {
        self.inner.is_prompt()
    }
}

/// The latest exemplar of each shown bucket.
fn latest(
    stored: &[f64],
    exemplars: &[Option<Arc<Exemplar>>],
    shown: &[f64],
) -> Vec<Option<Arc<Exemplar>>> {
    if exemplars.is_empty() {
        return Vec::new();
    }
    let mut latest: Vec<Option<Arc<Exemplar>>> = vec![None; shown.len() + 1];
    let time = |it: &Arc<Exemplar>| it.timestamp.map_or(0.0, super::sample::Timestamp::seconds);
    for (index, exemplar) in exemplars.iter().enumerate() {
        let place = &mut latest[shown_bucket(stored, index, shown)];
        let newer = exemplar.as_ref().map(time) >= place.as_ref().map(time);
        if exemplar.is_some() && newer {
            place.clone_from(exemplar);
        }
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Family, Options, Snapshots, Source};

    const STORED: [f64; 5] = [1.0, 2.0, 3.0, 4.0, 5.0];

    #[test]
    fn a_shown_bucket_is_the_sum_of_the_stored_ones_that_end_in_it() {
        let table = [
            (&[1.0, 2.0, 3.0, 4.0, 5.0][..], vec![1, 2, 3, 4, 5, 6]),
            (&[2.0, 5.0], vec![3, 12, 6]),
            (&[5.0], vec![15, 6]),
            (&[], vec![21]),
        ];
        for (shown, expected) in table {
            let mut counts = vec![0; shown.len() + 1];
            add_buckets(&STORED, &[1, 2, 3, 4, 5, 6], shown, &mut counts);
            assert_eq!(counts, expected, "{shown:?}");
        }
    }

    #[test]
    fn a_shown_bucket_has_the_latest_exemplar_of_its_parts() {
        let desc = Desc::new(Kind::Histogram, "a", "", &[]).unwrap().with_bounds(&STORED).unwrap();
        let family = Family::new(desc, Options { created: false, ..Options::default() });
        let series = family.series::<&str>(&[]);
        for (value, time) in [(0.5, 2.0), (1.5, 9.0), (2.5, 1.0)] {
            series.observe(value);
            series.set_exemplar(Exemplar::new(vec![], value, time).unwrap());
        }
        let mut snapshots = Snapshots::default();
        family.collect(&mut Rebucketed::new(&[3.0], &mut snapshots));
        let family = &snapshots.into_inner()[0];
        let buckets: Vec<_> =
            family.samples.iter().filter(|sample| sample.name == "a_bucket").collect();
        assert_eq!(buckets.iter().map(|it| it.value).collect::<Vec<_>>(), [3.0, 3.0]);
        assert_eq!(buckets[0].exemplar.as_ref().map(|it| it.value), Some(1.5));
    }
}
