//! Many observations at once: counted in registers, written to the cells once.
//!
//! For each bound, one pass over a block that stays in the first-level cache compares and sums up
//! without a branch, so the compiler uses vector instructions; eleven such passes cost less than
//! one search per value. The result is that of observing the values one after the other, but for
//! the rounding of the sum, which is taken in a different order.

/// Values of a block: 16 KiB, half of a usual first-level cache.
const BLOCK: usize = 2048;
/// Independent sums, so that an addition need not wait for the one before.
const LANES: usize = 8;

/// Counts of values, not yet written to a histogram.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    bounds: &'a [f64],
    /// Values up to each bound.
    cumulated: Vec<u64>,
    values: u64,
    sum: f64,
}

impl<'a> Tally<'a> {
    pub(super) fn new(bounds: &'a [f64]) -> Self {
        Self { bounds, cumulated: vec![0; bounds.len()], values: 0, sum: 0.0 }
    }

    /// Takes values that lie one after the other.
    pub(super) fn extend_from_slice(&mut self, values: &[f64]) {
        values.chunks(BLOCK).for_each(|block| self.count(block));
    }

    fn count(&mut self, block: &[f64]) {
        for (bound, cumulated) in self.bounds.iter().zip(&mut self.cumulated) {
            // NaN is below no bound: it is counted in the last bucket alone.
            *cumulated += block.iter().map(|value| u64::from(value <= bound)).sum::<u64>();
        }
        let (lanes, rest) = block.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for lane in lanes {
            for (sum, value) in sums.iter_mut().zip(lane) {
                *sum += value;
            }
        }
        self.sum += sums.iter().chain(rest).sum::<f64>();
        self.values += block.len() as u64;
    }

    /// The count of each bucket alone, `+Inf` last, and the sum of all values.
    pub(super) fn finish(self) -> (impl Iterator<Item = u64>, f64) {
        let mut below = 0;
        let cumulated = self.cumulated.into_iter().chain([self.values]);
        (cumulated.map(move |count| count - std::mem::replace(&mut below, count)), self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

    fn values(count: usize) -> Vec<f64> {
        (0..count as u32).map(|i| f64::from(i.wrapping_mul(2_654_435_761) >> 8) / 5e5).collect()
    }

    #[test]
    fn a_tally_counts_what_one_search_per_value_counts() {
        for count in [0, 1, 7, BLOCK - 1, BLOCK, 3 * BLOCK + 5] {
            let mut values = values(count);
            values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.01, 30.0]);
            let mut expected = vec![0; BOUNDS.len() + 1];
            for value in &values {
                let bucket = BOUNDS.iter().position(|bound| value <= bound);
                expected[bucket.unwrap_or(BOUNDS.len())] += 1;
            }
            let mut slice = Tally::new(&BOUNDS);
            slice.extend_from_slice(&values);
            assert_eq!(slice.finish().0.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_tally_sums() {
        let mut tally = Tally::new(&BOUNDS);
        tally.extend_from_slice(&[0.5; 100]);
        tally.extend_from_slice(&[1.0; 10]);
        assert!((tally.finish().1 - 60.0).abs() < 1e-9);
    }

    #[test]
    #[ignore = "measures"]
    #[allow(clippy::print_stdout)]
    fn a_million_values() {
        use crate::clock::{Clock, MonotonicClock, seconds_between};
        let values = values(1_000_000);
        for _ in 0..5 {
            let since = MonotonicClock.now();
            let mut tally = Tally::new(&BOUNDS);
            tally.extend_from_slice(&values);
            let (counts, sum) = tally.finish();
            let counts: Vec<u64> = counts.collect();
            let seconds = seconds_between(since, MonotonicClock.now());
            println!("{:.0} M values/s: {counts:?}, {sum}", 1.0 / seconds);
        }
    }
}
