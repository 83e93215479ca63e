//! The catalogue's families under a clock that stands still: what was written is on the page as
//! said, what follows from it is computed, and what nobody wrote is absent.

use std::sync::Arc;

use ryot_metrics::clock::{Clock, ManualClock, Nanos};
use ryot_metrics::error::ErrorKind;
use ryot_metrics::event::{Class, Event, FinishReason, Mode, Observer, Origin};
use ryot_metrics::gpu::Reading;
use ryot_metrics::llm::{
    CATALOGUE, End, EngineObserver, LABEL_VALUES, Recorder, Settings, Start, VIEWS,
};
use ryot_metrics::metrics::{Format, Registry, Selection, encode, encode_bytes};

const SECOND: Nanos = 1_000_000_000;

pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) clock: Arc<ManualClock>,
    pub(super) recorder: Arc<Recorder>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(&Settings::default())
    }

    pub(super) fn with(settings: &Settings) -> Self {
        let registry = Registry::default();
        let clock = Arc::new(ManualClock::default());
        let recorder = Arc::new(Recorder::new(&registry, clock.clone(), settings).unwrap());
        Self { registry, clock, recorder }
    }

    /// Lines of the page that start so.
    pub(super) fn lines(&self, start: &str) -> Vec<String> {
        let page = encode(&self.registry, Format::Text004);
        page.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    /// A request of `model` that gives so many tokens now.
    fn request(&self, model: &str, batch_size: usize, tokens: u64) {
        let start = Start { model, mode: Mode::Streaming, ..Start::default() };
        let request = self.recorder.begin(start);
        request.set_batch_size(batch_size);
        let now = self.clock.now();
        request.tokens(now, tokens);
        request.finish(now, End::success(batch_size));
    }
}

#[test]
fn nothing_is_on_the_page_before_something_is_written() {
    assert_eq!(encode(&Bench::new().registry, Format::Text004), "");
}

