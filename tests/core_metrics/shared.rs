//! Several registries on one file, as worker processes have it. That processes die is tested from
//! Python, which can start and kill some.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ryot_metrics::clock::ManualClock;
use ryot_metrics::llm::{End, Recorder, Settings, Start};
use ryot_metrics::metrics::{
    Desc, Exemplar, Exposition, Family, Format, GaugeMode, Kind, NativeOptions, Options, Quantiles,
    Registry, Selection, disable_created_metrics, encode, encode_bytes,
};

/// A file that is gone with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ryot-shared-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// A registry as a process has it.
    fn join(&self) -> Registry {
        disable_created_metrics();
        let registry = Registry::default();
        registry.share(&self.0).unwrap();
        registry
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn family(registry: &Registry, kind: Kind, labels: &[&str]) -> Arc<Family> {
    let desc = Desc::new(kind, "a", "", labels).unwrap();
    let desc = match kind {
        Kind::Histogram => desc.with_bounds(&[1.0, 2.0]).unwrap(),
        Kind::StateSet => desc.with_states(&["off", "on"]).unwrap(),
        _ => desc,
    };
    Family::register(desc, registry).unwrap()
}

fn samples(registry: &Registry) -> Vec<String> {
    let page = encode(registry, Format::Text004);
    page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Two processes with the same families, and a third that made none: one page.
#[test]
fn all_processes_have_the_page_of_all() {
    let place = Place::new();
    let [first, second, third] = [(); 3].map(|()| place.join());
    let counters = [&first, &second].map(|it| family(it, Kind::Counter, &["x"]));
    counters[0].series(&["1"]).add(1.0);
    counters[1].series(&["1"]).add(2.0);
    counters[1].series(&["2"]).add(4.0);
    for registry in [&first, &second, &third] {
        assert_eq!(samples(registry), [r#"a_total{x="1"} 3.0"#, r#"a_total{x="2"} 4.0"#]);
    }
}

/// Writes a value to a family.
type Write = &'static dyn Fn(&Family, f64);

/// Histograms, summaries, state sets and infos have what any process wrote.
#[test]
fn each_type_is_the_same_for_all() {
    let table: [(Kind, Write, &[&str]); 4] = [
        (
            Kind::Histogram,
            &|it, value| it.series::<&str>(&[]).observe(value),
            &[
                r#"a_bucket{le="1.0"} 1.0"#,
                r#"a_bucket{le="2.0"} 2.0"#,
                r#"a_bucket{le="+Inf"} 2.0"#,
                "a_count 2.0",
                "a_sum 2.5",
            ],
        ),
        (
            Kind::Summary,
            &|it, value| it.series::<&str>(&[]).observe(value),
            &["a_count 2.0", "a_sum 2.5"],
        ),
        (
            Kind::StateSet,
            &|it, _| assert!(it.series::<&str>(&[]).set_state("on")),
            &[r#"a{a="off"} 0.0"#, r#"a{a="on"} 1.0"#],
        ),
        (
            Kind::Info,
            &|it, value| it.series::<&str>(&[]).set_info(&[("v".into(), value.to_string())]),
            &[r#"a_info{v="2"} 1.0"#],
        ),
    ];
    for (kind, write, expected) in table {
        let place = Place::new();
        let registries = [place.join(), place.join(), place.join()];
        for (registry, value) in registries.iter().zip([0.5, 2.0]) {
            write(&family(registry, kind, &[]), value);
        }
        for registry in &registries {
            assert_eq!(samples(registry), expected, "{kind:?}");
        }
    }
}

/// Native histograms and quantiles are those of the observations of all: a page of two processes
/// is that of one which has observed everything.
#[test]
fn native_buckets_and_quantiles_add_up() {
    let place = Place::new();
    let [first, second, third, alone] =
        [place.join(), place.join(), place.join(), Registry::default()];
    for (registry, values) in [(&first, 1..=50), (&second, 51..=100), (&alone, 1..=100)] {
        let desc = Desc::new(Kind::Summary, "s", "", &[]).unwrap();
        let desc = desc.with_quantiles(Quantiles::new(&[0.5])).unwrap();
        let summary = Family::register(desc, registry).unwrap();
        let desc = Desc::new(Kind::Histogram, "h", "", &[]).unwrap();
        let desc = desc.with_native(NativeOptions::default()).unwrap();
        let histogram = Family::register(desc, registry).unwrap();
        for value in values.map(f64::from) {
            summary.series::<&str>(&[]).observe(value);
            histogram.series::<&str>(&[]).observe(value);
        }
    }
    assert_eq!(samples(&third), samples(&alone));
    let exposition = Exposition::negotiate(Format::Protobuf.as_str(), &[Format::Protobuf]);
    let page = |registry| encode_bytes(registry, Selection::default(), exposition);
    assert_eq!(page(&third), page(&alone));
}

/// Each mode of a gauge, of the values 3 and 5.
#[test]
fn gauges_become_one_value_by_their_mode() {
    for (mode, expected) in [("sum", 8.0), ("min", 3.0), ("livemax", 5.0), ("mostrecent", 5.0)] {
        let place = Place::new();
        let registries = [place.join(), place.join()];
        for (registry, value) in registries.iter().zip([3.0, 5.0]) {
            let desc = Desc::new(Kind::Gauge, "a", "", &[]).unwrap();
            let desc = desc.with_mode(GaugeMode::parse(mode).unwrap());
            Family::register(desc, registry).unwrap().series::<&str>(&[]).set(value);
        }
        for registry in &registries {
            assert_eq!(samples(registry), [format!("a {expected:?}")], "{mode}");
        }
    }
    let place = Place::new();
    let registries = [place.join(), place.join()];
    for (registry, value) in registries.iter().zip([3.0, 5.0]) {
        family(registry, Kind::Gauge, &["x"]).series(&["1"]).set(value);
    }
    let pid = std::process::id();
    let lines = [5, 3].map(|value| format!("a{{pid=\"{pid}\",x=\"1\"}} {value}.0"));
    assert_eq!(samples(&registries[0]), lines);
}

/// A removed series leaves all pages, a handle goes on unseen, and the same labels begin anew.
#[test]
fn a_removal_is_seen_by_all() {
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let [a, b] = [&first, &second].map(|it| family(it, Kind::Counter, &["x"]));
    let held = a.series(&["1"]);
    held.add(1.0);
    b.series(&["1"]).add(1.0);
    assert!(b.remove(&["1"]));
    assert_eq!((samples(&first).len(), samples(&second).len()), (0, 0));
    held.add(100.0);
    a.series(&["1"]).add(5.0);
    assert_eq!(samples(&second), [r#"a_total{x="1"} 5.0"#]);
    b.clear();
    assert!(samples(&first).is_empty());
}

/// Memory of removed series is used again, but not while anybody has a handle.
#[test]
fn removed_memory_is_used_again_when_nobody_holds_it() {
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let [a, b] = [&first, &second].map(|it| family(it, Kind::Histogram, &["x"]));
    let held = b.series(&["0"]);
    for turn in 0..20_000 {
        let label = turn.to_string();
        let series = a.series(&[&label]);
        series.observe(0.5);
        series.set_exemplar(Exemplar::new(vec![("id".into(), label.clone())], 0.5, 0.0).unwrap());
        drop(series);
        assert!(a.remove(&[&label]));
    }
    held.observe(0.5);
    assert!(a.series(&["new"]).get().abs() < f64::EPSILON);
    assert_eq!(fs::metadata(&place.0).unwrap().len(), 1 << 20);
}

/// More series than the first megabyte holds: it grows, and the others map it.
#[test]
fn a_full_mapping_grows() {
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let counter = family(&first, Kind::Counter, &["x"]);
    for index in 0..10_000 {
        counter.series(&[index.to_string()]).add(1.0);
    }
    assert!(fs::metadata(&place.0).unwrap().len() > 1 << 20);
    assert_eq!(samples(&second).len(), 10_000);
    let other = family(&second, Kind::Counter, &["x"]);
    other.series(&["9999"]).add(1.0);
    assert_eq!(samples(&first)[9_999], r#"a_total{x="9999"} 2.0"#);
}

/// Exemplars of any process are on the page of each.
#[test]
fn exemplars_are_seen_by_all() {
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let series = family(&first, Kind::Counter, &[]).series::<&str>(&[]);
    series.add(1.0);
    for id in ["one", "two"] {
        series.set_exemplar(Exemplar::new(vec![("id".into(), id.into())], 1.0, 2.0).unwrap());
        let page = encode(&second, Format::OpenMetrics1);
        assert!(page.contains(&format!(r#"a_total 1.0 # {{id="{id}"}} 1.0 2.0"#)), "{page}");
    }
}

/// A family with other buckets counts for itself, is on no page, and a sentence says so.
#[test]
fn another_description_is_refused_while_there_is_another_process() {
    let place = Place::new();
    let first = place.join();
    family(&first, Kind::Histogram, &[]).series::<&str>(&[]).observe(1.0);
    let second = place.join();
    family(&second, Kind::Counter, &["x"]).series(&["1"]).add(1.0);
    assert_eq!(samples(&second), samples(&first));
    let reports = second.shared().unwrap().take_reports();
    assert!(reports[0].starts_with("a is not shared in /tmp/"), "{reports:?}");
    assert!(reports[0].contains("type Counter, and another process has Histogram"), "{reports:?}");
}

/// What is no mapping, of another version, cut off or damaged is refused with the file's name.
#[test]
fn what_is_no_mapping_is_refused() {
    let refused = |path: &Path| Registry::default().share(path).unwrap_err().to_string();
    let place = Place::new();
    drop(place.join());
    let good = fs::read(&place.0).unwrap();
    let mut other = good.clone();
    other[8] = 7;
    let mut damaged = good.clone();
    damaged[40] = 9; // the first family
    damaged[42] = 200;
    let cases: [(&[u8], &str); 6] = [
        (b"hello", "was cut off: it has 5 bytes"),
        (&good[..1000], "was cut off: it has 1000 bytes"),
        (&vec![b'x'; 1 << 20], "it is no mapping"),
        (&[vec![0; 1 << 19], vec![1; 1 << 19]].concat(), "it is no mapping"),
        (&other, "it is a mapping of version 7; this is version 2"),
        (&damaged, "it is damaged (1 cells at 13107209 are not in it)"),
    ];
    for (bytes, expected) in cases {
        fs::write(&place.0, bytes).unwrap();
        let text = refused(&place.0);
        assert!(text.contains(expected) && text.contains(place.0.to_str().unwrap()), "{text}");
        assert_eq!(fs::read(&place.0).unwrap(), bytes, "it was changed");
    }
}

/// Only its owner may read and write it.
#[test]
fn a_file_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    drop(place.join());
    assert_eq!(fs::metadata(&place.0).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Sharing comes before the first write; an error names the family.
#[test]
fn what_was_written_cannot_be_shared() {
    let (place, registry) = (Place::new(), Registry::default());
    let counter = family(&registry, Kind::Counter, &["x"]);
    counter.series(&["1"]).add(1.0);
    let error = registry.share(&place.0).unwrap_err().to_string();
    assert_eq!(error, "shared: a was written before; share before the first write");
    assert!(!place.0.exists());
}

/// A series that nobody writes leaves the page of each process, and comes back.
#[test]
fn an_idle_series_leaves_all_pages() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let [a, _b] = [&first, &second].map(|registry| {
        let now = || NOW.load(Ordering::Relaxed) as f64;
        let options = Options { idle_ttl: Some(10.0), now, ..Options::default() };
        let desc = Desc::new(Kind::Counter, "a", "", &["x"]).unwrap();
        let family = Family::new(desc, options);
        registry.register(family.clone()).unwrap();
        family
    });
    let held = a.series(&["1"]);
    held.add(1.0);
    let lines = |registry, time| {
        NOW.store(time, Ordering::Relaxed);
        samples(registry).len()
    };
    assert_eq!([lines(&second, 1), lines(&second, 12)], [1, 0]);
    held.add(1.0);
    assert_eq!(lines(&second, 13), 1);
}

/// Idle series leave their memory to new ones, although another process has met them all; one that
/// somebody holds stays and comes back.
#[test]
fn memory_of_idle_series_is_used_again() {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let place = Place::new();
    let [first, second] = [place.join(), place.join()];
    let [a, _b] = [&first, &second].map(|registry| {
        let now = || NOW.load(Ordering::Relaxed) as f64 / 100.0;
        let options = Options { idle_ttl: Some(10.0), now, ..Options::default() };
        let family = Family::new(Desc::new(Kind::Counter, "a", "", &["x"]).unwrap(), options);
        registry.register(family.clone()).unwrap();
        family
    });
    let held = a.series(&["held"]);
    held.add(1.0);
    for turn in 0..15_000 {
        NOW.fetch_add(1, Ordering::Relaxed);
        a.series(&[turn.to_string()]).add(1.0);
        if turn % 500 == 0 {
            samples(&second);
        }
    }
    assert_eq!(fs::metadata(&place.0).unwrap().len(), 1 << 20);
    assert!(samples(&second).len() < 1_600);
    held.add(1.0);
    assert!(samples(&second).contains(&r#"a_total{x="held"} 2.0"#.to_owned()));
}

/// A family's limit is of the series of all processes, and what overflows is counted by all.
#[test]
fn a_limit_is_for_all_processes_together() {
    let place = Place::new();
    let families = [place.join(), place.join()].map(|registry| {
        let options = Options { series_limit: Some(2), ..Options::default() };
        let family = Family::new(Desc::new(Kind::Counter, "a", "", &["x"]).unwrap(), options);
        registry.register(family.clone()).unwrap();
        (family, registry)
    });
    for (index, (family, _)) in families.iter().chain(&families).enumerate() {
        family.series(&[index.to_string()]).add(1.0);
    }
    for (family, registry) in &families {
        assert_eq!(samples(registry).len(), 3);
        assert_eq!(family.overflowed(), 2);
    }
}

/// The catalogue's recorder: requests of two processes are on the page of a third, windows too.
#[test]
fn recorders_record_together() {
    let place = Place::new();
    let [first, second, third] = [(); 3].map(|()| {
        let registry = place.join();
        let clock = Arc::new(ManualClock::default());
        let recorder = Recorder::new(&registry, clock.clone(), &Settings::default()).unwrap();
        (registry, Arc::new(recorder), clock)
    });
    for (_, recorder, clock) in [&first, &second] {
        let request = recorder.begin(Start { model: "m", ..Start::default() });
        clock.advance(1_000_000_000);
        request.tokens(recorder.clock().now(), 3);
        request.finish(recorder.clock().now(), End::success(1));
    }
    let page = encode(&third.0, Format::Text004);
    for line in [
        r#"ryot_inference_requests_total{model="m",status="success"} 2.0"#,
        r#"ryot_tokens_generated_total{generation_mode="standard",model="m",token_type="completion"} 6.0"#,
        r#"ryot_tokens_per_second{model="m",time_window="1m"} 6.0"#,
    ] {
        assert!(page.contains(line), "{line} is not on {page}");
    }
}
