//! Reads a worker's page, in any of the formats of Prometheus. Pure.
//!
//! Whatever the format, the result is that of the protobuf format: a counter's family is named as
//! its samples are, infos and state sets are gauges. A page is taken whole or not at all.

mod line;
mod text;

use prost::Message;

use crate::metrics::wire::MetricFamily;
use text::Page;

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
        if page.series() > MAX_SERIES {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::wire::Number;
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
