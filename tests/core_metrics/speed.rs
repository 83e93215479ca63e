//! How long a page takes: `cargo test --release --no-default-features -- --ignored --nocapture`.

use std::hint::black_box;

use ryot_metrics::clock::{Clock, MonotonicClock, seconds_between};
use ryot_metrics::metrics::{
    Desc, Family, Format, Kind, NativeOptions, Options, Quantiles, Registry, Selection, encode,
    encode_bytes,
};

const BOUNDS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// A registry whose page has about this many lines: counters, gauges and histograms.
fn registry(lines: usize) -> Registry {
    let registry = Registry::default();
    let labels = ["model", "endpoint", "status"];
    let each = lines / 19 / 10;
    let family = |kind, name: String| {
        let desc = Desc::new(kind, &name, "Measured by the benchmark.", &labels).unwrap();
        let desc = if kind == Kind::Histogram { desc.with_bounds(BOUNDS).unwrap() } else { desc };
        let family = Family::new(desc, Options { created: false, ..Options::default() });
        registry.register(family.clone()).unwrap();
        family
    };
    for index in 0..10 {
        let families = [Kind::Counter, Kind::Gauge, Kind::Histogram]
            .map(|kind| family(kind, format!("service_{}_{index}", kind.as_str())));
        for series in 0..each {
            let values = ["smollm2-135m", "/v1/chat/completions", &series.to_string()];
            let [counter, gauge, histogram] = families.each_ref().map(|it| it.series(&values));
            counter.add(series as f64);
            gauge.set(series as f64 / 7.0);
            (0..20).for_each(|step| histogram.observe(f64::from(step) * 0.3));
        }
    }
    registry
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn samples_are_fast() {
    const CALLS: usize = 1_000_000;
    let desc = |kind| Desc::new(kind, "a", "", &["x"]).unwrap();
    let histogram = || desc(Kind::Histogram).with_bounds(BOUNDS).unwrap();
    let native = histogram().with_native(NativeOptions::default()).unwrap();
    let quantiles = desc(Kind::Summary).with_quantiles(Quantiles::new(&[0.5])).unwrap();
    let table = [
        ("histogram", histogram()),
        ("classic and native histogram", native),
        ("summary", desc(Kind::Summary)),
        ("summary with quantiles", quantiles),
    ];
    for (name, desc) in table {
        let series = Family::new(desc, Options::default()).series(&["1"]);
        let observe = |step: usize| series.observe((step % 1000) as f64 * 0.01);
        let (millis, _) = least(5, || (0..CALLS).map(observe).count());
        println!("{name}: {:.1} ns", millis * 1e6 / CALLS as f64);
    }
    let series = Family::new(desc(Kind::Counter), Options::default()).series(&["1"]);
    let (millis, _) = least(5, || (0..CALLS).map(|_| series.add(1.0)).count());
    println!("counter: {:.1} ns", millis * 1e6 / CALLS as f64);
}

/// The least milliseconds of some runs.
fn least(runs: usize, work: impl Fn() -> usize) -> (f64, usize) {
    let timed = |_| {
        let start = MonotonicClock.now();
        let size = black_box(work());
        (seconds_between(start, MonotonicClock.now()) * 1e3, size)
    };
    (0..runs).map(timed).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default()
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn pages_are_fast() {
    for (lines, runs) in [(13_000, 50), (1_000_000, 3)] {
        let registry = registry(lines);
        let count = encode(&registry, Format::Text004).lines().count();
        for format in Format::ALL {
            let (millis, bytes) =
                least(runs, || encode_bytes(&registry, Selection::default(), format).len());
            println!("{count} lines as {format:?}: {millis:.3} ms, {bytes} bytes");
        }
    }
}

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn threads_share_a_series() {
    const CALLS: usize = 400_000;
    let desc = |kind| Desc::new(kind, "a", "", &["x"]).unwrap();
    let histogram = desc(Kind::Histogram).with_bounds(BOUNDS).unwrap();
    for (name, desc) in [("counter", desc(Kind::Counter)), ("histogram", histogram)] {
        let series = Family::new(desc, Options::default()).series(&["1"]);
        for threads in [1, 2, 4, 8, 16] {
            let each = CALLS / threads;
            let write = || match name {
                "counter" => (0..each).for_each(|_| series.add(1.0)),
                _ => (0..each).for_each(|step| series.observe((step % 1000) as f64 * 0.01)),
            };
            let all = || {
                std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(write))));
                threads
            };
            let (millis, _) = least(5, all);
            println!("{name}, {threads} threads: {:.0} M/s", CALLS as f64 / millis / 1e3);
        }
    }
}
