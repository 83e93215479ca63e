//! The text formats: Prometheus 0.0.4 and 1.0.0, and OpenMetrics 1.0.
//!
//! They share names, labels and numbers, and differ in the header of a family, in what stands
//! beside a value, and in the end of the page. A stored series whose names are all of the old
//! alphabet is copied from its rendered labels; everything else goes through
//! [`flatten`](super::flat) and is written name by name. In the Prometheus formats, `_created`,
//! `_gcount` and `_gsum` samples are families of their own behind the one they belong to.
//!
//! Pages are those of `prometheus_client` but for one thing: in OpenMetrics, with names escaped,
//! it writes a colon as an underscore in samples (`vllm_depth`) though not in the header above
//! them (`vllm:depth`), and with `values` escapes samples that the header leaves alone.
//! Here a sample has the name of its family.

use std::borrow::Cow;
use std::sync::Arc;

use super::desc::{Desc, Kind};
use super::flat::{flatten, has_sum};
use super::labels::LabelSet;
use super::names::{
    Escaping, escape_text, escape_value, is_legacy_label_name, is_legacy_metric_name,
};
use super::negotiate::{Exposition, Format};
use super::number::{format_count, format_number};
use super::registry::Registry;
use super::sample::{Exemplar, Sample};
use super::sink::{Reading, Sink, Value};

/// Suffixes of the samples that the Prometheus formats take out of their family, in their order.
const LATER: [&str; 3] = ["_created", "_gcount", "_gsum"];

/// Writes all families of a registry as one page of text.
///
/// # Panics
/// If the format is not text: see [`encode_bytes`](super::encode_bytes).
pub fn encode(registry: &Registry, exposition: impl Into<Exposition>) -> String {
    let mut encoder = Encoder::new(exposition.into(), registry.page_len());
    registry.collect(&mut encoder);
    let page = encoder.finish();
    registry.set_page_len(page.len());
    page
}

/// A sink that writes a page of text.
pub(super) struct Encoder {
    out: String,
    open: bool,
    escaping: Escaping,
    /// Of the family that began last: its names are all of the old alphabet.
    plain: bool,
    /// The rendered bounds of its buckets, `+Inf` included.
    bounds: Vec<String>,
    /// Its lines that come later, by suffix.
    later: [String; 3],
    /// The headers of those families.
    later_headers: [String; 3],
}

impl Encoder {
    pub(super) fn new(exposition: Exposition, capacity: usize) -> Self {
        assert!(exposition.format != Format::Protobuf, "protobuf is no text");
        Self {
            out: String::with_capacity(capacity),
            open: exposition.format == Format::OpenMetrics1,
            escaping: exposition.effective_escaping(),
            plain: false,
            bounds: Vec::new(),
            later: Default::default(),
            later_headers: Default::default(),
        }
    }

    /// The page.
    pub(super) fn finish(mut self) -> String {
        self.flush();
        if self.open {
            self.out.push_str("# EOF\n");
        }
        self.out
    }

    /// Writes the families that follow the last one.
    fn flush(&mut self) {
        for (header, lines) in self.later_headers.iter_mut().zip(&mut self.later) {
            self.out.push_str(header);
            self.out.push_str(lines);
            header.clear();
            lines.clear();
        }
    }
}

impl Sink for Encoder {
    fn family(&mut self, desc: &Desc) {
        self.flush();
        self.plain = self.escaping != Escaping::Dots
            && is_legacy_metric_name(&desc.name)
            && desc.label_names.iter().all(|name| is_legacy_label_name(name));
        self.bounds.clear();
        for bound in desc.bounds.iter().chain([&f64::INFINITY]) {
            let mut text = String::new();
            format_number(*bound, &mut text);
            self.bounds.push(text);
        }
        // The old formats know no suffix rules: there a family has its samples' name.
        let suffix = if self.open { "" } else { desc.kind.page_suffix() };
        let kind = if self.open { desc.kind.as_str() } else { desc.kind.page_str() };
        let mut header = self.header(desc, suffix, kind);
        if self.open && !desc.unit.is_empty() {
            let name = self.escaping.metric_name(&desc.name);
            header.extend(["# UNIT ", &name, " ", &desc.unit, "\n"]);
        }
        self.out.push_str(&header);
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        let plain = self.plain
            && match reading.value {
                Value::Info { names, .. } => {
                    labels.text().is_empty() && names.iter().all(|name| is_legacy_label_name(name))
                }
                _ => true,
            };
        if !plain {
            flatten(desc, labels, reading, &mut |sample| self.raw(desc, &sample));
            return;
        }
        self.value(desc, labels, reading);
        if let Some(created) = reading.created {
            self.created(desc, labels, created);
        }
    }

