//! Our sampler against llama.cpp's own chain, on the same logits.

use std::collections::HashSet;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ryot_metrics::backend::Token;
use ryot_metrics::engine::{Sampler, SamplingParams, Scratch};

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
            assert_eq!(ours, Some(theirs), "seed {seed}, penalty {penalty}");
        }
    }
}
