//! One series: a label set and the cells that hold its value. The hot path of the crate.
//!
//! Layout of a series' cells: a counter or gauge has one, the bits of an `f64`; a histogram has
//! one count for each bucket (the last is `+Inf`), then the sum; a summary its count and its sum;
//! a state set the index of the current state. A histogram's number of observations is not
//! stored: it is the sum of the buckets that a scrape has just read, so a page can never show a
//! count that differs from its buckets, however many threads observe meanwhile.
//!
//! A native histogram and the window of a summary have a lock each, taken by every observation;
//! classic buckets beside a native histogram are counted under it, so that both agree. All else
//! that few series have (exemplars, facts) stands behind locks of its own, which `add` and
//! `observe` never touch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::activity::Activity;
use super::arena::{self, Cells};
use super::created::created_enabled;
use super::desc::{Desc, Kind};
use super::family::Options;
use super::labels::LabelSet;
use super::many::Tally;
use super::native::{Native, NativeSnapshot};
use super::rebucket::add_buckets;
use super::sample::Exemplar;
use super::sampling::Sampling;
use super::sink::{Reading, Value};
use super::window::Window;
use crate::clock::WallClock;

/// The names of an info's labels, and their values.
type Facts = (Box<[Box<str>]>, LabelSet);

/// A series. Shared by all who hold it; a series that was removed from its family still counts,
/// unseen.
#[derive(Debug)]
pub struct Series {
    desc: Arc<Desc>,
    labels: LabelSet,
    cells: Cells,
    /// The bits of the seconds since 1970; None if it is not wanted.
    created: Option<AtomicU64>,
    /// None in a family that is absent until it is set.
    info: RwLock<Option<Facts>>,
    /// Empty until there is one; then one place for each that there can be.
    exemplars: Mutex<Vec<Option<Arc<Exemplar>>>>,
    native: Option<Box<Mutex<Native>>>,
    window: Option<Box<Mutex<Window>>>,
    /// Only where a series leaves the page when it is idle.
    activity: Option<Activity>,
    sampling: Option<Arc<Sampling>>,
    now: WallClock,
}

impl Series {
    pub(super) fn new(desc: Arc<Desc>, labels: LabelSet, options: &Options) -> Self {
        let len = match desc.kind {
            Kind::Counter | Kind::Gauge | Kind::Unknown | Kind::StateSet => 1,
            Kind::Histogram => desc.bounds.len() + 2,
            Kind::Summary => 2,
            Kind::Info | Kind::GaugeHistogram => 0,
        };
        let dated = matches!(desc.kind, Kind::Counter | Kind::Histogram | Kind::Summary);
        let now = options.now;
        let created = (options.created && dated).then(|| AtomicU64::new(now().to_bits()));
        let native = desc.native.map(|native| Box::new(Mutex::new(Native::new(native, now()))));
        let window = desc.quantiles.clone().map(|it| Box::new(Mutex::new(Window::new(it))));
        let labelled = !desc.label_names.is_empty();
        let activity = options.idle_ttl.filter(|_| labelled).map(|_| Activity::new());
        Self {
            desc,
            labels,
            cells: Cells::new(len),
            created,
            info: RwLock::new((!options.absent_if_empty).then(Facts::default)),
            exemplars: Mutex::default(),
            native,
            window,
            activity,
            sampling: options.sampling.clone(),
            now,
        }
    }

    /// The series' labels.
    pub fn labels(&self) -> &LabelSet {
        &self.labels
    }

    fn note_write(&self) {
        if let Some(activity) = &self.activity {
            activity.note_write();
        }
    }

    /// How many of `n` observations are recorded.
    fn sampled(&self, n: u64) -> u64 {
        self.sampling.as_ref().map_or(n, |sampling| sampling.of(n))
    }

    /// Whether counters and gauges are recorded.
    fn is_on(&self) -> bool {
        self.sampling.as_ref().is_none_or(|sampling| sampling.is_on())
    }

