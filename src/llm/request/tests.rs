//! What a request leaves on the page, on a clock that stands still until it is moved.

use super::*;
use crate::clock::ManualClock;
use crate::error::{Error, ErrorKind};
use crate::event::{Class, Event, FinishReason, Observer, Origin};
use crate::llm::{Buckets, EngineObserver, Name, Settings};
use crate::metrics::{Exposition, Format, Registry, Selection, encode, encode_bytes};

const MS: Nanos = 1_000_000;

struct Bench {
    registry: Registry,
    clock: Arc<ManualClock>,
    recorder: Arc<Recorder>,
}

impl Bench {
    fn new() -> Self {
        let registry = Registry::default();
        let clock = Arc::new(ManualClock::default());
        let recorder = Recorder::new(&registry, clock.clone(), &Settings::default()).unwrap();
        Self { registry, clock, recorder: Arc::new(recorder) }
    }

    fn begin(&self, mode: Mode) -> Arc<Request> {
        self.recorder.begin(Start { model: "m", mode, ..Start::default() })
    }

    fn now(&self) -> Nanos {
        self.recorder.clock().now()
    }

    /// Lines of the page that start so, without those that say 0.
    fn lines(&self, start: &str) -> Vec<String> {
        Self::chosen(&encode(&self.registry, Format::Text004), start)
    }

    /// The same of the page in another profile.
    fn lines_in(&self, profile: &str, start: &str) -> Vec<String> {
        let selection = Selection { names: None, profile: Some(profile) };
        let exposition = Exposition::negotiate("", &[Format::Text004]);
        let page = encode_bytes(&self.registry, selection, exposition);
        Self::chosen(&String::from_utf8(page).unwrap(), start)
    }

    fn chosen(page: &str, start: &str) -> Vec<String> {
        let line = |line: &&str| line.starts_with(start) && !line.ends_with(" 0.0");
        page.lines().filter(line).map(str::to_owned).collect()
    }
}

#[test]
fn a_stream_leaves_ttft_gaps_latency_and_tokens() {
    let bench = Bench::new();
    let request = bench.begin(Mode::Streaming);
    for _ in 0..3 {
        bench.clock.advance(20 * MS);
        request.tokens(bench.now(), 1);
        bench.clock.advance(1000 * MS); // the consumer's own time
        request.resumed(bench.now());
    }
    request.finish(bench.now(), End::success(1));
    assert_eq!(
        bench.lines("ryot_ttft_latency_seconds_sum"),
        ["ryot_ttft_latency_seconds_sum{model=\"m\"} 0.02"]
    );
    assert_eq!(
        bench.lines("ryot_inference_inter_token_latency_seconds_sum"),
        ["ryot_inference_inter_token_latency_seconds_sum{model=\"m\"} 0.04"]
    );
    assert_eq!(
        bench.lines("ryot_inference_latency_seconds_sum"),
        ["ryot_inference_latency_seconds_sum\
         {batch_size=\"1\",generation_mode=\"streaming\",model=\"m\"} 3.06"]
    );
    assert_eq!(
        bench.lines("ryot_tokens_generated_total"),
        ["ryot_tokens_generated_total\
         {generation_mode=\"streaming\",model=\"m\",token_type=\"completion\"} 3.0"]
    );
    assert_eq!(
        bench.lines("ryot_tokens_per_request_sum"),
        ["ryot_tokens_per_request_sum{model=\"m\"} 3.0"]
    );
    assert!(bench.lines("ryot_active_inference_requests").is_empty());
}

#[test]
fn every_outcome_counts_once_under_its_status() {
    let table = [
        (Status::Success, None, "status=\"success\"", None),
        (Status::Cancelled, None, "status=\"cancelled\"", None),
        (Status::Timeout, None, "status=\"timeout\"", Some("timeout")),
        (Status::Error, Some(ErrorKind::Oom), "status=\"error\"", Some("oom")),
        (Status::Error, None, "status=\"error\"", Some("inference_error")),
    ];
    for (status, kind, label, error_type) in table {
        let bench = Bench::new();
        let request = bench.begin(Mode::Standard);
        request.finish(0, End { status, kind, ..End::success(0) });
        request.finish(0, End::success(0));
        drop(request);
        let requests = bench.lines("ryot_inference_requests_total");
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert!(requests[0].contains(label), "{requests:?}");
        let errors = bench.lines("ryot_inference_errors_total");
        assert_eq!(errors.len(), usize::from(error_type.is_some()), "{errors:?}");
        if let Some(error_type) = error_type {
            assert!(requests[0].contains(&format!("error_type=\"{error_type}\"")));
            assert!(errors[0].contains(&format!("error_type=\"{error_type}\"")));
        }
    }
}

