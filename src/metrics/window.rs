//! Quantiles over a sliding window: a ring of native histograms, the oldest of which is dropped
//! when its time has passed.
//!
//! The error of a quantile is at most 0.6 % of its value (schema 6) while the values of one age
//! bucket span fewer than 1024 buckets, sixteen doublings; past that it doubles step by step.
//! Memory is bounded by that limit, whatever is observed. Where worker processes share a mapping,
//! each has its ring in cells there, with a quarter of the buckets.

use std::collections::VecDeque;

use super::mirror::{Mirror, mirror_len};
use super::native::Native;
use super::native_options::NativeOptions;
use super::sync::{AtomicU64, Ordering};
use crate::error::{Error, Result};

const RESOLUTION: NativeOptions = NativeOptions {
    schema: 6,
    zero_threshold: 0.0,
    max_buckets: 1024,
    max_zero_threshold: 0.0,
    min_reset_seconds: 0.0,
};

/// The same where each process has its own in cells, which cost memory.
const SHARED_RESOLUTION: NativeOptions = NativeOptions { max_buckets: 256, ..RESOLUTION };

/// Which quantiles of a summary are on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantiles {
    /// The quantiles, each between 0 and 1.
    pub objectives: Box<[f64]>,
    /// Observations count for this many seconds; default 600.
    pub window_seconds: f64,
    /// The steps in which they are forgotten; default 5.
    pub age_buckets: usize,
}

impl Quantiles {
    /// These quantiles over the default window.
    pub fn new(objectives: &[f64]) -> Self {
        Self { objectives: objectives.into(), window_seconds: 600.0, age_buckets: 5 }
    }

    /// # Errors
    /// [`Error::InvalidArgument`] for a quantile, window or number of steps out of range.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(bad) = self.objectives.iter().find(|value| !(0.0..=1.0).contains(*value)) {
            return Err(Error::InvalidArgument(format!("A quantile is 0 to 1, not {bad}")));
        }
        let seconds = self.window_seconds;
        if !(seconds.is_finite() && seconds > 0.0) || self.age_buckets == 0 {
            let steps = self.age_buckets;
            let text = format!("A window of {seconds} seconds in {steps} steps is none");
            return Err(Error::InvalidArgument(text));
        }
        Ok(())
    }
}

/// The observations of the last seconds.
#[derive(Debug)]
pub(super) struct Window {
    options: Quantiles,
    /// The newest is the last; each with its beginning.
    ages: VecDeque<(f64, Native)>,
    /// Where they are written too, and which place there the newest has.
    mirror: Option<(&'static [AtomicU64], usize)>,
}

fn age_len() -> usize {
    1 + mirror_len(&SHARED_RESOLUTION)
}

/// How many cells a window has in a mapping.
pub(super) fn window_len(options: &Quantiles) -> usize {
    options.age_buckets * age_len()
}

/// The quantiles of the windows of all processes.
pub(super) fn shared_quantiles<'a>(
    options: &Quantiles,
    windows: impl Iterator<Item = &'a [AtomicU64]>,
    now: f64,
) -> Vec<(f64, f64)> {
    let ages = windows.flat_map(|cells| cells.chunks_exact(age_len()));
    let ages = ages.filter(|age| {
        let begun = f64::from_bits(age[0].load(Ordering::Acquire));
        begun != 0.0 && now - begun < options.window_seconds
    });
    let natives: Vec<_> =
        ages.filter_map(|age| Mirror(&age[1..]).read(SHARED_RESOLUTION)).collect();
    options.of(natives.iter().flat_map(Native::points))
}

impl Window {
    pub(super) fn new(options: Quantiles) -> Self {
        Self { options, ages: VecDeque::new(), mirror: None }
    }

    /// Begins anew in these cells, beside what another process left there.
    pub(super) fn move_to(&mut self, cells: &'static [AtomicU64]) {
        let begun = |age: &[AtomicU64]| f64::from_bits(age[0].load(Ordering::Acquire));
        let ages = cells.chunks_exact(age_len()).map(begun);
        let newest = ages.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        self.ages.clear();
        self.mirror = Some((cells, newest.map_or(0, |(place, _)| place)));
    }