    fn raw(&mut self, desc: &Desc, sample: &Sample) {
        let suffix = sample.name.strip_prefix(&*desc.name).filter(|_| !self.open);
        let later = LATER.iter().position(|later| Some(*later) == suffix);
        let mut line = String::new();
        self.raw_line(desc, sample, &mut line);
        match later {
            Some(index) => self.push_later(desc, index, &[&line]),
            None => self.out.push_str(&line),
        }
    }

    fn is_prompt(&self) -> bool {
        true
    }
}

/// What is written from rendered labels.
impl Encoder {
    fn value(&mut self, desc: &Desc, labels: &LabelSet, reading: &Reading<'_>) {
        match reading.value {
            Value::Counter(value) => {
                self.number(desc, "_total", labels.text(), value);
                self.end_line(reading.exemplars.first());
            }
            Value::Gauge(value) => self.line(desc, "", labels.text(), value),
            Value::Info { labels, .. } => self.line(desc, "_info", labels.text(), 1.0),
            Value::StateSet { states, current } => self.states(desc, labels, states, current),
            Value::Summary { count, sum, quantiles } => {
                for &(quantile, value) in quantiles {
                    let mut text = String::new();
                    format_number(quantile, &mut text);
                    self.added(desc, labels, &text, value);
                }
                self.line(desc, "_count", labels.text(), count as f64);
                self.line(desc, "_sum", labels.text(), sum);
            }
            Value::Histogram { bounds, counts, sum } => {
                let count = self.buckets(desc, labels, counts, reading.exemplars);
                self.line(desc, "_count", labels.text(), count as f64);
                if has_sum(bounds) {
                    self.line(desc, "_sum", labels.text(), sum);
                }
            }
        }
    }

    fn states(&mut self, desc: &Desc, labels: &LabelSet, states: &[Box<str>], current: usize) {
        for (index, state) in states.iter().enumerate() {
            let mut text = String::new();
            escape_value(state, &mut text);
            let on = if index == current { 1.0 } else { 0.0 };
            self.added(desc, labels, &text, on);
        }
    }

    fn buckets(
        &mut self,
        desc: &Desc,
        labels: &LabelSet,
        counts: &[u64],
        exemplars: &[Option<Arc<Exemplar>>],
    ) -> u64 {
        let [before, after] = around(labels);
        let mut total = 0;
        for (index, count) in counts.iter().enumerate() {
            total += count;
            let bound = self.bounds.get(index).map_or("", |bound| bound);
            let parts = [&*desc.name, "_bucket{", before[0], before[1], "le=\"", bound, "\""];
            self.out.extend(parts);
            self.out.extend([after[0], after[1], "} "]);
            format_count(total, &mut self.out);
            self.end_line(exemplars.get(index));
        }
        total
    }

    /// A line with the label that the kind adds.
    fn added(&mut self, desc: &Desc, labels: &LabelSet, text: &str, value: f64) {
        let [before, after] = around(labels);
        let parts = [&*desc.name, "{", before[0], before[1], desc.added_label(), "=\"", text, "\""];
        self.out.extend(parts);
        self.out.extend([after[0], after[1], "} "]);
        format_number(value, &mut self.out);
        self.out.push('\n');
    }

    fn line(&mut self, desc: &Desc, suffix: &str, labels: &str, value: f64) {
        self.number(desc, suffix, labels, value);
        self.out.push('\n');
    }

    fn number(&mut self, desc: &Desc, suffix: &str, labels: &str, value: f64) {
        self.out.extend([&*desc.name, suffix]);
        self.out.extend(braced(labels));
        format_number(value, &mut self.out);
    }

    fn end_line(&mut self, exemplar: Option<&Option<Arc<Exemplar>>>) {
        if let Some(Some(exemplar)) = exemplar.filter(|_| self.open) {
            exemplar.write(&mut self.out);
        }
        self.out.push('\n');
    }

    fn created(&mut self, desc: &Desc, labels: &LabelSet, created: f64) {
        if self.open {
            self.line(desc, "_created", labels.text(), created);
            return;
        }
        let mut number = String::new();
        format_number(created, &mut number);
        let [open, text, close] = braced(labels.text());
        self.push_later(desc, 0, &[&desc.name, "_created", open, text, close, &number, "\n"]);
    }
}

/// What both ways share, and the way that spells every name.
impl Encoder {
    fn header(&self, desc: &Desc, suffix: &str, kind: &str) -> String {
        let full = [&*desc.name, suffix].concat();
        let name = self.escaping.metric_name(&full);
        let mut out = String::with_capacity(2 * name.len() + desc.help.len() + 32);
        out.extend(["# HELP ", &name, " "]);
        escape_text(&desc.help, self.open, &mut out);
        out.extend(["\n# TYPE ", &name, " ", kind, "\n"]);
        out
    }

