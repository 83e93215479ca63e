//! How fast the engine is, printed and never judged: `cargo test --release -- --ignored --nocapture`.

use std::hint::black_box;

use ryot_metrics::clock::{Clock, MonotonicClock, seconds_between};
use ryot_metrics::engine::{EngineConfig, Sampler, SamplingParams, Scratch, Terms, argmax};
use ryot_metrics::event::Origin;

use crate::{finish, model, start};

/// Greedy streams side by side.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout)]
fn streams() {
    let Some(model) = model() else { return };
    for parallel in [8, 4, 1] {
        let engine = start(model.clone(), EngineConfig { threads: 2, ..EngineConfig::default() });
        let requests: Vec<_> = (0..parallel)
            .map(|index| {
                let prompt = format!("Write a long story about the number {index}.");
                let params = SamplingParams {
                    max_tokens: Some(128),
                    ignore_eos: true,
                    ..SamplingParams::greedy()
                };
                engine
                    .submit(prompt.as_str().into(), params, Terms::default(), Origin::default())
                    .unwrap()
            })
            .collect();
        let finishes: Vec<_> = requests.iter().map(|request| finish(request).1).collect();
        let first = finishes.iter().filter_map(|finish| finish.first_token_at).min().unwrap();
        let end = finishes.iter().map(|finish| finish.finished_at).max().unwrap();
        let tokens: usize = finishes.iter().map(|finish| finish.completion_tokens).sum();
        let rate = tokens as f64 / seconds_between(first, end);
        println!("{parallel} streams: {rate:.0} tokens/s");
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