/// An engine has counted tokens before the consumer of its stream asks for them.
#[test]
fn what_an_engine_counted_is_not_counted_again_when_it_is_taken() {
    let bench = Bench::new();
    let outer = bench.begin(Mode::Streaming);
    let part = outer.part(); // a decorated generator around the engine's stream
    let engine = Start {
        model: "engine",
        mode: Mode::Streaming,
        parent: Some(part.clone()),
        ..Start::default()
    };
    let engine = bench.recorder.begin(engine);
    part.resumed(0);
    engine.tokens(MS, 1);
    part.produced(MS, 1);
    engine.tokens(2 * MS, 2); // in the consumer's time
    for _ in 0..2 {
        part.resumed(3 * MS);
        part.produced(3 * MS, 1);
    }
    assert_eq!((part.token_count(), outer.token_count()), (3, 3));
    part.resumed(3 * MS);
    part.produced(4 * MS, 1); // the generator's own, after the engine's
    assert_eq!((part.token_count(), outer.token_count()), (4, 4));
}

/// What is stored together cannot be told apart; the catalogue's page has all of them.
#[test]
fn native_durations_have_no_type_of_error() {
    let mut settings = Settings::default();
    let name = Name::Latency.row().name;
    settings.buckets = vec![(name.to_owned(), Buckets::Native(1.1))];
    let registry = Registry::default();
    let clock = Arc::new(ManualClock::default());
    let recorder = Arc::new(Recorder::new(&registry, clock.clone(), &settings).unwrap());
    let bench = Bench { registry, clock, recorder };
    for status in [Status::Success, Status::Timeout] {
        bench.begin(Mode::Standard).finish(0, End { status, ..End::success(0) });
    }
    let counts = bench.lines_in("otel", "gen_ai_server_request_duration_seconds_count");
    assert_eq!(counts.len(), 1, "{counts:?}");
    assert!(counts[0].ends_with(" 2.0") && !counts[0].contains("error_type"), "{counts:?}");
    assert!(bench.lines("ryot_inference_latency_seconds_count")[0].ends_with(" 2.0"));
}

/// The page of vLLM's names tells them apart; the catalogue's has one success each.
#[test]
fn an_answer_that_was_cut_off_is_of_another_reason() {
    let table = [(false, Status::Success, "stop"), (true, Status::Success, "length")];
    let table = table.into_iter().chain([
        (true, Status::Cancelled, "abort"),
        (true, Status::Timeout, "error"),
        (false, Status::Error, "error"),
    ]);
    for (truncated, status, reason) in table {
        let bench = Bench::new();
        let whole = bench.begin(Mode::Standard);
        let part = whole.part();
        part.set_truncated(truncated);
        part.finish(0, End::success(0));
        whole.finish(0, End { status, ..End::success(0) });
        let line = format!(
            "vllm:request_success_total{{engine=\"0\",finished_reason=\"{reason}\",\
             model_name=\"m\"}} 1.0"
        );
        assert_eq!(bench.lines_in("vllm", "vllm:request_success_total"), [line]);
        let requests = bench.lines("ryot_inference_requests_total");
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert!(!requests[0].contains("finish_reason"), "{requests:?}");
    }
}

/// OpenTelemetry's durations have the type of the error, the catalogue's do not.
#[test]
fn a_duration_has_the_type_of_its_error_where_it_is_asked_for() {
    let bench = Bench::new();
    let table = [
        (Status::Success, None),
        (Status::Cancelled, None),
        (Status::Timeout, None),
        (Status::Error, Some(ErrorKind::Oom)),
        (Status::Error, Some(ErrorKind::Oom)),
    ];
    for (status, kind) in table {
        bench.begin(Mode::Standard).finish(0, End { status, kind, ..End::success(0) });
    }
    let count = "gen_ai_server_request_duration_seconds_count{";
    let line = |error_type: &str, count: u8| {
        format!(
            "gen_ai_server_request_duration_seconds_count{{{error_type}\
             gen_ai_operation_name=\"inference\",gen_ai_provider_name=\"ryot\",\
             gen_ai_request_model=\"m\"}} {count}.0"
        )
    };
    assert_eq!(
        bench.lines_in("otel", count),
        [line("", 2), line("error_type=\"timeout\",", 1), line("error_type=\"oom\",", 2)]
    );
    assert_eq!(
        bench.lines("ryot_inference_latency_seconds_count"),
        ["ryot_inference_latency_seconds_count{generation_mode=\"standard\",model=\"m\"} 5.0"]
    );
}

#[test]
fn an_error_after_the_first_token_of_a_stream_is_partial() {
    let bench = Bench::new();
    let request = bench.begin(Mode::Streaming);
    request.tokens(MS, 1);
    request.finish(2 * MS, End { status: Status::Error, ..End::success(0) });
    assert!(bench.lines("ryot_inference_requests_total")[0].contains("status=\"partial\""));
}