    /// Takes note, at a scrape, of what was written; whether the series is idle.
    pub(super) fn note_idle(&self, now: f64, ttl: f64) -> bool {
        self.activity.as_ref().is_some_and(|activity| activity.look(now, ttl))
    }

    /// Whether it was idle at the scrape that last looked.
    pub fn is_idle(&self) -> bool {
        self.activity.as_ref().is_some_and(Activity::is_idle)
    }

    /// Adds to a counter or gauge.
    pub fn add(&self, amount: f64) {
        if !self.is_on() {
            return;
        }
        self.note_write();
        arena::add(&self.cells[0], amount);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64) {
        if !self.is_on() {
            return;
        }
        self.note_write();
        self.cells[0].store(value.to_bits(), Ordering::Relaxed);
    }

    /// Sets a gauge that is below this value.
    pub fn raise(&self, value: f64) {
        self.note_write();
        let below = |bits| (f64::from_bits(bits) < value).then(|| value.to_bits());
        let _ = self.cells[0].fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
    }

    /// The value of a counter or gauge.
    pub fn get(&self) -> f64 {
        arena::get(&self.cells[0])
    }

    /// Sets a counter back to zero; it was created at `now`, in seconds since 1970.
    pub fn reset(&self, now: f64) {
        self.note_write();
        for cell in &*self.cells {
            cell.store(0, Ordering::Relaxed);
        }
        if let Some(created) = &self.created {
            created.store(now.to_bits(), Ordering::Relaxed);
        }
    }

    /// Counts one observation of a histogram or summary. NaN falls into a histogram's `+Inf`
    /// bucket, as in Go's client; `prometheus_client` adds it to the sum and counts it nowhere.
    pub fn observe(&self, value: f64) {
        self.observe_n(value, 1);
    }

    /// Counts `n` observations of the same value.
    pub fn observe_n(&self, value: f64, n: u64) {
        let n = self.sampled(n);
        if n == 0 {
            return;
        }
        self.note_write();
        if let Some(native) = &self.native {
            let mut native = native.lock();
            if let Some(now) = native.observe(value, n, self.now) {
                self.reset(now);
            }
            self.count(value, n);
        } else {
            self.count(value, n);
        }
        if let Some(window) = &self.window {
            window.lock().observe(value, n, (self.now)());
        }
    }

    /// Counts one observation of each value; faster than one after the other.
    pub fn observe_all(&self, values: &[f64]) {
        if self.native.is_some() || self.window.is_some() || self.sampling.is_some() {
            return values.iter().for_each(|value| self.observe(*value));
        }
        self.note_write();
        let mut tally = Tally::new(&self.desc.bounds);
        tally.extend_from_slice(values);
        let (counts, sum) = tally.finish();
        for (cell, count) in self.cells.iter().zip(counts) {
            cell.fetch_add(count, Ordering::Relaxed);
        }
        arena::add(&self.cells[self.cells.len() - 1], sum);
    }

    fn count(&self, value: f64, n: u64) {
        let bucket = self.bucket_of(value);
        self.cells[bucket].fetch_add(n, Ordering::Relaxed);
        arena::add(&self.cells[self.cells.len() - 1], value * n as f64);
    }

    /// The index of the bucket that a value falls into. A summary has one bucket.
    fn bucket_of(&self, value: f64) -> usize {
        let bounds = &self.desc.bounds;
        // Counting beats branching: no misprediction, and the loop is vectorised.
        let fitting: usize = bounds.iter().map(|bound| usize::from(value <= *bound)).sum();
        bounds.len() - fitting
    }

    /// Keeps an exemplar: a counter's latest, or the latest of the bucket that its value is in.
    /// It does not count the value.
    pub fn set_exemplar(&self, exemplar: Exemplar) {
        let bucket = self.bucket_of(exemplar.value);
        let mut exemplars = self.exemplars.lock();
        exemplars.resize(self.desc.bounds.len() + 1, None);
        exemplars[bucket] = Some(Arc::new(exemplar));
    }

