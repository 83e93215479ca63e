//! Native histograms: sparse exponential buckets whose number is limited.
//!
//! Past the limit, in this order: the histogram starts anew, if its last start is long enough
//! ago; its zero bucket widens, as far as it may; its resolution halves, down to the coarsest
//! schema, where the limit gives way (at most 2 × 129 buckets). After a loss of precision it
//! starts anew when the time has come. Rules and results are those of Go's client.

use super::exponential::{MIN_SCHEMA, coarser, index_of, upper_bound};
use super::native_options::NativeOptions;
use crate::clock::WallClock;

/// The buckets of one sign, as the protobuf format has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans {
    /// Runs of buckets: the gap to the run before (or the first index), and the length.
    pub spans: Vec<(i32, u32)>,
    /// The count of each bucket, less that of the one before.
    pub deltas: Vec<i64>,
}

/// A native histogram at the time of a scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NativeSnapshot {
    /// The number of all observations.
    pub count: u64,
    /// The resolution.
    pub schema: i8,
    /// The size of values in the zero bucket.
    pub zero_threshold: f64,
    /// Their number.
    pub zero_count: u64,
    /// Buckets above zero.
    pub positive: Spans,
    /// Buckets below zero.
    pub negative: Spans,
}

/// Counts by index, ascending.
type Buckets = Vec<(i32, u64)>;
/// The same, borrowed.
type BucketsRef<'a> = &'a [(i32, u64)];

/// What the last value fell into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    Zero,
    Nan,
    /// The bucket in this place.
    Positive(usize),
    Negative(usize),
}

/// The state of a native histogram.
#[derive(Clone, Debug)]
pub(super) struct Native {
    options: NativeOptions,
    schema: i8,
    zero_threshold: f64,
    zero: u64,
    count: u64,
    positive: Buckets,
    negative: Buckets,
    started: f64,
    /// It lost precision, and starts anew when it may.
    degraded: bool,
    touched: Touched,
    /// There are other buckets than before the last observation.
    rebuilt: bool,
}

impl Native {
    pub(super) fn new(options: NativeOptions, now: f64) -> Self {
        Self {
            options,
            schema: options.schema,
            zero_threshold: options.zero_threshold,
            zero: 0,
            count: 0,
            positive: Vec::new(),
            negative: Vec::new(),
            started: now,
            degraded: false,
            touched: Touched::Zero,
            rebuilt: true,
        }
    }

    /// Counts `n` observations of a value. The time of a new start, if there was one just before
    /// this value. The clock is read only past the limit.
    pub(super) fn observe(&mut self, value: f64, n: u64, now: WallClock) -> Option<f64> {
        self.rebuilt = false;
        let before = if self.degraded { self.restart(now) } else { None };
        self.count_value(value, n);
        if self.options.max_buckets == 0 || self.len() <= self.options.max_buckets {
            return before;
        }
        if let Some(started) = self.restart(now) {
            self.count_value(value, n);
            return Some(started);
        }
        if self.widen_zero() || self.halve() {
            self.degraded = true;
        }
        before
    }

    fn count_value(&mut self, value: f64, n: u64) {
        self.count += n;
        if value.abs() <= self.zero_threshold {
            self.zero += n;
            self.touched = Touched::Zero;
        } else if value.is_nan() {
            self.touched = Touched::Nan;
        } else {
            let index = index_of(self.schema, value.abs());
            let is_negative = value < 0.0;
            let buckets = if is_negative { &mut self.negative } else { &mut self.positive };
            match buckets.binary_search_by_key(&index, |(known, _)| *known) {
                Ok(place) => {
                    buckets[place].1 += n;
                    let touched = if is_negative { Touched::Negative } else { Touched::Positive };
                    self.touched = touched(place);
                }
                Err(place) => {
                    buckets.insert(place, (index, n));
                    self.rebuilt = true;
                }
            }
        }
    }

    fn len(&self) -> usize {
        self.positive.len() + self.negative.len()
    }

