//! What changes while a request is open. Records nothing.

use crate::clock::Nanos;
use crate::llm::labels::Priority;

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools)] // each may be so without the others
pub(super) struct State {
    /// When the production of the next token began: the last token, or the last resumption.
    pub(super) since: Nanos,
    pub(super) first_token_seen: bool,
    /// It waits in the queue (and is part of the depth of this priority's).
    pub(super) queued: Option<Priority>,
    /// When it first left the queue.
    pub(super) scheduled_at: Option<Nanos>,
    /// When its first token came, if it was queued before.
    pub(super) first_token_at: Option<Nanos>,
    pub(super) tokens: u64,
    /// The tokens that there were when production last went on.
    pub(super) tokens_before: u64,
    /// Tokens that an engine streamed into this request, and that no item has brought yet.
    pub(super) ahead: u64,
    /// Tokens that the counter has; `tokens` can be set back, a counter cannot.
    pub(super) tokens_counted: u64,
    /// The tokens of the completion are known, be it 0.
    pub(super) tokens_known: bool,
    /// Of `tokens`, those of its parts.
    pub(super) parts_tokens: u64,
    pub(super) prompt_tokens: Option<usize>,
    /// Prompt tokens of the finished parts of this request.
    pub(super) parts_prompt_tokens: usize,
    /// Tokens of the prompt that the first token answered.
    pub(super) first_prompt_tokens: Option<usize>,
    /// The answer, or a part of it, ended at its limit of tokens.
    pub(super) truncated: bool,
    /// The key under which parts find this request.
    pub(super) key: Option<u64>,
    pub(super) finished: bool,
}

impl State {
    pub(super) fn add(&mut self, tokens: u64) {
        self.tokens += tokens;
        self.tokens_known = true;
    }

    /// Production goes on.
    pub(super) fn goes_on(&mut self, at: Nanos) {
        if self.first_token_seen {
            self.since = self.since.max(at);
        }
    }

    /// Prompt tokens that were said, or of the parts.
    pub(super) fn all_prompt_tokens(&self) -> usize {
        self.prompt_tokens.unwrap_or(0).max(self.parts_prompt_tokens)
    }
}
