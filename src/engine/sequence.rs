//! A request as the scheduler sees it: tokens, how many of them the decoder has computed, and what
//! its caller was promised.
//!
//! Must not know: text, sampling, callers. Invariant: `computed < tokens.len()`, so there is
//! always something left to compute.

use std::sync::Arc;

use crate::backend::{SeqId, Token};
use crate::clock::Nanos;
use crate::engine::config::EngineConfig;
use crate::engine::terms::Terms;
use crate::error::{Error, Result};
use crate::event::{Class, RequestId};

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
    /// How urgent it is.
    pub class: Class,
    /// It came as an interactive one, with a promise that could not be kept.
    pub relegated: bool,
    /// On whose behalf.
    pub tenant: Arc<str>,
    /// What it is computed with; 0 is the bare model.
    pub adapter: usize,
    /// When it was submitted.
    pub queued_at: Nanos,
    /// When its first token is due, if its caller was promised a time.
    pub first_token_due: Option<Nanos>,
    /// The promised time between two tokens.
    pub tbt: Option<Nanos>,
    /// When the answer's last token was delivered.
    pub last_token_at: Option<Nanos>,
    /// When it gave up its place, if it has and waits to go on.
    pub parked_at: Option<Nanos>,
    /// How long it has waited, in all, for places that it had given up.
    pub held_up: Nanos,
    /// Steps in a row that left its decode out.
    pub skipped: u32,
    /// Tokens that the cache held when it came.
    pub hint: usize,
    /// Its tenant is known to have a prompt that waits.
    pub backlogged: bool,
}

impl Sequence {
    /// A sequence that waits. `max_answer` as [`answer_room`] gave it.
    pub fn new(
        id: RequestId,
        prompt: Vec<Token>,
        max_answer: usize,
        terms: &Terms,
        queued_at: Nanos,
    ) -> Self {
        Self {
            id,
            slot: None,
            prompt_len: prompt.len(),
            tokens: prompt,
            max_answer,
            computed: 0,
            class: terms.class,
            relegated: false,
            tenant: Arc::clone(&terms.tenant),
            adapter: terms.adapter,
            queued_at,
            first_token_due: terms.ttft.map(|ttft| queued_at.saturating_add(ttft)),
            tbt: terms.tbt,
            last_token_at: None,
            parked_at: None,
            held_up: 0,
            skipped: 0,
            hint: 0,
            backlogged: false,
        }
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

    /// Whether all but the last token is computed and the answer has begun, so that each step adds
    /// a token of it.
    pub fn is_decoding(&self) -> bool {
        self.answer_len() > 0 && self.pending() == 1
    }

    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
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

    /// KV cells that it will surely need beside those that it has, if its answer grows by so many
    /// tokens.
    pub fn growth(&self, answer: usize) -> usize {
        self.pending() + answer.min(self.answer_left())
    }

    /// Tokens that the answer may still get.
    pub fn answer_left(&self) -> usize {
        self.max_answer - self.answer_len()
    }

    /// The decoder has computed that many more. After its last token, one must be pushed or the
    /// sequence removed.
    pub(super) fn advance(&mut self, count: usize) {
        self.computed += count;
    }

    /// It waits as a background request from now on.
    pub(super) fn relegate(&mut self) {
        self.class = Class::Background;
        self.relegated = true;
    }

    /// It gives up its place.
    pub(super) fn park(&mut self, now: Nanos) {
        self.parked_at = Some(now);
        self.slot = None;
        self.computed = 0;
        self.skipped = 0;
    }

    /// It has a place again. Says whether it had one before.
    pub(super) fn resume(&mut self, now: Nanos) -> bool {
        let since = self.parked_at.take();
        self.held_up += since.map_or(0, |at| now.saturating_sub(at));
        since.is_some()
    }

    /// The decoder holds that many now: the first ones.
    pub(super) fn set_computed(&mut self, count: usize) {
        debug_assert!(count < self.tokens.len(), "something is left to compute");
        self.computed = count;
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
    let (longest, size) = config.longest();
    let limit = longest.min(context_train);
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    if prompt >= limit {
        return Err(Error::PromptTooLong { tokens: prompt, limit: limit - 1, size });
    }
    let share = (config.ctx_size / config.parallel).saturating_sub(prompt).max(DEFAULT_ANSWER);
    Ok(max_tokens.unwrap_or(share).min(limit - prompt))
}
