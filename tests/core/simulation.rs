//! A hundred thousand steps of arrivals, cancels and faults, on one thread, with the books checked
//! after each.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
use ryot_metrics::event::{Class, Event, FinishReason, Observer, Origin, RequestId};

const STEPS: u64 = 100_000;

/// Checks the order of each request's events and counts them.
#[derive(Debug, Default)]
struct Ledger(Mutex<HashMap<RequestId, Life>>, AtomicU64, AtomicU64);

#[derive(Clone, Debug, Default, PartialEq)]
struct Life {
    scheduled: bool,
    parked: bool,
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
                assert!(!life.scheduled && life.tokens == 0 && life.finished.is_none());
                life.scheduled = true;
            }
            Event::PrefixMatched { id, queried, hit } => {
                assert!(hit < queried && !lives[&id].scheduled);
            }
            Event::Preempted { id, .. } => {
                self.1.fetch_add(1, Ordering::Relaxed);
                let life = lives.get_mut(&id).unwrap();
                assert!(!std::mem::replace(&mut life.parked, true) && life.finished.is_none());
            }
            Event::Resumed { id, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert!(std::mem::replace(&mut life.parked, false));
            }
            Event::FirstToken { id, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert!(life.scheduled && life.tokens == 0 && !life.parked);
                life.tokens = 1;
            }
            Event::Tokens { id, count, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert!(life.tokens > 0 && life.finished.is_none() && !life.parked);
                life.tokens += count;
            }
            Event::Finished { id, reason, .. } => {
                let life = lives.get_mut(&id).unwrap();
                assert_eq!(life.finished.replace(reason), None, "finished twice");
            }
            Event::StepInterrupted { nanos } => {
                assert!(nanos > 0);
                self.2.fetch_add(1, Ordering::Relaxed);
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
    terms: Terms,
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
        let (stem, shared, own) = (self.below(4), self.below(60), 1 + self.below(40));
        let stem = (0..shared).map(|index| ((stem * 50 + index * index) % 256) as Token);
        let mut prompt: Vec<Token> = stem.collect();
        prompt.extend((0..own).map(|_| self.below(256) as Token));
        let max_tokens = 1 + self.below(45);
        let terms = self.terms();
        let params = SamplingParams { max_tokens: Some(max_tokens), ..SamplingParams::greedy() };
        match self.client.submit(
            Prompt::Tokens(prompt.clone()),
            params,
            terms.clone(),
            Origin::default(),
        ) {
            Ok(handle) => self.live.push(Request {
                handle,
                prompt,
                max_tokens,
                cancelled: false,
                terms,
                answer: Vec::new(),
                text: String::new(),
            }),
            Err(Error::QueueFull { limit: 6, .. }) => {
                *self.ended.entry("refused").or_default() += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Promises that are kept, that are broken and none; four tenants; deadlines now and then; the
    /// bare model and two adapters.
    fn terms(&mut self) -> Terms {
        let mut perhaps = |one_in: usize, most: usize| {
            (self.below(one_in) == 0).then(|| (1 + self.below(most)) as u64 * 1_000_000)
        };
        let (ttft, tbt, deadline) = (perhaps(3, 2000), perhaps(3, 50), perhaps(10, 500));
        let class = Class::ALL[self.below(2)];
        let tenant = ["", "ann", "bob", "eve"][self.below(4)].into();
        let adapter = self.below(3);
        Terms { class, ttft, tbt, tenant, deadline, adapter }
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
    let expected = Toy::answer_with(request.terms.adapter, &request.prompt, request.answer.len());
    assert_eq!(request.answer, expected);
    assert_eq!(finish.completion_tokens, expected.len());
    assert_eq!(finish.prompt_tokens, request.prompt.len());
    let text: String = expected.iter().map(|&token| char::from(token as u8)).collect();
    assert_eq!(request.text.clone() + &finish.tail_text, text);
    match finish.reason {
        FinishReason::Length => assert_eq!(expected.len(), request.max_tokens),
        FinishReason::Cancelled => {
            assert!(request.cancelled || request.terms.deadline.is_some());
        }
        FinishReason::Error(_) => assert!(finish.error.is_some()),
        FinishReason::Stop => panic!("the toy never stops"),
    }
    finish.reason.as_str()
}

/// Time that a row takes.
const ROW: u64 = 50_000;

/// A decoder whose copies, to the host and between parts, fail now and then, in which something comes while it computes,
/// and which checks what it is asked for. The last says whether cells are unified: then nothing is
/// copied, and sharing cannot fail.
struct Strict<'a>(ToyDecoder<'a>, ChaCha8Rng, Arc<ManualClock>, bool);

impl Strict<'_> {
    fn fails(&mut self, one_in: u32) -> bool {
        self.1.next_u32().is_multiple_of(one_in)
    }
}

impl Decoder for Strict<'_> {
    fn adapt(&mut self, adapter: usize) -> Result<(), DecodeFailure> {
        self.0.adapt(adapter)
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeFailure> {
        self.2.advance(rows.len() as u64 * ROW);
        let outcome = self.0.decode(rows);
        if let Err(DecodeFailure::Fatal(text)) = &outcome {
            assert_eq!(text, "injected");
        }
        outcome
    }

    fn decode_unless(&mut self, rows: &[Row], halt: &AtomicBool) -> Result<(), DecodeFailure> {
        if self.fails(4) {
            self.2.advance(ROW);
            halt.store(true, Ordering::Relaxed);
            return Err(DecodeFailure::Aborted);
        }
        self.decode(rows)
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

    fn share(&mut self, from: SeqId, to: SeqId, positions: Range<usize>) -> bool {
        if !self.3 && self.fails(200) {
            self.0.forget(to);
            return false;
        }
        self.0.share(from, to, positions)
    }

    fn save(&mut self, seq: SeqId) -> Option<Snapshot> {
        if self.fails(20) { None } else { self.0.save(seq) }
    }

    fn restore(&mut self, seq: SeqId, snapshot: &Snapshot) -> bool {
        !self.fails(200) && self.0.restore(seq, snapshot)
    }
}

fn faults(random: &mut ChaCha8Rng) -> BTreeMap<u64, DecodeFailure> {
    let kind = |random: &mut ChaCha8Rng| match random.next_u32() % 3 {
        0 => DecodeFailure::NoSpace,
        1 => DecodeFailure::Aborted,
        _ => DecodeFailure::Fatal("injected".to_owned()),
    };
    (0..STEPS / 200).map(|_| (u64::from(random.next_u32()) % STEPS, kind(random))).collect()
}

/// Every request ends exactly once with the answer that its own prompt demands, whatever happens
/// to the others, and nothing stays reserved.
#[test]
fn a_hundred_thousand_steps() {
    simulate(true);
}

/// The same where each sequence has cells of its own: enough for the longest request, so that places
/// are lost to others' classes alone.
#[test]
fn a_hundred_thousand_steps_in_parts() {
    simulate(false);
}

fn simulate(kv_unified: bool) {
    let mut random = ChaCha8Rng::seed_from_u64(42);
    let mut toy = Toy { faults: faults(&mut random), ..Toy::instant() };
    toy.info.adapters = ["formal", "pirate"].map(Arc::from).into();
    let toy = Arc::new(toy);
    let config = EngineConfig {
        kv_unified,
        ctx_size: if kv_unified { 150 } else { 600 },
        parallel: 4,
        batch_size: 24,
        prefill_chunk: 7,
        max_queue: 6,
        cache_sequences: 3,
        idle_cells: Some(60),
        host_cache_bytes: 6_000,
        step: 8 * ROW,
        lone_step: 40 * ROW,
        ..EngineConfig::default()
    };
    let (ledger, clock) = (Arc::new(Ledger::default()), Arc::new(ManualClock::default()));
    let toy_decoder = ToyDecoder::new(&toy, config.decoder());
    let mut decoder = Strict(toy_decoder, ChaCha8Rng::seed_from_u64(7), clock.clone(), kv_unified);
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
    let preempted = ledger.1.load(Ordering::Relaxed);
    assert!(preempted > 500, "{preempted}");
    let interrupted = ledger.2.load(Ordering::Relaxed);
    assert!(interrupted > 500, "{interrupted}");
    let least = |kind: &str| world.ended.get(kind).copied().unwrap_or(0) > 50;
    assert!(
        ["length", "cancelled", "error", "refused"].into_iter().all(least),
        "{:?}",
        world.ended
    );
}
