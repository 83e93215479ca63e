//! The engine's size: how much memory, how many sequences, how large a step.
//!
//! Must not know: how a step is planned. [`EngineConfig::validate`] names each broken limit, so
//! that nothing behind it needs to check again.

use crate::backend::DecoderConfig;
use crate::clock::Nanos;
use crate::engine::policy::{FAIRNESS_TOKENS, LONE_STEP, PolicyKind, STEP};
use crate::engine::terms::Terms;
use crate::error::{Error, Result};
use crate::event::Class;

/// The most sequences that a llama.cpp context takes.
pub const MAX_PARALLEL: usize = 256;

/// What happens to an interactive request whose promised first token cannot come in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overload {
    /// It waits like any other, and its promise is missed.
    Accept,
    /// It goes on as a background request, so that others' promises can be kept.
    #[default]
    Relegate,
    /// It is refused at once.
    Reject,
}

impl Overload {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Accept, Self::Relegate, Self::Reject];

    /// Its name in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Relegate => "relegate",
            Self::Reject => "reject",
        }
    }

    /// The one of this name.
    ///
    /// ```
    /// use ryot_metrics::engine::Overload;
    /// assert_eq!(Overload::parse("reject"), Ok(Overload::Reject));
    /// let error = Overload::parse("drop").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "overload is \"drop\"; it must be one of accept, relegate, reject"
    /// );
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            Error::InvalidArgument(format!("overload is {text:?}; it must be one of {known}"))
        })
    }
}

/// How an engine is set up. `EngineConfig::default()` suits a small model on a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// KV cells, one per token, of all sequences together. Default 4096.
    pub ctx_size: usize,
    /// Whether any sequence may use any cell, and several the same. Otherwise each of the `parallel`
    /// has as many cells for itself: no sequence is longer than that, prefixes are copied instead of
    /// shared, `cache_sequences` and `idle_cells` mean nothing, and no step reads the cells of
    /// others, so that many answers of much the same length are decoded faster. Default true.
    pub kv_unified: bool,
    /// The most sequences computed at once. Default 8, at most [`MAX_PARALLEL`].
    pub parallel: usize,
    /// The most tokens in one step. Default 512, at least `parallel`.
    pub batch_size: usize,
    /// The most prompt tokens in a step that also continues answers, whatever the policy allows.
    /// Default 512.
    pub prefill_chunk: usize,
    /// Threads that compute; 0, the default, takes one per core.
    pub threads: usize,
    /// Requests that may wait beside the `parallel` that run. Default 256.
    pub max_queue: usize,
    /// How many prompt tokens a step takes. Default [`PolicyKind::Slo`].
    pub policy: PolicyKind,
    /// The most time, in nanoseconds, that prompts add to a step; twice that while interactive
    /// requests wait for a place, and for their prompts where all answers under way have promises
    /// ([`Self::tbt`]) that bear it. Default [`STEP`].
    pub step: Nanos,
    /// The most time, in nanoseconds, of a step that holds prompts alone, while no answer is under
    /// way. It is given up as soon as an interactive request or the cancellation of one of the prompts
    /// comes; for that, other steps are given up too, where promises bear it. Default [`LONE_STEP`];
    /// not above `step`: no step is given up, as with a backend that cannot.
    pub lone_step: Nanos,
    /// The promise for the first token of interactive requests that name none; default none.
    pub ttft: Option<Nanos>,
    /// The promise for the time between two tokens of interactive requests that name none;
    /// default none.
    pub tbt: Option<Nanos>,
    /// What happens if a first token cannot come as promised. Default [`Overload::Relegate`].
    pub overload: Overload,
    /// How far, in weighted tokens, a tenant may be ahead of another of its class. Default
    /// [`FAIRNESS_TOKENS`].
    pub fairness_tokens: u64,
    /// Whether prompts begin with what was computed for others. Default true.
    pub prefix_cache: bool,
    /// Whether this is so only within a tenant: otherwise, timings tell one tenant what another
    /// has asked. Default false.
    pub isolate_tenants: bool,
    /// Sequences that keep cached prefixes beside the `parallel` that run. Default 56.
    pub cache_sequences: usize,
    /// Cells of cached prefixes past which the least worth go to the host's memory, although nobody
    /// needs their cells: on a CPU each step has to pass over them. Of one that shares more than
    /// seven eighths with others, the rest is lost; not while a request computes with what is shared,
    /// until a quarter of the context is idle. Only where `host_cache_bytes` has room for a whole context. Default: none on a
    /// CPU, and all on a GPU, which fetches each run of cells by a transfer of its own.
    pub idle_cells: Option<usize>,
    /// Bytes of the host's memory for prefixes that left the KV cache and for preempted requests;
    /// 0 computes them again. Default 512 MiB.
    pub host_cache_bytes: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            ctx_size: 4096,
            kv_unified: true,
            parallel: 8,
            batch_size: 512,
            prefill_chunk: 512,
            threads: 0,
            max_queue: 256,
            policy: PolicyKind::default(),
            step: STEP,
            lone_step: LONE_STEP,
            ttft: None,
            tbt: None,
            overload: Overload::default(),
            fairness_tokens: FAIRNESS_TOKENS,
            prefix_cache: true,
            isolate_tenants: false,
            cache_sequences: 56,
            idle_cells: None,
            host_cache_bytes: 512 << 20,
        }
    }
}

