//! The engine on its thread: callers that wait, cancel, vanish, and an engine that ends.

use std::io::Read as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ryot_metrics::backend::toy::Toy;
use ryot_metrics::backend::{
    DecodeFailure, Decoder, DecoderConfig, Model, ModelInfo, Row, Snapshot, Token,
};
use ryot_metrics::clock::MonotonicClock;
use ryot_metrics::engine::{
    Delta, Engine, EngineConfig, Finish, Next, Prompt, RequestHandle, SamplingParams, Terms, Wakeup,
};
use ryot_metrics::error::{Error, ErrorKind, Result};
use ryot_metrics::event::{Event, FinishReason, Ignore, Observer, Origin};

const PATIENCE: Duration = Duration::from_secs(30);

fn engine(toy: Toy, config: EngineConfig) -> Engine {
    Engine::start(Arc::new(toy), config, Arc::new(Ignore), Arc::new(MonotonicClock)).unwrap()
}

/// One millisecond per step: slow enough to be caught in the act.
fn slow() -> Toy {
    Toy { step: Duration::from_millis(1), ..Toy::instant() }
}

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::greedy() }
}

fn submit(engine: &Engine, text: &str, params: SamplingParams) -> RequestHandle {
    engine.submit(text.into(), params, Terms::default(), Origin::default()).unwrap()
}

fn finish(request: &RequestHandle) -> (Vec<Delta>, Finish) {
    assert!(request.wait_finished(PATIENCE).unwrap());
    let (deltas, finish) = request.drain().unwrap();
    (deltas, finish.unwrap())
}

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

fn idle(engine: &Engine) -> bool {
    let stats = engine.stats().unwrap();
    stats.running == 0 && stats.waiting == 0 && stats.used_cells == 0
}

/// Tokens arrive one by one, then the end, which stays.
#[test]
fn an_answer_streams() {
    let engine = engine(Toy::instant(), EngineConfig::default());
    let request = submit(&engine, "hello", greedy(20));
    let mut answer = Vec::new();
    let finish = loop {
        match request.next_timeout(PATIENCE).unwrap() {
            Next::Delta(delta) => answer.push(delta.token),
            Next::Finished(finish) => break finish,
            Next::Pending => panic!("nothing came"),
        }
    };
    assert_eq!(answer, Toy::answer(&bytes("hello"), 20));
    assert_eq!(finish.reason, FinishReason::Length);
    assert!(finish.first_token_at >= finish.scheduled_at && finish.scheduled_at.is_some());
    assert!(finish.finished_at >= finish.first_token_at.unwrap());
    assert_eq!(request.try_next().unwrap(), Next::Finished(finish));
    assert!(idle(&engine));
}

/// The token that ends an answer is neither delivered nor counted, even as the first one.
#[test]
fn the_end_token_is_not_part_of_the_answer() {
    for (ends_after, ignore_eos, count, reason) in [
        (0, false, 0, FinishReason::Stop),
        (3, false, 3, FinishReason::Stop),
        (3, true, 9, FinishReason::Length),
    ] {
        let toy = Toy { ends_after: Some(ends_after), ..Toy::instant() };
        let engine = engine(toy, EngineConfig::default());
        let request = submit(&engine, "x", SamplingParams { ignore_eos, ..greedy(9) });
        let (deltas, finish) = finish(&request);
        assert_eq!((deltas.len(), finish.completion_tokens), (count, count));
        assert_eq!(finish.reason, reason);
    }
}

/// A stop string ends the answer before it, wherever the tokens are cut.
#[test]
fn a_stop_string_ends_the_answer() {
    let whole: String =
        Toy::answer(&bytes("stop here"), 60).iter().map(|&token| token as u8 as char).collect();
    let stop = whole[30..34].to_owned();
    let engine = engine(Toy::instant(), EngineConfig::default());
    let params = SamplingParams { stop: vec![stop.clone()], ..greedy(60) };
    let (deltas, finish) = finish(&submit(&engine, "stop here", params));
    let text: String = deltas.iter().map(|delta| delta.text.as_str()).collect();
    assert_eq!(text, whole[..whole.find(&stop).unwrap()]);
    assert_eq!((finish.reason, finish.tail_text.as_str()), (FinishReason::Stop, ""));
}

