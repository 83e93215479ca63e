//! One series: a label set and the cells that hold its value. The hot path of the crate.
//!
//! Layout of a series' cells: a counter has one, the bits of an `f64`, and a gauge a second one for
//! the time it was set, where that counts; a histogram has one count for each bucket (the last is
//! `+Inf`), then the sum; a summary its count and its sum; a state set the index of the current
//! state. After them come those of [`tail`]. A histogram's number of observations is not stored:
//! it is the sum of the buckets that a scrape has just read, so a page can never show a count that
//! differs from its buckets, however many threads observe meanwhile.
//!
//! A native histogram and the window of a summary have a lock each, taken by every observation;
//! classic buckets beside a native histogram are counted under it, so that both agree. All else
//! that few series have (exemplars, facts) stands behind locks of its own, which `add` and
//! `observe` never touch.
//!
//! Where worker processes share a mapping, the cells are there, and `lease` says where.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::activity::{self, Activity};
use super::arena::{self, Cells};
use super::created::created_enabled;
use super::desc::{Desc, Kind, Merge};
use super::family::Options;
use super::labels::LabelSet;
use super::lease::Lease;
use super::many::Tally;
use super::mirror::Mirror;
use super::native::{Native, NativeSnapshot};
use super::rebucket::add_buckets;
use super::sample::Exemplar;
use super::sampling::Sampling;
use super::shared::NOTES;
use super::sink::{Reading, Value};
use super::sync::{AtomicU64, Ordering};
use super::window::Window;
use crate::clock::WallClock;

/// The names of an info's labels, and their values.
pub(super) type Facts = (Box<[Box<str>]>, LabelSet);

/// A native histogram, and where other processes read it.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) native: Native,
    pub(super) mirror: Option<Mirror<'static>>,
}

/// Cells after the values: when it was created, its activity, and where its texts are.
pub(super) const TAIL: usize = 1 + activity::CELLS + NOTES as usize;

/// A series. Shared by all who hold it; a series that was removed from its family still counts,
/// unseen.
#[derive(Debug)]
pub struct Series {
    pub(super) desc: Arc<Desc>,
    labels: LabelSet,
    pub(super) cells: Cells,
    /// None where no other process can see it.
    pub(super) lease: OnceLock<Lease>,
    /// The mapping could not take it.
    pub(super) is_alone: AtomicBool,
    /// Whether it tells when it was created: the bits of the seconds since 1970.
    dated: bool,
    /// Whether the time counts at which a gauge is set.
    timed: bool,
    /// Whether it leaves the page when it is idle.
    pub(super) forgets: bool,
    /// None in a family that is absent until it is set.
    pub(super) info: RwLock<Option<Facts>>,
    /// Empty until there is one; then one place for each that there can be.
    pub(super) exemplars: Mutex<Vec<Option<Arc<Exemplar>>>>,
    pub(super) native: Option<Box<Mutex<Counted>>>,
    pub(super) window: Option<Box<Mutex<Window>>>,
    sampling: Option<Arc<Sampling>>,
    now: WallClock,
}

/// How many cells the values of a description have.
pub(super) fn values_len(desc: &Desc) -> usize {
    match desc.kind {
        Kind::Counter | Kind::Unknown | Kind::StateSet => 1,
        Kind::Histogram => desc.bounds.len() + 2,
        Kind::Gauge | Kind::Summary => 2,
        Kind::Info | Kind::GaugeHistogram => 0,
    }
}

impl Series {
    pub(super) fn new(desc: Arc<Desc>, labels: LabelSet, options: &Options) -> Self {
        let dated = matches!(desc.kind, Kind::Counter | Kind::Histogram | Kind::Summary);
        let now = options.now;
        let native = desc.native.map(|options| {
            Box::new(Mutex::new(Counted { native: Native::new(options, now()), mirror: None }))
        });
        let window = desc.quantiles.clone().map(|it| Box::new(Mutex::new(Window::new(it))));
        let series = Self {
            labels,
            cells: Cells::new(values_len(&desc) + TAIL),
            lease: OnceLock::new(),
            is_alone: AtomicBool::new(false),
            dated: options.created && dated,
            timed: desc.mode.is_live && desc.mode.merge == Merge::MostRecent,
            forgets: options.idle_ttl.is_some() && !desc.label_names.is_empty(),
            info: RwLock::new((!options.absent_if_empty).then(Facts::default)),
            exemplars: Mutex::default(),
            native,
            window,
            sampling: options.sampling.clone(),
            now,
            desc,
        };
        series.begin();
        series
    }

    /// Marks it as just made, unless another process has.
    pub(super) fn begin(&self) {
        if self.dated {
            let now = (self.now)().to_bits();
            let cell = &self.tail()[0];
            let _ = cell.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.note_write();
    }

    /// The cells after the values, of all processes.
    fn tail(&self) -> &[AtomicU64] {
        let run = self.lease.get().map_or(&*self.cells, |lease| lease.run);
        &run[run.len() - TAIL..]
    }

    fn activity(&self) -> Option<Activity<'_>> {
        self.forgets.then(|| Activity(&self.tail()[1..=activity::CELLS]))
    }

    /// The cells of the values, where this process writes.
    pub(super) fn values(&self) -> &[AtomicU64] {
        let cells = &*self.cells;
        &cells[..cells.len() - TAIL]
    }

    /// The series' labels.
    pub fn labels(&self) -> &LabelSet {
        &self.labels
    }

