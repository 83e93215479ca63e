//! How values travel from whoever has them to whoever writes them down.

use super::desc::Desc;
use super::labels::LabelSet;

/// The value of one series at the time of a scrape.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A counter's total.
    Counter(f64),
    /// A gauge's value.
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
    /// An info.
    Info {
        /// The names of its labels.
        names: &'a [Box<str>],
        /// Their values.
        labels: &'a LabelSet,
    },
}

/// Something that takes families and their samples down: an encoder, a lookup.
pub trait Sink {
    /// A family begins.
    fn family(&mut self, desc: &Desc);
    /// A series of the family that began last.
    fn sample(&mut self, desc: &Desc, labels: &LabelSet, value: Value<'_>);
}

/// Something that has families: a stored family, a view, a collector.
pub trait Source: Send + Sync {
    /// Descriptions of all families that it may give, for the check against duplicates.
    fn describe(&self) -> Vec<&Desc>;
    /// Gives its families, each followed by its samples.
    fn collect(&self, sink: &mut dyn Sink);
}
