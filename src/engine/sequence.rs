//! A request as the scheduler sees it: tokens, and how many of them the decoder has computed.
//!
//! Must not know: text, sampling, callers. Invariant: `computed < tokens.len()`, so there is
//! always something left to compute.

use crate::backend::{SeqId, Token};
use crate::engine::config::EngineConfig;
use crate::error::{Error, Result};
use crate::event::RequestId;

/// Tokens that an answer gets if nobody says how many and its share of the context is less.
const DEFAULT_ANSWER: usize = 256;

/// One request's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// The request.
    pub id: RequestId,
    /// The slot it computes in; none while it waits.
    pub slot: Option<SeqId>,
    /// The prompt, then the answer.
    tokens: Vec<Token>,
    prompt_len: usize,
    max_answer: usize,
    computed: usize,
}

impl Sequence {
    /// A sequence that waits. `max_answer` as [`answer_room`] gave it.
    pub fn new(id: RequestId, prompt: Vec<Token>, max_answer: usize) -> Self {
        Self { id, slot: None, prompt_len: prompt.len(), tokens: prompt, max_answer, computed: 0 }
    }

    /// Prompt and answer so far.
    pub fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// How many tokens the decoder holds.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// How many tokens it does not hold yet; never 0.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether the prompt is computed, so that each step adds a token of the answer.
    pub fn is_decoding(&self) -> bool {
        self.computed >= self.prompt_len
    }

    /// Tokens in the answer so far.
    pub fn answer_len(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether the answer may have no further token.
    pub fn is_full(&self) -> bool {
        self.answer_len() >= self.max_answer
    }

    /// KV cells that it will need at most.
    pub fn cells(&self) -> usize {
        self.prompt_len + self.max_answer
    }

    /// The decoder now holds that many more.
    pub(super) fn advance(&mut self, count: usize) {
        self.computed += count;
    }

    /// The answer's next token.
    pub(super) fn push(&mut self, token: Token) {
        self.tokens.push(token);
    }
}

/// How many tokens an answer may have, given its prompt and what its caller asked for.
///
/// ```
/// use ryot_metrics::engine::{EngineConfig, answer_room};
/// let config = EngineConfig { ctx_size: 4096, parallel: 8, ..Default::default() };
/// assert_eq!(answer_room(&config, 4096, 12, Some(100)), Ok(100));
/// assert_eq!(answer_room(&config, 4096, 12, None), Ok(500)); // an eighth of the context
/// assert_eq!(answer_room(&config, 4096, 500, None), Ok(256));
/// assert_eq!(answer_room(&config, 4096, 4090, None), Ok(6)); // what is left
/// assert!(answer_room(&config, 4096, 4096, None).is_err());
/// ```
///
/// # Errors
///
/// [`Error::EmptyPrompt`], or [`Error::PromptTooLong`] if not even one token would fit.
pub fn answer_room(
    config: &EngineConfig,
    context_train: usize,
    prompt: usize,
    max_tokens: Option<usize>,
) -> Result<usize> {
    let limit = config.ctx_size.min(context_train);
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    if prompt >= limit {
        return Err(Error::PromptTooLong { tokens: prompt, limit: limit - 1 });
    }
    let share = (config.ctx_size / config.parallel).saturating_sub(prompt).max(DEFAULT_ANSWER);
    Ok(max_tokens.unwrap_or(share).min(limit - prompt))
}
