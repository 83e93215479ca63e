//! What each step of an engine writes, looked up once and kept.
//!
//! The time of a step is split by its tokens: `step × decode tokens / all tokens` is attributed to
//! the answers that it continued, the rest to the prompts in it. Must not know: requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::catalogue::Name;
use super::recorder::ModelSeries;
use super::scope::Lazy;
use crate::clock::Nanos;
use crate::event::Event;
use crate::metrics::Series;

/// The weight of the last step in the moving mean of decode times.
const EWMA_WEIGHT: f64 = 0.2;

/// What steps write. Sums are there at 0 from the start, everything else after the first write.
#[derive(Debug)]
pub(super) struct Steps {
    of: ModelSeries,
    /// Sequences in the last step.
    sequences: AtomicUsize,
    weight_bytes: u64,
    bytes_per_token: u64,
    batch_sizes: Lazy,
    batch_tokens: Lazy,
    batch_tokens_last: Lazy,
    batches: Arc<Series>,
    budget: Lazy,
    budget_used: Lazy,
    prefill_tokens: Arc<Series>,
    decode_tokens: Arc<Series>,
    prefill_seconds: Arc<Series>,
    decode_seconds: Arc<Series>,
    decode_calls: Arc<Series>,
    decode: OnceLock<Decode>,
    prefill_skipped: Arc<Series>,
    interrupted_seconds: Arc<Series>,
    logits_reads: Arc<Series>,
    bytes_moved: Arc<Series>,
}

impl Steps {
    /// `bytes_per_token` are those that one takes in the KV cache. A size that is unknown is 0.
    pub(super) fn new(of: ModelSeries, weight_bytes: u64, bytes_per_token: u64) -> Self {
        of.labelled(Name::EngineLogitsReads, "copied"); // no backend copies yet
        Self {
            sequences: AtomicUsize::new(0),
            weight_bytes,
            bytes_per_token,
            batch_sizes: Lazy::default(),
            batch_tokens: Lazy::default(),
            batch_tokens_last: Lazy::default(),
            batches: of.series(Name::Batches),
            budget: Lazy::default(),
            budget_used: Lazy::default(),
            prefill_tokens: of.series(Name::EnginePrefillTokens),
            decode_tokens: of.series(Name::EngineDecodeTokens),
            prefill_seconds: of.series(Name::EnginePrefill),
            decode_seconds: of.series(Name::EngineDecodeTotal),
            decode_calls: of.series(Name::EngineDecodeCalls),
            decode: OnceLock::new(),
            prefill_skipped: of.labelled(Name::EnginePrefillSkipped, "latency_guard"),
            interrupted_seconds: of.series(Name::EngineInterrupted),
            logits_reads: of.labelled(Name::EngineLogitsReads, "zero_copy"),
            bytes_moved: of.series(Name::EngineBytesMoved),
            of,
        }
    }

    /// Sequences in the last step.
    pub(super) fn sequences(&self) -> usize {
        self.sequences.load(Ordering::Relaxed)
    }

    /// Takes note of an [`Event::Step`].
    pub(super) fn step(&self, step: &Event) {
        let Event::Step { nanos, prefill_tokens, decode_tokens, sequences, .. } = *step else {
            return;
        };
        let Event::Step { logits, context, budget, prefill_skipped, .. } = *step else { return };
        let tokens = prefill_tokens + decode_tokens;
        self.batch(sequences, tokens, budget);
        self.time(nanos, decode_tokens, tokens);
        self.prefill_tokens.add(prefill_tokens as f64);
        self.decode_tokens.add(decode_tokens as f64);
        self.prefill_skipped.add(f64::from(prefill_skipped));
        self.logits_reads.add(logits as f64);
        let cells = (context + tokens) as u64;
        self.bytes_moved.add((self.weight_bytes + cells * self.bytes_per_token) as f64);
    }

    /// A step was given up after so many nanoseconds.
    pub(super) fn interrupted(&self, nanos: Nanos) {
        self.interrupted_seconds.add(seconds(nanos));
    }

    fn batch(&self, sequences: usize, tokens: usize, budget: usize) {
        self.sequences.store(sequences, Ordering::Relaxed);
        let of = &self.of;
        self.batches.add(1.0);
        self.batch_sizes.get(|| of.labelled(Name::BatchSize, "")).observe(sequences as f64);
        self.batch_tokens.get(|| of.series(Name::BatchTokens)).observe(tokens as f64);
        self.batch_tokens_last.get(|| of.series(Name::BatchTokensLast)).set(tokens as f64);
        self.budget.get(|| of.labelled(Name::EngineBudget, "target")).set(budget as f64);
        self.budget_used.get(|| of.labelled(Name::EngineBudget, "used")).set(tokens as f64);
    }

    fn time(&self, nanos: Nanos, decode_tokens: usize, tokens: usize) {
        let decode = attributed(nanos, decode_tokens, tokens);
        self.prefill_seconds.add(seconds(nanos - decode));
        if decode_tokens > 0 {
            self.decode_calls.add(1.0);
            self.decode_seconds.add(seconds(decode));
            let seconds = seconds(decode);
            self.decode.get_or_init(|| Decode::new(&self.of, seconds)).note(seconds);
        }
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// The part of a step's time that is its decode tokens'.
fn attributed(nanos: Nanos, decode_tokens: usize, tokens: usize) -> Nanos {
    let part = u128::from(nanos) * decode_tokens as u128;
    part.checked_div(tokens as u128).unwrap_or(0) as Nanos
}

/// The times of single steps with decode tokens.
#[derive(Debug)]
struct Decode {
    all: Arc<Series>,
    last: Arc<Series>,
    ewma: Arc<Series>,
    min: Arc<Series>,
    max: Arc<Series>,
}

impl Decode {
    /// Gauges that are new begin with the first time; an earlier engine of the model leaves its.
    fn new(of: &ModelSeries, first: f64) -> Self {
        let gauge = |name| {
            of.find(name).unwrap_or_else(|| {
                let series = of.series(name);
                series.set(first);
                series
            })
        };
        Self {
            all: of.series(Name::EngineDecode),
            last: gauge(Name::EngineDecodeLast),
            ewma: gauge(Name::EngineDecodeEwma),
            min: gauge(Name::EngineDecodeMin),
            max: gauge(Name::EngineDecodeMax),
        }
    }

    /// Events of one engine come on one thread, so that nobody else writes meanwhile.
    fn note(&self, seconds: f64) {
        self.all.observe(seconds);
        self.last.set(seconds);
        let ewma = self.ewma.get();
        self.ewma.set(ewma + EWMA_WEIGHT * (seconds - ewma));
        self.min.set(self.min.get().min(seconds));
        self.max.raise(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_split_by_tokens_in_whole_nanoseconds() {
        assert_eq!(attributed(100, 1, 3), 33);
        assert_eq!(attributed(100, 3, 3), 100);
        assert_eq!(attributed(100, 0, 3), 0);
        assert_eq!(attributed(100, 0, 0), 0);
        assert_eq!(attributed(u64::MAX, 2_048, 2_048), u64::MAX, "no overflow");
    }
}
