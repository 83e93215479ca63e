//! What has been counted so far, and what a new count adds to it. Pure.

use super::sparse::Sparse;
use crate::metrics::wire::{Histogram, Metric};
use crate::metrics::{Reading, Value};

/// The total of one series over all workers.
#[derive(Debug, Default)]
pub(super) struct Total {
    value: f64,
    sum: f64,
    count: u64,
    /// Counts of buckets (not cumulated) by their bounds without `+Inf`.
    layouts: Vec<Layout>,
    native: Option<Sparse>,
    kind: Shape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Shape {
    #[default]
    Counter,
    Summary,
    Histogram,
}

#[derive(Debug)]
struct Layout {
    bounds: Vec<f64>,
    counts: Vec<u64>,
}

/// What a series has counted between two looks.
#[derive(Debug)]
pub(super) enum Increment {
    Counter(f64),
    Summary { count: u64, sum: f64 },
    Histogram { counts: Vec<u64>, bounds: Vec<f64>, sum: f64, native: Option<Sparse> },
}

/// What a series has counted since the last look; all of it, if it began anew meanwhile. None for
/// what is no count.
pub(super) fn increment(before: Option<&Metric>, now: &Metric) -> Option<Increment> {
    if let Some(counter) = &now.counter {
        let before = before.and_then(|metric| metric.counter.as_ref());
        let before = before.filter(|it| it.start == counter.start && it.value <= counter.value);
        let more = counter.value - before.map_or(0.0, |it| it.value);
        return (more.is_finite() && more >= 0.0).then_some(Increment::Counter(more));
    }
    if let Some(summary) = &now.summary {
        let before = before.and_then(|metric| metric.summary.as_ref());
        let before = before.filter(|it| it.start == summary.start && it.count <= summary.count);
        let (count, sum) = before.map_or((0, 0.0), |it| (it.count, it.sum));
        return Some(Increment::Summary { count: summary.count - count, sum: summary.sum - sum });
    }
    let histogram = now.histogram.as_ref()?;
    let before = before.and_then(|metric| metric.histogram.as_ref());
    let since = before.and_then(|before| since(before, histogram));
    Some(since.unwrap_or_else(|| Increment::Histogram {
        counts: counts(histogram),
        bounds: bounds(histogram),
        sum: histogram.sum,
        native: Sparse::of(histogram),
    }))
}

/// What a histogram has counted since; None if it began anew.
fn since(before: &Histogram, now: &Histogram) -> Option<Increment> {
    let bounds = bounds(now);
    if before.start != now.start || before.count > now.count || self::bounds(before) != bounds {
        return None;
    }
    let pairs = counts(now).into_iter().zip(counts(before));
    let counts = pairs.map(|(now, before)| now.checked_sub(before)).collect::<Option<_>>()?;
    let native = match (Sparse::of(before), Sparse::of(now)) {
        (Some(before), Some(now)) => Some(now.since(&before)?),
        (None, native) => native,
        (Some(_), None) => return None,
    };
    Some(Increment::Histogram { counts, bounds, sum: now.sum - before.sum, native })
}

/// Upper bounds without `+Inf`.
fn bounds(histogram: &Histogram) -> Vec<f64> {
    let bounds = histogram.buckets.iter().map(|bucket| bucket.upper_bound);
    bounds.filter(|bound| bound.is_finite()).collect()
}

/// Counts of buckets alone, that of `+Inf` included.
fn counts(histogram: &Histogram) -> Vec<u64> {
    let finite = histogram.buckets.iter().filter(|bucket| bucket.upper_bound.is_finite());
    let cumulated = finite.map(|bucket| bucket.cumulative_count).chain([histogram.count]);
    let mut last = 0;
    cumulated.map(|count| count.saturating_sub(std::mem::replace(&mut last, count))).collect()
}

impl Total {
    pub(super) fn add(&mut self, more: Increment) {
        match more {
            Increment::Counter(more) => self.value += more,
            Increment::Summary { count, sum } => {
                self.kind = Shape::Summary;
                self.count += count;
                self.sum += sum;
            }
            Increment::Histogram { counts, bounds, sum, native } => {
                self.kind = Shape::Histogram;
                self.count += counts.iter().sum::<u64>();
                self.sum += sum;
                match self.layouts.iter_mut().find(|layout| layout.bounds == bounds) {
                    Some(layout) => {
                        layout.counts.iter_mut().zip(counts).for_each(|(all, more)| *all += more);
                    }
                    None => self.layouts.push(Layout { bounds, counts }),
                }
                match (&mut self.native, native) {
                    (Some(all), Some(more)) => all.add(more),
                    (all @ None, more) => *all = more,
                    (Some(_), None) => {}
                }
            }
        }
    }

