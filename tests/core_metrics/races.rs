//! Threads that make, write, remove and scrape at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ryot_metrics::metrics::{
    Desc, Exemplar, Family, Format, Kind, NativeOptions, Options, Registry, Selection, encode,
    encode_bytes,
};

use crate::parser::samples;

const ROUNDS: usize = 2000;

fn churn(family: &Family, thread: usize) {
    for round in 0..ROUNDS {
        let label = [(round % 7).to_string()];
        let series = family.series(&label);
        series.observe(round as f64);
        let exemplar = Exemplar::new(vec![("t".into(), thread.to_string())], round as f64, 1.0);
        series.set_exemplar(exemplar.unwrap());
        if round % 5 == 0 {
            family.remove(&label);
        }
    }
}

/// Every bucket of a histogram is at most the next, and the last is the count.
fn check(page: &str) {
    let mut last: HashMap<String, f64> = HashMap::new();
    for (name, labels, value) in samples(page) {
        let series = labels.iter().find(|label| label.0 == "x").unwrap().1.clone();
        let value: f64 = value.parse().unwrap();
        match &*name {
            "h_bucket" => assert!(last.insert(series, value).is_none_or(|before| before <= value)),
            "h_count" => assert_eq!(last.remove(&series).map(f64::to_bits), Some(value.to_bits())),
            _ => {}
        }
    }
}

#[test]
fn a_page_is_whole_whatever_happens_meanwhile() {
    let desc = Desc::new(Kind::Histogram, "h", "", &["x"]).unwrap();
    let desc = desc.with_bounds(&[10.0, 1000.0]).unwrap();
    let desc = desc.with_native(NativeOptions::default()).unwrap();
    let options = Options {
        idle_ttl: Some(0.0),
        series_limit: Some(5),
        created: false,
        ..Options::default()
    };
    let family = Family::new(desc, options);
    let registry = Registry::default();
    registry.register(family.clone()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|it| {
                scope.spawn({
                    let family = &family;
                    move || churn(family, it)
                })
            })
            .collect();
        let scraper = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                check(&encode(&registry, Format::OpenMetrics1));
                encode_bytes(&registry, Selection::default(), Format::Protobuf);
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        scraper.join().unwrap();
    });
}

#[test]
fn no_observation_is_lost_beside_a_scrape() {
    let desc = Desc::new(Kind::Histogram, "h", "", &["x"]).unwrap().with_bounds(&[1.0]).unwrap();
    let registry = Registry::default();
    let series = Family::register(desc, &registry).unwrap().series(&["1"]);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..ROUNDS).for_each(|_| series.observe(0.5)));
        }
        (0..50).for_each(|_| check(&encode(&registry, Format::Text004)));
    });
    let page = encode(&registry, Format::Text004);
    assert!(page.contains("h_count{x=\"1\"} 4000.0\n"), "{page}");
}

#[test]
fn sixteen_threads_on_one_series_lose_nothing() {
    const THREADS: usize = 16;
    let family = |kind, name| {
        let desc = Desc::new(kind, name, "", &[]).unwrap().with_bounds(&[1.0]);
        Family::new(desc.unwrap(), Options::default()).series::<&str>(&[])
    };
    let (counter, histogram) = (family(Kind::Counter, "c"), family(Kind::Histogram, "h"));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (counter, histogram) = (&counter, &histogram);
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    counter.add(0.5);
                    histogram.observe((thread % 4) as f64 * 0.5);
                }
            });
        }
    });
    let mut counts = [0; 2];
    let sum = histogram.add_buckets_to(&mut counts);
    let all = THREADS * ROUNDS;
    assert_eq!(counter.get().to_bits(), (all as f64 * 0.5).to_bits());
    assert_eq!(counts, [all as u64 * 3 / 4, all as u64 / 4]);
    assert_eq!(sum.to_bits(), (all as f64 * 0.75).to_bits());
}
