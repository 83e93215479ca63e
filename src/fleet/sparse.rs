//! The native side of histograms, to be subtracted and added. Pure.

use std::collections::BTreeMap;

use crate::metrics::wire::{Histogram, Span};
use crate::metrics::{NativeSnapshot, Spans, coarser, upper_bound};

/// The resolutions that can be added up; others (custom bounds) cannot.
const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=8;
/// The most buckets that a message may tell of, gaps included.
const MAX_BUCKETS: usize = 100_000;

/// Counts of sparse buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sparse {
    schema: i8,
    zero_threshold: f64,
    zero: u64,
    positive: BTreeMap<i32, u64>,
    negative: BTreeMap<i32, u64>,
}

impl Sparse {
    /// The native side of a histogram, if it has one that can be added up.
    pub(super) fn of(histogram: &Histogram) -> Option<Self> {
        let native = histogram.zero_threshold > 0.0
            || histogram.zero_count > 0
            || !histogram.positive_spans.is_empty()
            || !histogram.negative_spans.is_empty();
        if !native || !SCHEMAS.contains(&histogram.schema) {
            return None;
        }
        Some(Self {
            schema: histogram.schema as i8,
            zero_threshold: histogram.zero_threshold,
            zero: histogram.zero_count,
            positive: buckets(&histogram.positive_spans, &histogram.positive_deltas)?,
            negative: buckets(&histogram.negative_spans, &histogram.negative_deltas)?,
        })
    }

    /// What this has more than it had before; None if it has less of anything, or is finer, so
    /// that it began anew.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        if before.schema < self.schema || before.zero_threshold > self.zero_threshold {
            return None;
        }
        let mut before = before.clone();
        before.coarsen(self.schema);
        before.widen(self.zero_threshold);
        Some(Self {
            zero: self.zero.checked_sub(before.zero)?,
            positive: minus(&self.positive, &before.positive)?,
            negative: minus(&self.negative, &before.negative)?,
            ..*self
        })
    }

    /// Adds another: the resolution is then the coarser one, the zero bucket the wider one.
    pub(super) fn add(&mut self, mut other: Self) {
        let schema = self.schema.min(other.schema);
        self.coarsen(schema);
        other.coarsen(schema);
        // To widen one may take it past the other's threshold, at most to the end of a bucket.
        while self.zero_threshold.total_cmp(&other.zero_threshold).is_ne() {
            let threshold = self.zero_threshold.max(other.zero_threshold);
            self.widen(threshold);
            other.widen(threshold);
        }
        self.zero += other.zero;
        for (mine, theirs) in
            [(&mut self.positive, other.positive), (&mut self.negative, other.negative)]
        {
            for (index, count) in theirs {
                *mine.entry(index).or_default() += count;
            }
        }
    }

    /// All that it counts.
    pub(super) fn count(&self) -> u64 {
        self.zero + self.positive.values().sum::<u64>() + self.negative.values().sum::<u64>()
    }

    /// As the page has it, with the count of all observations.
    pub(super) fn snapshot(&self, count: u64) -> NativeSnapshot {
        let spans = |buckets: &BTreeMap<i32, u64>| {
            let counts: Vec<(i32, u64)> = buckets
                .iter()
                .filter(|it| *it.1 > 0)
                .map(|(index, count)| (*index, *count))
                .collect();
            Spans::of(&counts)
        };
        NativeSnapshot {
            count,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero,
            positive: spans(&self.positive),
            negative: spans(&self.negative),
        }
    }

    fn coarsen(&mut self, schema: i8) {
        while self.schema > schema {
            for buckets in [&mut self.positive, &mut self.negative] {
                let mut merged = BTreeMap::new();
                for (index, count) in std::mem::take(buckets) {
                    *merged.entry(coarser(index)).or_default() += count;
                }
                *buckets = merged;
            }
            self.schema -= 1;
        }
    }

    /// Takes all buckets that begin below the threshold into the zero bucket, which then ends
    /// where the last of them does.
    fn widen(&mut self, threshold: f64) {
        self.zero_threshold = self.zero_threshold.max(threshold);
        let schema = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            while let Some(first) = buckets.first_entry() {
                if upper_bound(schema, *first.key() - 1) >= self.zero_threshold {
                    break;
                }
                self.zero_threshold = self.zero_threshold.max(upper_bound(schema, *first.key()));
                self.zero += first.remove();
            }
        }
    }
}

