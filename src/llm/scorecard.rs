//! The scheduler's scorecard: the facts of one model's engine under the names of the UMA Serve
//! metrics document, as flat keys.
//!
//! Nothing is stored for it: every figure is read from the catalogue's families when it is asked
//! for. What the document leaves open is settled so:
//! - Counters, sizes and numbers of sessions are whole numbers. Times are milliseconds with at most
//!   three decimals, so that a decode below one millisecond is not 0.
//! - All of `decode_ms…` is the part of a step that is attributed to its decode tokens (step ×
//!   decode tokens ÷ all tokens), in steps that had any: so the least, mean and greatest agree with
//!   the totals.
//! - A token counts as generated when it is handed out; the first of an answer comes from a step of
//!   its prompt. So `tokens_generated_total` is never below `decode_tokens_total` between steps.
//! - `decode_ms_min` is null before the first decode; a ratio or mean of nothing is 0.
//! - `ttft_ms` and `inter_token_ms` are of the requests under the model's own name.

mod read;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::families::Buckets;

/// The facts of one model's engine. Serialised, its keys are in the document's order.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scorecard {
    /// Tokens of answers.
    pub tokens_generated_total: u64,
    /// Steps.
    pub batch_calls_total: u64,
    /// Tokens in the last step.
    pub last_batch_size: u64,
    /// Decode time of the last step that had any.
    pub decode_ms_last: f64,
    /// Moving mean of decode times.
    pub decode_ms_ewma: f64,
    /// Steps with decode tokens.
    pub decode_calls: u64,
    /// All decode time, in nanoseconds.
    pub decode_ns_total: u64,
    /// Decode tokens computed.
    pub decode_tokens_total: u64,
    /// The same as `decode_tokens_total`.
    pub decode_phase_tokens_total: u64,
    /// Prompt tokens computed.
    pub prefill_tokens_total: u64,
    /// The same as `decode_ns_total`.
    pub decode_ns_total_gen: u64,
    /// The time of all steps that is not decode time, in nanoseconds.
    pub prefill_ns_total: u64,
    /// Decode time of a token.
    pub gen_ms_per_token_mean: f64,
    /// Prefill time of a token.
    pub prefill_ms_per_token_mean: f64,
    /// The least decode time of a step.
    pub decode_ms_min: Option<f64>,
    /// The greatest decode time of a step.
    pub decode_ms_max: f64,
    /// Decode time of a step that had any.
    pub decode_ms_mean: f64,
    /// Decode tokens of a step that had any.
    pub decode_tokens_per_call_mean: f64,
    /// Sessions that are open.
    pub active_sessions: u64,
    /// First tokens that came later than promised.
    pub slo_violations_ttft_total: u64,
    /// Further tokens that came later than promised.
    pub slo_violations_tbt_total: u64,
    /// Steps in which the guard of latencies let no waiting prompt in.
    pub skipped_prefill_due_to_latency_total: u64,
    /// Tokens that the last step was allowed.
    pub budget_target: u64,
    /// Tokens that the last step had.
    pub budget_used: u64,
    /// Interactive requests that wait.
    pub queued_interactive: u64,
    /// Background requests that wait.
    pub queued_background: u64,
    /// Times to the first token.
    pub ttft_ms: Histogram,
    /// Times from token to token.
    pub inter_token_ms: Histogram,
    /// Decode times of steps.
    pub decode_ms: Histogram,
    /// Tokens of steps.
    pub batch_size: Histogram,
    /// Prompt tokens found in the prefix cache over those looked up.
    pub kv_cache_hit_ratio: f64,
    /// Entries that left the prefix cache for good.
    pub kv_cache_evictions_total: u64,
    /// Bytes of the prefix cache, in the KV cache and as snapshots.
    pub kv_cache_resident_bytes: u64,
    /// Estimate of the memory traffic per token, in 10⁶ bytes.
    pub sum_bmt_mb_per_token: f64,
    /// Rows of logits read without a copy over all that were read.
    pub copy_free_ratio: f64,
    /// Percent of the time since the engine's start in which it had work and computed nothing.
    pub gpu_idle_pct: f64,
}

impl Scorecard {
    /// As a JSON object on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers and text keys are JSON")
    }
}

/// A histogram, as `{"count": …, "sum": …, "buckets": {…}}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// All observations.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// How many were at most so large; the last bound is infinite. Serialised, the bounds are the
    /// keys, as in Prometheus' `le`.
    #[serde(serialize_with = "by_bound")]
    pub buckets: Vec<(f64, u64)>,
}

fn by_bound<S: Serializer>(buckets: &[(f64, u64)], to: S) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(buckets.len()))?;
    for (bound, count) in buckets {
        let infinite = bound.is_infinite();
        map.serialize_entry(&if infinite { "+Inf".to_owned() } else { bound.to_string() }, count)?;
    }
    map.end()
}

impl Histogram {
    /// In units of which the stored one has so many.
    fn scaled(stored: &Buckets, scale: f64) -> Self {
        let bounds = stored.bounds.iter().map(|bound| rounded(bound * scale));
        let mut count = 0;
        let cumulated = stored.counts.iter().map(|own| {
            count += own;
            count
        });
        let buckets = bounds.chain([f64::INFINITY]).zip(cumulated).collect();
        Self { count, sum: rounded(stored.sum * scale), buckets }
    }
}

/// To three decimals: microseconds, where the unit is a millisecond.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
