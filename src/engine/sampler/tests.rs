//! The sampler against what a textbook says, without a model.

use super::*;
use crate::engine::PENALTY_WINDOW;

fn random_logits(seed: u64, count: usize) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    // A few hundred distinct values, so that ties occur.
    (0..count).map(|_| (random.next_u32() % 400) as f32 / 20.0 - 10.0).collect()
}

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams { seed: Some(1), ..SamplingParams::default() };
    change(&mut params);
    params
}

fn kept(params: &SamplingParams, logits: &[f32]) -> Vec<Token> {
    let mut scratch = Scratch::default();
    let candidates = Sampler::new(params).candidates(logits, &[], &mut scratch);
    let mut tokens: Vec<Token> = candidates.iter().map(|candidate| candidate.token).collect();
    tokens.sort_unstable();
    tokens
}

/// The stages as a textbook has them: sort everything, in double precision.
fn naive(params: &SamplingParams, logits: &[f32]) -> Vec<Token> {
    let mut all: Vec<(f64, Token)> =
        (0..).zip(logits).map(|(token, &logit)| (f64::from(logit), token)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if params.top_k > 0 {
        all.truncate(params.top_k as usize);
    }
    let total: f64 = all.iter().map(|(logit, _)| logit.exp()).sum();
    if params.top_p < 1.0 {
        let mut sum = 0.0;
        let reached = all.iter().position(|(logit, _)| {
            sum += logit.exp() / total;
            sum >= f64::from(params.top_p)
        });
        all.truncate(reached.map_or(all.len(), |last| last + 1));
    }
    let least = all[0].0 + f64::from(params.min_p).ln();
    let mut tokens: Vec<Token> =
        all.iter().filter(|(logit, _)| *logit >= least).map(|&(_, token)| token).collect();
    tokens.sort_unstable();
    tokens
}

#[test]
fn each_stage_keeps_what_a_textbook_keeps() {
    for (seed, count) in [(1, 3), (2, 300), (3, 5_000), (4, 20_000)] {
        let logits = random_logits(seed, count);
        for top_k in [0, 1, 2, 40, 700] {
            for top_p in [1.0, 0.05, 0.55, 0.93, 0.9991] {
                for min_p in [0.0, 0.033, 0.7] {
                    let params = params(|p| (p.top_k, p.top_p, p.min_p) = (top_k, top_p, min_p));
                    let (ours, theirs) = (kept(&params, &logits), naive(&params, &logits));
                    assert!(ours == theirs, "{count} {top_k} {top_p} {min_p}");
                }
            }
        }
    }
}

#[test]
#[allow(clippy::float_cmp)]
fn argmax_is_the_first_maximum() {
    for (seed, count) in [(1, 1), (2, 15), (3, 1024), (4, 1025), (5, 49_152)] {
        let logits = random_logits(seed, count);
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(argmax(&logits), logits.iter().position(|&logit| logit == max));
    }
    assert_eq!(argmax(&[]), None);
}

#[test]
fn the_penalty_counts_each_recent_token_once() {
    let mut scratch = Scratch::default();
    let mut sampler = Sampler::new(&params(|p| (p.temperature, p.repetition_penalty) = (0.0, 2.0)));
    let logits = [4.0, 3.0, -1.0];
    let mut sample = |logits: &[f32], history: &[Token], scratch: &mut Scratch| {
        sampler.sample(logits, history, scratch).map(|drawn| drawn.token)
    };
    assert_eq!(sample(&logits, &[0, 0, 0], &mut scratch), Some(1));
    assert_eq!(scratch.logits, [2.0, 3.0, -1.0]);
    assert_eq!(sample(&logits, &[2, 1], &mut scratch), Some(0));
    assert_eq!(scratch.logits, [4.0, 1.5, -2.0]);
    let mut long = vec![0; 1];
    long.resize(1 + PENALTY_WINDOW, 1);
    assert_eq!(sample(&logits, &long, &mut scratch), Some(0));
}

#[test]
fn presence_and_frequency_count_the_answer_and_not_the_prompt() {
    let mut scratch = Scratch::default();
    let mut sampler = Sampler::new(&params(|p| {
        (p.temperature, p.presence_penalty, p.frequency_penalty) = (0.0, 1.0, 0.5);
    }));
    let mut history = vec![0, 0, 0];
    let mut answer = Vec::new();
    for _ in 0..4 {
        let drawn = sampler.sample(&[4.0, 2.0, f32::NAN], &history, &mut scratch).unwrap();
        history.push(drawn.token);
        answer.push(drawn.token);
    }
    // Before the draws, token 0 has 4, 2.5, 2 and 1.5 left.
    assert_eq!(answer, [0, 0, 0, 1]);
    assert_eq!(scratch.logits[..2], [1.5, 2.0]);
}

#[test]
fn a_bias_comes_before_penalties_and_forbids_or_forces() {
    let mut scratch = Scratch::default();
    let mut sampler = Sampler::new(&params(|p| {
        (p.temperature, p.repetition_penalty) = (0.0, 2.0);
        p.logit_bias = vec![(0, -100.0), (2, 6.0)];
    }));
    let drawn = sampler.sample(&[4.0, 3.0, -1.0], &[0, 2], &mut scratch).unwrap();
    assert_eq!(drawn.token, 1);
    assert_eq!(scratch.logits, [-192.0, 3.0, 2.5]);
}

#[test]
fn logprobs_are_the_model_s_own() {
    let mut scratch = Scratch::default();
    let mut sampler = Sampler::new(&params(|p| {
        (p.temperature, p.top_k, p.logprobs) = (0.3, 1, Some(2));
        p.logit_bias = vec![(1, 100.0)];
    }));
    let logits = [2.0_f32, 0.0, 1.0, f32::NEG_INFINITY];
    let drawn = sampler.sample(&logits, &[], &mut scratch).unwrap();
    let total = logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
    let logprobs = drawn.logprobs.unwrap();
    assert_eq!(drawn.token, 1);
    assert!((logprobs.drawn + total).abs() < 1e-6);
    let tokens: Vec<Token> = logprobs.top.iter().map(|&(token, _)| token).collect();
    assert_eq!(tokens, [0, 2]);
    assert!((logprobs.top[0].1 - (2.0 - total)).abs() < 1e-6);
}

/// Allows the tokens of a word in turn.
#[derive(Debug)]
struct Word(Vec<Token>);

impl Stage for Word {
    fn apply(&mut self, candidates: &mut Vec<Candidate>) -> Option<Token> {
        for candidate in candidates.iter_mut().filter(|other| self.0.last() != Some(&other.token)) {
            candidate.logit = f32::NEG_INFINITY;
        }
        None
    }

    fn accept(&mut self, token: Token) {
        assert_eq!(self.0.pop(), Some(token));
    }
}

#[test]
fn a_grammar_decides_whatever_the_model_prefers() {
    let logits = random_logits(3, 5_000);
    let word = [7, 4_999, argmax(&logits).unwrap() as Token, 0];
    for temperature in [0.0, 1.0] {
        let mut scratch = Scratch::default();
        let mut sampler = Sampler::new(&params(|p| (p.temperature, p.top_k) = (temperature, 3)));
        sampler.grammar = Some(Box::new(Word(word.iter().rev().copied().collect())));
        let mut next = || Some(sampler.sample(&logits, &[], &mut scratch)?.token);
        assert_eq!(
            [next(), next(), next(), next(), next()],
            [Some(7), Some(4_999), Some(word[2]), Some(0), None]
        );
    }
}

#[test]
fn logits_that_are_no_numbers_are_never_drawn() {
    let mut scratch = Scratch::default();
    for temperature in [0.0, 1.0, 1e-30] {
        let mut sampler = Sampler::new(&params(|p| p.temperature = temperature));
        let mut sample =
            |logits: &[f32]| sampler.sample(logits, &[], &mut scratch).map(|drawn| drawn.token);
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY];
        assert_eq!(sample(&logits), Some(1));
        assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY]), None);
        assert_eq!(sample(&[1.0, f32::INFINITY]), Some(1));
    }
}

#[test]
fn draws_follow_the_distribution_and_the_seed() {
    let logits = [0.0, 1.0, 2.0, 3.0, f32::NEG_INFINITY];
    let draw = |seed: u64, temperature: f32| -> Vec<Token> {
        let mut scratch = Scratch::default();
        let mut sampler =
            Sampler::new(&params(|p| (p.seed, p.temperature) = (Some(seed), temperature)));
        let mut next = || sampler.sample(&logits, &[], &mut scratch).unwrap().token;
        (0..20_000).map(|_| next()).collect()
    };
    assert_eq!(draw(5, 1.0), draw(5, 1.0));
    assert_ne!(draw(5, 1.0), draw(6, 1.0));
    for temperature in [0.5_f64, 1.0, 2.0] {
        let drawn = draw(9, temperature as f32);
        let weights: Vec<f64> =
            logits.iter().map(|&logit| (f64::from(logit) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let chi_square: f64 = (0..4)
            .map(|token| {
                let expected = weights[token] / total * drawn.len() as f64;
                let seen = drawn.iter().filter(|&&other| other == token as Token).count();
                (seen as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi_square < 16.3, "{chi_square}: 3 degrees of freedom, p = 0.001");
    }
}