    /// Sets the facts of an info.
    pub fn set_info(&self, facts: &[(String, String)]) {
        self.note_write();
        let (names, values): (Vec<&str>, Vec<&str>) =
            facts.iter().map(|(name, value)| (&**name, &**value)).unzip();
        let labels = LabelSet::new(&names, &values, false);
        *self.info.write() = Some((names.into_iter().map(Into::into).collect(), labels));
    }

    /// Makes a state current; false if the set has no such state.
    pub fn set_state(&self, state: &str) -> bool {
        self.note_write();
        let found = self.desc.states.iter().position(|known| **known == *state);
        if let Some(index) = found {
            self.cells[0].store(index as u64, Ordering::Relaxed);
        }
        found.is_some()
    }

    /// Adds this histogram's buckets to `counts`; returns its sum of values.
    pub fn add_buckets_to(&self, counts: &mut [u64]) -> f64 {
        for (count, cell) in counts.iter_mut().zip(&self.cells[..=self.desc.bounds.len()]) {
            *count += cell.load(Ordering::Relaxed);
        }
        arena::get(&self.cells[self.desc.bounds.len() + 1])
    }

    /// The same in fewer buckets: those that end at `shown` bounds, all of which it must have.
    pub fn add_rebucketed(&self, shown: &[f64], counts: &mut [u64]) -> f64 {
        let mut stored = vec![0; self.desc.bounds.len() + 1];
        let sum = self.add_buckets_to(&mut stored);
        add_buckets(&self.desc.bounds, &stored, shown, counts);
        sum
    }

    /// Reads the series and hands it over; an info of an absent family has nothing to say
    /// until it is set. `counts` is scratch memory.
    pub(super) fn read(&self, counts: &mut Vec<u64>, take: &mut dyn FnMut(&Reading<'_>)) {
        let bare = |value: Value<'_>, take: &mut dyn FnMut(&Reading<'_>)| take(&value.into());
        match self.desc.kind {
            Kind::Counter => self.give(Value::Counter(self.get()), None, take),
            Kind::Gauge | Kind::Unknown => bare(Value::Gauge(self.get()), take),
            Kind::StateSet => {
                let current = self.cells[0].load(Ordering::Relaxed) as usize;
                bare(Value::StateSet { states: &self.desc.states, current }, take);
            }
            Kind::Summary => self.read_summary(take),
            Kind::Histogram => self.read_histogram(counts, take),
            Kind::Info => {
                if let Some((names, labels)) = &*self.info.read() {
                    bare(Value::Info { names, labels }, take);
                }
            }
            Kind::GaugeHistogram => {}
        }
    }

