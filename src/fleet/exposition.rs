//! Reads a worker's page, in any of the formats of Prometheus. Pure.
//!
//! Whatever the format, the result is that of the protobuf format: a counter's family is named as
//! its samples are, infos and state sets are gauges. A page is taken whole or not at all.

use indexmap::IndexMap;
use prost::Message;

use crate::metrics::wire::{
    Bucket, Counter, LabelPair, Metric, MetricFamily, MetricType, Number, Time,
};

/// The most series of one page.
pub(super) const MAX_SERIES: usize = 100_000;

/// The families of a page.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn parse(content_type: &str, body: &[u8]) -> Result<Vec<MetricFamily>, String> {
    if content_type.starts_with("application/vnd.google.protobuf") {
        return parse_protobuf(body);
    }
    let text = std::str::from_utf8(body).map_err(|error| format!("no UTF-8: {error}"))?;
    let mut page = Page::default();
    for (index, line) in text.lines().enumerate() {
        let at = |error| format!("line {}: {error}: {}", index + 1, super::service::excerpt(line));
        page.line(line.trim()).map_err(at)?;
        if page.series > MAX_SERIES {
            return Err(format!("it has more than {MAX_SERIES} series"));
        }
    }
    page.finish()
}

fn parse_protobuf(mut body: &[u8]) -> Result<Vec<MetricFamily>, String> {
    let mut families = Vec::new();
    let mut series = 0;
    while !body.is_empty() {
        let family = MetricFamily::decode_length_delimited(&mut body)
            .map_err(|error| format!("family {}: {error}", families.len() + 1))?;
        series += family.metrics.len();
        if series > MAX_SERIES {
            return Err(format!("it has more than {MAX_SERIES} series"));
        }
        families.push(family);
    }
    Ok(families)
}

/// Labels in alphabetical order, without the one that a kind adds.
type Labels = Vec<(String, String)>;

#[derive(Default)]
struct Page {
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

/// One line's sample.
struct Sample {
    name: String,
    labels: Labels,
    value: f64,
}

impl Page {
    fn line(&mut self, line: &str) -> Result<(), String> {
        match line.strip_prefix('#') {
            _ if line.is_empty() => Ok(()),
            Some(comment) if comment.starts_with([' ', '\t']) => self.comment(comment.trim_start()),
            Some(_) => Ok(()),
            None => self.sample(Scanner(line).sample()?),
        }
    }

    fn comment(&mut self, comment: &str) -> Result<(), String> {
        let Some((word, rest)) = comment.split_once(' ') else { return Ok(()) };
        if !["HELP", "TYPE", "UNIT"].contains(&word) {
            return Ok(());
        }
        let mut scanner = Scanner(rest);
        let name = scanner.name(&[' '])?;
        let text = scanner.0.trim_start();
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

    fn finish(self) -> Result<Vec<MetricFamily>, String> {
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

fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
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

/// Reads a line from its beginning on.
struct Scanner<'a>(&'a str);

impl Scanner<'_> {
    /// A name, bare up to one of these or in quotes.
    fn name(&mut self, ends: &[char]) -> Result<String, String> {
        if self.0.starts_with('"') {
            return self.quoted();
        }
        let end = self.0.find(ends).unwrap_or(self.0.len());
        let (name, rest) = self.0.split_at(end);
        self.0 = rest;
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err("no name".into());
        }
        Ok(name.to_owned())
    }

