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

#[cfg(test)]
mod tests;

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