    fn note_write(&self) {
        if let Some(activity) = self.activity() {
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
        self.activity().is_some_and(|activity| activity.look(now, ttl))
    }

    /// Whether it was idle at the scrape that last looked.
    pub fn is_idle(&self) -> bool {
        self.activity().is_some_and(Activity::is_idle)
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
        if self.timed {
            self.cells[1].store((self.now)().to_bits(), Ordering::Relaxed);
        }
    }

    /// Sets a gauge that is below this value.
    pub fn raise(&self, value: f64) {
        self.note_write();
        let below = |bits| (f64::from_bits(bits) < value).then(|| value.to_bits());
        let _ = self.cells[0].fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
    }

    /// The value of a counter or gauge: that of all processes, but where each stands for itself
    /// this one's.
    pub fn get(&self) -> f64 {
        self.merged().unwrap_or_else(|| arena::get(&self.cells[0]))
    }

    /// What all processes have of a gauge; None of other series, and where each stands for itself.
    fn merged(&self) -> Option<f64> {
        self.lease.get()?.merged(self.desc.mode)
    }

    /// Sets a counter back to zero; it was created at `now`, in seconds since 1970.
    pub fn reset(&self, now: f64) {
        self.note_write();
        for cell in self.values() {
            cell.store(0, Ordering::Relaxed);
        }
        if self.dated {
            self.tail()[0].store(now.to_bits(), Ordering::Relaxed);
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
            let mut counted = native.lock();
            if let Some(now) = counted.native.observe(value, n, self.now) {
                self.reset(now);
            }
            if let Some(mirror) = counted.mirror {
                mirror.note(&mut counted.native, n);
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
        arena::add(&self.cells[self.desc.bounds.len() + 1], sum);
    }

    fn count(&self, value: f64, n: u64) {
        let (cells, last) = (&*self.cells, self.desc.bounds.len() + 1);
        cells[self.bucket_of(value)].fetch_add(n, Ordering::Relaxed);
        arena::add(&cells[last], value * n as f64);
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
        let places = (self.bucket_of(exemplar.value), self.desc.bounds.len() + 1);
        if let Some(lease) = self.lease.get() {
            return lease.set_exemplar(places, &exemplar);
        }
        let mut exemplars = self.exemplars.lock();
        exemplars.resize(places.1, None);
        exemplars[places.0] = Some(Arc::new(exemplar));
    }

    /// Sets the facts of an info.
    pub fn set_info(&self, facts: &[(String, String)]) {
        self.note_write();
        match self.lease.get() {
            Some(lease) => lease.set_facts(facts),
            None => self.keep_facts(facts),
        }
    }

    pub(super) fn keep_facts(&self, facts: &[(String, String)]) {
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
        self.settle();
        let bare = |value: Value<'_>, take: &mut dyn FnMut(&Reading<'_>)| take(&value.into());
        match self.desc.kind {
            Kind::Counter => self.give(Value::Counter(self.get()), None, take),
            Kind::Gauge | Kind::Unknown => {
                if self.lease.get().is_none_or(|lease| lease.has_value(self.desc.mode)) {
                    bare(Value::Gauge(self.get()), take);
                }
            }
            Kind::StateSet => {
                let current = self.cells[0].load(Ordering::Relaxed) as usize;
                bare(Value::StateSet { states: &self.desc.states, current }, take);
            }
            Kind::Summary => self.read_summary(take),
            Kind::Histogram => self.read_histogram(counts, take),
            Kind::Info => {
                self.refresh();
                if let Some((names, labels)) = &*self.info.read() {
                    bare(Value::Info { names, labels }, take);
                }
            }
            Kind::GaugeHistogram => {}
        }
    }

    fn read_summary(&self, take: &mut dyn FnMut(&Reading<'_>)) {
        let own = |window: &Mutex<Window>| window.lock().quantiles((self.now)());
        let quantiles = match (self.lease.get(), &self.desc.quantiles) {
            (Some(lease), Some(options)) => lease.quantiles(options, (self.now)()),
            _ => self.window.as_ref().map(|window| own(window)).unwrap_or_default(),
        };
        let quantiles = &quantiles;
        let count = self.cells[0].load(Ordering::Relaxed);
        let sum = arena::get(&self.cells[1]);
        self.give(Value::Summary { count, sum, quantiles }, None, take);
    }

    fn read_histogram(&self, counts: &mut Vec<u64>, take: &mut dyn FnMut(&Reading<'_>)) {
        let guard = self.native.as_ref().map(|native| native.lock());
        counts.clear();
        counts.resize(self.desc.bounds.len() + 1, 0);
        let sum = self.add_buckets_to(counts);
        let native = match (self.lease.get(), self.desc.native) {
            (Some(lease), Some(options)) => Some(lease.native(options)),
            _ => guard.map(|counted| counted.native.snapshot()),
        };
        let value = Value::Histogram { bounds: &self.desc.bounds, counts, sum };
        self.give(value, native.as_ref(), take);
    }

    fn give(
        &self,
        value: Value<'_>,
        native: Option<&NativeSnapshot>,
        take: &mut dyn FnMut(&Reading<'_>),
    ) {
        self.refresh();
        let exemplars = self.exemplars.lock().clone();
        take(&Reading { value, created: self.created(), exemplars: &exemplars, native });
    }

    /// When it was created, in seconds since 1970, where that is wanted.
    fn created(&self) -> Option<f64> {
        (self.dated && created_enabled()).then(|| arena::get(&self.tail()[0]))
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
