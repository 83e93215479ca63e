//! The engine's facts in their two forms: events in, exact samples and an exact scorecard out.

use std::collections::BTreeMap;

use ryot_metrics::clock::Nanos;
use ryot_metrics::event::{Class, Event, Eviction, FinishReason, Mode, Observer, Origin, Slo};
use ryot_metrics::llm::{EngineObserver, Histogram, Scorecard, Settings};
use serde_json::Value;

use super::facts::Bench;

const MS: Nanos = 1_000_000;

/// The names of the UMA Serve metrics document, in its order.
const NAMES: [&str; 36] = [
    "tokens_generated_total",
    "batch_calls_total",
    "last_batch_size",
    "decode_ms_last",
    "decode_ms_ewma",
    "decode_calls",
    "decode_ns_total",
    "decode_tokens_total",
    "decode_phase_tokens_total",
    "prefill_tokens_total",
    "decode_ns_total_gen",
    "prefill_ns_total",
    "gen_ms_per_token_mean",
    "prefill_ms_per_token_mean",
    "decode_ms_min",
    "decode_ms_max",
    "decode_ms_mean",
    "decode_tokens_per_call_mean",
    "active_sessions",
    "slo_violations_ttft_total",
    "slo_violations_tbt_total",
    "skipped_prefill_due_to_latency_total",
    "budget_target",
    "budget_used",
    "queued_interactive",
    "queued_background",
    "ttft_ms",
    "inter_token_ms",
    "decode_ms",
    "batch_size",
    "kv_cache_hit_ratio",
    "kv_cache_evictions_total",
    "kv_cache_resident_bytes",
    "sum_bmt_mb_per_token",
    "copy_free_ratio",
    "gpu_idle_pct",
];

/// An engine of the model `m` whose KV cells take 100 bytes and whose weights take 10⁶.
fn engine(bench: &Bench) -> EngineObserver {
    let observer = EngineObserver::new(bench.recorder.clone(), "m", "cpu");
    let (context, bytes_per_token, weight_bytes) = (1_000, Some(100), 1_000_000);
    observer.observe(&Event::Ready {
        seconds: 0.5,
        slots: 8,
        context,
        bytes_per_token,
        weight_bytes,
    });
    observer
}

fn queued(id: u64, at: Nanos, class: Class, mode: Mode) -> Event {
    let origin = Origin { mode, ..Origin::default() };
    Event::Queued { id, at, prompt_tokens: 10, class, origin }
}

/// A step that took this long until `at`, of one sequence per decode token.
fn step(at: Nanos, nanos: Nanos, prefill_tokens: usize, decode_tokens: usize) -> Event {
    Event::Step {
        at,
        nanos,
        prefill_tokens,
        decode_tokens,
        sequences: decode_tokens.max(1),
        logits: 1,
        context: 40,
        budget: 16,
        prefill_skipped: prefill_tokens == 0,
    }
}

/// Two requests: one has its prompt computed and three tokens, one waits behind it.
fn run(observer: &EngineObserver) {
    let events = [
        queued(1, 0, Class::Interactive, Mode::Streaming),
        queued(2, 0, Class::Background, Mode::Batch),
        Event::PrefixMatched { id: 1, queried: 10, hit: 4 },
        Event::Scheduled { id: 1, at: MS },
        step(11 * MS, 10 * MS, 6, 0),
        Event::FirstToken { id: 1, at: 11 * MS },
        step(23 * MS, 12 * MS, 3, 1),
        Event::Tokens { id: 1, at: 23 * MS, count: 1 },
        step(32 * MS, 7 * MS, 0, 1), // 2 ms after the one before it
        Event::Tokens { id: 1, at: 32 * MS, count: 1 },
        Event::SloMissed { id: 1, at: 32 * MS, slo: Slo::Tbt, class: Class::Interactive },
        Event::CacheEvicted { reason: Eviction::MemoryPressure, tokens: 5 },
        Event::CacheResident { device_bytes: 700, host_bytes: 300 },
    ];
    for event in &events {
        observer.observe(event);
    }
}

