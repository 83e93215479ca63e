//! What a family is: its name, kind, labels and buckets, checked once when it is made.

use super::names::{check_label_name, check_metric_name};
use super::native_options::NativeOptions;
use super::window::Quantiles;
use crate::error::{Error, Result};

/// The type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A sum that only grows.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// Observations counted in buckets.
    Histogram,
    /// Facts as labels, with the value 1.
    Info,
    /// Observations counted and summed, perhaps with quantiles.
    Summary,
    /// Which one of some states is current.
    StateSet,
    /// Of no known type; behaves as a gauge.
    Unknown,
    /// A histogram whose counts go up and down; only from collectors, as ready-made samples.
    GaugeHistogram,
}

impl Kind {
    /// The word in error messages and in the `# TYPE` line of OpenMetrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
            Self::Summary => "summary",
            Self::StateSet => "stateset",
            Self::Unknown => "unknown",
            Self::GaugeHistogram => "gaugehistogram",
        }
    }

    /// The type with this word, if there is one; `untyped` is an old one for `unknown`.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [
            Self::Counter,
            Self::Gauge,
            Self::Summary,
            Self::Histogram,
            Self::GaugeHistogram,
            Self::Info,
            Self::StateSet,
            Self::Unknown,
        ];
        let word = if word == "untyped" { "unknown" } else { word };
        all.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word in the `# TYPE` line of Prometheus' own text formats, which know fewer types.
    pub const fn page_str(self) -> &'static str {
        match self {
            Self::Info | Self::StateSet => "gauge",
            Self::GaugeHistogram => "histogram",
            Self::Unknown => "untyped",
            kind => kind.as_str(),
        }
    }

    /// The suffix of the family's own name in the text format 0.0.4 and in Python's constructors.
    pub const fn page_suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Info => "_info",
            _ => "",
        }
    }

    /// The suffixes that a family of this kind adds to its name, for its samples.
    pub const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["_total", "_created"],
            Self::Summary => &["_sum", "_count", "_created"],
            Self::GaugeHistogram => &["_bucket", "_gsum", "_gcount"],
            Self::Gauge | Self::StateSet | Self::Unknown => &[],
            Self::Histogram => &["_sum", "_count", "_bucket", "_created"],
            Self::Info => &["_info"],
        }
    }
}

/// How the values that several processes have of a gauge become what the page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Each stands there, with the label `pid`.
    All,
    /// Their sum.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The one that was set last.
    MostRecent,
}

impl Merge {
    /// Two values as one.
    pub(super) fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => a + b,
            Self::Min => a.min(b),
            Self::Max => a.max(b),
            Self::All | Self::MostRecent => b,
        }
    }
}

/// What worker processes that share a mapping have of a gauge; without effect in a single process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GaugeMode {
    /// How their values become one.
    pub merge: Merge,
    /// Only the values of processes that are there.
    pub is_live: bool,
}

impl Default for GaugeMode {
    /// `all`, as in `prometheus_client`.
    fn default() -> Self {
        Self { merge: Merge::All, is_live: false }
    }
}

impl GaugeMode {
    const WORDS: [&str; 10] = [
        "all",
        "liveall",
        "sum",
        "livesum",
        "min",
        "livemin",
        "max",
        "livemax",
        "mostrecent",
        "livemostrecent",
    ];

    /// All modes.
    pub(super) const ALL: [Self; 10] = [
        Self { merge: Merge::All, is_live: false },
        Self { merge: Merge::All, is_live: true },
        Self { merge: Merge::Sum, is_live: false },
        Self { merge: Merge::Sum, is_live: true },
        Self { merge: Merge::Min, is_live: false },
        Self { merge: Merge::Min, is_live: true },
        Self { merge: Merge::Max, is_live: false },
        Self { merge: Merge::Max, is_live: true },
        Self { merge: Merge::MostRecent, is_live: false },
        Self { merge: Merge::MostRecent, is_live: true },
    ];

