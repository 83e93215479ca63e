//! The text formats: Prometheus 0.0.4 and OpenMetrics 1.0.
//!
//! They share names, labels and numbers, and differ in the header of a family and in the end of
//! the page. Both are held against `prometheus_client`'s parsers and its own output in the tests.

use std::fmt::Write;

use super::desc::{Desc, Kind};
use super::labels::LabelSet;
use super::negotiate::Format;
use super::number::format_number;
use super::registry::Registry;
use super::sink::{Sink, Value};

/// Writes all families of a registry as one page.
pub fn encode(registry: &Registry, format: Format) -> String {
    let mut encoder = Encoder { out: String::new(), format };
    registry.collect(&mut encoder);
    if format == Format::OpenMetrics1 {
        encoder.out.push_str("# EOF\n");
    }
    encoder.out
}

struct Encoder {
    out: String,
    format: Format,
}

impl Sink for Encoder {
    fn family(&mut self, desc: &Desc) {
        // 0.0.4 knows no suffix rules: there a family has its samples' name, and info is a gauge.
        let plain = self.format == Format::Text004;
        let suffix = if plain { desc.kind.page_suffix() } else { "" };
        let kind = if plain && desc.kind == Kind::Info { Kind::Gauge } else { desc.kind }.as_str();
        let name = &desc.name;
        let _ = write!(self.out, "# HELP {name}{suffix} ");
        self.help(&desc.help);
        let _ = writeln!(self.out, "\n# TYPE {name}{suffix} {kind}");
        if !plain && !desc.unit.is_empty() {
            let _ = writeln!(self.out, "# UNIT {name} {}", desc.unit);
        }
    }

    fn sample(&mut self, desc: &Desc, labels: &LabelSet, value: Value<'_>) {
        match value {
            Value::Counter(value) => self.line(desc, "_total", [labels.text(), ""], value),
            Value::Gauge(value) => self.line(desc, "", [labels.text(), ""], value),
            Value::Info { labels: facts, .. } => {
                self.line(desc, "_info", [labels.text(), facts.text()], 1.0);
            }
            Value::Histogram { bounds, counts, sum } => {
                self.buckets(desc, labels, bounds, counts);
                let count: u64 = counts.iter().sum();
                self.line(desc, "_count", [labels.text(), ""], count as f64);
                self.line(desc, "_sum", [labels.text(), ""], sum);
            }
        }
    }
}

impl Encoder {
    fn buckets(&mut self, desc: &Desc, labels: &LabelSet, bounds: &[f64], counts: &[u64]) {
        let (before, after) = labels.around_le();
        let mut total = 0;
        for (index, count) in counts.iter().enumerate() {
            total += count;
            let _ = write!(self.out, "{}_bucket{{{before}", desc.name);
            self.out.push_str(if before.is_empty() { "le=\"" } else { ",le=\"" });
            format_number(bounds.get(index).copied().unwrap_or(f64::INFINITY), &mut self.out);
            self.out.push_str(if after.is_empty() { "\"" } else { "\"," });
            let _ = write!(self.out, "{after}}} ");
            format_number(total as f64, &mut self.out);
            self.out.push('\n');
        }
    }

    fn line(&mut self, desc: &Desc, suffix: &str, labels: [&str; 2], value: f64) {
        self.out.push_str(&desc.name);
        self.out.push_str(suffix);
        match labels {
            ["", ""] => {}
            [one, ""] | ["", one] => {
                let _ = write!(self.out, "{{{one}}}");
            }
            [one, two] => {
                let _ = write!(self.out, "{{{one},{two}}}");
            }
        }
        self.out.push(' ');
        format_number(value, &mut self.out);
        self.out.push('\n');
    }

    fn help(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '"' if self.format == Format::OpenMetrics1 => self.out.push_str("\\\""),
                c => self.out.push(c),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::{Family, Options};

    fn page(format: Format) -> String {
        let registry = Registry::default();
        let family = |kind, name, labels: &[&str]| {
            Family::register(Desc::new(kind, name, "A \"b\"\\\n.", labels).unwrap(), &registry)
        };
        family(Kind::Counter, "c_total", &["x"]).unwrap().series(&["1"]).add(2.0);
        family(Kind::Gauge, "g", &[]).unwrap().series::<&str>(&[]).set(-1.5);
        let info = family(Kind::Info, "i", &[]).unwrap().series::<&str>(&[]);
        info.set_info(&[("v".into(), "1".into())]);
        let desc = Desc::new(Kind::Histogram, "h", "", &["z"]).unwrap();
        let family: Arc<Family> =
            Family::new(desc.with_bounds(&[0.5, 1.0]).unwrap(), Options::default());
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
