//! Pipelines: the sum rules hold exactly, any order of events gives the same tables, what cannot be
//! taken is counted, and nothing grows.

use proptest::prelude::*;
use ryot_metrics::llm::pipeline::{
    EDGES_LIMIT, Ended, Event, Kind, Limits, Outbox, Outcome, Pipeline, PipelineObserver, Refused,
    VISITS_LIMIT, Work,
};

use super::facts::Bench;

const STAGES: [&str; 3] = ["thinker", "talker", "vocoder"];

fn event<'a>(request: &'a str, at: u64, kind: Kind<'a>) -> Event<'a> {
    Event { request: request.into(), at, clock: 1, origin: None, kind }
}

fn pipeline() -> Pipeline {
    Pipeline::new(&STAGES, Limits::default()).unwrap()
}

fn stage(stage: &str, num_tokens_in: u64, num_tokens_out: u64) -> [Kind<'_>; 2] {
    let work = Work { batch_size: 1, num_tokens_in, num_tokens_out, ..Work::default() };
    [
        Kind::StageStarted { stage: stage.into(), visit: 0 },
        Kind::StageFinished { stage: stage.into(), visit: 0, work },
    ]
}

fn sent<'a>(from: &'a str, to: &'a str, size_bytes: u64, tx_ns: u64) -> Kind<'a> {
    Kind::TransferSent { from_stage: from.into(), to_stage: to.into(), size_bytes, tx_ns }
}

fn received<'a>(from: &'a str, to: &'a str, size_bytes: u64, rx_decode_ns: u64) -> Kind<'a> {
    let (from_stage, to_stage) = (from.into(), to.into());
    Kind::TransferReceived { from_stage, to_stage, size_bytes, rx_decode_ns, in_flight_ns: None }
}

fn finished(reason: Outcome) -> Kind<'static> {
    Kind::RequestFinished { reason }
}

/// A request that leaves samples in all families of pipelines.
pub(super) fn write_everything(bench: &Bench) {
    let observer = PipelineObserver::new(bench.recorder.clone(), "m", pipeline(), true);
    let thinker = stage("thinker", 20, 30);
    let passed = [sent("thinker", "talker", 100, 5), received("thinker", "talker", 100, 5)];
    observer.observe(&event("a", 0, Kind::RequestStarted));
    for kind in thinker.into_iter().chain(passed).chain(stage("talker", 30, 5)) {
        observer.observe(&event("a", 1_000_000_000, kind));
    }
    observer.observe(&event("a", 2_000_000_000, finished(Outcome::Completed)));
}

fn refused(result: Result<impl std::fmt::Debug, Refused>) -> &'static str {
    result.unwrap_err().reason
}

/// What happens to a request between its ends, at which times.
fn middle() -> impl Strategy<Value = Vec<(u64, Kind<'static>)>> {
    let name = || prop::sample::select(vec!["thinker", "talker", "vocoder", "extra"]);
    let number = 0..1_u64 << 50;
    let work = (number.clone(), number.clone(), 0..1_000_u64, 0..4_u64);
    let begin = (name(), 0..3_u64)
        .prop_map(|(stage, visit)| Kind::StageStarted { stage: stage.into(), visit });
    let done = (name(), 0..3_u64, work).prop_map(|(stage, visit, work)| {
        let (num_tokens_in, num_tokens_out, preprocess_ns, batch_id) = work;
        let work = Work { batch_id, batch_size: 1, num_tokens_in, num_tokens_out, preprocess_ns };
        Kind::StageFinished { stage: stage.into(), visit, work }
    });
    let tx = (name(), name(), number.clone(), number.clone())
        .prop_map(|(from, to, size, tx)| sent(from, to, size, tx));
    let rx = (name(), name(), number.clone(), number, prop::option::of(0..9_u64)).prop_map(
        |(from, to, size_bytes, rx_decode_ns, in_flight_ns)| Kind::TransferReceived {
            from_stage: from.into(),
            to_stage: to.into(),
            size_bytes,
            rx_decode_ns,
            in_flight_ns,
        },
    );
    prop::collection::vec((0..1_u64 << 60, prop_oneof![begin, done, tx, rx]), 0..40)
}

