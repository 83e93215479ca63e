//! Ready-made samples, timestamps and exemplars: what a collector hands over when it has no
//! stored series, and what remains when a value is taken apart into its lines.

use std::fmt;
use std::sync::Arc;

use super::desc::{Desc, Kind};
use super::names::{check_label_name, escape_value};
use super::number::{format_number, format_python};
use crate::error::{Error, Result};

/// A time in seconds since 1970, in the shape in which it was given: text pages repeat it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Timestamp {
    /// A float of seconds.
    Float(f64),
    /// Whole seconds.
    Int(i64),
    /// Seconds and nanoseconds.
    Exact {
        /// Whole seconds.
        seconds: i64,
        /// Nanoseconds, below 10⁹.
        nanos: i32,
    },
}

impl Timestamp {
    /// The time as a float, in seconds.
    pub fn seconds(self) -> f64 {
        match self {
            Self::Float(seconds) => seconds,
            Self::Int(seconds) => seconds as f64,
            Self::Exact { seconds, nanos } => seconds as f64 + f64::from(nanos) / 1e9,
        }
    }

    /// The time in milliseconds, cut off, as the text formats of Prometheus want it.
    pub fn millis(self) -> i64 {
        (self.seconds() * 1000.0) as i64
    }
}

/// As OpenMetrics wants it, in seconds.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Float(seconds) => {
                let mut text = String::new();
                format_python(seconds, &mut text);
                f.write_str(&text)
            }
            Self::Int(seconds) => write!(f, "{seconds}"),
            Self::Exact { seconds, nanos } => write!(f, "{seconds}.{nanos:09}"),
        }
    }
}

/// Label pairs, in any order.
pub type Pairs = Vec<(String, String)>;

/// One observation that stands for many, with labels that lead to its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its labels.
    pub labels: Pairs,
    /// The observed value, or a counter's increment.
    pub value: f64,
    /// When it was observed.
    pub timestamp: Option<Timestamp>,
}

impl Exemplar {
    /// The most characters of all label names and values together.
    pub const LIMIT: usize = 128;

    /// An exemplar observed at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an invalid label name, or more than [`Self::LIMIT`]
    /// characters.
    pub fn new(labels: Pairs, value: f64, now: f64) -> Result<Self> {
        let mut characters = 0;
        for (name, text) in &labels {
            check_label_name(name)?;
            characters += name.chars().count() + text.chars().count();
        }
        if characters > Self::LIMIT {
            let limit = Self::LIMIT;
            return Err(Error::InvalidArgument(format!(
                "Exemplar labels have {characters} UTF-8 characters, exceeding the limit of {limit}"
            )));
        }
        Ok(Self { labels, value, timestamp: Some(Timestamp::Float(now)) })
    }

    /// Appends ` # {labels} value timestamp`.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str(" # {");
        let mut pairs: Vec<&(String, String)> = self.labels.iter().collect();
        pairs.sort_unstable();
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            out.push_str(if index == 0 { "" } else { "," });
            out.push_str(name);
            out.push_str("=\"");
            escape_value(value, out);
            out.push('"');
        }
        out.push_str("} ");
        format_number(self.value, out);
        if let Some(timestamp) = self.timestamp {
            out.push(' ');
            out.push_str(&timestamp.to_string());
        }
    }
}

/// One line of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, suffix included: `jobs_total`.
    pub name: String,
    /// The labels, `le` and its like included.
    pub labels: Pairs,
    /// The value.
    pub value: f64,
    /// When it was measured; None: when it is scraped.
    pub timestamp: Option<Timestamp>,
    /// An exemplar; only for samples that [`Sample::takes_exemplar`] allows one.
    pub exemplar: Option<Arc<Exemplar>>,
}

impl Sample {
    /// Whether a sample of this name may have an exemplar: a counter's total and a histogram's
    /// bucket may. On any other it is left out of the page.
    pub fn takes_exemplar(desc: &Desc, name: &str) -> bool {
        match desc.kind {
            Kind::Counter => name.ends_with("_total"),
            Kind::GaugeHistogram => name.ends_with("_bucket"),
            Kind::Histogram => name.ends_with("_bucket") || *name == *desc.name,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_in_the_shape_it_was_given() {
        let table = [
            (Timestamp::Float(1.5e9), "1500000000.0", 1_500_000_000_000),
            (Timestamp::Float(0.0015), "0.0015", 1),
            (Timestamp::Int(123), "123", 123_000),
            (Timestamp::Exact { seconds: 3, nanos: 5_000_000 }, "3.005000000", 3005),
        ];
        for (timestamp, seconds, millis) in table {
            assert_eq!(timestamp.to_string(), seconds);
            assert_eq!(timestamp.millis(), millis);
        }
    }

    #[test]
    fn an_exemplar_has_a_limit_in_characters() {
        let of = |length| Exemplar::new(vec![("é".into(), "é".repeat(length))], 1.0, 0.0);
        assert!(of(127).is_ok());
        let error = of(128).unwrap_err().to_string();
        assert_eq!(error, "Exemplar labels have 129 UTF-8 characters, exceeding the limit of 128");
    }

    #[test]
    fn an_exemplar_is_written_with_sorted_labels() {
        let labels = vec![("b".into(), "\"".into()), ("a".into(), "1".into())];
        let mut out = String::new();
        Exemplar::new(labels, 2.0, 1.25).unwrap().write(&mut out);
        assert_eq!(out, r#" # {a="1",b="\""} 2.0 1.25"#);
    }
}
