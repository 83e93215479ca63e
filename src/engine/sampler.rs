//! From logits to a token, in the order of llama.cpp's default chain: logit bias, penalties, DRY,
//! top-k, top-p, min-p, temperature, draw.
//!
//! This runs for each token of each answer on the engine's thread: nothing here sorts or copies a
//! whole vocabulary unless the parameters leave no other way, and the large buffers live in a
//! [`Scratch`] that all requests share.
//!
//! A grammar comes last and first: most tokens that a model draws are allowed, so one is drawn and
//! then checked; only if it is refused, all logits are masked and the chain runs once more.
//! llama.cpp's own sampler does the same.

use std::hash::{BuildHasher, RandomState};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::backend::{Candidate, Model, Stage, StageSpec, Token};
use crate::engine::logits::{Logprobs, argmax, finite, keep_top_k, keep_top_p, weight};
use crate::engine::penalties::Penalties;
use crate::engine::sampling::SamplingParams;
use crate::error::Result;

/// Buffers that samplers share; their content means nothing between two calls.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token.
    pub token: Token,
    /// How likely the model held it, before all that the parameters change; if asked for.
    pub logprobs: Option<Box<Logprobs>>,
}

/// Draws the tokens of one answer.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    penalties: Penalties,
    logprobs: Option<usize>,
    random: ChaCha8Rng,
    dry: Option<Box<dyn Stage>>,
    mirostat: Option<Box<dyn Stage>>,
    grammar: Option<Box<dyn Stage>>,
}

impl Sampler {
    /// A sampler for valid parameters, without what only a model can do: grammar, mirostat, DRY.
    pub fn new(params: &SamplingParams) -> Self {
        let seed = params.seed.unwrap_or_else(|| RandomState::new().hash_one(()));
        Self {
            temperature: params.temperature,
            top_k: usize::try_from(params.top_k).ok().filter(|&k| k > 0).unwrap_or(usize::MAX),
            top_p: params.top_p,
            min_p: params.min_p,
            penalties: Penalties::new(params),
            logprobs: params.logprobs,
            random: ChaCha8Rng::seed_from_u64(seed),
            dry: None,
            mirostat: None,
            grammar: None,
        }
    }

    /// A sampler for valid parameters, for an answer of this model to this prompt.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::error::Error::InvalidArgument) if the model refuses what
    /// the parameters ask of it.
    pub fn for_answer(
        params: &SamplingParams,
        model: &dyn Model,
        prompt: &[Token],
    ) -> Result<Self> {
        let stage = |spec: Option<StageSpec>| spec.map(|spec| model.stage(&spec)).transpose();
        let mut sampler = Self::new(params);
        sampler.grammar = stage(params.grammar.clone().map(StageSpec::Grammar))?;
        sampler.dry = stage(params.dry.clone().map(StageSpec::Dry))?;
        let seed = sampler.random.next_u32();
        sampler.mirostat =
            stage(params.mirostat.map(|mirostat| StageSpec::Mirostat(mirostat, seed)))?;
        if let Some(dry) = &mut sampler.dry {
            for &token in prompt {
                dry.accept(token);
            }
        }
        Ok(sampler)
    }

    /// The next token after `history` (prompt and answer so far); none if no logit is above −∞, or
    /// the grammar allows no token that has one.
    pub fn sample(
        &mut self,
        logits: &[f32],
        history: &[Token],
        scratch: &mut Scratch,
    ) -> Option<Drawn> {
        let changed = self.adjust(logits, history, scratch);
        let Scratch { logits: copy, candidates } = scratch;
        let mut token = self.choose(if changed { copy } else { logits }, candidates)?;
        if let Some(grammar) = &mut self.grammar
            && !allows(&mut **grammar, token, candidates)
        {
            if !changed {
                copy.clear();
                copy.extend_from_slice(logits);
            }
            self.mask(copy, candidates);
            token = self.choose(copy, candidates)?;
        }
        self.accept(token);
        let logprobs = self.logprobs.map(|top| Logprobs::of(logits, token, top, candidates));
        Some(Drawn { token, logprobs: logprobs.map(Box::new) })
    }