#[test]
fn what_the_engine_did_is_on_the_page_in_base_units() {
    let bench = Bench::new();
    run(&engine(&bench));
    bench.clock.advance(60 * MS);
    let page = bench.lines("ryot_engine_");
    for (name, labels, value) in [
        ("prefill_tokens_total", "", 9.0),
        ("prefill_seconds_total", "", 0.019),
        ("decode_tokens_total", "", 2.0),
        ("decode_seconds_total", "", 0.01),
        ("decode_seconds_sum", "", 0.01),
        ("decode_seconds_count", "", 2.0),
        ("decode_calls_total", "", 2.0),
        ("decode_seconds_last", "", 0.007),
        ("decode_seconds_ewma", "", 0.0038),
        ("decode_seconds_min", "", 0.003),
        ("decode_seconds_max", "", 0.007),
        ("batch_tokens_sum", "", 11.0),
        ("batch_tokens_last", "", 1.0),
        ("generated_tokens_total", "", 3.0),
        ("active_sessions", "", 2.0),
        ("queued_sessions", "class=interactive", 0.0),
        ("queued_sessions", "class=background", 1.0),
        ("budget_tokens", "kind=target", 16.0),
        ("budget_tokens", "kind=used", 1.0),
        ("slo_violations_total", "class=interactive slo=tbt", 1.0),
        ("slo_violations_total", "class=background slo=tbt", 0.0),
        ("slo_violations_total", "class=interactive slo=ttft", 0.0),
        ("slo_violations_total", "class=background slo=ttft", 0.0),
        ("prefill_skipped_total", "reason=latency_guard", 1.0),
        ("prefix_cache_queries_total", "", 10.0),
        ("prefix_cache_hits_total", "", 4.0),
        ("prefix_cache_evictions_total", "", 1.0),
        ("prefix_cache_resident_bytes", "location=device", 700.0),
        ("prefix_cache_resident_bytes", "location=host", 300.0),
        // Three steps, each of 40 cells read and as many written as it has tokens.
        ("bytes_moved_total", "", 3_013_100.0),
        ("bytes_moved_per_token", "", 3_013_100.0 / 11.0),
        ("logits_reads_total", "path=zero_copy", 3.0),
        ("logits_reads_total", "path=copied", 0.0),
        ("idle_seconds_total", "", 0.003),
        ("idle_ratio", "", 0.05),
    ] {
        let mut labels: Vec<_> = labels.split(' ').filter(|it| !it.is_empty()).collect();
        labels.push("model=m");
        labels.sort_unstable();
        let labels = labels.join("\",").replace('=', "=\"");
        let series = format!("ryot_engine_{name}{{{labels}\"}} ");
        let line = page.iter().find_map(|line| line.strip_prefix(&series));
        assert_eq!(line.map(str::parse), Some(Ok(value)), "{series}");
    }
}

#[test]
fn the_catalogue_s_other_families_are_fed_by_the_same_events() {
    let bench = Bench::new();
    let observer = engine(&bench);
    run(&observer);
    let depth = |level: &str| format!("ryot_queue_depth{{model=\"m\",priority_level={level:?}}}");
    let (high, low) = (depth("high"), depth("low"));
    assert_eq!(bench.lines("ryot_queue_depth{"), [format!("{high} 0.0"), format!("{low} 1.0")]);
    for name in ["queries", "hits"] {
        let value = if name == "hits" { 4 } else { 10 };
        let line = format!(
            "ryot_kv_cache_{name}_total{{context_type=\"streaming\",model=\"m\"}} {value}.0"
        );
        assert_eq!(bench.lines(&format!("ryot_kv_cache_{name}_total")), [line]);
    }
    let evicted = |reason, n| {
        let labels = format!("eviction_reason=\"{reason}\",model=\"m\"");
        format!("ryot_model_cache_evictions_total{{{labels}}} {n}.0")
    };
    let expected = [evicted("memory_pressure", 1), evicted("timeout", 0), evicted("manual", 0)];
    assert_eq!(bench.lines("ryot_model_cache_evictions_total"), expected);
}

