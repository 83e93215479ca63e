//! A request as the engine's core keeps it. Must not know: its tokens, which the scheduler has.

use std::sync::Arc;

use crate::clock::Nanos;
use crate::engine::client::Submission;
use crate::engine::output::{Finish, Mailbox};
use crate::engine::sampler::Sampler;
use crate::engine::terms::Terms;
use crate::engine::text::TextStream;
use crate::error::Error;
use crate::event::{Class, FinishReason};

/// Everything about a request but its tokens.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) sampler: Sampler,
    pub(super) text: TextStream,
    pub(super) ignore_eos: bool,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) prompt_tokens: usize,
    pub(super) cached_tokens: usize,
    pub(super) completion_tokens: usize,
    /// Distinct sequences in the last step it was part of.
    pub(super) batch_size: usize,
    pub(super) queued_at: Nanos,
    pub(super) scheduled_at: Option<Nanos>,
    pub(super) first_token_at: Option<Nanos>,
    pub(super) class: Class,
    pub(super) deadline: Option<Nanos>,
}

impl Job {
    pub(super) fn new(submission: Submission, terms: &Terms, prompt_tokens: usize) -> Self {
        Self {
            sampler: submission.sampler,
            text: TextStream::new(submission.params.stop),
            ignore_eos: submission.params.ignore_eos,
            mailbox: submission.mailbox,
            prompt_tokens,
            cached_tokens: 0,
            completion_tokens: 0,
            batch_size: 0,
            queued_at: submission.queued_at,
            scheduled_at: None,
            first_token_at: None,
            class: terms.class,
            deadline: terms.deadline.map(|after| submission.queued_at.saturating_add(after)),
        }
    }

    pub(super) fn into_finish(
        mut self,
        reason: FinishReason,
        error: Option<Error>,
        at: Nanos,
    ) -> Finish {
        Finish {
            reason,
            tail_text: self.text.finish(),
            error,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            queued_at: self.queued_at,
            scheduled_at: self.scheduled_at,
            first_token_at: self.first_token_at,
            finished_at: at,
        }
    }
}
