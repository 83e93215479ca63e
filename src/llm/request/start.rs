//! What opens a request.

use std::sync::Arc;

use super::Request;
use crate::clock::Nanos;
use crate::event::Mode;

/// What is known when a request begins.
#[derive(Clone, Debug, Default)]
pub struct Start<'a> {
    /// The label `model`.
    pub model: &'a str,
    /// The label `endpoint`; empty if there is none.
    pub endpoint: &'a str,
    /// How the result is taken.
    pub mode: Mode,
    /// The label `device`, if it is known.
    pub device: Option<Arc<str>>,
    /// Tokens in the prompt, if known.
    pub prompt_tokens: Option<usize>,
    /// When it began; None: now.
    pub at: Option<Nanos>,
    /// The request that this one is part of.
    pub parent: Option<Arc<Request>>,
}