    fn restart(&mut self, now: WallClock) -> Option<f64> {
        if self.options.min_reset_seconds == 0.0 {
            return None;
        }
        let now = now();
        if now - self.started < self.options.min_reset_seconds {
            return None;
        }
        *self = Self::new(self.options, now);
        Some(now)
    }

    /// Takes the buckets next to zero into the zero bucket; false if it may not be that wide.
    fn widen_zero(&mut self) -> bool {
        let firsts = self.positive.first().into_iter().chain(self.negative.first());
        let Some(index) = firsts.map(|(index, _)| *index).min() else { return false };
        let threshold = upper_bound(self.schema, index);
        if threshold <= self.zero_threshold || threshold > self.options.max_zero_threshold {
            return false;
        }
        for buckets in [&mut self.positive, &mut self.negative] {
            let near = buckets.partition_point(|(known, _)| *known <= index);
            self.zero += buckets.drain(..near).map(|(_, count)| count).sum::<u64>();
        }
        self.zero_threshold = threshold;
        self.rebuilt = true;
        true
    }

    fn halve(&mut self) -> bool {
        if self.schema == MIN_SCHEMA {
            return false;
        }
        self.rebuilt = true;
        self.schema -= 1;
        for buckets in [&mut self.positive, &mut self.negative] {
            for bucket in &mut *buckets {
                bucket.0 = coarser(bucket.0);
            }
            buckets.dedup_by(|next, kept| {
                let same = next.0 == kept.0;
                kept.1 += if same { next.1 } else { 0 };
                same
            });
        }
        true
    }

    pub(super) fn options(&self) -> &NativeOptions {
        &self.options
    }

    pub(super) fn is_rebuilt(&self) -> bool {
        self.rebuilt
    }

    pub(super) fn touched(&self) -> Touched {
        self.touched
    }

    /// The resolution, the zero bucket and what is no number.
    pub(super) fn schema(&self) -> i8 {
        self.schema
    }

    pub(super) fn zero_threshold(&self) -> f64 {
        self.zero_threshold
    }

    pub(super) fn zero(&self) -> u64 {
        self.zero
    }

    pub(super) fn started(&self) -> f64 {
        self.started
    }

    pub(super) fn not_numbers(&self) -> u64 {
        let buckets = self.positive.iter().chain(&self.negative);
        self.count - self.zero - buckets.map(|(_, count)| count).sum::<u64>()
    }

    /// Buckets above and below zero.
    pub(super) fn buckets(&self) -> (BucketsRef<'_>, BucketsRef<'_>) {
        (&self.positive, &self.negative)
    }

    /// Gets coarser until it has so many buckets at most.
    pub(super) fn fit(&mut self, most: usize) {
        while self.len() > most && self.halve() {}
    }

    /// Has these buckets from now on.
    pub(super) fn restore(
        &mut self,
        schema: i8,
        (zero_threshold, zero): (f64, u64),
        not_numbers: u64,
        positive: Buckets,
        negative: Buckets,
    ) {
        let counts = positive.iter().chain(&negative).map(|(_, count)| count);
        self.count = counts.sum::<u64>() + zero + not_numbers;
        (self.schema, self.zero_threshold, self.zero) = (schema, zero_threshold, zero);
        (self.positive, self.negative) = (positive, negative);
    }

    /// Adds another one, in the coarser resolution of both.
    pub(super) fn merge(&mut self, mut other: Self) {
        while self.schema > other.schema && self.halve() {}
        while other.schema > self.schema && other.halve() {}
        let threshold = self.zero_threshold.max(other.zero_threshold);
        for histogram in [&mut *self, &mut other] {
            histogram.zero_up_to(threshold);
        }
        self.zero += other.zero;
        self.count += other.count;
        for (buckets, others) in
            [(&mut self.positive, other.positive), (&mut self.negative, other.negative)]
        {
            for (index, n) in others {
                match buckets.binary_search_by_key(&index, |(known, _)| *known) {
                    Ok(place) => buckets[place].1 += n,
                    Err(place) => buckets.insert(place, (index, n)),
                }
            }
        }
    }

