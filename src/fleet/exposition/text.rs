//! The families of a page of text, as its lines come. Pure.

use indexmap::IndexMap;

use super::line::{Labels, Sample, Scanner, number};
use crate::metrics::wire::{
    Bucket, Counter, LabelPair, Metric, MetricFamily, MetricType, Number, Time,
};

/// What the lines so far have told.
#[derive(Default)]
pub(super) struct Page {
    families: IndexMap<String, Family>,
    series: usize,
}

#[derive(Default)]
struct Family {
    kind: Word,
    help: String,
    unit: String,
    /// Samples have a suffix that the family's name has not, as in OpenMetrics.
    suffixed: bool,
    metrics: IndexMap<Labels, Metric>,
}

/// A family's type as the text formats name it.
#[derive(Clone, Copy, Default, PartialEq)]
enum Word {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Info,
    GaugeHistogram,
    #[default]
    Unknown,
}

impl Word {
    fn of(word: &str) -> Result<Self, String> {
        Ok(match word {
            "counter" => Self::Counter,
            "gauge" | "stateset" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "info" => Self::Info,
            "gaugehistogram" => Self::GaugeHistogram,
            "untyped" | "unknown" => Self::Unknown,
            _ => return Err("no type of metrics".into()),
        })
    }

    /// What a sample may have behind its family's name.
    const fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter => &["", "_total", "_created"],
            Self::Histogram => &["_bucket", "_sum", "_count", "_created"],
            Self::GaugeHistogram => &["_bucket", "_gsum", "_gcount"],
            Self::Summary => &["", "_sum", "_count", "_created"],
            Self::Info => &["", "_info"],
            Self::Gauge | Self::Unknown => &[""],
        }
    }
}

impl Page {
    /// How many series it has.
    pub(super) fn series(&self) -> usize {
        self.series
    }

    /// Takes a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn line(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix('#') {
            _ if line.is_empty() => Ok(()),
            Some(comment) if comment.starts_with([' ', '\t']) => self.comment(comment.trim_start()),
            Some(_) => Ok(()),
            None => self.sample(Scanner::new(line).sample()?),
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), String> {
        let Some((word, rest)) = comment.split_once(' ') else { return Ok(()) };
        if !["HELP", "TYPE", "UNIT"].contains(&word) {
            return Ok(());
        }
        let mut scanner = Scanner::new(rest);
        let name = scanner.name(&[' '])?;
        let text = scanner.rest().trim_start();
        let family = self.families.entry(name).or_default();
        match word {
            "HELP" => family.help = text.replace("\\n", "\n").replace("\\\\", "\\"),
            "UNIT" => text.clone_into(&mut family.unit),
            _ => family.kind = Word::of(text)?,
        }
        Ok(())
    }

    /// The family that a sample of this name belongs to, and what the name has behind it.
    fn family_of<'a>(&self, name: &'a str) -> (&'a str, &'static str) {
        const ALL: [&str; 8] =
            ["", "_total", "_bucket", "_sum", "_count", "_created", "_info", "_gsum"];
        for suffix in ALL.into_iter().chain(["_gcount"]) {
            let Some(base) = name.strip_suffix(suffix) else { continue };
            let known = self.families.get(base);
            if known.is_some_and(|family| family.kind.suffixes().contains(&suffix)) {
                return (base, suffix);
            }
        }
        (name, "")
    }

    fn sample(&mut self, sample: Sample) -> Result<(), String> {
        let (base, suffix) = self.family_of(&sample.name);
        let family = self.families.entry(base.to_owned()).or_default();
        let Sample { mut labels, value, .. } = sample;
        let added = match (family.kind, suffix) {
            (Word::Histogram, "_bucket") => Some("le"),
            (Word::Summary, "") => Some("quantile"),
            _ => None,
        };
        let at = added.map(|name| {
            let found = labels.iter().position(|label| label.0 == name);
            found.ok_or_else(|| format!("no label {name}"))
        });
        let added = at.transpose()?.map(|at| labels.remove(at).1);
        labels.sort_unstable();
        family.suffixed |= ["_total", "_info"].contains(&suffix);
        let before = family.metrics.len();
        let metric = family.metrics.entry(labels).or_default();
        put(metric, family.kind, suffix, added.as_deref(), value)?;
        self.series += family.metrics.len() - before;
        Ok(())
    }

    /// All families, as the protobuf format has them.
    ///
    /// # Errors
    /// A histogram that is none.
    pub(super) fn finish(self) -> Result<Vec<MetricFamily>, String> {
        let mut families = Vec::new();
        for (name, family) in self.families {
            if family.metrics.is_empty() || family.kind == Word::GaugeHistogram {
                continue;
            }
            families.push(family.finish(name)?);
        }
        Ok(families)
    }
}

