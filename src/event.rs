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

/// What a request is to its caller: somebody waits for it, or it may take its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for each token.
    #[default]
    Interactive,
    /// It takes what interactive requests leave.
    Background,
}

impl Class {
    /// All classes, the most urgent first.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Background];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Background => "background",
        }
    }

    /// The class with this name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::InvalidArgument(format!("priority is {text:?}; it must be one of {known}"))
        })
    }
}

/// A promise about latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slo {
    /// From queued to the first token.
    Ttft,
    /// Between two tokens of an answer.
    Tbt,
}

impl Slo {
    /// All promises.
    pub const ALL: [Self; 2] = [Self::Ttft, Self::Tbt];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tbt => "tbt",
        }
    }
}

/// Why something left the prefix cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Eviction {
    /// Its memory was needed.
    MemoryPressure,
    /// Nothing asked for it for too long.
    Timeout,
    /// Somebody said so.
    Manual,
}

impl Eviction {
    /// All reasons.
    pub const ALL: [Self; 3] = [Self::MemoryPressure, Self::Timeout, Self::Manual];

    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MemoryPressure => "memory_pressure",
            Self::Timeout => "timeout",
            Self::Manual => "manual",
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
    /// The observer's own keys for the requests that this one is a part of, the innermost first: it
    /// is part of the first that has not ended. Such a request is measured, and is not counted a
    /// second time.
    pub parents: Vec<u64>,
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
        /// Requests that it can run at once.
        slots: usize,
        /// Tokens of context that all sequences share.
        context: usize,
        /// Bytes of the KV cache that one token takes, if all take the same.
        bytes_per_token: Option<u64>,
        /// Bytes of the model's weights, which each step reads.
        weight_bytes: u64,
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
        /// What it is to its caller.
        class: Class,
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
    /// How much of a prompt was computed before, for this request's first place.
    PrefixMatched {
        /// The request.
        id: RequestId,
        /// Tokens that were looked for: those of the prompt.
        queried: usize,
        /// Tokens that need not be computed.
        hit: usize,
    },
    /// A running request gave up its place and waits again.
    Preempted {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// A preempted request runs again.
    Resumed {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// An interactive request whose promise cannot be kept goes on as a background one.
    Relegated {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
    },
    /// A token came later than promised.
    SloMissed {
        /// The request.
        id: RequestId,
        /// When.
        at: Nanos,
        /// Which promise.
        slo: Slo,
        /// The request's class.
        class: Class,
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
        /// Rows whose logits were computed.
        logits: usize,
        /// KV cells that it read: for each row, those of its sequence up to the row itself.
        context: usize,
        /// How many tokens it was allowed, decodes included.
        budget: usize,
        /// Prompts waited, and the guard of latencies let none of them in.
        prefill_skipped: bool,
    },
    /// A step was given up for a request or a cancellation that came; it is computed again.
    StepInterrupted {
        /// How long it had been computed, in nanoseconds.
        nanos: Nanos,
    },
    /// The KV cache holds another number of tokens than before.
    Occupied {
        /// How many.
        tokens: usize,
    },
    /// Tokens left the prefix cache for good.
    CacheEvicted {
        /// Why.
        reason: Eviction,
        /// How many.
        tokens: usize,
    },
    /// The prefix cache takes another number of bytes than before.
    CacheResident {
        /// In the KV cache, of sequences that no request uses; 0 if a token's size is unknown.
        device_bytes: u64,
        /// Snapshots in the host's memory.
        host_bytes: u64,
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
