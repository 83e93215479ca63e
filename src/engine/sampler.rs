//! From logits to a token, in the order of llama.cpp's default chain: repetition penalty, top-k,
//! top-p, min-p, temperature, draw.
//!
//! A vocabulary has 50,000 to 260,000 tokens and this runs for each token of each answer on the
//! engine's thread: nothing here sorts all of it unless the parameters leave no other way, and the
//! large buffers live in a [`Scratch`] that all requests share. Logits that are NaN count as −∞.

use std::cmp::Ordering;
use std::hash::{BuildHasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::backend::Token;
use crate::engine::sampling::SamplingParams;

/// How many of the last tokens, of prompt and answer, the repetition penalty looks at.
pub const PENALTY_WINDOW: usize = 64;

/// A token that may be drawn, with its logit or, later, its weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: Token,
    /// Its logit.
    pub logit: f32,
}

/// Buffers that samplers share; their content means nothing between two calls.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    recent: Vec<Token>,
    candidates: Vec<Candidate>,
}

/// Draws the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalty: f32,
    random: ChaCha8Rng,
}

impl Sampler {
    /// A sampler for valid parameters.
    pub fn new(params: &SamplingParams) -> Self {
        let seed = params.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        Self {
            temperature: params.temperature,
            top_k: usize::try_from(params.top_k).ok().filter(|&k| k > 0).unwrap_or(usize::MAX),
            top_p: params.top_p,
            min_p: params.min_p,
            penalty: params.repetition_penalty,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The next token after `history` (prompt and answer so far); none if no logit is above −∞.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[Token],
        scratch: &mut Scratch,
    ) -> Option<Token> {
        if self.temperature == 0.0 {
            return argmax(self.penalised(logits, history, scratch)).map(|best| best as Token);
        }
        self.candidates(logits, history, scratch);
        let max = scratch.candidates.iter().map(|candidate| candidate.logit).reduce(f32::max)?;
        Some(self.draw(max, &mut scratch.candidates))
    }

    /// The candidates that penalty, top-k, top-p and min-p leave to the draw; none only if no
    /// logit is above −∞.
    pub fn candidates<'scratch>(
        &self,
        logits: &[f32],
        history: &[Token],
        scratch: &'scratch mut Scratch,
    ) -> &'scratch [Candidate] {
        let mut candidates = std::mem::take(&mut scratch.candidates);
        self.keep(self.penalised(logits, history, scratch), &mut candidates);
        scratch.candidates = candidates;
        &scratch.candidates
    }

    #[allow(clippy::float_cmp)] // exactly 1 is off
    fn penalised<'logits>(
        &self,
        logits: &'logits [f32],
        history: &[Token],
        scratch: &'logits mut Scratch,
    ) -> &'logits [f32] {
        if self.penalty == 1.0 {
            return logits;
        }
        let Scratch { logits: copy, recent, .. } = scratch;
        copy.clear();
        copy.extend_from_slice(logits);
        recent.clear();
        recent.extend_from_slice(&history[history.len().saturating_sub(PENALTY_WINDOW)..]);
        penalise(copy, recent, self.penalty);
        copy
    }

    fn keep(&self, logits: &[f32], out: &mut Vec<Candidate>) {
        out.clear();
        let Some(best) = argmax(logits) else { return };
        let max = logits[best].min(f32::MAX);
        if self.top_k < logits.len() {
            keep_top_k(logits, self.top_k, out);
            let total = out.iter().map(|candidate| weight(*candidate, max)).sum();
            keep_top_p(out, self.top_p, max, total);
        } else if self.top_p < 1.0 {
            // Most often a few hundred tokens hold the whole nucleus.
            let total = finite(logits).map(|candidate| weight(candidate, max)).sum();
            for k in [256, 8192, logits.len()] {
                keep_top_k(logits, k, out);
                if keep_top_p(out, self.top_p, max, total) {
                    break;
                }
            }
        } else {
            out.extend(finite(logits));
        }
        if self.min_p > 0.0 {
            let least = max + self.min_p.ln();
            out.retain(|candidate| candidate.logit >= least);
        }
    }

    fn draw(&mut self, max: f32, candidates: &mut [Candidate]) -> Token {
        let mut total = 0.0_f64;
        for candidate in &mut *candidates {
            candidate.logit = ((candidate.logit - max) / self.temperature).exp();
            total += f64::from(candidate.logit);
        }
        let unit = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = unit * total;
        let weighed = candidates.iter().filter(|candidate| candidate.logit > 0.0);
        let mut last = 0;
        for candidate in weighed {
            left -= f64::from(candidate.logit);
            last = candidate.token;
            if left < 0.0 {
                break;
            }
        }
        last // rounding may leave a rest after the last one
    }
}

