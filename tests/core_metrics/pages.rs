//! Whole pages, byte for byte as `prometheus_client` writes them (`golden.py` made the files).

use std::sync::Arc;

use ryot_metrics::error::Result;
use ryot_metrics::metrics::{
    Desc, Escaping, Exemplar, Exposition, Family, Format, Kind, Options, Pairs, Registry, Sample,
    Selection, Series, Sink, Source, Timestamp, encode, encode_bytes,
};

const NOW: f64 = 1_700_000_000.25;

/// Ready-made samples, as a collector in Python gives them.
struct Custom(Vec<(Desc, Vec<Sample>)>);

impl Source for Custom {
    fn describe(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self, sink: &mut dyn Sink) {
        for (desc, samples) in &self.0 {
            sink.family(desc);
            for sample in samples {
                sink.raw(desc, sample);
            }
        }
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}

fn sample(name: &str, labels: &[(&str, &str)], value: f64, timestamp: Option<Timestamp>) -> Sample {
    Sample { name: name.into(), labels: pairs(labels), value, timestamp, exemplar: None }
}

fn custom() -> Result<Custom> {
    let at = Some(Timestamp::Float(1.5));
    let exact = Some(Timestamp::Exact { seconds: 3, nanos: 5_000_000 });
    let mut with_exemplar = sample("counted_total", &[("a", "y")], 6.0, None);
    with_exemplar.exemplar = Some(Arc::new(Exemplar::new(pairs(&[("t", "\"1\"")]), 2.0, 1.5)?));
    let gauge_histogram = vec![
        sample("gh_bucket", &[("z", "1"), ("le", "1.0")], 2.0, at),
        sample("gh_bucket", &[("z", "1"), ("le", "+Inf")], 3.0, at),
        sample("gh_gcount", &[("z", "1")], 3.0, at),
        sample("gh_gsum", &[("z", "1")], 4.5, at),
    ];
    let counted = vec![
        sample("counted_total", &[("a", "x")], 5.0, exact),
        sample("counted_created", &[("a", "x")], 12.5, exact),
        with_exemplar,
    ];
    let desc = |kind, name, help| Desc::new(kind, name, help, &[]);
    Ok(Custom(vec![
        (desc(Kind::GaugeHistogram, "gh", "Gauge histogram.")?, gauge_histogram),
        (desc(Kind::Unknown, "odd", "Unknown.")?, vec![sample("odd", &[], 3.0, None)]),
        (desc(Kind::Counter, "counted", "Counted.")?, counted),
        (desc(Kind::Gauge, "dot.ted", "Dotted.")?, vec![sample("dot.ted", &[], 1.0, None)]),
    ]))
}

fn family(registry: &Registry, desc: Desc) -> Result<Arc<Family>> {
    let family = Family::new(desc, Options { now: || NOW, ..Options::default() });
    registry.register(family.clone())?;
    Ok(family)
}

fn observe(series: &Series, value: f64, exemplar: &[(&str, &str)]) -> Result<()> {
    series.set_exemplar(Exemplar::new(pairs(exemplar), value, NOW)?);
    series.observe(value);
    Ok(())
}

fn counters(registry: &Registry) -> Result<()> {
    let help = "Jobs \"done\"\\\n.";
    let jobs = family(registry, Desc::new(Kind::Counter, "jobs", help, &["queue", "a"])?)?;
    let mail = jobs.series(&["ma\"il\n", "\\"]);
    mail.add(2.0);
    mail.set_exemplar(Exemplar::new(pairs(&[("trace", "1"), ("a", "é")]), 2.0, NOW)?);
    jobs.series(&["é", ""]).add(1_234_567.5);
    let depth = Desc::new(Kind::Gauge, "depth_seconds", "Depth.", &[])?.with_unit("seconds")?;
    family(registry, depth)?.series::<&str>(&[]).set(-1.5);
    Ok(())
}

fn distributions(registry: &Registry) -> Result<()> {
    let size = Desc::new(Kind::Histogram, "size", "Sizes.", &["a", "z"])?;
    let series = family(registry, size.with_bounds(&[0.5, 1e6])?)?.series(&["1", "2"]);
    observe(&series, 0.25, &[("trace", "2")])?;
    series.observe(7e6);
    let signed = Desc::new(Kind::Histogram, "signed", "", &[])?.with_bounds(&[-1.0, 1.0])?;
    family(registry, signed)?.series::<&str>(&[]).observe(-0.5);
    let took = Desc::new(Kind::Summary, "took", "Took.", &["z"])?;
    family(registry, took)?.series(&["1"]).observe(0.125);
    Ok(())
}

fn registry() -> Result<Registry> {
    let registry = Registry::default();
    registry.set_target_info(pairs(&[("service", "s"), ("a", "1")]))?;
    counters(&registry)?;
    distributions(&registry)?;
    let build = family(&registry, Desc::new(Kind::Info, "build", "Build.", &["z"])?)?;
    build.series(&["1"]).set_info(&pairs(&[("a", "b"), ("é", "c")]));
    let state = Desc::new(Kind::StateSet, "state", "State.", &["z"])?;
    let state = family(&registry, state.with_states(&["off", "on\""])?)?;
    assert!(state.series(&["1"]).set_state("on\""));
    let dotted = Desc::new(Kind::Counter, "na.me", "UTF-8.", &["la.bel", "b_c"])?;
    family(&registry, dotted)?.series(&["x", "y"]).add(1.0);
    registry.register(Arc::new(custom()?))?;
    Ok(registry)
}

/// Compares line by line, so that a failure can be read.
fn assert_page(page: &str, expected: &str) {
    for (line, expected) in page.lines().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(page, expected);
}

#[test]
fn pages_are_those_of_prometheus_client() {
    let registry = registry().unwrap();
    let text = Format::Text100;
    let open = Format::OpenMetrics1;
    let table = [
        (text, Escaping::AllowUtf8, include_str!("golden/text-allow-utf-8.txt")),
        (text, Escaping::Underscores, include_str!("golden/text-underscores.txt")),
        (text, Escaping::Dots, include_str!("golden/text-dots.txt")),
        (text, Escaping::Values, include_str!("golden/text-values.txt")),
        (open, Escaping::AllowUtf8, include_str!("golden/open-allow-utf-8.txt")),
        (open, Escaping::Underscores, include_str!("golden/open-underscores.txt")),
    ];
    for (format, escaping, expected) in table {
        let exposition = Exposition { format, escaping: Some(escaping) };
        assert_page(&encode(&registry, exposition), expected);
    }
    let plain = include_str!("golden/text-underscores.txt");
    assert_page(&encode(&registry, Format::Text004), plain);
}

#[test]
fn a_restricted_page_has_the_named_samples_alone() {
    let registry = registry().unwrap();
    let page = |names: &[&str], format: Format| {
        String::from_utf8(encode_bytes(
            &registry,
            Selection { names: Some(names), profile: None },
            format,
        ))
        .unwrap()
    };
    let only = |names: &[&str]| page(names, Format::Text004);
    let depth = page(&["depth_seconds"], Format::OpenMetrics1);
    assert_page(&depth, include_str!("golden/restricted.txt"));
    assert_eq!(only(&["nothing", "odd", "size"]), "");
    registry.ask_unnamed(true);
    assert_eq!(only(&["odd"]), "# HELP odd Unknown.\n# TYPE odd untyped\nodd 3.0\n");
    let target = "# HELP target_info Target metadata\n# TYPE target_info gauge\n\
        target_info{a=\"1\",service=\"s\"} 1.0\n";
    assert_eq!(only(&["target_info"]), target);
}

#[test]
fn a_label_of_the_registry_is_on_every_sample() {
    let registry = Registry::with_labels(pairs(&[("m", "0")])).unwrap();
    distributions(&registry).unwrap();
    registry.register(Arc::new(custom().unwrap())).unwrap();
    let page = encode(&registry, Format::OpenMetrics1);
    assert!(page.contains("\nsize_bucket{a=\"1\",le=\"0.5\",m=\"0\",z=\"2\"} 1.0 # {"), "{page}");
    let samples = page.lines().filter(|line| !line.starts_with('#'));
    for line in samples {
        assert!(line.contains("m=\"0\""), "{line}");
    }
}
