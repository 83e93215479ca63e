//! How fast the engine is, printed and never judged: `cargo test --release -- --ignored --nocapture`.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use parking_lot::Mutex;
use ryot_metrics::backend::llama::backend;
use ryot_metrics::backend::{Model as _, Token};
use ryot_metrics::clock::{Clock, MonotonicClock, Nanos, seconds_between};
use ryot_metrics::engine::{
    Engine, EngineConfig, Prompt, Sampler, SamplingParams, Scratch, Terms, argmax,
};
use ryot_metrics::event::{Event, Observer, Origin};
use ryot_metrics::llm::{EngineObserver, Recorder, Settings};
use ryot_metrics::metrics::Registry;

use crate::{finish, model, model_path};

/// Rounds in which all take turns.
const ROUNDS: usize = 5;
/// Tokens of each answer.
const TOKENS: usize = 96;

/// Notes when each step ended that continued all answers and did nothing else. With a recorder, it has
/// all events, and how long that took is noted too.
#[derive(Debug)]
struct Steps {
    parallel: usize,
    ends: Mutex<Vec<Nanos>>,
    /// What decoding and sampling took of these steps.
    computing: AtomicU64,
    recorder: Option<EngineObserver>,
    recording: AtomicU64,
}

impl Steps {
    fn new(parallel: usize, with_metrics: bool) -> Arc<Self> {
        let recorder = || {
            let (registry, clock) = (Registry::default(), Arc::new(MonotonicClock));
            let recorder = Recorder::new(&registry, clock, &Settings::default()).unwrap();
            EngineObserver::new(Arc::new(recorder), "model", "cpu")
        };
        let recorder = with_metrics.then(recorder);
        let [computing, recording] = [0, 0].map(AtomicU64::new);
        Arc::new(Self { parallel, ends: Mutex::default(), computing, recorder, recording })
    }
}

impl Observer for Steps {
    fn observe(&self, event: &Event) {
        if let Event::Step { at, nanos, prefill_tokens: 0, decode_tokens, .. } = event
            && *decode_tokens == self.parallel
        {
            self.ends.lock().push(*at);
            self.computing.fetch_add(*nanos, Ordering::Relaxed);
        }
        if let Some(recorder) = &self.recorder {
            let since = MonotonicClock.now();
            recorder.observe(event);
            self.recording.fetch_add(MonotonicClock.now() - since, Ordering::Relaxed);
        }
    }
}

/// All prompts in one batch, then one token of each at a time: when each of these steps had ended.
fn plain_loop(context: &mut LlamaContext<'_>, prompts: &[Vec<Token>]) -> Vec<Nanos> {
    context.clear_kv_cache();
    let mut batch = LlamaBatch::new(2048, 1);
    let (mut last, mut ends) = (Vec::new(), Vec::new());
    for (seq, prompt) in (0..).zip(prompts) {
        for (position, &token) in prompt.iter().enumerate() {
            let wants_logits = position + 1 == prompt.len();
            batch.add(LlamaToken(token), position as i32, &[seq], wants_logits).unwrap();
        }
        last.push(batch.n_tokens() - 1);
    }
    for answered in 0..TOKENS {
        context.decode(&mut batch).unwrap();
        let rows = std::mem::take(&mut last);
        let best = |row: &i32| argmax(context.get_logits_ith(*row)).unwrap() as Token;
        let tokens: Vec<_> = rows.iter().map(best).collect();
        ends.push(MonotonicClock.now());
        batch.clear();
        for ((seq, token), prompt) in (0..).zip(tokens).zip(prompts) {
            let position = (prompt.len() + answered) as i32;
            batch.add(LlamaToken(token), position, &[seq], true).unwrap();
            last.push(seq);
        }
    }
    ends
}

