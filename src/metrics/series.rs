//! One series: a label set and the cells that hold its value. The hot path of the crate.
//!
//! Layout of a series' cells: a counter or gauge has one, the bits of an `f64`; a histogram has
//! one count for each bucket (the last is `+Inf`), then the sum. The number of observations is
//! not stored: it is the sum of the buckets that a scrape has just read, so a page can never
//! show a count that differs from its buckets, however many threads observe meanwhile.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::RwLock;

use super::arena::{self, Cells};
use super::desc::{Desc, Kind};
use super::labels::LabelSet;
use super::sink::Value;

/// The names of an info's labels, and their values.
type Facts = (Box<[Box<str>]>, LabelSet);

/// A series. Shared by all who hold it; a series that was removed from its family still counts,
/// unseen.
#[derive(Debug)]
pub struct Series {
    desc: Arc<Desc>,
    labels: LabelSet,
    cells: Cells,
    /// None until it is set.
    info: RwLock<Option<Facts>>,
}

impl Series {
    pub(super) fn new(desc: Arc<Desc>, labels: LabelSet) -> Self {
        let len = match desc.kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram => desc.bounds.len() + 2,
            Kind::Info => 0,
        };
        Self { desc, labels, cells: Cells::new(len), info: RwLock::new(None) }
    }

    /// The series' labels.
    pub fn labels(&self) -> &LabelSet {
        &self.labels
    }

    /// Adds to a counter or gauge.
    pub fn add(&self, amount: f64) {
        arena::add(&self.cells[0], amount);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64) {
        self.cells[0].store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value of a counter or gauge.
    pub fn get(&self) -> f64 {
        arena::get(&self.cells[0])
    }

    /// Counts one observation of a histogram. NaN falls into the `+Inf` bucket, as in Go's client.
    pub fn observe(&self, value: f64) {
        self.observe_n(value, 1);
    }

    /// Counts `n` observations of the same value.
    pub fn observe_n(&self, value: f64, n: u64) {
        let bounds = &self.desc.bounds;
        // Counting beats branching: no misprediction, and the loop is vectorised.
        let fitting: usize = bounds.iter().map(|bound| usize::from(value <= *bound)).sum();
        let bucket = bounds.len() - fitting;
        self.cells[bucket].fetch_add(n, Ordering::Relaxed);
        arena::add(&self.cells[bounds.len() + 1], value * n as f64);
    }

    /// Sets the facts of an info.
    pub fn set_info(&self, facts: &[(String, String)]) {
        let (names, values): (Vec<&str>, Vec<&str>) =
            facts.iter().map(|(name, value)| (&**name, &**value)).unzip();
        let labels = LabelSet::new(&names, &values, false);
        *self.info.write() = Some((names.into_iter().map(Into::into).collect(), labels));
    }

    /// Adds this histogram's buckets to `counts`; returns its sum of values.
    pub fn add_buckets_to(&self, counts: &mut [u64]) -> f64 {
        for (count, cell) in counts.iter_mut().zip(&self.cells[..=self.desc.bounds.len()]) {
            *count += cell.load(Ordering::Relaxed);
        }
        arena::get(&self.cells[self.desc.bounds.len() + 1])
    }

    /// Reads the series and hands its value over; an info that was never set has none.
    pub(super) fn read(&self, take: &mut dyn FnMut(&LabelSet, Value<'_>)) {
        match self.desc.kind {
            Kind::Counter => take(&self.labels, Value::Counter(self.get())),
            Kind::Gauge => take(&self.labels, Value::Gauge(self.get())),
            Kind::Histogram => {
                let mut counts = vec![0; self.desc.bounds.len() + 1];
                let sum = self.add_buckets_to(&mut counts);
                let bounds = &self.desc.bounds;
                take(&self.labels, Value::Histogram { bounds, counts: &counts, sum });
            }
            Kind::Info => {
                if let Some((names, labels)) = &*self.info.read() {
                    take(&self.labels, Value::Info { names, labels });
                }
            }
        }
    }
}
