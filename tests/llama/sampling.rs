//! Our sampler against llama.cpp's own chain, on the same logits.

use std::collections::{HashMap, HashSet};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::backend::Token;
use ryot_metrics::engine::{PENALTY_WINDOW, Sampler, SamplingParams, Scratch, argmax};

const VOCAB: usize = 49_152;

/// A bell curve, as logits have it; no two are equal.
fn logits(seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut unit = || random.next_u32() as f32 / u32::MAX as f32;
    (0..VOCAB).map(|_| ((0..6).map(|_| unit()).sum::<f32>() - 3.0) * 6.0).collect()
}

/// What llama.cpp keeps after these samplers.
fn theirs(logits: &[f32], chain: &mut LlamaSampler) -> LlamaTokenDataArray {
    let data =
        (0..).zip(logits).map(|(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
    let mut array = LlamaTokenDataArray::from_iter(data, false);
    array.apply_sampler(chain);
    array
}

/// Top-k, top-p and min-p, alone and together, keep the same tokens. llama.cpp adds up a nucleus in
/// single precision, so that ours may end a few tokens earlier or later among thousands.
#[test]
fn the_same_tokens_are_kept() {
    for seed in 0..3 {
        let logits = logits(seed);
        for (top_k, top_p, min_p) in [
            (40, 1.0, 0.0),
            (40, 0.9, 0.05),
            (0, 0.5, 0.0),
            (0, 0.95, 0.0),
            (0, 1.0, 0.05),
            (0, 0.9, 0.2),
            (1000, 0.99, 0.01),
        ] {
            let params = SamplingParams { top_k, top_p, min_p, ..SamplingParams::default() };
            let mut chain = LlamaSampler::chain_simple([
                LlamaSampler::top_k(top_k),
                LlamaSampler::top_p(top_p, 1),
                LlamaSampler::min_p(min_p, 1),
            ]);
            let ours: HashSet<Token> = Sampler::new(&params)
                .candidates(&logits, &[], &mut Scratch::default())
                .iter()
                .map(|candidate| candidate.token)
                .collect();
            let theirs = theirs(&logits, &mut chain);
            let theirs: HashSet<Token> = theirs.data.iter().map(|data| data.id().0).collect();
            let differ = ours.symmetric_difference(&theirs).count();
            assert!(differ <= ours.len() / 500, "{params:?}: {differ} of {} differ", ours.len());
        }
    }
}

/// Greedy, with and without a repetition penalty over a long history, takes the same token.
#[test]
fn greedy_takes_the_same_token() {
    let mut scratch = Scratch::default();
    for seed in 0..20 {
        let logits = logits(seed);
        let mut order: Vec<Token> = (0..VOCAB as Token).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        // The best tokens are among the last 64, and some of the next best lie before them.
        let history: Vec<Token> =
            order[20..60].iter().chain(&order[..20]).copied().chain(90..120).collect();
        for penalty in [1.0, 1.3] {
            let params = SamplingParams { repetition_penalty: penalty, ..SamplingParams::greedy() };
            let mut chain = LlamaSampler::chain_simple([
                LlamaSampler::penalties(VOCAB as i32, 64, penalty, 0.0, 0.0),
                LlamaSampler::greedy(),
            ]);
            chain.accept_many(history.iter().map(|&token| LlamaToken(token)));
            let theirs = theirs(&logits, &mut chain).selected_token().unwrap().0;
            let ours = Sampler::new(&params).sample(&logits, &history, &mut scratch);
            assert_eq!(ours.unwrap().token, theirs, "seed {seed}, penalty {penalty}");
        }
    }
}

/// Bias and all three penalties leave the same logits, bit for bit, where both count the same
/// tokens: an answer without a prompt, no longer than the window.
#[test]
fn bias_and_penalties_leave_the_same_logits() {
    let logits = logits(1);
    let bias: Vec<(Token, f32)> = (0..300).map(|token| (token * 7, token as f32 - 150.5)).collect();
    let bias: Vec<(Token, f32)> =
        bias.into_iter().map(|(t, b)| (t, b.clamp(-100.0, 100.0))).collect();
    for (repetition, presence, frequency) in
        [(1.0, 0.0, 0.0), (1.0, 1.5, 0.0), (1.0, 0.0, -0.7), (1.2, 0.5, 0.3), (0.8, -2.0, 2.0)]
    {
        let params = SamplingParams {
            temperature: 0.0,
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            logit_bias: bias.clone(),
            ..SamplingParams::default()
        };
        let theirs_bias: Vec<LlamaLogitBias> = bias
            .iter()
            .map(|&(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
            .collect();
        let mut chain = LlamaSampler::chain_simple([
            LlamaSampler::logit_bias(VOCAB as i32, &theirs_bias),
            LlamaSampler::penalties(VOCAB as i32, 64, repetition, frequency, presence),
        ]);
        let (mut sampler, mut scratch) = (Sampler::new(&params), Scratch::default());
        let mut history = Vec::new();
        for _ in 0..PENALTY_WINDOW {
            let theirs = theirs(&logits, &mut chain);
            let mut expected = vec![0.0; VOCAB];
            for data in &theirs.data {
                expected[data.id().0 as usize] = data.logit();
            }
            let ours = sampler.candidates(&logits, &history, &mut scratch);
            assert!(ours.iter().all(|one| one.logit == expected[one.token as usize]));
            assert_eq!(ours.len(), VOCAB);
            let drawn = sampler.sample(&logits, &history, &mut scratch).unwrap().token;
            assert_eq!(Some(drawn as usize), argmax(&expected));
            history.push(drawn);
            chain.accept(LlamaToken(drawn));
        }
    }
}

/// Draws after bias, penalties, top-k, top-p, min-p and temperature follow the distribution that
/// llama.cpp's chain leaves (chi-square, 1 in 10,000 to fail by chance; the seed is fixed).
#[test]
fn draws_follow_the_same_distribution() {
    const DRAWS: usize = 30_000;
    let logits = logits(4);
    let params = SamplingParams {
        top_k: 12,
        top_p: 0.97,
        min_p: 0.02,
        temperature: 1.7,
        seed: Some(3),
        logit_bias: vec![(argmax(&logits).unwrap() as Token, -1.5)],
        ..SamplingParams::default()
    };
    let bias: Vec<LlamaLogitBias> = params
        .logit_bias
        .iter()
        .map(|&(token, bias)| LlamaLogitBias::new(LlamaToken(token), bias))
        .collect();
    let mut chain = LlamaSampler::chain_simple([
        LlamaSampler::logit_bias(VOCAB as i32, &bias),
        LlamaSampler::top_k(params.top_k),
        LlamaSampler::top_p(params.top_p, 1),
        LlamaSampler::min_p(params.min_p, 1),
        LlamaSampler::temp(params.temperature),
        LlamaSampler::dist(1),
    ]);
    let expected = theirs(&logits, &mut chain);
    let (mut sampler, mut scratch) = (Sampler::new(&params), Scratch::default());
    let mut counts: HashMap<Token, usize> = HashMap::new();
    for _ in 0..DRAWS {
        let drawn = sampler.sample(&logits, &[], &mut scratch).unwrap();
        *counts.entry(drawn.token).or_default() += 1;
    }
    let chi_square: f64 = expected
        .data
        .iter()
        .map(|data| {
            let expected = f64::from(data.p()) * DRAWS as f64;
            let seen = counts.remove(&data.id().0).unwrap_or(0);
            (seen as f64 - expected).powi(2) / expected
        })
        .sum();
    assert!(counts.is_empty(), "drawn although not kept: {counts:?}");
    let freedom = expected.data.len() - 1;
    assert!((5..12).contains(&freedom), "{freedom}");
    assert!(chi_square < 37.4, "{chi_square} at {freedom} degrees of freedom");
}