    /// What a counter has counted.
    pub(super) fn value(&self) -> f64 {
        self.value
    }

    /// The bounds of its histograms.
    pub(super) fn layouts(&self) -> impl Iterator<Item = &[f64]> {
        self.layouts.iter().map(|layout| &*layout.bounds)
    }

    /// Gives its reading; that of a histogram over these bounds, which all layouts have.
    pub(super) fn give(&self, bounds: &[f64], take: &mut dyn FnMut(&Reading<'_>)) {
        match self.kind {
            Shape::Counter => take(&Value::Counter(self.value).into()),
            Shape::Summary => {
                take(&Value::Summary { count: self.count, sum: self.sum, quantiles: &[] }.into());
            }
            Shape::Histogram => {
                let counts = self.counts(bounds);
                let value = Value::Histogram { bounds, counts: &counts, sum: self.sum };
                // Where a worker has no native side, there is none of the sum.
                let native = self.native.as_ref().filter(|native| native.count() == self.count);
                let native = native.map(|native| native.snapshot(self.count));
                take(&Reading { native: native.as_ref(), ..value.into() });
            }
        }
    }

    fn counts(&self, bounds: &[f64]) -> Vec<u64> {
        let mut all = vec![0; bounds.len() + 1];
        for layout in &self.layouts {
            let own = layout.bounds.iter().chain([&f64::INFINITY]);
            for (bound, count) in own.zip(&layout.counts) {
                all[bounds.partition_point(|it| it < bound)] += count;
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::wire::Span;

    fn native(count: u64, deltas: &[i64], schema: i32) -> Metric {
        let histogram = Histogram {
            count,
            sum: count as f64,
            schema,
            zero_threshold: 1e-9,
            positive_spans: vec![Span { offset: 1, length: deltas.len() as u32 }],
            positive_deltas: deltas.to_vec(),
            ..Histogram::default()
        };
        Metric { histogram: Some(histogram), ..Metric::default() }
    }

    fn shown(total: &Total) -> (u64, Option<(i8, Vec<i64>)>) {
        let mut shown = (0, None);
        total.give(&[], &mut |reading| {
            if let Value::Histogram { counts, .. } = reading.value {
                shown.0 = counts.iter().sum();
            }
            shown.1 = reading.native.map(|it| (it.schema, it.positive.deltas.clone()));
        });
        shown
    }

    #[test]
    fn native_histograms_add_up_at_the_coarsest_resolution() {
        let mut total = Total::default();
        let (first, second) = (native(3, &[1, 1], 1), native(5, &[2, 1], 1));
        total.add(increment(None, &first).unwrap());
        total.add(increment(Some(&first), &second).unwrap());
        assert_eq!(shown(&total), (5, Some((1, vec![2, 1]))));
        total.add(increment(None, &native(4, &[4], 0)).unwrap());
        assert_eq!(shown(&total), (9, Some((0, vec![9]))));
        let anew = native(1, &[1], 1);
        total.add(increment(Some(&second), &anew).unwrap());
        assert_eq!(shown(&total), (10, Some((0, vec![10]))));
    }

    #[test]
    fn without_every_worker_s_native_side_there_is_none() {
        let mut total = Total::default();
        total.add(increment(None, &native(3, &[1, 1], 1)).unwrap());
        let classic = Histogram { count: 2, ..Histogram::default() };
        let classic = Metric { histogram: Some(classic), ..Metric::default() };
        total.add(increment(None, &classic).unwrap());
        assert_eq!(shown(&total), (5, None));
    }
}
