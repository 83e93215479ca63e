//! A native histogram's copy in cells that other processes read.
//!
//! One process writes it, at each observation: mostly one count grows. Where buckets are new or
//! become others, the whole is written beside what is there, and one store makes it the copy; so
//! it is whole at whatever instant its writer dies, and a reader that was overtaken reads again.

use super::native::{Native, Touched};
use super::native_options::NativeOptions;
use super::sync::{AtomicU64, Ordering};

/// Buckets that there is room for, where the histogram has no limit of its own.
const UNLIMITED: usize = 1024;
/// The coarsest schema has so many, whatever the limit is.
const COARSEST: usize = 260;

/// Cells before the buckets of a half.
const HEAD: usize = 7;
const SCHEMA: usize = 0;
const THRESHOLD: usize = 1;
const ZERO: usize = 2;
/// Observations that are no number.
const NAN: usize = 3;
const STARTED: usize = 4;
const POSITIVE: usize = 5;
const NEGATIVE: usize = 6;

fn room(options: &NativeOptions) -> usize {
    match options.max_buckets {
        0 => UNLIMITED,
        most => (most + 1).max(COARSEST),
    }
}

fn half_len(options: &NativeOptions) -> usize {
    HEAD + 2 * room(options)
}

/// How many cells a copy has.
pub(super) fn mirror_len(options: &NativeOptions) -> usize {
    1 + 2 * half_len(options)
}

/// The copy: the number of times it was written as a whole, and two halves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mirror<'a>(pub(super) &'a [AtomicU64]);

impl<'a> Mirror<'a> {
    /// The half that was written as the n-th.
    fn half(self, n: u64, options: &NativeOptions) -> &'a [AtomicU64] {
        let len = half_len(options);
        let begin = 1 + (n % 2) as usize * len;
        &self.0[begin..begin + len]
    }

    /// Takes note of the observation that was just made of `n` values.
    pub(super) fn note(self, native: &mut Native, n: u64) {
        if native.is_rebuilt() {
            return self.write(native);
        }
        let half = self.half(self.0[0].load(Ordering::Relaxed), native.options());
        let cell = match native.touched() {
            Touched::Zero => ZERO,
            Touched::Nan => NAN,
            Touched::Positive(place) => HEAD + 2 * place + 1,
            Touched::Negative(place) => HEAD + 2 * (native.buckets().0.len() + place) + 1,
        };
        half[cell].fetch_add(n, Ordering::Release);
    }

    /// Writes the whole.
    pub(super) fn write(self, native: &mut Native) {
        native.fit(room(native.options()));
        let next = self.0[0].load(Ordering::Relaxed) + 1;
        let half = self.half(next, native.options());
        let (positive, negative) = native.buckets();
        let head = [
            native.schema() as u64,
            native.zero_threshold().to_bits(),
            native.zero(),
            native.not_numbers(),
            native.started().to_bits(),
            positive.len() as u64,
            negative.len() as u64,
        ];
        let buckets = positive.iter().chain(negative);
        let buckets = buckets.flat_map(|&(index, count)| [i64::from(index) as u64, count]);
        for (cell, value) in half.iter().zip(head.into_iter().chain(buckets)) {
            cell.store(value, Ordering::Release);
        }
        self.0[0].store(next, Ordering::Release);
    }

    /// The histogram; None before it was written.
    pub(super) fn read(self, options: NativeOptions) -> Option<Native> {
        loop {
            let n = self.0[0].load(Ordering::Acquire);
            if n == 0 {
                return None;
            }
            let half = self.half(n, &options);
            let value = |cell: usize| half[cell].load(Ordering::Acquire);
            let head: [u64; HEAD] = std::array::from_fn(value);
            let most = room(&options);
            let positive = most.min(head[POSITIVE] as usize);
            let negative = (most - positive).min(head[NEGATIVE] as usize);
            let bucket =
                |place: usize| (value(HEAD + 2 * place) as i64 as i32, value(HEAD + 2 * place + 1));
            let mut buckets: Vec<_> = (0..positive + negative).map(bucket).collect();
            if self.0[0].load(Ordering::Acquire) == n {
                let negative = buckets.split_off(positive);
                let mut native = Native::new(options, f64::from_bits(head[STARTED]));
                let zero = (f64::from_bits(head[THRESHOLD]), head[ZERO]);
                native.restore(head[SCHEMA] as i8, zero, head[NAN], buckets, negative);
                return Some(native);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(options: &NativeOptions) -> Vec<AtomicU64> {
        (0..mirror_len(options)).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_copy_says_what_the_histogram_says_after_each_observation() {
        let options =
            NativeOptions { max_buckets: 8, min_reset_seconds: 0.0, ..Default::default() };
        let cells = cells(&options);
        let (mirror, mut native) = (Mirror(&cells), Native::new(options, 1.0));
        assert_eq!(mirror.read(options).map(|it| it.snapshot()), None);
        mirror.write(&mut native);
        for step in 0..500_i32 {
            let value = match step % 7 {
                0 => 0.0,
                1 => f64::NAN,
                2 => -f64::from(step),
                _ => f64::from(step * step) / 3.0,
            };
            native.observe(value, 3, || 1.0);
            mirror.note(&mut native, 3);
            assert_eq!(mirror.read(options).unwrap().snapshot(), native.snapshot(), "{step}");
        }
    }

    #[test]
    fn copies_of_other_resolutions_add_up() {
        let options =
            NativeOptions { max_buckets: 8, min_reset_seconds: 0.0, ..Default::default() };
        let (mut fine, mut coarse) = (Native::new(options, 1.0), Native::new(options, 1.0));
        fine.observe(1.0, 2, || 1.0);
        for step in 1..100 {
            coarse.observe(f64::from(step), 1, || 1.0);
        }
        let mut sum = fine.clone();
        sum.merge(coarse.clone());
        let [sum, coarse] = [sum, coarse].map(|it| it.snapshot());
        assert_eq!((sum.count, sum.schema), (101, coarse.schema));
    }

    #[test]
    fn a_reader_never_sees_half_a_change() {
        let options =
            NativeOptions { max_buckets: 4, min_reset_seconds: 0.0, ..Default::default() };
        let cells = cells(&options);
        let mirror = Mirror(&cells);
        std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let mut native = Native::new(options, 1.0);
                mirror.write(&mut native);
                for step in 0..if cfg!(miri) { 20 } else { 20_000 } {
                    native.observe(f64::from(step % 1000) + 0.5, 1, || 1.0);
                    mirror.note(&mut native, 1);
                }
            });
            let mut last = 0;
            while !writer.is_finished() {
                let Some(count) = mirror.read(options).map(|it| it.snapshot().count) else {
                    continue;
                };
                assert!(count >= last, "{count} after {last}");
                last = count;
            }
        });
    }
}