/// Puts a sample's value into its series.
fn put(
    metric: &mut Metric,
    kind: Word,
    suffix: &str,
    added: Option<&str>,
    value: f64,
) -> Result<(), String> {
    let time = || Time { seconds: value.floor() as i64, nanos: (value.fract() * 1e9) as i32 };
    match (kind, suffix) {
        (Word::Counter, "_created") => metric.counter.get_or_insert_default().start = Some(time()),
        (Word::Counter, _) => {
            let counter = metric.counter.get_or_insert_default();
            *counter = Counter { value, ..counter.clone() };
        }
        (Word::Histogram, _) => {
            let histogram = metric.histogram.get_or_insert_default();
            match suffix {
                "_sum" => histogram.sum = value,
                "_count" => histogram.count = count(value)?,
                "_created" => histogram.start = Some(time()),
                _ => histogram.buckets.push(Bucket {
                    cumulative_count: count(value)?,
                    upper_bound: number(added.unwrap_or_default())?,
                    exemplar: None,
                }),
            }
        }
        (Word::Summary, _) => {
            let summary = metric.summary.get_or_insert_default();
            match suffix {
                "_sum" => summary.sum = value,
                "_count" => summary.count = count(value)?,
                "_created" => summary.start = Some(time()),
                _ => {} // quantiles cannot be added up
            }
        }
        (Word::Unknown, _) => metric.untyped = Some(Number { value }),
        _ => metric.gauge = Some(Number { value }),
    }
    Ok(())
}

fn count(value: f64) -> Result<u64, String> {
    if value >= 0.0 && value.fract() == 0.0 { Ok(value as u64) } else { Err("no count".into()) }
}

impl Family {
    fn finish(self, name: String) -> Result<MetricFamily, String> {
        let (kind, suffix) = match self.kind {
            Word::Counter => (MetricType::Counter, "_total"),
            Word::Info => (MetricType::Gauge, "_info"),
            Word::Gauge => (MetricType::Gauge, ""),
            Word::Histogram => (MetricType::Histogram, ""),
            Word::Summary => (MetricType::Summary, ""),
            Word::Unknown | Word::GaugeHistogram => (MetricType::Untyped, ""),
        };
        let metrics = self.metrics.into_iter().map(|(labels, mut metric)| {
            metric.labels =
                labels.into_iter().map(|(name, value)| LabelPair { name, value }).collect();
            let Some(histogram) = &mut metric.histogram else { return Ok(metric) };
            histogram.buckets.sort_by(|a, b| a.upper_bound.total_cmp(&b.upper_bound));
            let ascending = histogram.buckets.is_sorted_by_key(|it| it.cumulative_count);
            let last = histogram.buckets.last().map_or(0, |it| it.cumulative_count);
            if !ascending || last > histogram.count {
                return Err(format!("the buckets of {name} do not ascend to its count"));
            }
            Ok(metric)
        });
        let metrics = metrics.collect::<Result<_, _>>()?;
        Ok(MetricFamily {
            name: if self.suffixed { format!("{name}{suffix}") } else { name },
            help: self.help,
            kind: kind.into(),
            metrics,
            unit: self.unit,
        })
    }
}