#[test]
fn a_dropped_request_is_cancelled_and_no_longer_active() {
    let bench = Bench::new();
    let request = bench.begin(Mode::Standard);
    request.queued();
    assert_eq!(bench.lines("ryot_active_inference_requests").len(), 1);
    assert_eq!(
        bench.lines("ryot_inference_queue_size"),
        ["ryot_inference_queue_size{model=\"m\"} 1.0"]
    );
    drop(request);
    assert!(bench.lines("ryot_active_inference_requests").is_empty());
    assert!(bench.lines("ryot_inference_queue_size").is_empty());
    assert!(bench.lines("ryot_inference_requests_total")[0].contains("cancelled"));
}

#[test]
fn a_token_count_is_absolute() {
    let bench = Bench::new();
    let request = bench.begin(Mode::Standard);
    for count in [0, 1, 2, 2, 10, 9] {
        request.set_token_count(count);
    }
    request.finish(MS, End::success(0));
    assert!(bench.lines("ryot_tokens_generated_total")[0].ends_with(" 10.0"));
    assert!(bench.lines("ryot_tokens_per_request_sum")[0].ends_with(" 9.0"));
}

#[test]
fn nonsense_is_dropped_and_counted() {
    let bench = Bench::new();
    let request = bench.begin(Mode::Standard);
    request.set_ttft(-1.0);
    request.record_inter_token_latency(f64::NAN);
    request.finish(0, End::success(0));
    assert_eq!(
        bench.lines("ryot_metrics_dropped_total"),
        ["ryot_metrics_dropped_total{reason=\"invalid_value\"} 2.0"]
    );
    assert!(bench.lines("ryot_ttft").is_empty());
}

#[test]
fn an_engine_request_inside_another_is_measured_and_counted_once() {
    let bench = Bench::new();
    let outer = bench.begin(Mode::Standard);
    let observer = EngineObserver::new(bench.recorder.clone(), "engine", "cpu");
    let origin = Origin { parents: outer.keys(), ..Origin::default() };
    observer.observe(&Event::Queued {
        id: 7,
        at: 0,
        prompt_tokens: 60,
        class: Class::Interactive,
        origin,
    });
    observer.observe(&Event::Scheduled { id: 7, at: MS });
    observer.observe(&Event::FirstToken { id: 7, at: 4 * MS });
    observer.observe(&Event::Tokens { id: 7, at: 6 * MS, count: 1 });
    let reason = FinishReason::Stop;
    observer.observe(&Event::Finished { id: 7, at: 6 * MS, reason, batch_size: 1 });
    assert!(bench.lines("ryot_inference_requests_total").is_empty());
    outer.finish(10 * MS, End::success(0));
    assert_eq!(bench.lines("ryot_inference_requests_total").len(), 1);
    assert_eq!(bench.lines("ryot_tokens_generated_total").len(), 2, "prompt and completion");
    assert_eq!(
        bench.lines("ryot_ttft_latency_seconds_sum"),
        ["ryot_ttft_latency_seconds_sum{model=\"m\",prompt_size=\"small\"} 0.004"]
    );
    assert_eq!(
        bench.lines("ryot_inference_queue_wait_seconds_sum"),
        ["ryot_inference_queue_wait_seconds_sum{model=\"engine\"} 0.001"]
    );
}

#[test]
fn the_engine_s_other_facts_have_their_families() {
    let bench = Bench::new();
    let observer = EngineObserver::new(bench.recorder.clone(), "m", "cpu");
    observer.observe(&Event::ModelLoaded { seconds: 2.0, error: None, again: false });
    let error = Some(Error::EngineClosed.kind());
    observer.observe(&Event::ModelLoaded { seconds: 1.0, error, again: true });
    let (nanos, prefill_tokens, decode_tokens) = (MS, 3, 4);
    let step = Event::Step {
        at: 0,
        nanos,
        prefill_tokens,
        decode_tokens,
        sequences: 5,
        logits: 0,
        context: 0,
        budget: 0,
        prefill_skipped: false,
    };
    observer.observe(&step);
    let kind = ErrorKind::InvalidPrompt;
    observer.observe(&Event::Rejected { kind, origin: Origin::default() });
    assert_eq!(bench.lines("ryot_model_load_attempts_total").len(), 2);
    assert!(bench.lines("ryot_model_loading_duration_seconds")[0].ends_with(" 2.0"));
    assert_eq!(
        bench.lines("ryot_batch_size_distribution_sum"),
        ["ryot_batch_size_distribution_sum{model=\"m\"} 5.0"]
    );
    let rejected = bench.lines("ryot_inference_requests_total");
    assert!(rejected[0].contains("error_type=\"invalid_prompt\""), "{rejected:?}");
}