    /// The mode with `prometheus_client`'s word for it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the words that there are.
    ///
    /// ```
    /// use ryot_metrics::metrics::GaugeMode;
    /// assert!(GaugeMode::parse("livesum")?.is_live);
    /// assert!(GaugeMode::parse("avg").is_err());
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    pub fn parse(word: &str) -> Result<Self> {
        let place = Self::WORDS.iter().position(|known| *known == word);
        place.map(|place| Self::ALL[place]).ok_or_else(|| {
            let known = Self::WORDS.join(", ");
            let text = format!("Invalid multiprocess mode: {word:?}; it must be one of {known}");
            Error::InvalidArgument(text)
        })
    }

    /// The word.
    pub fn as_str(self) -> &'static str {
        let place = Self::ALL.iter().position(|mode| *mode == self);
        place.map_or("", |place| Self::WORDS[place])
    }

    /// Each process has a value of its own: of all modes but the one whose last write counts.
    pub(super) fn is_per_process(self) -> bool {
        self.is_live || self.merge != Merge::MostRecent
    }
}

/// The description of a family. Its name has no suffix of its kind: the counter `jobs_total` is
/// the family `jobs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Desc {
    /// The family's name.
    pub name: Box<str>,
    /// The `# HELP` text.
    pub help: Box<str>,
    /// The type.
    pub kind: Kind,
    /// The names of the labels, in the order of their values.
    pub label_names: Box<[Box<str>]>,
    /// The unit, a suffix of the name; empty if it has none.
    pub unit: Box<str>,
    /// Upper bounds of a histogram's buckets, ascending, without `+Inf`.
    pub bounds: Box<[f64]>,
    /// The states of a state set.
    pub states: Box<[Box<str>]>,
    /// The histogram is native as well, or, without bounds, only native.
    pub native: Option<NativeOptions>,
    /// The quantiles of a summary.
    pub quantiles: Option<Quantiles>,
    /// What worker processes have of a gauge.
    pub mode: GaugeMode,
}

impl Desc {
    /// Describes a family; a counter's `_total` suffix is taken off its name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an empty name or label name, for one outside the old
    /// alphabet under [legacy validation](super::set_legacy_validation), and for a label name
    /// that is reserved (`__…`, or one that the kind adds itself, as `le` on a histogram).
    pub fn new(kind: Kind, name: &str, help: &str, label_names: &[&str]) -> Result<Self> {
        let name = name.strip_suffix(kind.page_suffix()).unwrap_or(name);
        check_metric_name(name)?;
        for &label in label_names {
            check_label_name(label)?;
            if label == added_label(kind, name) {
                return Err(Error::InvalidArgument(match kind {
                    Kind::StateSet => format!("Overlapping labels for Enum metric: {name}"),
                    _ => format!("Reserved label metric name: {label}"),
                }));
            }
        }
        Ok(Self {
            name: name.into(),
            help: help.into(),
            kind,
            label_names: label_names.iter().map(|&label| label.into()).collect(),
            unit: "".into(),
            bounds: [].into(),
            states: [].into(),
            native: None,
            quantiles: None,
            mode: GaugeMode::default(),
        })
    }

    /// The same with the upper bounds of a histogram's buckets; a last `+Inf` is dropped.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the bounds do not ascend, or none is finite.
    pub fn with_bounds(mut self, bounds: &[f64]) -> Result<Self> {
        let finite = match bounds {
            [head @ .., last] if *last == f64::INFINITY => head,
            all => all,
        };
        if finite.is_empty() {
            return Err(Error::InvalidArgument("Must have at least two buckets".into()));
        }
        if !finite.is_sorted_by(|a, b| a < b) || finite.iter().any(|bound| bound.is_nan()) {
            return Err(Error::InvalidArgument("Buckets not in sorted order".into()));
        }
        self.bounds = finite.into();
        Ok(self)
    }

    /// The same with the states of a state set; the first is current at the beginning.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none.
    pub fn with_states(mut self, states: &[&str]) -> Result<Self> {
        if states.is_empty() {
            let name = &self.name;
            return Err(Error::InvalidArgument(format!(
                "No states provided for Enum metric: {name}"
            )));
        }
        self.states = states.iter().map(|&state| state.into()).collect();
        Ok(self)
    }