/// Runs of differences as counts by index; None if they make no sense.
fn buckets(spans: &[Span], deltas: &[i64]) -> Option<BTreeMap<i32, u64>> {
    let length: usize = spans.iter().map(|span| span.length as usize).sum();
    if length != deltas.len() || length > MAX_BUCKETS {
        return None;
    }
    let mut result = BTreeMap::new();
    let mut deltas = deltas.iter();
    let (mut index, mut count) = (0_i32, 0_i64);
    for span in spans {
        index = index.checked_add(span.offset)?;
        for delta in deltas.by_ref().take(span.length as usize) {
            count = count.checked_add(*delta)?;
            let count = u64::try_from(count).ok()?;
            if count > 0 {
                result.insert(index, count);
            }
            index = index.checked_add(1)?;
        }
    }
    Some(result)
}

fn minus(now: &BTreeMap<i32, u64>, before: &BTreeMap<i32, u64>) -> Option<BTreeMap<i32, u64>> {
    let mut result = now.clone();
    for (index, count) in before {
        let left = result.get(index).copied().unwrap_or(0).checked_sub(*count)?;
        result.insert(*index, left);
    }
    result.retain(|_, count| *count > 0);
    Some(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse(schema: i8, zero_threshold: f64, zero: u64, positive: &[(i32, u64)]) -> Sparse {
        let positive = positive.iter().copied().collect();
        Sparse { schema, zero_threshold, zero, positive, negative: BTreeMap::new() }
    }

    #[test]
    fn spans_are_counts_by_index() {
        let spans = [Span { offset: -2, length: 2 }, Span { offset: 3, length: 1 }];
        let counts = buckets(&spans, &[4, -4, 1]).unwrap();
        assert_eq!(counts, BTreeMap::from([(-2, 4), (3, 1)]));
        assert_eq!(buckets(&spans, &[1]), None);
        assert_eq!(buckets(&spans, &[1, -2, 0]), None);
    }

    #[test]
    fn the_sum_has_the_coarser_resolution_and_the_wider_zero() {
        let mut sum = sparse(1, 0.0, 0, &[(1, 1), (2, 2), (3, 4)]);
        sum.add(sparse(0, 1.5, 8, &[(2, 16)]));
        // Schema 0: 1 and 2 are in bucket 1 (up to 2), 3 in bucket 2; 1.5 is within bucket 1.
        assert_eq!(sum, sparse(0, 2.0, 11, &[(2, 20)]));
        assert_eq!(sum.count(), 31);
    }

    #[test]
    fn a_difference_is_none_after_a_new_beginning() {
        let before = sparse(1, 0.0, 1, &[(1, 1), (2, 2)]);
        let after = sparse(0, 0.0, 2, &[(1, 4), (5, 1)]);
        assert_eq!(after.since(&before), Some(sparse(0, 0.0, 1, &[(1, 1), (5, 1)])));
        assert_eq!(before.since(&after), None);
        assert_eq!(sparse(1, 0.0, 0, &[(1, 9), (2, 9)]).since(&before), None);
    }

    #[test]
    fn a_snapshot_is_read_back_as_it_was() {
        let one = sparse(3, 0.25, 2, &[(-7, 1), (0, 3), (9, 5)]);
        let snapshot = one.snapshot(11);
        let histogram = Histogram {
            schema: snapshot.schema.into(),
            zero_threshold: snapshot.zero_threshold,
            zero_count: snapshot.zero_count,
            positive_spans: snapshot
                .positive
                .spans
                .iter()
                .map(|&(offset, length)| Span { offset, length })
                .collect(),
            positive_deltas: snapshot.positive.deltas,
            ..Default::default()
        };
        assert_eq!(Sparse::of(&histogram), Some(one));
        assert_eq!(Sparse::of(&Histogram { schema: -53, zero_count: 1, ..histogram }), None);
        assert_eq!(Sparse::of(&Histogram::default()), None);
    }
}
