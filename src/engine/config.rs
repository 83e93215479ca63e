//! The engine's size: how much memory, how many sequences, how large a step.
//!
//! Must not know: how a step is planned. [`EngineConfig::validate`] names each broken limit, so
//! that nothing behind it needs to check again.

use crate::backend::DecoderConfig;
use crate::error::{Error, Result};

/// The most sequences that a llama.cpp context takes.
pub const MAX_PARALLEL: usize = 256;

/// How an engine is set up. `EngineConfig::default()` suits a small model on a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// KV cells, one per token, shared by all sequences. Default 4096.
    pub ctx_size: usize,
    /// The most sequences computed at once. Default 8, at most [`MAX_PARALLEL`].
    pub parallel: usize,
    /// The most tokens in one step. Default 512, at least `parallel`.
    pub batch_size: usize,
    /// The most prompt tokens in a step that also continues answers: bounds the time between two
    /// tokens of an answer while prompts arrive. Default 64.
    pub prefill_chunk: usize,
    /// Threads that compute; 0, the default, takes one per core.
    pub threads: usize,
    /// Requests that may wait beside the `parallel` that run. Default 256.
    pub max_queue: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            ctx_size: 4096,
            parallel: 8,
            batch_size: 512,
            prefill_chunk: 64,
            threads: 0,
            max_queue: 256,
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
        check("ctx_size", self.ctx_size, 2, 1 << 24)?;
        check("batch_size", self.batch_size, self.parallel, 1 << 16)?;
        check("prefill_chunk", self.prefill_chunk, 1, 1 << 16)?;
        check("threads", self.threads, 0, 1024)?;
        check("max_queue", self.max_queue, 0, 1 << 20)
    }

    /// The decoder that such an engine needs.
    pub fn decoder(&self) -> DecoderConfig {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        DecoderConfig {
            cells: self.ctx_size,
            sequences: self.parallel,
            batch_size: self.batch_size,
            threads: if self.threads == 0 { cores() } else { self.threads },
        }
    }
}

fn check(field: &str, value: usize, min: usize, max: usize) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{field} is {value}; it must be from {min} to {max}")))
}