proptest! {
    /// Over random events in random order, each total is the sum of its parts.
    #[test]
    fn the_sum_rules_hold(requests in prop::collection::vec((0..1_u64 << 60, middle()), 1..8)) {
        let mut pipeline = pipeline();
        for (index, (at, events)) in requests.iter().enumerate() {
            let name = index.to_string();
            pipeline.take(&event(&name, *at, Kind::RequestStarted)).unwrap();
            for (at, kind) in events {
                let _ = pipeline.take(&event(&name, *at, kind.clone()));
            }
            pipeline.take(&event(&name, at + 7, finished(Outcome::Completed))).unwrap();
        }
        for row in pipeline.recent() {
            let first = row.stages.iter().filter(|it| &*it.stage == "thinker");
            let entering: u128 = first.map(|it| u128::from(it.work.num_tokens_in)).sum();
            let out: u128 = row.stages.iter().map(|it| u128::from(it.work.num_tokens_out)).sum();
            prop_assert_eq!(row.tokens(), entering + out);
            let times = row.transfers.iter().map(|it| it.tx + it.rx_decode + it.in_flight);
            prop_assert_eq!(row.transfer_time(), times.sum::<u128>());
            let bytes = row.transfers.iter().map(|it| it.size_bytes).sum::<u128>();
            prop_assert_eq!(row.transfer_bytes(), bytes);
            prop_assert_eq!(row.time(), 7);
        }
        let overall = pipeline.overall();
        prop_assert_eq!(overall.requests as usize, requests.len());
        prop_assert_eq!(overall.tokens, pipeline.recent().map(Ended::tokens).sum::<u128>());
        let starts = requests.iter().map(|(at, _)| *at);
        prop_assert_eq!(overall.wall(), starts.clone().max().unwrap() + 7 - starts.min().unwrap());
    }

    /// The lines of three processes, interleaved and repeated in any order, give the same tables.
    #[test]
    fn any_order_of_the_workers_events_gives_the_same_tables(
        seed in any::<u64>(),
        sizes in prop::collection::vec((1..1_000_u64, 1..100_u64), 3..12),
    ) {
        let mut outboxes = [1, 2, 3].map(|source| Outbox::new(source, 1_000).unwrap());
        for (index, (size, time)) in sizes.iter().enumerate() {
            let name = (index % 3).to_string();
            for (place, outbox) in outboxes.iter_mut().enumerate() {
                let at = 1_000 * index as u64 + 100 * place as u64;
                let [begin, done] = stage(STAGES[place], *size, size + 1);
                let next = STAGES[(place + 1) % 3];
                let before = STAGES[(place + 2) % 3];
                let kinds =
                    [begin, received(before, STAGES[place], *size, 1), sent(STAGES[place], next, *size, *time), done];
                for (step, kind) in kinds.into_iter().enumerate() {
                    let at = at + step as u64 * time;
                    // A stage is visited again each time that its request comes by.
                    let kind = visited(kind, index as u64 / 3);
                    outbox.push(event(&name, at, kind).into_owned());
                }
            }
        }
        let lines: String = outboxes.iter_mut().map(|outbox| outbox.take(None)).collect();
        let mut events: Vec<Event> =
            lines.lines().map(|line| Event::from_line(line).unwrap()).collect();
        let run = |events: &[Event]| {
            let mut pipeline = pipeline();
            for name in ["0", "1", "2"] {
                pipeline.take(&event(name, 5, Kind::RequestStarted)).unwrap();
            }
            let taken = events.iter().filter(|it| pipeline.take(it).is_ok()).count();
            for name in ["0", "1", "2"] {
                pipeline.take(&event(name, 99_999, finished(Outcome::Completed))).unwrap();
            }
            let walls = pipeline.overall().stage_walls(pipeline.stages());
            (taken, pipeline.recent().cloned().collect::<Vec<_>>(), walls)
        };
        let expected = run(&events);
        prop_assert_eq!(expected.0, events.len());
        events.extend(events.clone());
        let mut state = seed | 1;
        for index in (1..events.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            events.swap(index, (state >> 33) as usize % (index + 1));
        }
        prop_assert_eq!(run(&events), expected);
    }

    /// What is written on a wire is read back as it was.
    #[test]
    fn a_line_is_read_as_it_was_written(events in middle(), request in "\\PC{1,20}") {
        for (at, kind) in events {
            let event = Event { origin: Some((3, at)), ..event(&request, at, kind) };
            prop_assert_eq!(Event::from_line(&event.to_line()).unwrap(), event);
        }
    }
}

