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
use ryot_metrics::backend::llama::backend;
use ryot_metrics::backend::{Model as _, Token};
use ryot_metrics::clock::{Clock, MonotonicClock, seconds_between};
use ryot_metrics::engine::{
    Engine, EngineConfig, Prompt, Sampler, SamplingParams, Scratch, Terms, argmax,
};
use ryot_metrics::event::{Event, Observer, Origin};
use ryot_metrics::llm::{EngineObserver, Recorder, Settings};
use ryot_metrics::metrics::Registry;

use crate::{finish, model, model_path, start};

/// Rounds in which all take turns.
const ROUNDS: usize = 7;
/// Tokens of each answer.
const TOKENS: usize = 96;

/// Hands everything to the recorder and knows how long that took.
#[derive(Debug)]
struct Timed {
    recorder: EngineObserver,
    nanos: AtomicU64,
}

impl Timed {
    fn new() -> Arc<Self> {
        let clock = Arc::new(MonotonicClock);
        let recorder = Recorder::new(&Registry::default(), clock, &Settings::default()).unwrap();
        let recorder = EngineObserver::new(Arc::new(recorder), "model", "cpu");
        Arc::new(Self { recorder, nanos: AtomicU64::new(0) })
    }
}

impl Observer for Timed {
    fn observe(&self, event: &Event) {
        let since = MonotonicClock.now();
        self.recorder.observe(event);
        self.nanos.fetch_add(MonotonicClock.now() - since, Ordering::Relaxed);
    }
}

fn seconds(work: impl FnOnce()) -> f64 {
    let since = MonotonicClock.now();
    work();
    seconds_between(since, MonotonicClock.now())
}

/// All prompts in one batch, then one token of each at a time.
fn plain_loop(context: &mut LlamaContext<'_>, prompts: &[Vec<Token>]) {
    context.clear_kv_cache();
    let mut batch = LlamaBatch::new(2048, 1);
    let mut last = Vec::new();
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
        let tokens: Vec<_> = rows.iter().map(|row| argmax(context.get_logits_ith(*row))).collect();
        batch.clear();
        for ((seq, token), prompt) in (0..).zip(tokens).zip(prompts) {
            let position = (prompt.len() + answered) as i32;
            batch.add(LlamaToken(token), position, &[seq], true).unwrap();
            last.push(seq);
        }
    }
}

/// The same by an engine.
fn by_engine(engine: &Engine, prompts: &[Vec<Token>]) {
    let params =
        SamplingParams { max_tokens: Some(TOKENS), ignore_eos: true, ..SamplingParams::greedy() };
    let submit = |prompt: &Vec<Token>| {
        let prompt = Prompt::Tokens(prompt.clone());
        engine.submit(prompt, params.clone(), Terms::default(), Origin::default()).unwrap()
    };
    let requests: Vec<_> = prompts.iter().map(submit).collect();
    let tokens: usize = requests.iter().map(|request| finish(request).1.completion_tokens).sum();
    assert_eq!(tokens, TOKENS * prompts.len());
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Greedy streams side by side: the engine with metrics, without, and a loop that does nothing but
/// what llama.cpp needs, in turns.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)]
fn streams() {
    let (Some(path), Some(model)) = (model_path(), model()) else { return };
    let plain = LlamaModel::load_from_file(backend(), path, &LlamaModelParams::default()).unwrap();
    for parallel in [8, 16] {
        let config = EngineConfig { parallel, threads: 2, ..EngineConfig::default() };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(config.ctx_size as u32))
            .with_n_batch(2048)
            .with_n_ubatch(2048)
            .with_n_seq_max(parallel as u32)
            .with_kv_unified(true)
            .with_n_threads(2)
            .with_n_threads_batch(2);
        let mut context = plain.new_context(backend(), params).unwrap();
        let timed = Timed::new();
        let clock = || Arc::new(MonotonicClock);
        let measured =
            Engine::start(model.clone(), config.clone(), timed.clone(), clock()).unwrap();
        let silent = start(model.clone(), config);
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..=ROUNDS {
            let prompts: Vec<_> = (0..parallel)
                .map(|index| {
                    let text = format!("{round} {index}. Write a long story about this number.");
                    model.tokenize(&text, true, true).unwrap()
                })
                .collect();
            if round == 1 {
                // The first round warms up.
                times = Default::default();
                timed.nanos.store(0, Ordering::Relaxed);
            }
            for turn in 0..3 {
                let who = (round + turn) % 3;
                times[who].push(match who {
                    0 => seconds(|| plain_loop(&mut context, &prompts)),
                    1 => seconds(|| by_engine(&silent, &prompts)),
                    _ => seconds(|| by_engine(&measured, &prompts)),
                });
            }
        }
        let all = (TOKENS * parallel) as f64;
        let ratio = |one: usize, other: usize| {
            median(times[one].iter().zip(&times[other]).map(|(one, other)| one / other).collect())
        };
        let rates: Vec<_> = times.iter().map(|times| all / median(times.clone())).collect();
        let inside = timed.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        println!(
            "{parallel} streams, tokens/s: plain loop {:.1}, engine {:.1}, with metrics {:.1}\n               engine / loop {:.3}, with metrics / loop {:.3}, with metrics / without {:.3}\n               share of the time inside the metrics {:.3} %",
            rates[0],
            rates[1],
            rates[2],
            ratio(0, 1),
            ratio(0, 2),
            ratio(1, 2),
            inside / times[2].iter().sum::<f64>() * 100.0,
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
