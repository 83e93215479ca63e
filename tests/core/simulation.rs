//! A hundred thousand steps of arrivals, cancels and faults, on one thread, with the books checked
//! after each.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::backend::toy::{Toy, ToyDecoder};
use ryot_metrics::backend::{DecodeFailure, Decoder, Row, SeqId, Snapshot, Token};
use ryot_metrics::clock::ManualClock;
use ryot_metrics::engine::{
    Client, Core, EngineConfig, Finish, Progress, Prompt, RequestHandle, SamplingParams, Terms,
};
use ryot_metrics::error::Error;
use ryot_metrics::event::{Event, FinishReason, Observer, Origin, RequestId};

const STEPS: u64 = 100_000;

/// Checks the order of each request's events and counts them.
#[derive(Debug, Default)]
struct Ledger(Mutex<HashMap<RequestId, Life>>);

#[derive(Clone, Debug, Default, PartialEq)]
struct Life {
    scheduled: bool,
    tokens: usize,
    finished: Option<FinishReason>,
}

impl Observer for Ledger {
    fn observe(&self, event: &Event) {
        let mut lives = self.0.lock();
        match *event {
            Event::Queued { id, .. } => assert_eq!(lives.insert(id, Life::default()), None),
            Event::Scheduled { id, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert_eq!(*life, Life::default());
                life.scheduled = true;
            }
            Event::FirstToken { id, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert!(life.scheduled && life.tokens == 0 && life.finished.is_none());
                life.tokens = 1;
            }
            Event::Tokens { id, count, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert!(life.tokens > 0 && life.finished.is_none());
                life.tokens += count;
            }
            Event::Finished { id, reason, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert_eq!(life.finished.replace(reason), None, "finished twice");
            }
            _ => (),
        }
    }
}

struct Request {
    handle: RequestHandle,
    prompt: Vec<Token>,
    max_tokens: usize,
    cancelled: bool,
    answer: Vec<Token>,
    text: String,
}

struct World {
    random: ChaCha8Rng,
    client: Client,
    clock: Arc<ManualClock>,
    live: Vec<Request>,
    ended: BTreeMap<&'static str, u64>,
}

impl World {
    fn below(&mut self, limit: usize) -> usize {
        self.random.next_u32() as usize % limit
    }

    fn arrive(&mut self) {
        let length = 1 + self.below(40);
        let prompt: Vec<Token> = (0..length).map(|_| self.below(256) as Token).collect();
        let max_tokens = 1 + self.below(30);
        let params = SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::greedy() };
        match self.client.submit(
            Prompt::Tokens(prompt.clone()),
            params,
            Terms::default(),
            Origin::default(),
        ) {
            Ok(handle) => self.live.push(Request {
                handle,
                prompt,
                max_tokens,
                cancelled: false,
                answer: Vec::new(),
                text: String::new(),
            }),
            Err(Error::QueueFull { limit: 6, .. }) => {
                *self.ended.entry("refused").or_default() += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn act(&mut self) {
        self.clock.advance(1_000_000);
        if self.below(6) == 0 {
            self.arrive();
        }
        if self.below(60) == 0 && !self.live.is_empty() {
            let index = self.below(self.live.len());
            self.live[index].cancelled = true;
            self.live[index].handle.cancel().unwrap();
        }
        if self.below(200) == 0 && !self.live.is_empty() {
            let index = self.below(self.live.len());
            self.live.swap_remove(index); // dropped: cancelled, and nobody looks
        }
    }

    fn read(&mut self) {
        let mut index = 0;
        while index < self.live.len() {
            let request = &mut self.live[index];
            let (deltas, finish) = request.handle.drain().unwrap();
            for delta in deltas {
                request.answer.push(delta.token);
                request.text += &delta.text;
            }
            match finish {
                Some(finish) => {
                    let request = self.live.swap_remove(index);
                    *self.ended.entry(check(&request, &finish)).or_default() += 1;
                }
                None => index += 1,
            }
        }
    }
}

/// Whatever ended it, the answer so far is what the toy says, computed from the whole prompt.
fn check(request: &Request, finish: &Finish) -> &'static str {
    let expected = Toy::answer(&request.prompt, request.answer.len());
    assert_eq!(request.answer, expected);
    assert_eq!(finish.completion_tokens, expected.len());
    assert_eq!(finish.prompt_tokens, request.prompt.len());
    let text: String = expected.iter().map(|&token| char::from(token as u8)).collect();
    assert_eq!(request.text.clone() + &finish.tail_text, text);
    match finish.reason {
        FinishReason::Length => assert_eq!(expected.len(), request.max_tokens),
        FinishReason::Cancelled => assert!(request.cancelled),
        FinishReason::Error(_) => assert!(finish.error.is_some()),
        FinishReason::Stop => panic!("the toy never stops"),
    }
    finish.reason.as_str()
}

/// Counts what the decoder is told to forget, beside the toy's own checks.
struct Strict<'a>(ToyDecoder<'a>);

