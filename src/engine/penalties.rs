//! What changes logits before anything is cut off: logit bias, then the penalties for tokens that
//! were there before.
//!
//! Bias and the penalties for presence and frequency are `OpenAI`'s (and vLLM's): the latter count
//! the tokens of the answer, all of it, and not the prompt. The penalty for repetition is
//! llama.cpp's: it looks at the last [`PENALTY_WINDOW`] tokens of prompt and answer. Where both
//! count the same tokens, all of this is what llama.cpp's `logit_bias` and `penalties` do.

use std::collections::HashMap;

use crate::backend::Token;
use crate::engine::sampling::SamplingParams;

/// How many of the last tokens, of prompt and answer, the repetition penalty looks at.
pub const PENALTY_WINDOW: usize = 64;

/// One answer's bias and penalties.
#[derive(Debug)]
pub(super) struct Penalties {
    bias: Vec<(Token, f32)>,
    repetition: f32,
    presence: f32,
    frequency: f32,
    /// How often each token is in the answer; empty if neither presence nor frequency counts.
    counts: HashMap<Token, u32>,
}

impl Penalties {
    pub(super) fn new(params: &SamplingParams) -> Self {
        Self {
            bias: params.logit_bias.clone(),
            repetition: params.repetition_penalty,
            presence: params.presence_penalty,
            frequency: params.frequency_penalty,
            counts: HashMap::new(),
        }
    }

    /// Whether logits stay as they are.
    #[allow(clippy::float_cmp)] // exactly 1 is off
    pub(super) fn is_off(&self) -> bool {
        self.bias.is_empty() && self.repetition == 1.0 && !self.counts_tokens()
    }

    fn counts_tokens(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0
    }

    /// The answer goes on with this token.
    pub(super) fn note(&mut self, token: Token) {
        if self.counts_tokens() {
            *self.counts.entry(token).or_default() += 1;
        }
    }

    /// Changes the logits after `history`, prompt and answer so far.
    pub(super) fn apply(&self, logits: &mut [f32], history: &[Token]) {
        for &(token, bias) in &self.bias {
            logits[token as usize] += bias;
        }
        self.repeat(logits, &history[history.len().saturating_sub(PENALTY_WINDOW)..]);
        for (&token, &count) in &self.counts {
            logits[token as usize] -= count as f32 * self.frequency + self.presence;
        }
    }

    #[allow(clippy::float_cmp)] // exactly 1 is off
    fn repeat(&self, logits: &mut [f32], recent: &[Token]) {
        if self.repetition == 1.0 {
            return;
        }
        for (index, token) in recent.iter().enumerate() {
            // Each token once; these are too few for a set to be worth it.
            if !recent[..index].contains(token) {
                let logit = &mut logits[*token as usize];
                let less = *logit <= 0.0;
                *logit = if less { *logit * self.repetition } else { *logit / self.repetition };
            }
        }
    }
}