impl EngineConfig {
    /// Checks every field.
    ///
    /// ```
    /// use ryot_metrics::engine::EngineConfig;
    /// let error = EngineConfig { parallel: 0, ..Default::default() }.validate().unwrap_err();
    /// assert_eq!(error.to_string(), "parallel is 0; it must be from 1 to 256");
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] with the field, its value and its range.
    pub fn validate(&self) -> Result<()> {
        check("parallel", self.parallel, 1, MAX_PARALLEL)?;
        let least = if self.kv_unified { 2 } else { 2 * self.parallel };
        check("ctx_size", self.ctx_size, least, 1 << 24)?;
        check("batch_size", self.batch_size, self.parallel, 1 << 16)?;
        check("prefill_chunk", self.prefill_chunk, 1, 1 << 16)?;
        check("threads", self.threads, 0, 1024)?;
        check("max_queue", self.max_queue, 0, 1 << 20)?;
        check("cache_sequences", self.cache_sequences, 0, MAX_PARALLEL)?;
        check("idle_cells", self.idle_cells.unwrap_or(0), 0, 1 << 24)
    }

    /// The most tokens of a prompt and its answer, and what they are called in an error.
    ///
    /// ```
    /// use ryot_metrics::engine::EngineConfig;
    /// let config = EngineConfig { ctx_size: 4096, parallel: 8, ..Default::default() };
    /// assert_eq!(config.longest(), (4096, "ctx_size"));
    /// let parts = EngineConfig { kv_unified: false, ..config };
    /// assert_eq!(parts.longest(), (512, "ctx_size / parallel, without kv_unified"));
    /// ```
    pub fn longest(&self) -> (usize, &'static str) {
        if self.kv_unified {
            (self.ctx_size, "ctx_size")
        } else {
            (self.ctx_size / self.parallel, "ctx_size / parallel, without kv_unified")
        }
    }

    /// The terms of a request, with this engine's promises where an interactive one names none.
    pub fn promise(&self, terms: Terms) -> Terms {
        match terms.class {
            Class::Interactive => {
                Terms { ttft: terms.ttft.or(self.ttft), tbt: terms.tbt.or(self.tbt), ..terms }
            }
            Class::Background => terms,
        }
    }

    /// The most cells that cached prefixes keep while the host's memory may have them. `bytes`: of
    /// a cell; none if it is not known.
    pub(super) fn idle_limit(&self, bytes: Option<u64>) -> usize {
        let context = bytes.unwrap_or(0) * self.ctx_size as u64;
        let idle = self.idle_cells.filter(|_| self.host_cache_bytes > context);
        idle.unwrap_or(self.ctx_size)
    }

    /// The decoder that such an engine needs.
    pub fn decoder(&self) -> DecoderConfig {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let caches = if self.kv_unified { self.cache_sequences } else { 0 };
        DecoderConfig {
            cells: self.ctx_size,
            unified: self.kv_unified,
            sequences: (self.parallel + caches).min(MAX_PARALLEL),
            batch_size: self.batch_size,
            threads: if self.threads == 0 { cores() } else { self.threads },
            embeddings: false,
        }
    }
}

fn check(field: &str, value: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{field} is {value}; it must be from {min} to {max}")))
}