/// The same by an engine.
fn by_engine(engine: &Engine, steps: &Steps, prompts: &[Vec<Token>]) -> Vec<Nanos> {
    let params =
        SamplingParams { max_tokens: Some(TOKENS), ignore_eos: true, ..SamplingParams::greedy() };
    let submit = |prompt: &Vec<Token>| {
        let prompt = Prompt::Tokens(prompt.clone());
        engine.submit(prompt, params.clone(), Terms::default(), Origin::default()).unwrap()
    };
    let requests: Vec<_> = prompts.iter().map(submit).collect();
    let tokens: usize = requests.iter().map(|request| finish(request).1.completion_tokens).sum();
    assert_eq!(tokens, TOKENS * prompts.len());
    std::mem::take(&mut *steps.ends.lock())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Greedy decoding with all places taken: a loop that does nothing but what llama.cpp needs, the
/// engine without metrics, and with, in turns.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)]
fn streams() {
    let (Some(path), Some(model)) = (model_path(), model()) else { return };
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    for (parallel, kv_unified) in [(8, true), (8, false), (16, true), (16, false)] {
        let config = EngineConfig { parallel, kv_unified, threads: 2, ..EngineConfig::default() };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(config.ctx_size as u32))
            .with_n_batch(2048)
            .with_n_ubatch(2048)
            .with_n_seq_max(parallel as u32)
            .with_kv_unified(kv_unified)
            .with_n_threads(2)
            .with_n_threads_batch(2);
        let mut context = plain.new_context(backend(), params).unwrap();
        let [silent, recorded] = [false, true].map(|metrics| Steps::new(parallel, metrics));
        let start = |steps: &Arc<Steps>| {
            let clock = Arc::new(MonotonicClock);
            Engine::start(model.clone(), config.clone(), steps.clone(), clock).unwrap()
        };
        let engines = [start(&silent), start(&recorded)];
        let mut rates: [Vec<f64>; 3] = Default::default();
        let (mut all, mut computed) = (0.0, 0.0);
        for round in 0..=ROUNDS {
            let tokens = |index| {
                let text = format!("{round} {index}. Write a long story about this number.");
                model.tokenize(&text, true, true).unwrap()
            };
            let prompts: Vec<_> = (0..parallel).map(tokens).collect();
            if round == 1 {
                // The first round warms up.
                (rates, all, computed) = Default::default();
                recorded.recording.store(0, Ordering::Relaxed);
                silent.computing.store(0, Ordering::Relaxed);
            }
            for turn in 0..3 {
                let (who, since) = ((round + turn) % 3, MonotonicClock.now());
                let ends = match who {
                    0 => plain_loop(&mut context, &prompts),
                    1 => by_engine(&engines[0], &silent, &prompts),
                    _ => by_engine(&engines[1], &recorded, &prompts),
                };
                if who == 2 {
                    all += seconds_between(since, MonotonicClock.now());
                }
                assert!(ends.len() > TOKENS / 2, "all places were taken in {} steps", ends.len());
                let steps = (ends.len() - 1) as f64;
                let taken = seconds_between(ends[0], ends[ends.len() - 1]);
                rates[who].push(steps * parallel as f64 / taken);
                if who == 1 {
                    computed += taken * ends.len() as f64 / steps; // with the first of them
                }
            }
        }
        let ratio = |one: usize, other: usize| {
            median(rates[one].iter().zip(&rates[other]).map(|(one, other)| one / other).collect())
        };
        let seconds = |time: &AtomicU64| time.load(Ordering::Relaxed) as f64 / 1e9;
        println!(
            "{parallel} streams, unified: {kv_unified}; tokens/s: loop {:.1}, engine {:.1}, with metrics {:.1}\n  \
             engine / loop {:.3}, with metrics / loop {:.3}, with metrics / without {:.3}\n  \
             time neither decoding nor sampling {:.2} %, on metrics {:.3} %",
            median(rates[0].clone()),
            median(rates[1].clone()),
            median(rates[2].clone()),
            ratio(1, 0),
            ratio(2, 0),
            ratio(2, 1),
            (1.0 - seconds(&silent.computing) / computed) * 100.0,
            seconds(&recorded.recording) / all * 100.0,
        );
    }
}

/// One token from 49,152 logits.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)]
fn sampling() {
    let logits: Vec<f32> =
        (0..49_152_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).collect();
    let measure = |name: &str, work: &mut dyn FnMut()| {
        let since = MonotonicClock.now();
        (0..200).for_each(|_| work());
        let micros = seconds_between(since, MonotonicClock.now()) * 1e6 / 200.0;
        println!("{name}: {micros:.0} µs");
    };
    measure("argmax", &mut || _ = black_box(argmax(black_box(&logits))));
    let variants = [
        ("temperature", SamplingParams::default()),
        ("top_k 40", SamplingParams { top_k: 40, ..Default::default() }),
        ("top_p 0.9", SamplingParams { top_p: 0.9, ..Default::default() }),
        ("min_p 0.05", SamplingParams { min_p: 0.05, ..Default::default() }),
        ("greedy, penalty", SamplingParams { repetition_penalty: 1.1, ..SamplingParams::greedy() }),
    ];
    let mut scratch = Scratch::default();
    for (name, params) in variants {
        let mut sampler = Sampler::new(&params);
        measure(name, &mut || {
            black_box(sampler.sample(black_box(&logits), &[1, 2, 3], &mut scratch));
        });
    }
}