    /// A text in quotes, with its escapes.
    fn quoted(&mut self) -> Result<String, String> {
        let inner = self.0.strip_prefix('"').ok_or("no quoted text")?;
        let mut text = String::new();
        let mut characters = inner.char_indices();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.0 = &inner[at + 1..];
                    return Ok(text);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, other)) => text.push(other),
                    None => break,
                },
                other => text.push(other),
            }
        }
        Err("a quoted text without an end".into())
    }

    fn skip(&mut self, expected: char) -> bool {
        self.0 = self.0.trim_start();
        let rest = self.0.strip_prefix(expected);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn sample(mut self) -> Result<Sample, String> {
        let mut name =
            if self.0.starts_with('{') { String::new() } else { self.name(&['{', ' ', '\t'])? };
        let mut labels = Labels::new();
        if self.skip('{') {
            while !self.skip('}') {
                self.0 = self.0.trim_start();
                let quoted = self.0.starts_with('"');
                let label = self.name(&['=', '}', ','])?;
                if self.skip('=') {
                    self.0 = self.0.trim_start();
                    let value = self.quoted()?;
                    labels.push((label, value));
                } else if quoted && name.is_empty() {
                    name = label;
                } else {
                    return Err("no value of a label".into());
                }
                if !self.skip(',') && !self.0.trim_start().starts_with('}') {
                    return Err("no comma between labels".into());
                }
            }
        }
        if name.is_empty() {
            return Err("no name".into());
        }
        let rest = self.0.split(" # ").next().unwrap_or_default(); // an exemplar
        let mut numbers = rest.split_whitespace();
        let value = number(numbers.next().ok_or("no value")?)?;
        if let Some(timestamp) = numbers.next() {
            number(timestamp)?;
        }
        match numbers.next() {
            None => Ok(Sample { name, labels, value }),
            Some(_) => Err("more behind the value".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{
        Desc, Family as Stored, Format, Kind, NativeOptions, Registry, Selection, encode_bytes,
    };

    fn text(page: &str) -> Result<Vec<MetricFamily>, String> {
        parse("text/plain; version=0.0.4", page.as_bytes())
    }

    fn registry() -> Registry {
        let registry = Registry::default();
        let jobs = Desc::new(Kind::Counter, "jobs", "Jobs \\ done.\nAll.", &["queue"]).unwrap();
        Stored::register(jobs, &registry).unwrap().series(&["a \"b\"\n\\"]).add(2.0);
        let depth = Desc::new(Kind::Gauge, "depth", "Waiting.", &["b", "a"]).unwrap();
        Stored::register(depth, &registry).unwrap().series(&["2", "1"]).set(f64::INFINITY);
        let wait = Desc::new(Kind::Histogram, "wait_seconds", "Wait.", &[]).unwrap();
        let wait = wait.with_unit("seconds").unwrap().with_bounds(&[0.5, 1.0]).unwrap();
        let wait = Stored::register(wait, &registry).unwrap().series::<&str>(&[]);
        for value in [0.1, 0.7, 9.0] {
            wait.observe(value);
        }
        let size = Desc::new(Kind::Summary, "size", "Size.", &[]).unwrap();
        Stored::register(size, &registry).unwrap().series::<&str>(&[]).observe(3.0);
        registry
    }

    #[test]
    fn all_formats_tell_the_same() {
        let registry = registry();
        let page = |format| encode_bytes(&registry, Selection::default(), format);
        let protobuf =
            parse("application/vnd.google.protobuf; x", &page(Format::Protobuf)).unwrap();
        let open = parse("application/openmetrics-text", &page(Format::OpenMetrics1)).unwrap();
        let mut plain = parse("text/plain", &page(Format::Text004)).unwrap();
        let names: Vec<&str> = protobuf.iter().map(|family| &*family.name).collect();
        assert_eq!(names, ["jobs_total", "depth", "wait_seconds", "size"]);
        let bare = |families: &[MetricFamily]| {
            let mut families = families.to_vec();
            for family in &mut families {
                family.unit.clear();
                for metric in &mut family.metrics {
                    metric.counter.iter_mut().for_each(|counter| counter.start = None);
                    metric.summary.iter_mut().for_each(|summary| summary.start = None);
                    metric.histogram.iter_mut().for_each(|histogram| histogram.start = None);
                }
            }
            families
        };
        assert_eq!(bare(&open), bare(&protobuf));
        assert_eq!(open[2].unit, "seconds");
        assert!(open[0].metrics[0].counter.as_ref().unwrap().start.is_some());
        plain.retain(|family| !family.name.ends_with("_created"));
        assert_eq!(bare(&plain), bare(&protobuf));
    }

    #[test]
    fn a_native_histogram_comes_through_protobuf() {
        let registry = Registry::default();
        let desc = Desc::new(Kind::Histogram, "wait", "", &[]).unwrap();
        let desc = desc.with_native(NativeOptions::default()).unwrap();
        Stored::register(desc, &registry).unwrap().series::<&str>(&[]).observe(1.0);
        let page = encode_bytes(&registry, Selection::default(), Format::Protobuf);
        let families = parse("application/vnd.google.protobuf", &page).unwrap();
        let histogram = families[0].metrics[0].histogram.as_ref().unwrap();
        assert_eq!((histogram.count, &*histogram.positive_deltas), (1, &[1][..]));
    }

    #[test]
    fn odd_but_valid_lines_are_read() {
        let page = "# a comment\n#TYPE is none\n# TYPE g gauge\n  g { a = \"1\" , } +Inf 1395066363000\n\
                    {\"dotted.name\", \"a.b\"=\"x\"} -3e-2\n\
                    # TYPE h counter\nh_total 1 # {trace=\"7 # 7\"} 0.5\nbare NaN\n# EOF\n";
        let families = text(page).unwrap();
        let names: Vec<&str> = families.iter().map(|family| &*family.name).collect();
        assert_eq!(names, ["g", "dotted.name", "h_total", "bare"]);
        assert_eq!(families[0].metrics[0].labels[0].value, "1");
        assert_eq!(families[1].metrics[0].labels[0].name, "a.b");
        assert_eq!(families[1].metrics[0].untyped, Some(Number { value: -3e-2 }));
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let table = [
            ("<html><body>no</body></html>", "line 1: "),
            ("ok 1\nbad", "line 2: no value: \"bad\""),
            ("a{b=\"c} 1", "line 1: a quoted text without an end"),
            ("a{b} 1", "line 1: no value of a label"),
            ("a{b=\"c\" d=\"e\"} 1", "line 1: no comma between labels"),
            ("a 1 2 3", "line 1: more behind the value"),
            ("a 1 x", "line 1: \"x\" is no number"),
            ("# TYPE a wrong\na 1", "line 1: no type of metrics"),
            ("# TYPE a histogram\na_bucket 1", "line 2: no label le"),
            ("# TYPE a histogram\na_bucket{le=\"x\"} 1", "line 2: \"x\" is no number"),
            ("# TYPE a histogram\na_count -1", "line 2: no count"),
            (
                "# TYPE a histogram\na_bucket{le=\"1\"} 3\na_bucket{le=\"+Inf\"} 2\na_count 3",
                "the buckets of a do not ascend to its count",
            ),
        ];
        for (page, expected) in table {
            let error = text(page).unwrap_err();
            assert!(error.starts_with(expected), "{page}: {error}");
        }
        let error = parse("application/vnd.google.protobuf", b"\x05ab").unwrap_err();
        assert!(error.starts_with("family 1: "), "{error}");
        assert!(parse("text/plain", b"\xff 1").unwrap_err().starts_with("no UTF-8"));
    }
}