    /// The same with a unit, which the name must end with.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the name does not end with `_` and the unit.
    pub fn with_unit(mut self, unit: &str) -> Result<Self> {
        if !unit.is_empty() && self.name.strip_suffix(unit).is_none_or(|head| !head.ends_with('_'))
        {
            let name = &self.name;
            return Err(Error::InvalidArgument(format!(
                "Metric name not suffixed by unit: {name} {unit}"
            )));
        }
        self.unit = unit.into();
        Ok(self)
    }

    /// The same as a native histogram: beside its buckets if it has bounds, else alone.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an option out of range.
    pub fn with_native(mut self, options: NativeOptions) -> Result<Self> {
        options.check()?;
        self.native = Some(options);
        Ok(self)
    }

    /// The same with quantiles of a summary.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an option out of range.
    pub fn with_quantiles(mut self, quantiles: Quantiles) -> Result<Self> {
        quantiles.check()?;
        self.quantiles = Some(quantiles);
        Ok(self)
    }

    /// The same as a gauge of worker processes in this mode.
    #[must_use]
    pub fn with_mode(mut self, mode: GaugeMode) -> Self {
        self.mode = mode;
        self
    }

    /// The label that the kind adds to samples of its own accord; empty if it adds none.
    pub fn added_label(&self) -> &str {
        added_label(self.kind, &self.name)
    }

    /// Whether a sample may have a label of this name, of its own or added by the kind.
    pub(super) fn has_label(&self, label: &str) -> bool {
        self.added_label() == label || self.label_names.iter().any(|name| **name == *label)
    }

    /// Every name that a sample of this family may have, and the family's own.
    pub fn sample_names(&self) -> impl Iterator<Item = String> + '_ {
        let suffixes = std::iter::once(&"").chain(self.kind.suffixes());
        suffixes.map(|suffix| format!("{}{suffix}", self.name))
    }
}

/// The name of the label that a kind adds to samples of its own accord; empty if it adds none.
fn added_label(kind: Kind, name: &str) -> &str {
    match kind {
        Kind::Histogram | Kind::GaugeHistogram => "le",
        Kind::Summary => "quantile",
        Kind::StateSet => name,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_checked_and_loses_the_suffix_of_its_kind() {
        let name = |kind, name| Desc::new(kind, name, "", &[]).map(|desc| desc.name.to_string());
        assert_eq!(name(Kind::Counter, "a:b_total"), Ok("a:b".into()));
        assert_eq!(name(Kind::Gauge, "a_total"), Ok("a_total".into()));
        assert_eq!(name(Kind::Gauge, "a.b é"), Ok("a.b é".into()));
        assert!(name(Kind::Gauge, "").is_err());
    }

    #[test]
    fn reserved_and_empty_labels_are_refused() {
        let labels = |kind, label| Desc::new(kind, "a", "", &[label]).is_ok();
        assert!(labels(Kind::Counter, "le"));
        assert!(!labels(Kind::Histogram, "le"));
        assert!(!labels(Kind::Counter, "__a"));
        assert!(labels(Kind::Summary, "le"));
        assert!(!labels(Kind::Summary, "quantile"));
        assert!(!labels(Kind::StateSet, "a"));
        assert!(!labels(Kind::Counter, ""));
    }

    #[test]
    fn bounds_must_ascend() {
        let bounds = |bounds: &[f64]| {
            Desc::new(Kind::Histogram, "a", "", &[]).and_then(|desc| desc.with_bounds(bounds))
        };
        assert_eq!(*bounds(&[1.0, 2.0, f64::INFINITY]).unwrap().bounds, [1.0, 2.0]);
        for bad in [&[][..], &[f64::INFINITY], &[2.0, 1.0], &[1.0, 1.0], &[1.0, f64::NAN]] {
            assert!(bounds(bad).is_err(), "{bad:?}");
        }
    }
}