impl Decoder for Strict<'_> {
    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeFailure> {
        let outcome = self.0.decode(rows);
        if let Err(DecodeFailure::Fatal(text)) = &outcome {
            assert_eq!(text, "injected");
        }
        outcome
    }

    fn logits(&self, row: usize) -> &[f32] {
        self.0.logits(row)
    }

    fn forget(&mut self, seq: SeqId) {
        self.0.forget(seq);
    }

    fn truncate(&mut self, seq: SeqId, length: usize) {
        self.0.truncate(seq, length);
    }

    fn share(&mut self, from: SeqId, to: SeqId, positions: Range<usize>) {
        self.0.share(from, to, positions);
    }

    fn save(&mut self, seq: SeqId) -> Option<Snapshot> {
        self.0.save(seq)
    }

    fn restore(&mut self, seq: SeqId, snapshot: &Snapshot) -> bool {
        self.0.restore(seq, snapshot)
    }
}

fn faults(random: &mut ChaCha8Rng) -> BTreeMap<u64, DecodeFailure> {
    let kind = |random: &mut ChaCha8Rng| match random.next_u32() % 2 {
        0 => DecodeFailure::NoSpace,
        _ => DecodeFailure::Fatal("injected".to_owned()),
    };
    (0..STEPS / 200).map(|_| (u64::from(random.next_u32()) % STEPS, kind(random))).collect()
}

/// Every request ends exactly once with the answer that its own prompt demands, whatever happens
/// to the others, and nothing stays reserved.
#[test]
fn a_hundred_thousand_steps() {
    let mut random = ChaCha8Rng::seed_from_u64(42);
    let toy = Arc::new(Toy { faults: faults(&mut random), ..Toy::instant() });
    let config = EngineConfig {
        ctx_size: 150,
        parallel: 4,
        batch_size: 24,
        prefill_chunk: 7,
        max_queue: 6,
        ..EngineConfig::default()
    };
    let (ledger, clock) = (Arc::new(Ledger::default()), Arc::new(ManualClock::default()));
    let mut decoder = Strict(ToyDecoder::new(&toy, config.decoder()));
    let (mut core, client) = Core::new(toy.clone(), config, ledger.clone(), clock.clone()).unwrap();
    let mut world = World { random, client, clock, live: Vec::new(), ended: BTreeMap::new() };
    for _ in 0..STEPS {
        world.act();
        core.step(&mut decoder);
        core.scheduler().check_integrity().unwrap();
        assert_eq!(decoder.0.used_cells(), core.scheduler().used_cells());
        world.read();
    }
    while core.step(&mut decoder) == Progress::Worked {}
    world.read();
    assert!(world.live.is_empty());
    assert_eq!(core.scheduler().live_cells(), 0);
    assert_eq!(decoder.0.used_cells(), core.scheduler().used_cells());
    assert_eq!((core.scheduler().running(), core.scheduler().waiting()), (0, 0));
    assert_eq!(world.client.stats().unwrap().waiting, 0);
    let lives = ledger.0.lock();
    assert!(lives.values().all(|life| life.finished.is_some()));
    let least = |kind: &str| world.ended.get(kind).copied().unwrap_or(0) > 50;
    assert!(
        ["length", "cancelled", "error", "refused"].into_iter().all(least),
        "{:?}",
        world.ended
    );
}