    /// Takes the buckets within this size into the zero bucket.
    fn zero_up_to(&mut self, threshold: f64) {
        if threshold <= self.zero_threshold {
            return;
        }
        let schema = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            let near =
                buckets.partition_point(|(index, _)| upper_bound(schema, *index) <= threshold);
            self.zero += buckets.drain(..near).map(|(_, count)| count).sum::<u64>();
        }
        self.zero_threshold = threshold;
    }

    /// Each bucket as one value that stands for it, and its count; in no order.
    pub(super) fn points(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let middle = |index: i32| {
            let (low, high) =
                (upper_bound(self.schema, index - 1), upper_bound(self.schema, index));
            // The value with the least relative error to both ends.
            low * (2.0 / (1.0 + low / high))
        };
        let positive = self.positive.iter().map(move |&(index, count)| (middle(index), count));
        let negative = self.negative.iter().map(move |&(index, count)| (-middle(index), count));
        negative.chain([(0.0, self.zero)]).chain(positive)
    }

    pub(super) fn snapshot(&self) -> NativeSnapshot {
        let mut positive = Spans::of(&self.positive);
        let empty = self.len() == 0 && self.zero == 0;
        if empty && self.zero_threshold == 0.0 {
            // Without this, readers would take it for a classic histogram.
            positive.spans.push((0, 0));
        }
        NativeSnapshot {
            count: self.count,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero,
            positive,
            negative: Spans::of(&self.negative),
        }
    }
}

impl Spans {
    /// The buckets with these counts, by index and ascending. Gaps of up to two buckets are filled
    /// with zeros: that is shorter than a new span.
    pub(crate) fn of(buckets: &[(i32, u64)]) -> Self {
        let mut result = Self::default();
        let mut next = 0;
        let mut last = 0;
        for (place, &(index, count)) in buckets.iter().enumerate() {
            let gap = index - next;
            if place == 0 || gap > 2 {
                result.spans.push((gap, 0));
            } else {
                for _ in 0..gap {
                    result.push(0, &mut last);
                }
            }
            result.push(count as i64, &mut last);
            next = index + 1;
        }
        result
    }

    fn push(&mut self, count: i64, last: &mut i64) {
        if let Some((_, len)) = self.spans.last_mut() {
            *len += 1;
        }
        self.deltas.push(count - *last);
        *last = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Factor, zero threshold, limit and widest zero bucket; then the values.
    type Given<'a> = (f64, f64, usize, f64, &'a [f64]);
    /// Schema, zero threshold and count; positive and negative spans and deltas.
    type Expected<'a> = (i8, f64, u64, [(&'a [(i32, u32)], &'a [i64]); 2]);

    const DEFAULT: f64 = 2.938_735_877_055_719e-39;
    const NONE: (&[(i32, u32)], &[i64]) = (&[], &[]);
    const SIX: &[f64] = &[0.0, 1.0, 1.2, 1.4, 1.8, 2.0];
    const EIGHT: &[f64] = &[0.0, 1.0, 1.1, 1.2, 1.4, 1.8, 2.0, 3.0];
    const NINE: &[f64] = &[0.0, 1.0, 1.1, 1.2, 1.4, 1.8, 2.0, 3.0, 4.0];
    const BOTH: &[f64] = &[0.0, -1.0, -1.2, -1.4, -1.8, -2.0, 1.0, 1.2, 1.4, 1.8, 2.0];
    const WIDE: &[f64] =
        &[0.015_625_1, 0.0625, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 3.5, 5.0, 6.0, 7.0, 33.33];
    const FIVE: (&[(i32, u32)], &[i64]) = (&[(0, 5)], &[1, -1, 2, -2, 2]);

    fn native((factor, zero_threshold, max_buckets, max_zero, values): Given<'_>) -> Native {
        let options = NativeOptions {
            zero_threshold,
            max_buckets,
            max_zero_threshold: max_zero,
            min_reset_seconds: 0.0,
            ..NativeOptions::with_factor(factor).unwrap()
        };
        let mut native = Native::new(options, 0.0);
        for value in values {
            native.observe(*value, 1, || 0.0);
        }
        native
    }