    /// The candidates that bias, penalties, DRY, top-k, top-p and min-p leave to the draw; none
    /// only if no logit is above −∞.
    pub fn candidates<'scratch>(
        &mut self,
        logits: &[f32],
        history: &[Token],
        scratch: &'scratch mut Scratch,
    ) -> &'scratch [Candidate] {
        let changed = self.adjust(logits, history, scratch);
        let Scratch { logits: copy, candidates } = scratch;
        self.keep(if changed { copy } else { logits }, candidates);
        candidates
    }

    /// Applies what changes logits; whether the changed ones are in the scratch.
    fn adjust(&mut self, logits: &[f32], history: &[Token], scratch: &mut Scratch) -> bool {
        if self.penalties.is_off() && self.dry.is_none() {
            return false;
        }
        let Scratch { logits: copy, candidates } = scratch;
        copy.clear();
        copy.extend_from_slice(logits);
        self.penalties.apply(copy, history);
        if let Some(dry) = &mut self.dry {
            rewrite(&mut **dry, copy, candidates);
        }
        true
    }

    fn choose(&mut self, logits: &[f32], candidates: &mut Vec<Candidate>) -> Option<Token> {
        if self.temperature == 0.0 {
            return argmax(logits).map(|best| best as Token);
        }
        let Some(mirostat) = &mut self.mirostat else {
            self.keep(logits, candidates);
            let max = candidates.iter().map(|candidate| candidate.logit).reduce(f32::max)?;
            return Some(self.draw(max, candidates));
        };
        candidates.clear();
        candidates.extend(
            finite(logits).map(|candidate| Candidate {
                logit: candidate.logit / self.temperature,
                ..candidate
            }),
        );
        match candidates[..] {
            [] => None,
            [only] => Some(only.token),
            _ => mirostat.apply(candidates),
        }
    }

    /// Forbids what the grammar does. Each token that it must look at costs, a whole vocabulary
    /// some milliseconds: where only the first few are wanted, they are most often found among the
    /// likeliest, and the others may be forbidden unseen.
    fn mask(&mut self, logits: &mut [f32], room: &mut Vec<Candidate>) {
        let Some(grammar) = &mut self.grammar else { return };
        let wanted = match (self.temperature == 0.0, &self.mirostat) {
            (true, _) => 1,
            (false, None) => self.top_k,
            (false, Some(_)) => usize::MAX,
        };
        for head in [256, 4096, logits.len()] {
            if head < wanted.min(logits.len()) {
                continue;
            }
            keep_top_k(logits, head, room);
            if !room.is_empty() {
                grammar.apply(room);
            }
            room.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
            if room.len() >= wanted {
                break;
            }
        }
        logits.fill(f32::NEG_INFINITY);
        for candidate in room {
            logits[candidate.token as usize] = candidate.logit;
        }
    }

    /// The answer goes on with this token.
    fn accept(&mut self, token: Token) {
        self.penalties.note(token);
        for stage in [&mut self.grammar, &mut self.dry].into_iter().flatten() {
            stage.accept(token);
        }
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

/// Whether a stage leaves this token a chance.
fn allows(stage: &mut dyn Stage, token: Token, room: &mut Vec<Candidate>) -> bool {
    room.clear();
    room.push(Candidate { token, logit: 0.0 });
    stage.apply(room);
    room.first().is_some_and(|left| left.logit > f32::NEG_INFINITY)
}

/// Lets a stage change the logits.
fn rewrite(stage: &mut dyn Stage, logits: &mut [f32], room: &mut Vec<Candidate>) {
    room.clear();
    room.extend(finite(logits));
    if !room.is_empty() {
        stage.apply(room);
    }
    for candidate in room {
        logits[candidate.token as usize] = candidate.logit;
    }
}

#[cfg(test)]
mod tests {
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
            for candidate in
                candidates.iter_mut().filter(|other| self.0.last() != Some(&other.token))
            {
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
            let mut sampler =
                Sampler::new(&params(|p| (p.temperature, p.top_k) = (temperature, 3)));
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
}
