//! A batching engine: many requests share each step of one model.
//!
//! [`Engine::start`] runs a [`Core`] on a thread. Each step reads `commands → schedule → decode →
//! sample → deliver`: the [`Scheduler`] plans it as a pure value, the backend's decoder computes
//! it, a [`Sampler`] draws a token per answer, a [`TextStream`] makes text of it, and a mailbox
//! takes it to the [`RequestHandle`] that waits for it. Facts go to an
//! [`Observer`](crate::event::Observer).
//!
//! Must not know: metrics, Python, llama.cpp.

mod client;
mod config;
mod core;
mod embed;
mod gbnf;
mod json_schema;
mod logits;
mod output;
mod penalties;
mod policy;
mod pooling;
mod sampler;
mod sampling;
mod scheduler;
mod sequence;
mod terms;
mod text;
mod thread;

pub use self::client::{Client, Prompt, RequestHandle, Stats};
pub use self::config::{EngineConfig, MAX_PARALLEL, Overload};
pub use self::core::{Core, Progress};
pub use self::embed::{EmbedParams, Embeddings};
pub use self::gbnf::{MAX_GRAMMAR_BYTES, MAX_SCHEMA_BYTES, check_grammar};
pub use self::json_schema::json_schema_grammar;
pub use self::logits::{Logprobs, argmax};
pub use self::output::{Delta, Finish, Next, Wakeup};
pub use self::penalties::PENALTY_WINDOW;
pub use self::policy::{
    Allowance, DECODE_WEIGHT, FAIRNESS_TOKENS, LONE_STEP, Load, MAX_SKIPS, MIN_PREFILL,
    PREFILL_WEIGHT, Policy, PolicyKind, QUANTUM, STEP, SloBudget, StepModel, TokenCounters,
    UmaBudget, UmaConfig, Work, Yields, chunk_cells,
};
pub use self::pooling::Pooling;
pub use self::sampler::{Drawn, Sampler, Scratch};
pub use self::sampling::{
    MAX_BREAKER_BYTES, MAX_DRY_WINDOW, MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOPS,
    SamplingParams,
};
pub use self::scheduler::{
    Admission, BACKGROUND_PATIENCE, BLOCK, NO_PROMISE, Op, Plan, Scheduler, SnapshotKey, Span,
    Verdict,
};
pub use self::sequence::{Sequence, answer_room};
pub use self::terms::{MAX_MILLIS, MAX_TENANT_BYTES, Terms};
pub use self::text::TextStream;
pub use self::thread::Engine;