    fn read_summary(&self, take: &mut dyn FnMut(&Reading<'_>)) {
        let window = self.window.as_ref();
        let quantiles = window.map(|window| window.lock().quantiles((self.now)()));
        let quantiles = &quantiles.unwrap_or_default();
        let count = self.cells[0].load(Ordering::Relaxed);
        let sum = arena::get(&self.cells[1]);
        self.give(Value::Summary { count, sum, quantiles }, None, take);
    }

    fn read_histogram(&self, counts: &mut Vec<u64>, take: &mut dyn FnMut(&Reading<'_>)) {
        let guard = self.native.as_ref().map(|native| native.lock());
        counts.clear();
        counts.resize(self.desc.bounds.len() + 1, 0);
        let sum = self.add_buckets_to(counts);
        let native = guard.map(|native| native.snapshot());
        let value = Value::Histogram { bounds: &self.desc.bounds, counts, sum };
        self.give(value, native.as_ref(), take);
    }

    fn give(
        &self,
        value: Value<'_>,
        native: Option<&NativeSnapshot>,
        take: &mut dyn FnMut(&Reading<'_>),
    ) {
        let exemplars = self.exemplars.lock().clone();
        take(&Reading { value, created: self.created(), exemplars: &exemplars, native });
    }

    /// When it was created, in seconds since 1970, where that is wanted.
    fn created(&self) -> Option<f64> {
        let created = self.created.as_ref().filter(|_| created_enabled())?;
        Some(arena::get(created))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{NativeOptions, Quantiles};

    fn series(desc: Desc) -> Series {
        let options = Options { now: || 5.0, ..Options::default() };
        Series::new(Arc::new(desc), LabelSet::default(), &options)
    }

    fn desc(kind: Kind) -> Desc {
        Desc::new(kind, "a", "", &[]).unwrap()
    }

    fn read<T>(series: &Series, look: impl Fn(&Reading<'_>) -> T) -> T {
        let mut result = None;
        series.read(&mut Vec::new(), &mut |reading| result = Some(look(reading)));
        result.unwrap()
    }

    #[test]
    fn a_summary_counts_and_sums() {
        let series = series(desc(Kind::Summary));
        series.observe(1.5);
        series.observe_n(2.0, 2);
        let (count, sum) = read(&series, |reading| match reading.value {
            Value::Summary { count, sum, .. } => (count, sum),
            _ => unreachable!(),
        });
        assert_eq!((count, sum), (3, 5.5));
    }

    #[test]
    fn a_state_set_is_in_its_first_state_until_told() {
        let series = series(desc(Kind::StateSet).with_states(&["off", "on"]).unwrap());
        let current = || {
            read(&series, |reading| match reading.value {
                Value::StateSet { current, .. } => current,
                _ => unreachable!(),
            })
        };
        assert_eq!(current(), 0);
        assert!(series.set_state("on") && !series.set_state("broken"));
        assert_eq!(current(), 1);
    }

    #[test]
    fn a_reset_moves_the_time_of_creation() {
        let series = series(desc(Kind::Counter));
        series.add(3.0);
        assert_eq!(read(&series, |reading| reading.created), Some(5.0));
        series.reset(7.0);
        assert_eq!((series.get(), read(&series, |reading| reading.created)), (0.0, Some(7.0)));
    }

    #[test]
    fn each_bucket_keeps_its_latest_exemplar() {
        let series = series(desc(Kind::Histogram).with_bounds(&[1.0, 2.0]).unwrap());
        for value in [0.5, 0.75, 9.0] {
            series.set_exemplar(Exemplar::new(vec![], value, 0.0).unwrap());
        }
        let values: Vec<_> = read(&series, |reading| {
            reading.exemplars.iter().map(|e| e.as_ref().map(|e| e.value)).collect()
        });
        assert_eq!(values, [Some(0.75), None, Some(9.0)]);
    }

    #[test]
    fn a_native_histogram_agrees_with_the_buckets_beside_it() {
        let desc = desc(Kind::Histogram).with_bounds(&[1.0]).unwrap();
        let series = series(desc.with_native(NativeOptions::default()).unwrap());
        for value in [0.0, 0.5, 2.0] {
            series.observe(value);
        }
        let (counts, native) = read(&series, |reading| match reading.value {
            Value::Histogram { counts, .. } => (counts.to_vec(), reading.native.cloned()),
            _ => unreachable!(),
        });
        let native = native.unwrap();
        assert_eq!((counts, native.count, native.zero_count), (vec![2, 1], 3, 1));
    }

    #[test]
    fn a_summary_has_the_quantiles_that_were_asked_for() {
        let desc = desc(Kind::Summary).with_quantiles(Quantiles::new(&[0.5])).unwrap();
        let series = series(desc);
        series.observe(4.0);
        let (quantile, value) = read(&series, |reading| match reading.value {
            Value::Summary { quantiles, .. } => quantiles[0],
            _ => unreachable!(),
        });
        assert_eq!((quantile, (value - 4.0).abs() < 0.04), (0.5, true));
    }
}
