//! Workers that come and go, and what of them is on the page.

use super::*;
use crate::clock::{ManualClock, Nanos};
use crate::fleet::load::{ForwardPassMetrics, Load};
use crate::metrics::{Format, Registry, encode};

const SECOND: Nanos = 1_000_000_000;

fn board() -> (Arc<Board>, Arc<ManualClock>, Registry) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(SECOND);
    let limits = BoardLimits {
        stale_after: Duration::from_secs(3),
        events_ttl: Duration::from_secs(60),
        max_workers: 3,
    };
    let board = Arc::new(Board::new("backend", "generate", limits, clock.clone()));
    let registry = Registry::default();
    registry.register(board.clone()).unwrap();
    (board, clock, registry)
}

fn endpoint(kv_active_blocks: u64) -> Endpoint {
    let data = ForwardPassMetrics {
        kv_active_blocks,
        kv_total_blocks: 100,
        request_active_slots: 1,
        request_total_slots: 8,
    };
    Endpoint { name: "one".to_owned(), subject: String::new(), data: data.into() }
}

fn report(board: &Board, id: i64, endpoint: Endpoint) -> Result<(), Full> {
    board.report(&id.into(), "nats", endpoint, None)
}

fn event(worker_id: i64, isl_blocks: u64, overlap_blocks: u64) -> KvHitRateEvent {
    KvHitRateEvent { worker_id, isl_blocks, overlap_blocks }
}

fn samples(registry: &Registry) -> Vec<String> {
    let page = encode(registry, Format::Text004);
    page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn the_page_has_the_document_s_families() {
    let (board, _, registry) = board();
    report(&board, 1, endpoint(77)).unwrap();
    report(&board, 2, endpoint(29)).unwrap();
    board.hit(event(1, 8, 6)).unwrap();
    board.hit(event(1, 2, 0)).unwrap();
    board.hit(event(2, 0, 0)).unwrap();
    let of = |name: &str, worker: u8, value: &str| {
        format!(
            "{name}{{component=\"backend\",endpoint=\"generate\",worker_id=\"{worker}\"}} {value}"
        )
    };
    let all = |name: &str, value: &str| {
        format!("{name}{{component=\"backend\",endpoint=\"generate\"}} {value}")
    };
    let expected = [
        of("llm_kv_blocks_active", 1, "77.0"),
        of("llm_kv_blocks_active", 2, "29.0"),
        of("llm_kv_blocks_total", 1, "100.0"),
        of("llm_kv_blocks_total", 2, "100.0"),
        of("llm_requests_active_slots", 1, "1.0"),
        of("llm_requests_active_slots", 2, "1.0"),
        of("llm_requests_total_slots", 1, "8.0"),
        of("llm_requests_total_slots", 2, "8.0"),
        of("llm_kv_hit_rate_percent", 1, "60.0"),
        of("llm_kv_hit_rate_isl_blocks", 1, "10.0"),
        of("llm_kv_hit_rate_isl_blocks", 2, "0.0"),
        of("llm_kv_hit_rate_overlap_blocks", 1, "6.0"),
        of("llm_kv_hit_rate_overlap_blocks", 2, "0.0"),
        all("llm_load_avg", "53.0"),
        all("llm_load_std", "24.0"),
    ];
    assert_eq!(samples(&registry), expected);
}

#[test]
fn a_worker_that_has_gone_leaves_no_series() {
    let (board, clock, registry) = board();
    report(&board, 1, endpoint(77)).unwrap();
    board.hit(event(1, 8, 6)).unwrap();
    clock.advance(2 * SECOND);
    report(&board, 2, endpoint(29)).unwrap();
    board.hit(event(1, 8, 6)).unwrap(); // no sign of life: an event may be late
    clock.advance(SECOND);
    let left = samples(&registry);
    assert!(left.iter().all(|line| !line.contains("worker_id=\"1\"")), "{left:?}");
    assert!(left.last().unwrap().ends_with(" 0.0"));
    assert_eq!(board.sweep(), ["one"]);
    clock.advance(60 * SECOND);
    assert_eq!(samples(&registry), Vec::<String>::new());
    assert!(board.live().endpoints.is_empty());
}

#[test]
fn a_worker_known_from_events_alone_stays_for_their_time() {
    let (board, clock, registry) = board();
    board.hit(event(7, 4, 9)).unwrap(); // more was found than asked for: nonsense is cut off
    clock.advance(59 * SECOND);
    let overlap = "llm_kv_hit_rate_overlap_blocks{component=\"backend\",\
                   endpoint=\"generate\",worker_id=\"7\"} 4.0";
    assert!(samples(&registry).iter().any(|line| line == overlap));
    clock.advance(SECOND);
    assert_eq!(board.sweep(), ["worker-7"]);
}

#[test]
fn the_number_of_workers_has_a_limit() {
    let (board, clock, _) = board();
    for id in 1..=3 {
        report(&board, id, endpoint(1)).unwrap();
    }
    assert_eq!(report(&board, 4, endpoint(1)), Err(Full));
    report(&board, 3, endpoint(2)).unwrap();
    clock.advance(3 * SECOND);
    board.sweep();
    report(&board, 4, endpoint(1)).unwrap();
}

#[test]
fn what_a_page_has_counted_adds_up_over_new_beginnings() {
    let (board, _, registry) = board();
    for (isl_blocks, overlap_blocks) in [(10, 4), (12, 5), (3, 1)] {
        let hits = Hits { isl_blocks, overlap_blocks };
        board.report(&WorkerId("a:1".into()), "http", endpoint(1), Some(hits)).unwrap();
    }
    let shown = samples(&registry);
    let line = |name: &str, value: &str| {
        format!("{name}{{component=\"backend\",endpoint=\"generate\",worker_id=\"a:1\"}} {value}")
    };
    assert!(shown.contains(&line("llm_kv_hit_rate_isl_blocks", "15.0")), "{shown:?}");
    assert!(shown.contains(&line("llm_kv_hit_rate_overlap_blocks", "6.0")), "{shown:?}");
    assert_eq!((board.count("http"), board.count("nats")), (1, 0));
}

#[test]
fn a_figure_that_is_not_known_has_no_series() {
    let (board, _, registry) = board();
    let data = Load { request_active_slots: Some(2), ..Load::default() };
    let endpoint = Endpoint { name: String::new(), subject: String::new(), data };
    board.report(&WorkerId("a:1".into()), "http", endpoint, None).unwrap();
    let line = "llm_requests_active_slots{component=\"backend\",endpoint=\"generate\",\
                worker_id=\"a:1\"} 2.0";
    assert_eq!(samples(&registry), [line]);
    let told = board.live();
    assert_eq!(
        format!("{:?}", told.endpoints[0].data),
        "ForwardPassMetrics { request_active_slots: 2 }"
    );
    assert!(told.load_avg.is_nan());
}