fn visited(kind: Kind<'_>, visit: u64) -> Kind<'_> {
    match kind {
        Kind::StageStarted { stage, .. } => Kind::StageStarted { stage, visit },
        Kind::StageFinished { stage, work, .. } => Kind::StageFinished { stage, visit, work },
        other => other,
    }
}

#[test]
fn the_size_is_the_sender_s_and_in_flight_is_from_sent_to_the_begin_of_decoding() {
    let mut pipeline = pipeline();
    pipeline.take(&event("a", 0, Kind::RequestStarted)).unwrap();
    for (at, clock, kind) in [
        (130, 1, received("thinker", "talker", 999, 10)), // came before it was sent, by the queue
        (100, 1, sent("thinker", "talker", 60, 5)),
        (110, 1, sent("thinker", "talker", 40, 6)),
        (150, 1, received("thinker", "talker", 999, 10)),
        (500, 1, received("thinker", "vocoder", 30, 3)), // fan-out, never said to be sent
        (700, 1, sent("talker", "vocoder", 8, 1)),
        (900, 2, received("talker", "vocoder", 8, 1)), // on another machine
    ] {
        pipeline.take(&Event { clock, ..event("a", at, kind) }).unwrap();
    }
    pipeline.take(&event("a", 1_000, finished(Outcome::Completed))).unwrap();
    let row = pipeline.recent().next().unwrap();
    let found = row.transfers.iter().map(|it| {
        (&*it.from_stage, &*it.to_stage, it.size_bytes, it.tx, it.rx_decode, it.in_flight)
    });
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            ("thinker", "talker", 100, 11, 20, (120 - 100) + (140 - 110)),
            ("thinker", "vocoder", 30, 0, 3, 0),
            ("talker", "vocoder", 8, 1, 1, 0),
        ]
    );
}

#[test]
fn what_comes_twice_too_late_or_of_nobody_changes_nothing() {
    let mut pipeline = pipeline();
    let [begin, done] = stage("talker", 3, 4);
    assert_eq!(refused(pipeline.take(&event("a", 0, begin.clone()))), "unknown_request");
    pipeline.take(&event("a", 0, Kind::RequestStarted)).unwrap();
    assert_eq!(refused(pipeline.take(&event("a", 0, Kind::RequestStarted))), "duplicate_event");
    for kind in [&begin, &done] {
        pipeline.take(&event("a", 1, kind.clone())).unwrap();
        assert_eq!(refused(pipeline.take(&event("a", 2, kind.clone()))), "duplicate_event");
    }
    let ended = event("a", 9, finished(Outcome::Completed));
    pipeline.take(&ended).unwrap();
    assert_eq!(refused(pipeline.take(&ended)), "unknown_request");
    assert_eq!(refused(pipeline.take(&event("a", 9, done))), "unknown_request");
    assert_eq!(refused(pipeline.take(&event("a", 9, Kind::RequestStarted))), "duplicate_event");
    let large = sent("thinker", "talker", u64::MAX, 0);
    assert_eq!(refused(pipeline.take(&event("a", 9, large))), "invalid_value");
    let long = "x".repeat(257);
    assert_eq!(refused(pipeline.take(&event(&long, 9, Kind::RequestStarted))), "invalid_value");
    assert_eq!((pipeline.open(), pipeline.overall().requests), (0, 1));
}

#[test]
fn nothing_grows_past_its_limit() {
    let mut pipeline = Pipeline::new(&STAGES, Limits { recent: 3, open: 5 }).unwrap();
    for index in 0..1_000 {
        let name = index.to_string();
        pipeline.take(&event(&name, index, Kind::RequestStarted)).unwrap();
        if index % 2 == 0 {
            pipeline.take(&event(&name, index, finished(Outcome::Completed))).unwrap();
        }
    }
    assert_eq!((pipeline.open(), pipeline.recent().len()), (5, 3));
    assert_eq!(pipeline.overall().requests, 500);
    let names = pipeline.recent().map(|row| &*row.request).collect::<Vec<_>>();
    assert_eq!(names, ["994", "996", "998"]);
    let oldest = event("989", 0, finished(Outcome::Completed));
    assert_eq!(refused(pipeline.take(&oldest)), "unknown_request", "it was dropped");
    let open = |visit| event("999", 0, Kind::StageStarted { stage: "talker".into(), visit });
    let taken = (0..100).filter(|visit| pipeline.take(&open(*visit)).is_ok()).count();
    assert_eq!(taken, VISITS_LIMIT);
    let names: Vec<String> = (0..300).map(|index| index.to_string()).collect();
    let edge = |name| event("999", 0, sent("a", name, 1, 1));
    let taken = names.iter().filter(|name| pipeline.take(&edge(name)).is_ok()).count();
    assert_eq!(taken, EDGES_LIMIT);
}