    #[test]
    fn buckets_are_those_of_gos_client() {
        let spans = [(0, 1), (7, 1), (4, 1)];
        let table: &[(Given<'_>, Expected<'_>)] = &[
            ((1.1, DEFAULT, 0, 0.0, &[]), (3, DEFAULT, 0, [NONE, NONE])),
            ((1.1, 0.0, 0, 0.0, &[]), (3, 0.0, 0, [(&[(0, 0)], &[]), NONE])),
            (
                (1.1, DEFAULT, 0, 0.0, &[0.0, 1.0, 2.0, 3.0]),
                (3, DEFAULT, 1, [(&spans, &[1, 0, 0]), NONE]),
            ),
            ((1.2, DEFAULT, 0, 0.0, SIX), (2, DEFAULT, 1, [FIVE, NONE])),
            (
                (4.0, DEFAULT, 0, 0.0, WIDE),
                (-1, DEFAULT, 0, [(&[(-2, 6)], &[2, 0, 0, 2, -1, -2]), NONE]),
            ),
            ((17.0, DEFAULT, 0, 0.0, WIDE), (-2, DEFAULT, 0, [(&[(-1, 4)], &[2, 2, 3, -6]), NONE])),
            ((1.2, DEFAULT, 0, 0.0, BOTH), (2, DEFAULT, 1, [FIVE, FIVE])),
            ((1.2, 1.4, 0, 0.0, BOTH), (2, 1.4, 7, [(&[(4, 1)], &[2]); 2])),
            ((1.2, DEFAULT, 4, 0.0, SIX), (2, DEFAULT, 1, [FIVE, NONE])),
            (
                (1.2, DEFAULT, 4, 0.0, EIGHT),
                (1, DEFAULT, 1, [(&[(0, 5)], &[1, 2, -1, -2, 1]), NONE]),
            ),
            (
                (1.2, DEFAULT, 4, 1.2, EIGHT),
                (2, 1.0, 2, [(&[(1, 7)], &[1, 1, -2, 2, -2, 0, 1]), NONE]),
            ),
            (
                (1.2, DEFAULT, 4, 1.2, NINE),
                (2, 1.189_207_115_002_721, 3, [(&[(2, 7)], &[2, -2, 2, -2, 0, 1, 0]), NONE]),
            ),
        ];
        for (given, (schema, zero_threshold, zero_count, [positive, negative])) in table {
            let found = native(*given).snapshot();
            assert_eq!((found.schema, found.zero_count), (*schema, *zero_count), "{given:?}");
            assert!(
                (found.zero_threshold / zero_threshold - 1.0).abs() < 1e-15
                    || zero_threshold.to_bits() == 0
            );
            for (found, expected) in [(found.positive, positive), (found.negative, negative)] {
                assert_eq!((&*found.spans, &*found.deltas), *expected, "{given:?}");
            }
        }
    }

    #[test]
    fn values_that_are_no_numbers_are_counted() {
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
        let found = native((1.2, DEFAULT, 0, 0.0, &values)).snapshot();
        assert_eq!(found.count, 3);
        assert_eq!(
            (found.positive.spans, found.negative.spans),
            (vec![(4097, 1)], vec![(4097, 1)])
        );
    }

    #[test]
    fn past_the_limit_it_starts_anew_when_it_may() {
        let options =
            NativeOptions { max_buckets: 2, min_reset_seconds: 10.0, ..Default::default() };
        let mut native = Native::new(options, 0.0);
        for value in [1.0, 10.0, 100.0] {
            assert_eq!(native.observe(value, 1, || 5.0), None);
        }
        assert!(native.snapshot().schema < 3, "it lost precision");
        assert_eq!(native.observe(1.0, 1, || 11.0), Some(11.0));
        let found = native.snapshot();
        assert_eq!((found.schema, found.count), (3, 1));
    }
}