    fn push_later(&mut self, desc: &Desc, index: usize, parts: &[&str]) {
        if self.later_headers[index].is_empty() {
            let gauge = Kind::Gauge.page_str();
            self.later_headers[index] = self.header(desc, LATER[index], gauge);
        }
        self.later[index].extend(parts.iter().copied());
    }

    fn raw_line(&self, desc: &Desc, sample: &Sample, out: &mut String) {
        self.raw_name(sample, out);
        format_number(sample.value, out);
        if let Some(timestamp) = sample.timestamp {
            out.push(' ');
            if self.open {
                out.push_str(&timestamp.to_string());
            } else {
                out.push_str(itoa::Buffer::new().format(timestamp.millis()));
            }
        }
        let allowed = self.open && Sample::takes_exemplar(desc, &sample.name);
        if let Some(exemplar) = sample.exemplar.as_ref().filter(|_| allowed) {
            exemplar.write(out);
        }
        out.push('\n');
    }

    /// Name and labels; a quoted name stands first inside the braces.
    fn raw_name(&self, sample: &Sample, out: &mut String) {
        let name = self.escaping.metric_name(&sample.name);
        let quoted = name.starts_with('"');
        if quoted {
            out.extend(["{", &name]);
        } else {
            out.push_str(&name);
        }
        let mut pairs: Vec<&(String, String)> = sample.labels.iter().collect();
        pairs.sort_unstable();
        for (index, (label, value)) in pairs.iter().enumerate() {
            out.push(if index == 0 && !quoted { '{' } else { ',' });
            let label: Cow<'_, str> = self.escaping.label_name(label);
            out.extend([&label, "=\""]);
            escape_value(value, out);
            out.push('"');
        }
        out.push_str(if quoted || !pairs.is_empty() { "} " } else { " " });
    }
}

/// Labels between their braces, and the space before the value.
fn braced(labels: &str) -> [&str; 3] {
    if labels.is_empty() { ["", "", " "] } else { ["{", labels, "} "] }
}

/// The labels before and after the added one, with their commas.
fn around(labels: &LabelSet) -> [[&str; 2]; 2] {
    let (before, after) = labels.around_added();
    let comma = |text: &str| if text.is_empty() { "" } else { "," };
    [[before, comma(before)], [comma(after), after]]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{Family, Options};

    fn page(format: Format) -> String {
        let registry = Registry::default();
        let options = Options { created: false, ..Options::default() };
        let family = |kind, name, labels: &[&str]| {
            let desc = Desc::new(kind, name, "A \"b\"\\\n.", labels).unwrap();
            let family = Family::new(desc, options.clone());
            registry.register(family.clone()).map(|()| family)
        };
        family(Kind::Counter, "c_total", &["x"]).unwrap().series(&["1"]).add(2.0);
        family(Kind::Gauge, "g", &[]).unwrap().series::<&str>(&[]).set(-1.5);
        let info = family(Kind::Info, "i", &[]).unwrap().series::<&str>(&[]);
        info.set_info(&[("v".into(), "1".into())]);
        let desc = Desc::new(Kind::Histogram, "h", "", &["z"]).unwrap();
        let family: Arc<Family> = Family::new(desc.with_bounds(&[0.5, 1.0]).unwrap(), options);
        registry.register(family.clone()).unwrap();
        let series = family.series(&["1"]);
        for value in [0.5, 0.75, f64::NAN, 7.0] {
            series.observe(value);
        }
        encode(&registry, format)
    }

    #[test]
    fn text_0_0_4() {
        let expected = r#"# HELP c_total A "b"\\\n.
# TYPE c_total counter
c_total{x="1"} 2.0
# HELP g A "b"\\\n.
# TYPE g gauge
g -1.5
# HELP i_info A "b"\\\n.
# TYPE i_info gauge
i_info{v="1"} 1.0
# HELP h 
# TYPE h histogram
h_bucket{le="0.5",z="1"} 1.0
h_bucket{le="1.0",z="1"} 2.0
h_bucket{le="+Inf",z="1"} 4.0
h_count{z="1"} 4.0
h_sum{z="1"} NaN
"#;
        assert_eq!(page(Format::Text004), expected);
    }

    #[test]
    fn openmetrics_differs_in_headers_and_end() {
        let page = page(Format::OpenMetrics1);
        for part in [
            "# HELP c A \\\"b\\\"\\\\\\n.\n# TYPE c counter\nc_total{x=\"1\"} 2.0\n",
            "# TYPE i info\ni_info{v=\"1\"} 1.0\n",
        ] {
            assert!(page.contains(part), "{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