#[test]
fn a_request_waits_in_the_class_that_it_has_just_then() {
    let bench = Bench::new();
    let observer = engine(&bench);
    let waiting = || {
        let value = |line: &String| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as i64;
        let of = |start: &str| bench.lines(start).iter().map(value).collect::<Vec<_>>();
        let engine = of("ryot_engine_queued_sessions{");
        assert_eq!(of("ryot_queue_depth{").iter().sum::<i64>(), engine.iter().sum::<i64>());
        engine
    };
    observer.observe(&queued(1, 0, Class::Interactive, Mode::Streaming));
    assert_eq!(waiting(), [1, 0]);
    observer.observe(&Event::Relegated { id: 1, at: 0 });
    assert_eq!(waiting(), [0, 1]);
    observer.observe(&Event::Scheduled { id: 1, at: 0 });
    assert_eq!(waiting(), [0, 0]);
    observer.observe(&Event::Preempted { id: 1, at: 0 });
    assert_eq!(waiting(), [0, 1]);
    observer.observe(&Event::Resumed { id: 1, at: 0 });
    assert_eq!(waiting(), [0, 0]);
    observer.observe(&queued(2, 0, Class::Interactive, Mode::Streaming));
    observer.observe(&Event::Scheduled { id: 2, at: 0 });
    observer.observe(&Event::Relegated { id: 2, at: 0 });
    assert_eq!(waiting(), [0, 0], "who runs does not wait");
    observer.observe(&Event::Preempted { id: 2, at: 0 });
    assert_eq!(waiting(), [0, 1]);
    for id in [1, 2] {
        let reason = FinishReason::Cancelled;
        observer.observe(&Event::Finished { id, at: 0, reason, batch_size: 0 });
    }
    assert_eq!(waiting(), [0, 0]);
    assert_eq!(observer.scorecard(None).active_sessions, 0);
}

#[test]
fn the_engine_is_idle_while_it_has_a_request_and_no_step() {
    let bench = Bench::new();
    let observer = engine(&bench);
    let finished = |id, at| {
        let reason = FinishReason::Cancelled;
        Event::Finished { id, at, reason, batch_size: 0 }
    };
    let idle = || (observer.scorecard(None).gpu_idle_pct * 1e6).round() / 1e6;
    bench.clock.advance(100 * MS);
    assert_eq!(idle().to_bits(), 0.0_f64.to_bits(), "without work, nobody waits");
    observer.observe(&queued(1, 100 * MS, Class::Interactive, Mode::Standard));
    observer.observe(&step(120 * MS, 10 * MS, 1, 0)); // 10 ms after the request
    observer.observe(&queued(2, 115 * MS, Class::Interactive, Mode::Standard)); // during the step
    observer.observe(&finished(1, 125 * MS));
    observer.observe(&finished(2, 130 * MS)); // cancelled 10 ms after the step
    observer.observe(&queued(3, 190 * MS, Class::Interactive, Mode::Standard));
    observer.observe(&step(200 * MS, 10 * MS, 1, 0)); // at once
    bench.clock.advance(100 * MS);
    assert_eq!(idle().to_bits(), 10.0_f64.to_bits());
}

#[test]
fn the_scorecard_has_the_document_s_names_and_the_exact_figures() {
    let bench = Bench::new();
    let observer = engine(&bench);
    run(&observer);
    bench.clock.advance(60 * MS);
    let card = observer.scorecard(None);
    let keys: BTreeMap<String, Value> = serde_json::from_str(&card.to_json()).unwrap();
    assert!(NAMES.iter().copied().eq(order(&card.to_json(), &NAMES)));
    assert_eq!(keys.len(), NAMES.len());
    let expected = Scorecard {
        tokens_generated_total: 3,
        batch_calls_total: 3,
        last_batch_size: 1,
        decode_ms_last: 7.0,
        decode_ms_ewma: 3.8,
        decode_calls: 2,
        decode_ns_total: 10_000_000,
        decode_tokens_total: 2,
        decode_phase_tokens_total: 2,
        prefill_tokens_total: 9,
        decode_ns_total_gen: 10_000_000,
        prefill_ns_total: 19_000_000,
        gen_ms_per_token_mean: 5.0,
        prefill_ms_per_token_mean: 2.111,
        decode_ms_min: Some(3.0),
        decode_ms_max: 7.0,
        decode_ms_mean: 5.0,
        decode_tokens_per_call_mean: 1.0,
        active_sessions: 2,
        slo_violations_ttft_total: 0,
        slo_violations_tbt_total: 1,
        skipped_prefill_due_to_latency_total: 1,
        budget_target: 16,
        budget_used: 1,
        queued_interactive: 0,
        queued_background: 1,
        ttft_ms: histogram(11.0, &[(5.0, 0), (10.0, 0), (25.0, 1), (2500.0, 1)]),
        inter_token_ms: histogram(21.0, &[(5.0, 0), (10.0, 1), (25.0, 2), (500.0, 2)]),
        decode_ms: histogram(10.0, &[(1.0, 0), (5.0, 1), (10.0, 2), (500.0, 2)]),
        batch_size: histogram(11.0, &[(1.0, 1), (4.0, 2), (8.0, 3), (2048.0, 3)]),
        kv_cache_hit_ratio: 0.4,
        kv_cache_evictions_total: 1,
        kv_cache_resident_bytes: 1_000,
        sum_bmt_mb_per_token: 3.0131 / 11.0,
        copy_free_ratio: 1.0,
        gpu_idle_pct: 5.0,
    };
    let only = |histogram: &Histogram, expected: &Histogram| Histogram {
        buckets: histogram
            .buckets
            .iter()
            .filter(|it| expected.buckets.contains(it))
            .copied()
            .collect(),
        ..*histogram
    };
    let found = Scorecard {
        ttft_ms: only(&card.ttft_ms, &expected.ttft_ms),
        inter_token_ms: only(&card.inter_token_ms, &expected.inter_token_ms),
        decode_ms: only(&card.decode_ms, &expected.decode_ms),
        batch_size: only(&card.batch_size, &expected.batch_size),
        ..card
    };
    assert_eq!(found, expected);
}

