//! Families that are computed from stored ones when a page is written: sums by some labels,
//! under another name. Views and profiles are tables of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indexmap::IndexMap;

use super::catalogue::{Name, Shape};
use super::computed::{Computed, give};
use crate::metrics::{Desc, LabelSet, Series, Sink, Source, Value};

/// A derived family.
#[derive(Clone, Copy, Debug)]
pub struct DerivedRow {
    /// Its name, without the suffix of its type.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// Its type; a histogram's bounds must be among the stored ones.
    pub shape: Shape,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What is added up.
    pub terms: &'static [Term],
}

impl DerivedRow {
    /// The bounds of a histogram.
    pub const fn bounds(&self) -> &'static [f64] {
        if let Shape::Histogram(bounds) = self.shape { bounds } else { &[] }
    }
}

/// A stored family, or some of its series, as part of a derived one.
#[derive(Clone, Copy, Debug)]
pub struct Term {
    /// The stored family.
    pub of: Name,
    /// The values of the derived family's labels.
    pub labels: &'static [Label],
    /// Only series that have this value of this label.
    pub only: Option<(&'static str, &'static str)>,
    /// It is taken away; what is left of a gauge is at least 0.
    pub less: bool,
}

impl Term {
    /// All series of a family.
    pub const fn all(of: Name, labels: &'static [Label]) -> Self {
        Self { of, labels, only: None, less: false }
    }

    /// The series that have this value of this label.
    #[must_use]
    pub const fn only(self, label: &'static str, value: &'static str) -> Self {
        Self { only: Some((label, value)), ..self }
    }

    /// The same, taken away.
    #[must_use]
    pub const fn less(self) -> Self {
        Self { less: true, ..self }
    }
}

/// Where the value of a derived label comes from.
#[derive(Clone, Copy, Debug)]
pub enum Label {
    /// The value of a stored label.
    Of(&'static str),
    /// Always the same.
    Fixed(&'static str),
    /// [`Settings::operation_name`](super::Settings).
    Operation,
    /// A stored label's value in other words.
    Said(&'static str, fn(&str) -> &'static str),
}

/// Sums of one label set.
#[derive(Default)]
struct Sums {
    value: f64,
    counts: Vec<u64>,
}

/// A derived family as a source.
#[derive(Debug)]
pub(super) struct Derived {
    row: DerivedRow,
    desc: Desc,
    computed: Arc<Computed>,
    hidden: AtomicBool,
}

impl Derived {
    pub(super) fn new(row: DerivedRow, computed: Arc<Computed>) -> Self {
        let desc = Desc::new(row.shape.kind(), row.name, row.help, row.labels);
        let mut desc = desc.expect("a row is a valid family");
        desc.bounds = row.bounds().into();
        Self { row, desc, computed, hidden: AtomicBool::new(false) }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.row.name
    }

    /// Shows it on its pages, or does not.
    pub(super) fn show(&self, on: bool) {
        self.hidden.store(!on, Ordering::Relaxed);
    }

    fn sums(&self) -> IndexMap<Vec<Box<str>>, Sums> {
        let operation = self.computed.operation.read().clone();
        let mut groups = IndexMap::new();
        for term in self.row.terms {
            let Some(family) = self.computed.families.slot(term.of).shown() else { continue };
            let reader = Reader::new(term, family.desc(), &operation);
            for series in family.all() {
                if let Some(values) = reader.values(&series) {
                    self.add(term, &series, groups.entry(values).or_default());
                }
            }
        }
        groups
    }

    fn add(&self, term: &Term, series: &Series, to: &mut Sums) {
        if let Shape::Histogram(bounds) = self.row.shape {
            to.counts.resize(bounds.len() + 1, 0);
            to.value += series.add_rebucketed(bounds, &mut to.counts);
        } else {
            to.value += if term.less { -series.get() } else { series.get() };
        }
    }
}

impl Source for Derived {
    fn describe(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self, sink: &mut dyn Sink) {
        if self.hidden.load(Ordering::Relaxed) {
            return;
        }
        if self.row.shape == Shape::Computed {
            return give(&self.desc, &self.computed.hit_ratios_by_model(), sink);
        }
        let groups = self.sums();
        if groups.is_empty() {
            return;
        }
        sink.family(&self.desc);
        for (values, sums) in groups {
            let labels = LabelSet::new(self.row.labels, &values, true);
            let value = match self.row.shape {
                Shape::Counter => Value::Counter(sums.value),
                Shape::Histogram(bounds) => {
                    Value::Histogram { bounds, counts: &sums.counts, sum: sums.value }
                }
                _ if self.row.terms.iter().any(|term| term.less) => {
                    Value::Gauge(sums.value.max(0.0))
                }
                _ => Value::Gauge(sums.value),
            };
            sink.sample(&self.desc, &labels, &value.into());
        }
    }
}

/// Reads the derived labels off the series of one stored family.
struct Reader<'a> {
    labels: Vec<(&'a Label, usize)>,
    only: Option<(usize, &'static str)>,
    operation: &'a str,
}

impl<'a> Reader<'a> {
    fn new(term: &'a Term, stored: &Desc, operation: &'a str) -> Self {
        let index = |label: &str| {
            let place = stored.label_names.iter().position(|name| **name == *label);
            place.expect("a term names labels of its family")
        };
        let labels = term.labels.iter().map(|label| match label {
            Label::Of(name) | Label::Said(name, _) => (label, index(name)),
            Label::Fixed(_) | Label::Operation => (label, 0),
        });
        let only = term.only.map(|(name, value)| (index(name), value));
        Self { labels: labels.collect(), only, operation }
    }

    /// The label values; None if the series is not part of the term.
    fn values(&self, series: &Series) -> Option<Vec<Box<str>>> {
        let stored = series.labels().values();
        if self.only.is_some_and(|(index, value)| *stored[index] != *value) {
            return None;
        }
        let read = |(label, index): &(&Label, usize)| match label {
            Label::Of(_) => stored[*index].clone(),
            Label::Fixed(value) => (*value).into(),
            Label::Operation => self.operation.into(),
            Label::Said(_, say) => say(&stored[*index]).into(),
        };
        Some(self.labels.iter().map(read).collect())
    }
}