#[test]
fn rates_roll_with_the_clock() {
    let bench = Bench::new();
    for _ in 0..120 {
        bench.request("m", 1, 10);
        bench.request("m", 3, 20);
        bench.clock.advance(SECOND);
    }
    assert_eq!(
        bench.lines("ryot_tokens_per_second{"),
        [
            r#"ryot_tokens_per_second{batch_size="1",model="m",time_window="1m"} 10.0"#,
            r#"ryot_tokens_per_second{batch_size="2-4",model="m",time_window="1m"} 20.0"#,
            r#"ryot_tokens_per_second{batch_size="1",model="m",time_window="5m"} 10.0"#,
            r#"ryot_tokens_per_second{batch_size="2-4",model="m",time_window="5m"} 20.0"#,
            r#"ryot_tokens_per_second{batch_size="1",model="m",time_window="15m"} 10.0"#,
            r#"ryot_tokens_per_second{batch_size="2-4",model="m",time_window="15m"} 20.0"#,
        ]
    );
    assert_eq!(
        bench.lines("ryot_average_tokens_per_minute{"),
        [r#"ryot_average_tokens_per_minute{model="m"} 1800.0"#]
    );
    bench.clock.advance(1_000 * SECOND);
    assert_eq!(
        bench.lines("ryot_average_tokens_per_minute{")[0].split(' ').next_back(),
        Some("0.0")
    );
}

#[test]
fn a_counted_rate_takes_the_place_of_a_reported_one() {
    let bench = Bench::new();
    bench.recorder.token_rate("m", 50.0);
    assert_eq!(
        bench.lines("ryot_tokens_per_second{"),
        [r#"ryot_tokens_per_second{model="m"} 50.0"#]
    );
    assert_eq!(
        bench.lines("ryot_average_tokens_per_minute{"),
        [r#"ryot_average_tokens_per_minute{model="m"} 3000.0"#]
    );
    bench.request("m", 0, 10);
    bench.recorder.token_rate("m", 50.0);
    assert_eq!(bench.lines("ryot_tokens_per_second{").len(), 3);
    assert_eq!(bench.lines("ryot_average_tokens_per_minute{").len(), 1);
    assert!(!bench.lines("ryot_tokens_per_second{").concat().contains("50.0"));
}

#[test]
fn efficiency_is_the_rate_per_percent_and_absent_without_a_gpu() {
    let bench = Bench::new();
    bench.request("m", 1, 600);
    bench.request("without", 1, 600);
    bench.clock.advance(10 * SECOND);
    assert!(bench.lines("ryot_token_efficiency_ratio").is_empty());
    bench.recorder.dtype("m", "float16");
    for (device, percent) in [("0", 10.0), ("1", 30.0)] {
        bench.recorder.gpu_memory_percentage("m", device, percent, 1.0);
    }
    assert_eq!(
        bench.lines("ryot_token_efficiency_ratio{"),
        [r#"ryot_token_efficiency_ratio{batch_size="1",dtype="float16",model="m"} 3.0"#]
    );
}

#[test]
fn a_gauge_of_the_present_batch_leaves_no_other_behind() {
    let bench = Bench::new();
    for batch_size in [1.0, 8.0, 0.0] {
        bench.recorder.gpu_memory_percentage("m", "0", 62.4, batch_size);
        bench.recorder.kv_cache_size("m", 1024.0, 3000.0, batch_size);
    }
    bench.recorder.gpu_memory_percentage("m", "1", 70.0, 8.0);
    assert_eq!(
        bench.lines("ryot_gpu_memory_percentage{"),
        [
            r#"ryot_gpu_memory_percentage{device_id="0",model="m"} 62.4"#,
            r#"ryot_gpu_memory_percentage{batch_size="5-8",device_id="1",model="m"} 70.0"#,
        ]
    );
    assert_eq!(
        bench.lines("ryot_kv_cache_size_bytes{"),
        [r#"ryot_kv_cache_size_bytes{context_length="4096",model="m"} 1024.0"#]
    );
}

#[test]
fn memory_ratios_follow_from_the_readings_of_each_device() {
    let bench = Bench::new();
    let recorder = &bench.recorder;
    for (device, used, reserved) in
        [("0", 6.0, 8.0), ("1", 1.0, 4.0), ("2", 1.0, 0.0), ("4", 9.0, 1.0)]
    {
        recorder.gpu_memory("m", device, "used", used);
        recorder.gpu_memory_reserved("m", device, reserved);
    }
    recorder.gpu_memory("m", "0", "used", 2.0);
    recorder.gpu_memory_reserved("m", "3", 5.0); // nothing is known of its use
    assert_eq!(
        bench.lines("ryot_memory_efficiency_ratio{"),
        [
            r#"ryot_memory_efficiency_ratio{device_id="0",model="m"} 0.25"#,
            r#"ryot_memory_efficiency_ratio{device_id="1",model="m"} 0.25"#,
        ]
    );
    let peak = r#"ryot_gpu_memory_usage_bytes{device_id="0",memory_type="peak",model="m"} 6.0"#;
    assert!(bench.lines("ryot_gpu_memory_usage_bytes").contains(&peak.to_owned()));
}

#[test]
fn hit_ratios_follow_from_their_counters_and_a_reported_one_gives_way() {
    let bench = Bench::new();
    bench.recorder.cache_hit_ratio("m", 0.1);
    bench.recorder.cache_hit_ratio("other", 0.25);
    bench.recorder.kv_cache_lookup("m", "conversation", 100.0, 80.0);
    bench.recorder.kv_cache_lookup("m", "batch", 300.0, 20.0);
    bench.recorder.kv_cache_lookup("idle", "batch", 0.0, 0.0);
    assert_eq!(
        bench.lines("ryot_kv_cache_hit_ratio{"),
        [
            r#"ryot_kv_cache_hit_ratio{context_type="conversation",model="m"} 0.8"#,
            r#"ryot_kv_cache_hit_ratio{context_type="batch",model="m"} 0.06666666666666667"#,
            r#"ryot_kv_cache_hit_ratio{model="other"} 0.25"#,
        ]
    );
    assert_eq!(
        bench.lines("ryot_model_cache_hit_ratio{"),
        [
            r#"ryot_model_cache_hit_ratio{model="m"} 0.25"#,
            r#"ryot_model_cache_hit_ratio{model="other"} 0.25"#,
        ]
    );
}

#[test]
fn a_reported_queue_adds_to_the_requests_that_wait() {
    let bench = Bench::new();
    let waiting = bench.recorder.begin(Start { model: "m", ..Start::default() });
    waiting.queued();
    for size in [5.0, 7.0, 3.0] {
        bench.recorder.queue_size("m", "normal", size);
    }
    bench.recorder.queue_size("m", "high", 2.0);
    assert_eq!(
        bench.lines("ryot_queue_depth{"),
        [
            r#"ryot_queue_depth{model="m",priority_level="normal"} 4.0"#,
            r#"ryot_queue_depth{model="m",priority_level="high"} 2.0"#,
        ]
    );
    waiting.scheduled(0);
    assert_eq!(
        bench.lines("ryot_inference_queue_size{"),
        [r#"ryot_inference_queue_size{model="m"} 5.0"#]
    );
}

#[test]
fn a_prompt_s_reuse_is_its_common_beginning_within_each_window() {
    let bench = Bench::new();
    let system: Vec<u64> = (0..32).collect();
    bench.recorder.prompt_tokens_seen("m", &system);
    bench.clock.advance(2 * 3_600 * SECOND);
    bench.recorder.prompt_tokens_seen("m", &[system, vec![99; 32]].concat());
    let sums: Vec<_> = bench
        .lines("ryot_prompt_cache_effectiveness_sum")
        .iter()
        .map(|line| line.split('"').nth(1).unwrap().to_owned() + line.rsplit(' ').next().unwrap())
        .collect();
    assert_eq!(sums, ["1h0.0", "24h0.5", "7d0.5"]);
    bench.recorder.prompt_text_seen("m", "");
    assert_eq!(
        bench.lines("ryot_prompt_cache_effectiveness_count")[0].split(' ').next_back(),
        Some("2.0")
    );
}

#[test]
fn what_makes_no_sense_is_dropped_and_counted() {
    let bench = Bench::new();
    let recorder = &bench.recorder;
    recorder.token_rate("m", f64::NAN);
    recorder.queue_wait("m", -1.0);
    recorder.queue_size("m", "urgent", 1.0);
    recorder.gpu_memory("m", "0", "weights", 1.0);
    recorder.gpu_memory_percentage("m", "0", 100.1, 0.0);
    recorder.gpu_utilization("m", "0", "all", 101.0);
    recorder.cache_hit_ratio("m", 1.1);
    recorder.kv_cache_usage("m", 1.1);
    recorder.kv_cache_lookup("m", "batch", 1.0, 2.0);
    recorder.cache_eviction("m", "mood");
    recorder.dtype("m", "int3");
    recorder.model_loaded("m", "cpu", "cold_start", f64::INFINITY);
    recorder.model_load_attempt("m", "maybe", "cold_start");
    recorder.startup_phase("coffee", 1.0);
    recorder.batch("m", "", 0.0);
    let page = encode(&bench.registry, Format::Text004);
    let samples: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
    let (series, rest) = samples.split_last().unwrap();
    assert_eq!(rest, [r#"ryot_metrics_dropped_total{reason="invalid_value"} 15.0"#]);
    assert_eq!(*series, "ryot_metrics_series 1.0");
}

#[test]
fn a_page_tells_how_long_the_one_before_it_took() {
    let bench = Bench::new();
    bench.recorder.retry("m");
    assert!(bench.lines("ryot_metrics_scrape_seconds ").is_empty(), "not by a lookup");
    encode_bytes(&bench.registry, Selection::default(), Format::OpenMetrics1);
    let line = &bench.lines("ryot_metrics_scrape_seconds ")[0];
    let seconds: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seconds > 0.0, "{line}");
    assert_eq!(bench.lines("ryot_metrics_series "), ["ryot_metrics_series 1.0"]);
}

#[test]
fn past_the_limit_models_are_counted_together() {
    let bench = Bench::with(&Settings { series_limit: 2, ..Settings::default() });
    for model in ["a", "b", "c", "d"] {
        bench.recorder.retry(model);
        bench.request(model, 0, 1);
    }
    let page = bench.lines("ryot_inference_retries_total{");
    assert_eq!(page[2], r#"ryot_inference_retries_total{model="__overflow__"} 2.0"#);
    assert_eq!(bench.lines("ryot_average_tokens_per_minute{").len(), 3);
}

#[test]
fn the_engine_s_start_cache_and_batches_are_on_the_page() {
    let bench = Bench::new();
    let observer = EngineObserver::new(bench.recorder.clone(), "m", "cpu");
    observer.observe(&Event::ModelLoaded { seconds: 2.0, error: None, again: false });
    observer.observe(&Event::Ready {
        seconds: 0.5,
        slots: 8,
        context: 4096,
        bytes_per_token: Some(10),
        weight_bytes: 0,
    });
    let origin = Origin::default();
    observer.observe(&Event::Queued {
        id: 1,
        at: 0,
        prompt_tokens: 7,
        class: Class::Interactive,
        origin,
    });
    let (prefill_tokens, decode_tokens) = (7, 0);
    let step = |sequences| Event::Step {
        at: 0,
        nanos: 1,
        prefill_tokens,
        decode_tokens,
        sequences,
        logits: 0,
        context: 0,
        budget: 0,
        prefill_skipped: false,
    };
    observer.observe(&step(2));
    observer.observe(&Event::FirstToken { id: 1, at: 0 });
    observer.observe(&Event::Occupied { tokens: 7 });
    let size = |labels, bytes| format!("ryot_kv_cache_size_bytes{{{labels}}} {bytes}");
    let two = r#"batch_size="2-4",context_length="4096",model="m""#;
    assert_eq!(bench.lines("ryot_kv_cache_size_bytes{"), [size(two, "70.0")]);
    observer.observe(&step(1));
    let reason = FinishReason::Error(ErrorKind::Oom);
    observer.observe(&Event::Finished { id: 1, at: 0, reason, batch_size: 1 });
    observer.observe(&Event::Occupied { tokens: 0 });
    let one = r#"batch_size="1",context_length="4096",model="m""#;
    assert_eq!(bench.lines("ryot_kv_cache_size_bytes{"), [size(one, "0.0")]);
    assert_eq!(
        bench.lines("ryot_initialization_startup_time_seconds_sum"),
        [
            r#"ryot_initialization_startup_time_seconds_sum{startup_phase="model_load"} 2.0"#,
            r#"ryot_initialization_startup_time_seconds_sum{startup_phase="cache_init"} 0.5"#,
            r#"ryot_initialization_startup_time_seconds_sum{startup_phase="ready"} 2.5"#,
        ]
    );
    let rates = bench.lines("ryot_tokens_per_second{").concat();
    assert!(rates.contains(r#"batch_size="2-4""#), "the step that the token came from: {rates}");
}

#[test]
fn a_preempted_request_waits_once_and_its_parts_are_timed_from_the_first_step() {
    let bench = Bench::new();
    let observer = EngineObserver::new(bench.recorder.clone(), "m", "cpu");
    observer.observe(&Event::Ready {
        seconds: 0.5,
        slots: 8,
        context: 100,
        bytes_per_token: None,
        weight_bytes: 0,
    });
    assert_eq!(bench.lines("ryot_engine_preemptions_total")[0].split(' ').next_back(), Some("0.0"));
    let origin = Origin::default();
    observer.observe(&Event::Queued {
        id: 1,
        at: 0,
        prompt_tokens: 7,
        class: Class::Interactive,
        origin,
    });
    observer.observe(&Event::Scheduled { id: 1, at: SECOND });
    observer.observe(&Event::Occupied { tokens: 25 });
    observer.observe(&Event::FirstToken { id: 1, at: 3 * SECOND });
    observer.observe(&Event::Preempted { id: 1, at: 4 * SECOND });
    observer.observe(&Event::Scheduled { id: 1, at: 6 * SECOND });
    let reason = FinishReason::Stop;
    observer.observe(&Event::Finished { id: 1, at: 8 * SECOND, reason, batch_size: 1 });
    let sums = |name: &str| {
        bench.lines(&format!("{name}_sum"))[0].split(' ').next_back().unwrap().to_owned()
    };
    let names = ["inference_queue_wait", "request_prefill", "request_decode", "request_inference"];
    let found = names.map(|name| sums(&format!("ryot_{name}_seconds")));
    assert_eq!(found, ["1.0", "2.0", "5.0", "7.0"]);
    assert_eq!(sums("ryot_prompt_tokens_per_request"), "7.0");
    let preempted = r#"ryot_engine_preemptions_total{model="m"} 1.0"#;
    assert_eq!(bench.lines("ryot_engine_preemptions_total"), [preempted]);
    let usage = r#"ryot_kv_cache_usage_ratio{model="m"} 0.25"#;
    assert_eq!(bench.lines("ryot_kv_cache_usage_ratio{"), [usage]);
}

#[test]
fn every_family_can_be_written_and_closed_labels_keep_to_their_sets() {
    let bench = Bench::new();
    write_everything(&bench);
    let page = encode(&bench.registry, Format::Text004);
    let shown: Vec<_> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let names = CATALOGUE.iter().map(|row| row.name).chain(VIEWS.iter().map(|view| view.name));
    // Prices, and a mapping, are set by no test in this process.
    let elsewhere = ["ryot_token_cost", "ryot_metrics_unshared"];
    for name in names.filter(|name| !elsewhere.iter().any(|start| name.starts_with(start))) {
        let typed = |shown: &&str| {
            shown.strip_prefix(name).is_some_and(|rest| ["", "_total", "_info"].contains(&rest))
        };
        assert!(shown.iter().any(typed), "{name} is not on the page");
    }
    for (label, values) in LABEL_VALUES {
        let key = format!("{label}=\"");
        let given = page.split(&key).skip(1);
        for value in given.map(|rest| rest.split('"').next().unwrap()) {
            assert!(values.contains(&value), "{label}={value}");
        }
    }
}

fn write_everything(bench: &Bench) {
    super::pipeline::write_everything(bench);
    let recorder = &bench.recorder;
    let request = recorder.begin(Start { model: "m", ..Start::default() });
    request.queued();
    request.scheduled(SECOND);
    bench.clock.advance(SECOND);
    request.set_prompt_tokens(9);
    request.tokens(SECOND, 3);
    request.finish(2 * SECOND, End::success(1));
    recorder.reject("m", "/x", ErrorKind::InvalidPrompt);
    recorder.retry("m");
    recorder.error("m", ErrorKind::CudaError);
    recorder.queue_size("m", "low", 1.0);
    recorder.gpu_memory("m", "0", "used", 1.0);
    recorder.gpu_memory_reserved("m", "0", 2.0);
    recorder.gpu_memory_percentage("m", "0", 50.0, 1.0);
    recorder.gpu_utilization("m", "0", "all", 50.0);
    recorder.kv_cache_size("m", 1.0, 512.0, 1.0);
    recorder.kv_cache_usage("m", 0.5);
    recorder.kv_cache_blocks("m", 16, 100);
    recorder.kv_cache_lookup("m", "batch", 2.0, 1.0);
    recorder.cache_eviction("m", "manual");
    recorder.prompt_text_seen("m", "text");
    recorder.model_loaded("m", "cpu", "cache_hit", 1.0);
    recorder.startup_phase("warmup", 1.0);
    recorder.batch("m", "batch", 1.0);
    let observer = EngineObserver::new(recorder.clone(), "m", "cpu");
    let (context, bytes_per_token, weight_bytes) = (9, Some(1), 1);
    observer.observe(&Event::Ready {
        seconds: 0.1,
        slots: 8,
        context,
        bytes_per_token,
        weight_bytes,
    });
    observer.observe(&Event::Preempted { id: 1, at: 0 });
    observer.observe(&Event::CacheResident { device_bytes: 1, host_bytes: 1 });
    let (prefill_tokens, decode_tokens) = (1, 1);
    observer.observe(&Event::Step {
        at: 0,
        nanos: 1,
        prefill_tokens,
        decode_tokens,
        sequences: 1,
        logits: 0,
        context: 0,
        budget: 0,
        prefill_skipped: false,
    });
    recorder.dropped("invalid_value");
    let facts = [("version".to_owned(), "1".to_owned())];
    for name in [ryot_metrics::llm::Name::SystemInfo, ryot_metrics::llm::Name::ModelInfo] {
        recorder.family(name).series::<&str>(&[]).set_info(&facts);
    }
    let device = "1".to_owned();
    let (memory_total, power, temperature) = (Some(9), Some(70.0), Some(40.0));
    recorder.gpus(&[Reading { device, memory_total, power, temperature, ..Reading::default() }]);
    bench.clock.advance(SECOND);
    encode_bytes(&bench.registry, Selection::default(), Format::Text004);
}

#[test]
fn an_engine_s_part_of_a_request_that_has_ended_is_work_of_the_engine_alone() {
    let bench = Bench::new();
    let outer = bench.recorder.begin(Start { model: "outer", ..Start::default() });
    let origin = Origin { parents: outer.keys(), ..Origin::default() };
    outer.finish(0, End::success(0));
    let observer = EngineObserver::new(bench.recorder.clone(), "engine", "cpu");
    let (context, bytes_per_token, weight_bytes) = (9, None, 0);
    observer.observe(&Event::Ready {
        seconds: 0.1,
        slots: 8,
        context,
        bytes_per_token,
        weight_bytes,
    });
    let others = || -> Vec<String> {
        let page = encode(&bench.registry, Format::Text004);
        let own = |line: &&str| !line.contains("ryot_engine_");
        page.lines().filter(own).map(str::to_owned).collect()
    };
    let before = others();
    observer.observe(&Event::Queued {
        id: 1,
        at: 0,
        prompt_tokens: 3,
        class: Class::Interactive,
        origin,
    });
    observer.observe(&Event::Scheduled { id: 1, at: SECOND });
    observer.observe(&Event::FirstToken { id: 1, at: SECOND });
    let reason = FinishReason::Cancelled;
    observer.observe(&Event::Finished { id: 1, at: SECOND, reason, batch_size: 1 });
    assert_eq!(others(), before);
    let active = r#"ryot_engine_active_sessions{model="engine"} 0.0"#;
    assert_eq!(bench.lines("ryot_engine_active_sessions{"), [active]);
    let tokens = r#"ryot_engine_generated_tokens_total{model="engine"} 1.0"#;
    assert_eq!(bench.lines("ryot_engine_generated_tokens_total"), [tokens]);
}

#[test]
fn an_engine_s_part_of_a_part_that_has_ended_counts_in_what_is_open() {
    let bench = Bench::new();
    let whole = bench.recorder.begin(Start { model: "outer", ..Start::default() });
    let middle = whole.part();
    let inner = middle.part();
    let origin = Origin { parents: inner.keys(), ..Origin::default() };
    inner.finish(0, End::success(0));
    drop(inner);
    let observer = EngineObserver::new(bench.recorder.clone(), "engine", "cpu");
    let class = Class::Interactive;
    observer.observe(&Event::Queued { id: 1, at: 0, prompt_tokens: 3, class, origin });
    observer.observe(&Event::FirstToken { id: 1, at: SECOND });
    let reason = FinishReason::Stop;
    observer.observe(&Event::Finished { id: 1, at: SECOND, reason, batch_size: 1 });
    assert_eq!((middle.token_count(), whole.token_count()), (1, 1));
    middle.finish(SECOND, End::success(0));
    whole.finish(SECOND, End::success(0));
    let page = encode(&bench.registry, Format::Text004);
    for (kind, count) in [("prompt", "3.0"), ("completion", "1.0")] {
        let labels = format!("generation_mode=\"standard\",model=\"outer\",token_type=\"{kind}\"");
        assert!(page.contains(&format!("ryot_tokens_generated_total{{{labels}}} {count}\n")));
    }
}