/// The keys in the order in which they stand in the text.
fn order<'a>(json: &str, keys: &[&'a str]) -> Vec<&'a str> {
    let mut keys = keys.to_vec();
    keys.sort_by_key(|key| json.find(&format!("\"{key}\":")).expect("it is there"));
    keys
}

/// A histogram of which these buckets are known, and the last one.
fn histogram(sum: f64, known: &[(f64, u64)]) -> Histogram {
    let count = known.last().unwrap().1;
    Histogram { count, sum, buckets: [known, &[(f64::INFINITY, count)]].concat() }
}

#[test]
fn before_the_first_step_the_least_time_is_null_and_everything_else_zero() {
    let bench = Bench::new();
    let card = engine(&bench).scorecard(Some(7));
    assert_eq!(
        card,
        Scorecard {
            active_sessions: 7,
            ttft_ms: card.ttft_ms.clone(),
            inter_token_ms: card.inter_token_ms.clone(),
            decode_ms: card.decode_ms.clone(),
            batch_size: card.batch_size.clone(),
            ..Scorecard::default()
        }
    );
    let json: Value = serde_json::from_str(&card.to_json()).unwrap();
    assert!(json["decode_ms_min"].is_null());
    for name in ["ttft_ms", "inter_token_ms", "decode_ms", "batch_size"] {
        assert_eq!(json[name], serde_json::json!({"count": 0, "sum": 0.0, "buckets": {"+Inf": 0}}));
    }
}

#[test]
fn engines_of_two_models_do_not_mix_and_those_of_one_add_up() {
    let bench = Bench::new();
    run(&engine(&bench));
    run(&engine(&bench));
    let other = EngineObserver::new(bench.recorder.clone(), "other", "cpu");
    other.observe(&step(MS, MS, 0, 1));
    let (both, other) = (bench.recorder.scorecard("m", None), other.scorecard(None));
    assert_eq!((both.decode_tokens_total, other.decode_tokens_total), (4, 1));
    assert_eq!((both.decode_ms_min, other.decode_ms_min), (Some(3.0), Some(1.0)));
    assert_eq!((both.decode_ms.count, other.decode_ms.count), (4, 1));
    let none = bench.recorder.scorecard("none", None);
    assert_eq!((none.decode_calls, none.decode_ms_min), (0, None));
}

#[test]
fn totals_are_whole_when_only_some_times_are_sampled() {
    let sampling = vec![("ryot_engine_decode_seconds".to_owned(), 2)];
    let bench = Bench::with(&Settings { sampling, ..Settings::default() });
    let observer = engine(&bench);
    run(&observer);
    let card = observer.scorecard(None);
    assert_eq!((card.decode_ns_total, card.decode_calls), (10_000_000, 2));
    assert_eq!(card.decode_ms.count, 1);
}