#[test]
fn a_pipeline_has_stages_and_limits_in_their_range() {
    let limits = Limits::default();
    let wrong = |stages: &[&str], limits| Pipeline::new(stages, limits).unwrap_err().to_string();
    assert_eq!(wrong(&[], limits), "the number of stages is 0; it must be 1 to 64");
    assert_eq!(
        wrong(&["a", "a"], limits),
        "stages has \"a\" twice; each must have a name of its own"
    );
    let none = Limits { open: 0, ..limits };
    assert_eq!(wrong(&["a"], none), "max_open is 0; it must be 1 to 1000000");
}

#[test]
fn the_families_say_what_the_tables_say() {
    let bench = Bench::new();
    let observer = PipelineObserver::new(bench.recorder.clone(), "m", pipeline(), true);
    let tell = |at, kind| observer.observe(&event("a", at, kind));
    let second = 1_000_000_000;
    let [begin, done] = stage("thinker", 20, 30);
    let [second_begin, second_done] = stage("talker", 30, 5);
    tell(0, Kind::RequestStarted);
    tell(second, begin);
    let active = bench.lines("ryot_pipeline_stage_active_requests");
    assert_eq!(active, [r#"ryot_pipeline_stage_active_requests{model="m",stage="thinker"} 1.0"#]);
    tell(3 * second, done);
    tell(3 * second, sent("thinker", "talker", 2_048, second / 2));
    tell(5 * second, received("thinker", "talker", 0, second));
    tell(4 * second, second_begin);
    tell(6 * second, second_done);
    tell(8 * second, finished(Outcome::Completed));
    tell(8 * second, finished(Outcome::Completed));
    for line in [
        r#"requests_total{model="m",outcome="completed"} 1.0"#,
        r#"requests_total{model="m",outcome="stage_error"} 0.0"#,
        r#"active_requests{model="m"} 0.0"#,
        r#"request_latency_seconds_sum{model="m"} 8.0"#,
        r#"tokens_total{model="m"} 55.0"#,
        r#"stage_active_requests{model="m",stage="thinker"} 0.0"#,
        r#"stage_active_requests{model="m",stage="talker"} 0.0"#,
        r#"stage_seconds_sum{model="m",stage="talker"} 2.0"#,
        r#"stage_tokens_total{model="m",stage="talker",token_type="prompt"} 30.0"#,
        r#"stage_batch_size_sum{model="m",stage="thinker"} 1.0"#,
        r#"transfer_size_bytes_sum{from_stage="thinker",model="m",to_stage="talker"} 2048.0"#,
        r#"transfer_tx_seconds_sum{from_stage="thinker",model="m",to_stage="talker"} 0.5"#,
        r#"transfer_rx_decode_seconds_sum{from_stage="thinker",model="m",to_stage="talker"} 1.0"#,
        r#"transfer_in_flight_seconds_sum{from_stage="thinker",model="m",to_stage="talker"} 1.0"#,
    ] {
        let page = bench.lines("ryot_pipeline_");
        assert!(page.contains(&format!("ryot_pipeline_{line}")), "{line} is not of {page:#?}");
    }
    let dropped = r#"ryot_metrics_dropped_total{reason="unknown_request"} 1.0"#;
    assert_eq!(bench.lines("ryot_metrics_dropped_total"), [dropped]);
    let reports = bench.recorder.take_drop_reports();
    assert_eq!(reports.len(), 1);
    assert!(reports[0].contains(r#"request "a" has not started, or has ended"#), "{reports:?}");
    assert!(bench.recorder.take_drop_reports().is_empty(), "once");
}

#[test]
fn a_request_that_leaves_takes_its_gauges_with_it() {
    let bench = Bench::new();
    let limits = Limits { open: 1, ..Limits::default() };
    let pipeline = Pipeline::new(&STAGES, limits).unwrap();
    let observer = PipelineObserver::new(bench.recorder.clone(), "m", pipeline, true);
    for (name, reason) in [("a", Outcome::ClientAbort), ("b", Outcome::Completed)] {
        observer.observe(&event(name, 0, Kind::RequestStarted));
        observer.observe(&event(name, 0, stage("talker", 1, 1)[0].clone()));
        if name == "b" {
            observer.observe(&event(name, 1, finished(reason)));
        }
    }
    assert_eq!(
        bench.lines("ryot_pipeline_active"),
        [r#"ryot_pipeline_active_requests{model="m"} 0.0"#]
    );
    let active = r#"ryot_pipeline_stage_active_requests{model="m",stage="talker"} 0.0"#;
    assert_eq!(bench.lines("ryot_pipeline_stage_active"), [active]);
    for reason in ["pipeline_full", "incomplete_stage"] {
        let line = format!("ryot_metrics_dropped_total{{reason=\"{reason}\"}} 1.0");
        assert!(bench.lines("ryot_metrics_dropped_total").contains(&line));
    }
}