/// A seed makes a random answer repeatable, whoever else is in the batch.
#[test]
fn a_seed_repeats_an_answer() {
    let engine = engine(Toy::instant(), EngineConfig::default());
    let draw = |seed| {
        let params =
            SamplingParams { seed: Some(seed), max_tokens: Some(50), ..Default::default() };
        let noise = submit(&engine, "noise", greedy(50));
        let (deltas, _) = finish(&submit(&engine, "draw", params));
        drop(noise);
        deltas.iter().map(|delta| delta.token).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

/// How many steps were given up.
#[derive(Debug, Default)]
struct Given(AtomicUsize);

impl Observer for Given {
    fn observe(&self, event: &Event) {
        if matches!(event, Event::StepInterrupted { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An engine of two milliseconds a row, and how many of its steps were given up.
fn counted() -> (Engine, Arc<Given>) {
    let given = Arc::new(Given::default());
    let toy = Arc::new(Toy { per_row: Duration::from_millis(2), ..Toy::instant() });
    let clock = Arc::new(MonotonicClock);
    (Engine::start(toy, EngineConfig::default(), given.clone(), clock).unwrap(), given)
}

/// A long prompt that has the engine to itself is computed in long steps, which give way at once to
/// whoever comes, and loses nothing by it; so they do to a cancellation.
#[test]
fn a_long_step_gives_way() {
    let (engine, given) = counted();
    let text = "a long prompt ".repeat(80);
    let long = submit(&engine, &text, greedy(3));
    let mut short = 0;
    while given.0.load(Ordering::Relaxed) == 0 && !long.wait_finished(Duration::ZERO).unwrap() {
        std::thread::sleep(Duration::from_millis(150));
        let text = format!("short {short}");
        let (deltas, _) = finish(&submit(&engine, &text, greedy(2)));
        let answer: Vec<Token> = deltas.iter().map(|delta| delta.token).collect();
        assert_eq!(answer, Toy::answer(&bytes(&text), 2));
        short += 1;
    }
    assert!(given.0.load(Ordering::Relaxed) > 0, "{short} requests came, and no step gave way");
    let (deltas, _) = finish(&long);
    let answer: Vec<Token> = deltas.iter().map(|delta| delta.token).collect();
    assert_eq!(answer, Toy::answer(&bytes(&text), 3));

    let before = given.0.load(Ordering::Relaxed);
    for attempt in 0.. {
        let long = submit(&engine, &format!("{attempt}{}", "other words ".repeat(90)), greedy(3));
        std::thread::sleep(Duration::from_millis(400));
        long.cancel().unwrap();
        assert_eq!(finish(&long).1.reason, FinishReason::Cancelled);
        if given.0.load(Ordering::Relaxed) > before {
            break;
        }
        assert!(attempt < 20, "no step gave way to a cancellation");
    }
}

/// A step beside an answer gives way to the cancellation of a prompt in it, and the answer is what
/// it would have been.
#[test]
fn a_step_beside_an_answer_gives_way_to_a_cancellation() {
    let (engine, given) = counted();
    let answer = submit(&engine, "an answer", greedy(600));
    for attempt in 0.. {
        let long = submit(&engine, &format!("{attempt}{}", "other words ".repeat(90)), greedy(3));
        std::thread::sleep(Duration::from_millis(200));
        long.cancel().unwrap();
        assert_eq!(finish(&long).1.reason, FinishReason::Cancelled);
        if given.0.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(attempt < 20, "no step gave way to a cancellation");
    }
    assert!(!answer.wait_finished(Duration::ZERO).unwrap(), "it was under way all the while");
    let tokens: Vec<Token> = finish(&answer).0.iter().map(|delta| delta.token).collect();
    assert_eq!(tokens, Toy::answer(&bytes("an answer"), 600));
}

/// A cancelled request ends at the next step and frees its cells; its neighbour does not notice.
#[test]
fn cancel_ends_one_request_only() {
    let engine = engine(slow(), EngineConfig::default());
    let (one, other) = (submit(&engine, "one", greedy(400)), submit(&engine, "other", greedy(40)));
    assert!(matches!(one.next_timeout(PATIENCE).unwrap(), Next::Delta(_)));
    one.cancel().unwrap();
    let (_, ended) = finish(&one);
    assert_eq!((ended.reason, ended.error), (FinishReason::Cancelled, None));
    assert!(ended.completion_tokens < 400);
    let (deltas, _) = finish(&other);
    let answer: Vec<Token> = deltas.iter().map(|delta| delta.token).collect();
    assert_eq!(answer, Toy::answer(&bytes("other"), 40));
    one.cancel().unwrap(); // without effect
    assert!(idle(&engine));
}

/// A handle that is dropped cancels its request.
#[test]
fn a_dropped_handle_cancels() {
    let engine = engine(slow(), EngineConfig::default());
    drop(submit(&engine, "nobody listens", greedy(4_000)));
    let (_, last) = finish(&submit(&engine, "x", greedy(10)));
    assert_eq!(last.completion_tokens, 10);
    assert!(idle(&engine));
}

/// Shutdown ends what runs and what waits, refuses what comes, and can be repeated.
#[test]
fn shutdown_ends_all_requests() {
    let engine = engine(slow(), EngineConfig { parallel: 2, ..EngineConfig::default() });
    let requests: Vec<_> = (0..10).map(|_| submit(&engine, "long", greedy(1_000))).collect();
    assert!(matches!(requests[0].next_timeout(PATIENCE).unwrap(), Next::Delta(_)));
    engine.shutdown().unwrap();
    engine.shutdown().unwrap();
    for request in &requests {
        let (_, finish) = finish(request);
        assert_eq!(finish.reason, FinishReason::Cancelled);
        assert_eq!(finish.error, Some(Error::EngineClosed));
    }
    let refused = engine.submit("late".into(), greedy(1), Terms::default(), Origin::default());
    assert_eq!(refused.unwrap_err(), Error::EngineClosed);
}

/// Beyond its limit the queue refuses, and says when to come again.
#[test]
fn a_full_queue_refuses() {
    let config = EngineConfig { parallel: 2, max_queue: 3, ..EngineConfig::default() };
    let engine = engine(slow(), config);
    let _live: Vec<_> = (0..5).map(|_| submit(&engine, "long", greedy(1_000))).collect();
    match engine.submit("late".into(), greedy(1), Terms::default(), Origin::default()) {
        Err(Error::QueueFull { limit: 3, retry_after }) => assert!(retry_after >= 0.1),
        other => panic!("{other:?}"),
    }
}

/// What can never be served is refused at once, with the numbers, and reported.
#[test]
fn bad_requests_are_refused() {
    #[derive(Debug, Default)]
    struct Count(AtomicUsize);
    impl Observer for Count {
        fn observe(&self, event: &Event) {
            if matches!(event, Event::Rejected { kind: ErrorKind::InvalidPrompt, .. }) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    let count = Arc::new(Count::default());
    let config = EngineConfig { ctx_size: 100, ..EngineConfig::default() };
    let (toy, clock) = (Arc::new(Toy::instant()), Arc::new(MonotonicClock));
    let engine = Engine::start(toy, config, count.clone(), clock).unwrap();
    let refusal = |prompt: Prompt| {
        engine
            .submit(prompt, greedy(1), Terms::default(), Origin::default())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refusal("".into()), "prompt has 0 tokens; at least 1 is needed");
    assert_eq!(
        refusal(Prompt::Tokens(vec![1; 100])),
        "prompt has 100 tokens; the context (ctx_size) leaves room for 99"
    );
    assert_eq!(
        refusal(Prompt::Tokens(vec![1, 257])),
        "the prompt holds token 257; it must be from 0 to 256"
    );
    assert_eq!(
        refusal(Prompt::Tokens(vec![-1])),
        "the prompt holds token -1; it must be from 0 to 256"
    );
    assert_eq!(count.0.load(Ordering::Relaxed), 4);
    let (deltas, finish) = finish(
        &engine
            .submit(Prompt::Tokens(vec![65; 99]), greedy(50), Terms::default(), Origin::default())
            .unwrap(),
    );
    assert_eq!((deltas.len(), finish.reason), (1, FinishReason::Length));
}

/// Many threads submit at once, and each gets the answer to its own prompt.
#[test]
fn sixty_four_threads_submit() {
    let engine = engine(Toy::instant(), EngineConfig::default());
    std::thread::scope(|scope| {
        for thread in 0..64 {
            let engine = &engine;
            scope.spawn(move || {
                let prompt = format!("thread {thread}");
                for _ in 0..3 {
                    let (deltas, _) = finish(&submit(engine, &prompt, greedy(25)));
                    let answer: Vec<Token> = deltas.iter().map(|delta| delta.token).collect();
                    assert_eq!(answer, Toy::answer(&bytes(&prompt), 25));
                }
            });
        }
    });
    assert!(idle(&engine));
}

/// A step that fails ends the requests in it; later ones are served.
#[test]
fn a_failed_step_ends_only_its_own_requests() {
    let failure = DecodeFailure::Fatal("the device is gone".to_owned());
    let engine =
        engine(Toy { faults: [(5, failure)].into(), ..Toy::instant() }, EngineConfig::default());
    let (deltas, ended) = finish(&submit(&engine, "first", greedy(20)));
    assert_eq!(deltas.len(), 5);
    assert_eq!(ended.reason, FinishReason::Error(ErrorKind::InferenceError));
    assert_eq!(ended.error, Some(Error::Decode("the device is gone".to_owned())));
    let (deltas, _) = finish(&submit(&engine, "second", greedy(20)));
    assert_eq!(deltas.len(), 20);
}

/// One byte wakes an event loop for all that came since it last looked.
#[test]
fn a_wakeup_writes_one_byte() {
    let engine = engine(Toy::instant(), EngineConfig::default());
    let wakeup = Arc::new(Wakeup::new().unwrap());
    let requests: Vec<_> = (0..4).map(|_| submit(&engine, "x", greedy(30))).collect();
    for request in &requests {
        request.attach(wakeup.clone()).unwrap();
    }
    for request in &requests {
        finish(request);
    }
    engine.shutdown().unwrap();
    wakeup.acknowledge();
    let mut rest = Vec::new();
    let mut reader = wakeup.reader().try_clone().unwrap();
    drop(requests);
    drop(engine);
    drop(Arc::into_inner(wakeup).expect("nobody else holds it"));
    reader.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "{} bytes were left", rest.len());
}

/// The loop that watches the pipe sees every token.
#[test]
fn a_loop_that_only_watches_the_pipe_misses_nothing() {
    let engine = engine(Toy::instant(), EngineConfig::default());
    let wakeup = Arc::new(Wakeup::new().unwrap());
    let request = submit(&engine, "watch", greedy(500));
    request.attach(wakeup.clone()).unwrap();
    let mut count = 0;
    loop {
        wakeup.wait();
        let (deltas, finish) = request.drain().unwrap();
        count += deltas.len();
        if finish.is_some() {
            break;
        }
    }
    assert_eq!(count, 500);
}

/// A model whose decoder panics.
#[derive(Debug)]
struct Explosive(Toy);

impl Model for Explosive {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }
    fn tokenize(&self, text: &str, _: bool, _: bool) -> Result<Vec<Token>> {
        self.0.tokenize(text, true, true)
    }
    fn piece(&self, token: Token) -> Vec<u8> {
        self.0.piece(token)
    }
    fn is_end(&self, token: Token) -> bool {
        self.0.is_end(token)
    }
    fn run(&self, _: &DecoderConfig, body: &mut dyn FnMut(&mut dyn Decoder)) -> Result<()> {
        body(&mut Bomb);
        Ok(())
    }
}

struct Bomb;

impl Decoder for Bomb {
    fn decode(&mut self, _: &[Row]) -> std::result::Result<(), DecodeFailure> {
        panic!("boom")
    }
    fn logits(&self, _: usize) -> &[f32] {
        &[]
    }
    fn forget(&mut self, _: u32) {}
    fn truncate(&mut self, _: u32, _: usize) {}
    fn share(&mut self, _: u32, _: u32, _: Range<usize>) -> bool {
        true
    }
    fn save(&mut self, _: u32) -> Option<Snapshot> {
        None
    }
    fn restore(&mut self, _: u32, _: &Snapshot) -> bool {
        false
    }
}

/// A panic in the model ends all requests and closes the engine; nobody waits for ever.
#[test]
fn a_panic_leaves_nobody_waiting() {
    let (model, clock) = (Arc::new(Explosive(Toy::instant())), Arc::new(MonotonicClock));
    let engine = Engine::start(model, EngineConfig::default(), Arc::new(Ignore), clock).unwrap();
    let (_, ended) = finish(&submit(&engine, "x", greedy(5)));
    assert_eq!(ended.error, Some(Error::Decode("the engine's thread panicked: boom".to_owned())));
    let refused = engine.submit("y".into(), greedy(1), Terms::default(), Origin::default());
    assert_eq!(refused.unwrap_err(), Error::EngineClosed);
    engine.shutdown().unwrap();
}

/// An invalid configuration and a context that cannot be made are errors of `start`.
#[test]
fn start_reports_what_is_wrong() {
    let start = |config| {
        Engine::start(Arc::new(Toy::instant()), config, Arc::new(Ignore), Arc::new(MonotonicClock))
            .map(drop)
    };
    let config = EngineConfig { batch_size: 4, ..EngineConfig::default() };
    assert_eq!(
        start(config).unwrap_err().to_string(),
        "batch_size is 4; it must be from 8 to 65536"
    );
    let config = EngineConfig { parallel: 257, ..EngineConfig::default() };
    assert!(start(config).unwrap_err().to_string().starts_with("parallel is 257"));
}