/// The index of the first maximum; none if all are −∞ or NaN.
///
/// Works in blocks, so that the inner loop has no index to carry and compiles to vector
/// instructions; only the block that holds the maximum is looked at twice.
///
/// ```
/// use ryot_metrics::engine::argmax;
/// assert_eq!(argmax(&[1.0, f32::NAN, 3.0, 3.0]), Some(2));
/// assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), None);
/// ```
#[allow(clippy::float_cmp)] // the maximum is one of the values
pub fn argmax(values: &[f32]) -> Option<usize> {
    const BLOCK: usize = 1024;
    let mut best = (f32::NEG_INFINITY, 0);
    for (index, block) in values.chunks(BLOCK).enumerate() {
        let max = block_max(block);
        if max > best.0 {
            best = (max, index * BLOCK);
        }
    }
    let (max, start) = best;
    let offset = values[start..].iter().position(|&value| value == max)?;
    (max > f32::NEG_INFINITY).then_some(start + offset)
}

/// The maximum of a block without its NaNs.
fn block_max(block: &[f32]) -> f32 {
    const LANES: usize = 16;
    // Written as a comparison: `f32::max` would add a test for NaN to each lane.
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| larger(max, value))
}

/// Makes each of these tokens less likely, once, as llama.cpp does.
fn penalise(logits: &mut [f32], recent: &mut Vec<Token>, penalty: f32) {
    recent.sort_unstable();
    recent.dedup();
    for &token in &*recent {
        let logit = &mut logits[token as usize];
        *logit = if *logit <= 0.0 { *logit * penalty } else { *logit / penalty };
    }
}

/// All tokens that can be drawn at all. An infinite logit is made finite: ∞ − ∞ is NaN.
fn finite(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    (0..)
        .zip(logits)
        .filter(|(_, logit)| **logit > f32::NEG_INFINITY)
        .map(|(token, logit)| Candidate { token, logit: logit.min(f32::MAX) })
}

/// A candidate's probability, but for the common divisor. Summed in double precision: over a
/// whole vocabulary, single precision would shift the end of the nucleus.
fn weight(candidate: Candidate, max: f32) -> f64 {
    f64::from((candidate.logit - max).exp())
}

#[allow(clippy::trivially_copy_pass_by_ref)] // what sorting asks for
fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The `k` likeliest tokens, likeliest first; of equals, the lower token.
///
/// Collects what beats a threshold, and cuts the collection back to `k` when it has doubled, which
/// raises the threshold: nearly all tokens cost one comparison.
fn keep_top_k(logits: &[f32], k: usize, out: &mut Vec<Candidate>) {
    out.clear();
    let room = (2 * k).max(256);
    let mut threshold = f32::NEG_INFINITY;
    for candidate in finite(logits) {
        if candidate.logit > threshold {
            out.push(candidate);
            if out.len() >= room {
                out.select_nth_unstable_by(k - 1, by_rank);
                out.truncate(k);
                threshold = out[k - 1].logit;
            }
        }
    }
    if out.len() > k {
        out.select_nth_unstable_by(k - 1, by_rank);
        out.truncate(k);
    }
    out.sort_unstable_by(by_rank);
}

/// Of sorted candidates, the first whose probabilities reach `p`; false if these do not.
/// `total` is the weight of all tokens, of which these may be the head only.
fn keep_top_p(sorted: &mut Vec<Candidate>, p: f32, max: f32, total: f64) -> bool {
    let mut sum = 0.0;
    let reached = sorted.iter().position(|candidate| {
        sum += weight(*candidate, max) / total;
        sum >= f64::from(p)
    });
    if let Some(last) = reached
        && p < 1.0
    {
        sorted.truncate(last + 1);
    }
    reached.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

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
                        let params =
                            params(|p| (p.top_k, p.top_p, p.min_p) = (top_k, top_p, min_p));
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
        let mut sampler =
            Sampler::new(&params(|p| (p.temperature, p.repetition_penalty) = (0.0, 2.0)));
        let logits = [4.0, 3.0, -1.0];
        assert_eq!(sampler.sample(&logits, &[0, 0, 0], &mut scratch), Some(1));
        assert_eq!(scratch.logits, [2.0, 3.0, -1.0]);
        assert_eq!(sampler.sample(&logits, &[2, 1], &mut scratch), Some(0));
        assert_eq!(scratch.logits, [4.0, 1.5, -2.0]);
        let mut long = vec![0; 1];
        long.resize(1 + PENALTY_WINDOW, 1);
        assert_eq!(sampler.sample(&logits, &long, &mut scratch), Some(0));
    }

    #[test]
    fn logits_that_are_no_numbers_are_never_drawn() {
        let mut scratch = Scratch::default();
        for temperature in [0.0, 1.0, 1e-30] {
            let mut sampler = Sampler::new(&params(|p| p.temperature = temperature));
            let logits = [f32::NAN, 1.0, f32::NEG_INFINITY];
            assert_eq!(sampler.sample(&logits, &[], &mut scratch), Some(1));
            assert_eq!(sampler.sample(&[f32::NAN, f32::NEG_INFINITY], &[], &mut scratch), None);
            assert_eq!(sampler.sample(&[1.0, f32::INFINITY], &[], &mut scratch), Some(1));
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let logits = [0.0, 1.0, 2.0, 3.0, f32::NEG_INFINITY];
        let draw = |seed: u64, temperature: f32| -> Vec<Token> {
            let mut scratch = Scratch::default();
            let mut sampler =
                Sampler::new(&params(|p| (p.seed, p.temperature) = (Some(seed), temperature)));
            let mut next = || sampler.sample(&logits, &[], &mut scratch).unwrap();
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
}