    /// Counts `n` observations of a value at `now`, in seconds.
    pub(super) fn observe(&mut self, value: f64, n: u64, now: f64) {
        self.forget(now);
        let step = self.options.window_seconds / self.options.age_buckets as f64;
        if self.ages.back().is_none_or(|(begun, _)| now - begun >= step) {
            self.begin(now);
        }
        let Some((_, newest)) = self.ages.back_mut() else { return };
        newest.observe(value, n, || 0.0);
        if let Some((cells, place)) = self.mirror {
            Mirror(&cells[place * age_len() + 1..]).note(newest, n);
        }
    }

    fn begin(&mut self, now: f64) {
        let Some((cells, place)) = &mut self.mirror else {
            self.ages.push_back((now, Native::new(RESOLUTION, now)));
            return;
        };
        *place = (*place + 1) % self.options.age_buckets;
        let age = &cells[*place * age_len()..];
        let mut native = Native::new(SHARED_RESOLUTION, now);
        age[0].store(0, Ordering::Release); // not read meanwhile
        Mirror(&age[1..]).write(&mut native);
        age[0].store(now.to_bits(), Ordering::Release);
        self.ages.push_back((now, native));
    }

    fn forget(&mut self, now: f64) {
        while self.ages.front().is_some_and(|(begun, _)| now - begun >= self.options.window_seconds)
        {
            self.ages.pop_front();
        }
    }

    /// The quantiles and their values at `now`; NaN without observations.
    pub(super) fn quantiles(&mut self, now: f64) -> Vec<(f64, f64)> {
        self.forget(now);
        self.options.of(self.ages.iter().flat_map(|(_, native)| native.points()))
    }
}

impl Quantiles {
    /// The quantiles of these values and their counts.
    fn of(&self, points: impl Iterator<Item = (f64, u64)>) -> Vec<(f64, f64)> {
        let mut points: Vec<(f64, u64)> = points.filter(|(_, count)| *count > 0).collect();
        points.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let total: u64 = points.iter().map(|(_, count)| count).sum();
        let value_of = |objective: f64| {
            let rank = ((objective * total as f64).ceil() as u64).max(1);
            let mut passed = 0;
            let reaches = |point: &&(f64, u64)| {
                passed += point.1;
                passed >= rank
            };
            points.iter().find(reaches).map_or(f64::NAN, |point| point.0)
        };
        self.objectives.iter().map(|&it| (it, value_of(it))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(Quantiles {
            window_seconds: 10.0,
            age_buckets: 2,
            ..Quantiles::new(&[0.0, 0.5, 0.99, 1.0])
        })
    }

    #[test]
    fn quantiles_are_right_to_a_percent() {
        let mut window = window();
        for value in 1..=1000 {
            window.observe(f64::from(value), 1, 0.0);
        }
        for ((_, found), expected) in
            window.quantiles(0.0).into_iter().zip([1.0, 500.0, 990.0, 1e3])
        {
            assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
        }
    }

    #[test]
    fn old_observations_are_forgotten() {
        let mut window = window();
        window.observe(-5.0, 1, 0.0);
        window.observe(7.0, 1, 6.0);
        let median = |window: &mut Window, now| window.quantiles(now)[1].1;
        assert!((median(&mut window, 9.0) + 5.0).abs() < 0.05);
        assert!((median(&mut window, 10.0) - 7.0).abs() < 0.07);
        assert!(median(&mut window, 16.0).is_nan());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Quantiles::new(&[1.5]).check().is_err());
        assert!(Quantiles { age_buckets: 0, ..Quantiles::new(&[]) }.check().is_err());
        assert!(Quantiles { window_seconds: 0.0, ..Quantiles::new(&[]) }.check().is_err());
    }
}
