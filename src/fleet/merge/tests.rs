//! Pages of several workers, and what becomes of them.

use super::*;
use crate::clock::ManualClock;
use crate::fleet::exposition::parse;
use crate::metrics::{Format, Registry, encode};

struct Bench {
    merger: Arc<Merger>,
    clock: Arc<ManualClock>,
    registry: Registry,
}

impl Bench {
    fn new(modes: &[&str]) -> Self {
        let clock = Arc::new(ManualClock::default());
        let rules = Rules::new(
            &["*".into()],
            &modes.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>(),
            3,
        )
        .unwrap();
        let merger = Arc::new(Merger::new(rules, Duration::from_secs(3), clock.clone()));
        let registry = Registry::default();
        registry.register(merger.clone()).unwrap();
        Self { merger, clock, registry }
    }

    fn update(&self, worker: &str, page: &str) -> Refused {
        self.merger.update(&worker.into(), parse("text/plain", page.as_bytes()).unwrap())
    }

    fn page(&self) -> String {
        encode(&self.registry, Format::Text004)
    }

    fn wait(&self, seconds: u64) {
        self.clock.advance(seconds * 1_000_000_000);
    }
}

const COUNTER: &str = "# HELP jobs_total Jobs.\n# TYPE jobs_total counter\n";

fn jobs(value: u32) -> String {
    format!("{COUNTER}jobs_total{{queue=\"a\"}} {value}\n")
}

#[test]
fn counters_add_up_and_never_go_down() {
    let bench = Bench::new(&[]);
    let total = |value: &str| format!("{COUNTER}jobs_total{{queue=\"a\"}} {value}\n");
    bench.update("one", &jobs(5));
    bench.update("two", &jobs(7));
    assert_eq!(bench.page(), total("12.0"));
    bench.update("one", &jobs(2)); // it began anew and has counted 2 since
    assert_eq!(bench.page(), total("14.0"));
    bench.wait(100); // both have gone
    assert_eq!(bench.page(), total("14.0"));
    bench.update("two", &jobs(9)); // it was only away
    assert_eq!(bench.page(), total("16.0"));
}

#[test]
fn a_new_time_of_creation_is_a_new_beginning() {
    let bench = Bench::new(&[]);
    let page = |created: u32| {
        format!("# TYPE jobs counter\njobs_total 5\njobs_created {created}\n# EOF\n")
    };
    bench.update("one", &page(100));
    bench.update("one", &page(100));
    bench.update("one", &page(200));
    assert!(bench.page().contains("jobs_total 10.0\n"));
}

#[test]
fn gauges_are_combined_by_their_mode_and_go_with_their_worker() {
    let bench = Bench::new(&["hot=max", "cold=min", "mean*=mean", "own=each"]);
    let page = |value: u32| {
        ["depth", "hot", "cold", "mean_depth", "own"]
            .map(|name| format!("# TYPE {name} gauge\n{name} {value}\n"))
            .concat()
    };
    bench.update("one", &page(2));
    bench.wait(2);
    bench.update("two", &page(6));
    let shown = bench.page();
    for line in [
        "\ndepth 8.0\n",
        "\nhot 6.0\n",
        "\ncold 2.0\n",
        "\nmean_depth 4.0\n",
        "\nown{worker=\"one\"} 2.0\nown{worker=\"two\"} 6.0\n",
    ] {
        assert!(shown.contains(line), "{line} {shown}");
    }
    assert_eq!(bench.merger.live(), 2);
    bench.wait(1);
    assert!(bench.page().contains("\ndepth 6.0\n"));
    assert!(bench.page().contains("\nown{worker=\"two\"} 6.0\n"));
    bench.wait(2);
    assert_eq!((bench.page(), bench.merger.live()), (String::new(), 0));
}

fn histogram(bounds: &[(&str, u32)], sum: u32, count: u32) -> String {
    let bucket = |(bound, count): &(&str, u32)| format!("wait_bucket{{le=\"{bound}\"}} {count}\n");
    let buckets = bounds.iter().map(bucket).collect::<Vec<_>>().concat();
    "# TYPE wait histogram\n".to_owned()
        + &buckets
        + &format!("wait_bucket{{le=\"+Inf\"}} {count}\nwait_sum {sum}\nwait_count {count}\n")
}

#[test]
fn histograms_add_up_over_the_bounds_that_all_have() {
    let bench = Bench::new(&[]);
    bench.update("one", &histogram(&[("1", 1), ("2", 3), ("4", 4)], 20, 5));
    bench.update("two", &histogram(&[("2", 10), ("4", 20), ("8", 30)], 100, 40));
    bench.update("one", &histogram(&[("1", 2), ("2", 4), ("4", 5)], 21, 6));
    let lines = "wait_bucket{le=\"2.0\"} 14.0\nwait_bucket{le=\"4.0\"} 25.0\n\
                 wait_bucket{le=\"+Inf\"} 46.0\nwait_count 46.0\nwait_sum 121.0\n";
    assert!(bench.page().ends_with(lines), "{}", bench.page());
    bench.update("two", &histogram(&[("2", 1), ("4", 1), ("8", 1)], 3, 2)); // anew
    assert!(bench.page().contains("wait_count 48.0\nwait_sum 124.0\n"));
}

#[test]
fn summaries_have_counts_and_sums_and_no_quantiles() {
    let bench = Bench::new(&[]);
    let page = "# TYPE size summary\nsize{quantile=\"0.5\"} 1\nsize_sum 10\nsize_count 4\n";
    bench.update("one", page);
    bench.update("two", page);
    assert!(bench.page().ends_with("# TYPE size summary\nsize_count 8.0\nsize_sum 20.0\n"));
}

#[test]
fn what_cannot_be_added_up_is_named() {
    let bench = Bench::new(&[]);
    bench.update("one", &jobs(1));
    let refused = bench.update("two", "# TYPE jobs_total gauge\njobs_total 1\ndepth 1\n");
    assert_eq!(
        refused.into_iter().collect::<Vec<_>>(),
        ["jobs_total is a Gauge and elsewhere a Counter"]
    );
    assert!(bench.page().contains("depth 1.0\n"));
    let many = [0, 1, 2, 3, 4].map(|it| format!("many{{a=\"{it}\"}} 1\n")).concat();
    let refused = bench.update("one", &many);
    assert_eq!(refused.first().unwrap(), "many has more than 3 series (series_limit)");
}

#[test]
fn a_fleet_s_own_families_are_not_added_up() {
    let bench = Bench::new(&[]);
    bench.update("one", "# TYPE llm_load_avg gauge\nllm_load_avg 5\n");
    assert_eq!(bench.page(), "");
}

#[test]
fn a_counter_without_the_suffix_keeps_its_name() {
    let bench = Bench::new(&[]);
    bench.update("one", "# TYPE jobs counter\njobs 5\n");
    bench.update("two", "# TYPE jobs counter\njobs 5\n");
    assert!(bench.page().ends_with("# TYPE jobs untyped\njobs 10.0\n"), "{}", bench.page());
}
