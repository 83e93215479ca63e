//! How values travel from whoever has them to whoever writes them down.

use std::any::Any;
use std::sync::Arc;

use super::desc::Desc;
use super::labels::LabelSet;
use super::native::NativeSnapshot;
use super::sample::{Exemplar, Sample};
use super::shared::Shared;
use crate::error::Result;

/// The value of one series at the time of a scrape.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A counter's total.
    Counter(f64),
    /// The value of a gauge, or of a metric of no known type.
    Gauge(f64),
    /// A histogram.
    Histogram {
        /// Upper bounds without `+Inf`.
        bounds: &'a [f64],
        /// Observations of each bucket alone (not cumulated); one more than `bounds`.
        counts: &'a [u64],
        /// The sum of all observations.
        sum: f64,
    },
    /// A summary.
    Summary {
        /// The number of all observations.
        count: u64,
        /// Their sum.
        sum: f64,
        /// Quantiles and their values, over a recent window; NaN where it is empty.
        quantiles: &'a [(f64, f64)],
    },
    /// An info.
    Info {
        /// The names of its labels.
        names: &'a [Box<str>],
        /// Their values.
        labels: &'a LabelSet,
    },
    /// A state set.
    StateSet {
        /// All states.
        states: &'a [Box<str>],
        /// The index of the current one.
        current: usize,
    },
}

/// What is known of one series at the time of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Its value.
    pub value: Value<'a>,
    /// When it began to count, in seconds since 1970.
    pub created: Option<f64>,
    /// Exemplars: one of a counter, one for each bucket of a histogram, or fewer.
    pub exemplars: &'a [Option<Arc<Exemplar>>],
    /// The native side of a histogram, with the same count and sum.
    pub native: Option<&'a NativeSnapshot>,
}

/// A bare value: not created at a known time, without exemplars.
impl<'a> From<Value<'a>> for Reading<'a> {
    fn from(value: Value<'a>) -> Self {
        Self { value, created: None, exemplars: &[], native: None }
    }
}

/// Something that takes families and their samples down: an encoder, a lookup.
pub trait Sink {
    /// A family begins.
    fn family(&mut self, desc: &Desc);
    /// A series of the family that began last.
    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>);
    /// A ready-made sample of the family that began last.
    fn raw(&mut self, desc: &Desc, sample: &Sample);
    /// Whether it never waits, locks or calls back. A stored family holds its lock while it feeds
    /// such a sink, and saves a copy of its list of series; default false.
    fn is_prompt(&self) -> bool {
        false
    }
}

/// Something that has families: a stored family, a view, a collector.
pub trait Source: Any + Send + Sync {
    /// Does what has to be done before any family of a page is given; default nothing.
    fn prepare(&self) {}
    /// Writes to a mapping from now on, with the other processes there; default nothing.
    ///
    /// # Errors
    /// If another process has a family of this name that differs.
    fn share(&self, _shared: &Arc<Shared>) -> Result<()> {
        Ok(())
    }
    /// Whether it can still be [shared](Self::share).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::error::Error::InvalidArgument) with the family that was
    /// written.
    fn check_unwritten(&self) -> Result<()> {
        Ok(())
    }
    /// In a forked child of a process that shares it, becomes a process of its own.
    fn after_fork(&self) {}
    /// Descriptions of all families that it may give, for the check against duplicates.
    fn describe(&self) -> Vec<&Desc>;
    /// Gives its families, each followed by its samples.
    fn collect(&self, sink: &mut dyn Sink);
}
