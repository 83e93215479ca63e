//! The engine's facts as plain data: what happened to which request, and when.
//!
//! The engine emits them, an [`Observer`] listens; neither knows the other. Must not know:
//! metrics, names of families, Python.

use std::fmt::Debug;
use std::sync::Arc;

use crate::clock::Nanos;
use crate::error::{Error, ErrorKind, Result};

/// Identifies a request within one engine.
pub type RequestId = u64;

/// How a caller takes the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One prompt, the answer as a whole.
    #[default]
    Standard,
    /// One prompt, the answer token by token.
    Streaming,
    /// Several prompts at once.
    Batch,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Standard, Self::Streaming, Self::Batch];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Streaming => "streaming",
            Self::Batch => "batch",
        }
    }

    /// The mode with this label value.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "standard" => Ok(Self::Standard),
            "streaming" => Ok(Self::Streaming),
            "batch" => Ok(Self::Batch),
            _ => {
                let known = Self::ALL.map(Self::as_str).join(", ");
                let text = format!("mode is {text:?}; it must be one of {known}");
                Err(Error::InvalidArgument(text))
            }
        }
    }
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its answer, or a stop string appeared.
    Stop,
    /// `max_tokens` or the context was used up.
    Length,
    /// The caller gave up.
    Cancelled,
    /// It failed.
    Error(ErrorKind),
}

impl FinishReason {
    /// The name that callers see: `stop`, `length`, `cancelled` or `error`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Error(_) => "error",
        }
    }
}

/// What a caller says about a request for the sake of its metrics.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The route or function it came by; empty if it has none.
    pub endpoint: Arc<str>,
    /// How the result is taken.
    pub mode: Mode,
    /// The observer's own key for a request that this one is a part of; such a request is
    /// measured, and is not counted a second time.
    pub parent: Option<u64>,
}

/// One fact. Times are the engine's clock.
#[derive(Clone, Debug)]
pub enum Event {
    /// The model was loaded, or was not.
    ModelLoaded {
        /// Seconds that it took.
        seconds: f64,
        /// What went wrong, if anything did.
        error: Option<ErrorKind>,
        /// This process had loaded the same file before.
        again: bool,
    },
    /// The engine can take requests.
    Ready {
        /// Seconds that it took to make its decoder.
        seconds: f64,
        /// Tokens of context that all sequences share.
        context: usize,
        /// Bytes of the KV cache that one token takes, if all take the same.
        bytes_per_token: Option<u64>,
    },
    /// A request was refused before it had a place in the queue.
    Rejected {
        /// Why.
        kind: ErrorKind,
        /// Where it came from.
        origin: Origin,
    },
    /// A request took its place in the queue.
    Queued {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
        /// Tokens in its prompt.
        prompt_tokens: usize,
        /// Where it came from.
        origin: Origin,
    },
    /// A request left the queue: its first prompt token is in the coming step.
    Scheduled {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// A running request gave up its place and waits again.
    Preempted {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// The first token of the answer exists.
    FirstToken {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// Further tokens exist.
    Tokens {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
        /// How many, since the last such event.
        count: usize,
    },
    /// One step of the engine was computed.
    Step {
        /// When it ended.
        at: Nanos,
        /// How long the computation took, in nanoseconds.
        nanos: Nanos,
        /// Prompt tokens in it.
        prefill_tokens: usize,
        /// Tokens of running answers in it.
        decode_tokens: usize,
        /// Distinct sequences in it.
        sequences: usize,
    },
    /// The KV cache holds another number of tokens than before.
    Occupied {
        /// How many.
        tokens: usize,
    },
    /// A request ended.
    Finished {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
        /// Why.
        reason: FinishReason,
        /// Distinct sequences in the last step it was part of; 0 if it never was.
        batch_size: usize,
    },
}

/// Whoever wants to know. Called on the engine's thread between two steps, so it must be quick
/// and must not block; [`Event::Rejected`] and [`Event::ModelLoaded`] come on the caller's thread.
pub trait Observer: Debug + Send + Sync {
    /// Takes note of one fact.
    fn observe(&self, event: &Event);
}

/// An observer that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ignore;

impl Observer for Ignore {
    fn observe(&self, _event: &Event) {}
}
