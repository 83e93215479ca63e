//! Reads a scorecard off the catalogue's families.

use super::{Histogram, Scorecard, rounded};
use crate::event::{Class, Slo};
use crate::llm::catalogue::Name;
use crate::llm::computed::Computed;
use crate::llm::families::Buckets;
use crate::llm::recorder::Recorder;

const BYTES_PER_MB: f64 = 1e6;

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// The figures of one model.
struct Figures<'a> {
    computed: &'a Computed,
    model: &'a str,
}

impl Figures<'_> {
    fn found(&self, name: Name, labels: &[&str]) -> Option<f64> {
        self.computed.value(name, &[&[self.model], labels].concat())
    }

    fn value(&self, name: Name, labels: &[&str]) -> f64 {
        self.found(name, labels).unwrap_or(0.0)
    }

    fn count(&self, name: Name, labels: &[&str]) -> u64 {
        self.value(name, labels).round() as u64
    }

    fn millis(&self, name: Name) -> f64 {
        rounded(self.value(name, &[]) * 1e3)
    }

    fn nanos(&self, name: Name) -> u64 {
        (self.value(name, &[]) * 1e9).round() as u64
    }

    fn computed(&self, name: Name) -> f64 {
        let samples = self.computed.samples(name);
        let own = samples.iter().find(|(labels, _)| labels[0] == self.model);
        own.map_or(0.0, |(_, value)| *value)
    }

    fn violations(&self, slo: Slo) -> u64 {
        let of = |class: Class| self.count(Name::SloViolations, &[slo.as_str(), class.as_str()]);
        Class::ALL.into_iter().map(of).sum()
    }

    fn histogram(&self, name: Name, scale: f64) -> Histogram {
        let own = |labels: &[Box<str>]| *labels[0] == *self.model;
        let buckets = self.computed.families.histogram(name, own);
        let none = || Buckets { bounds: Vec::new(), counts: vec![0], sum: 0.0 };
        Histogram::scaled(&buckets.unwrap_or_else(none), scale)
    }
}

impl Recorder {
    /// Prompt tokens that a model's engine looked up in its prefix cache, and those it found.
    pub fn prefix_cache(&self, model: &str) -> (u64, u64) {
        let of = Figures { computed: &self.computed, model };
        (of.count(Name::PrefixQueries, &[]), of.count(Name::PrefixHits, &[]))
    }

    /// The scorecard of a model's engine; all zeros if there is none.
    ///
    /// `active_sessions` are the clients of a server that knows them; by default, they are the
    /// requests that the engine holds.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use ryot_metrics::clock::MonotonicClock;
    /// use ryot_metrics::llm::{Recorder, Settings};
    /// use ryot_metrics::metrics::Registry;
    ///
    /// let registry = Registry::default();
    /// let recorder = Recorder::new(&registry, Arc::new(MonotonicClock), &Settings::default())?;
    /// let json = recorder.scorecard("toy", Some(4)).to_json();
    /// assert!(json.starts_with(r#"{"tokens_generated_total":0,"batch_calls_total":0"#));
    /// assert!(json.contains(r#""decode_ms_min":null"#));
    /// assert!(json.contains(r#""active_sessions":4"#));
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    pub fn scorecard(&self, model: &str, active_sessions: Option<u64>) -> Scorecard {
        let of = Figures { computed: &self.computed, model };
        let (decode_ns, prefill_ns) =
            (of.nanos(Name::EngineDecodeTotal), of.nanos(Name::EnginePrefill));
        let calls = of.count(Name::EngineDecodeCalls, &[]);
        let decode_tokens = of.count(Name::EngineDecodeTokens, &[]);
        let prefill_tokens = of.count(Name::EnginePrefillTokens, &[]);
        let millis_each = |nanos: u64, n: u64| rounded(ratio(nanos as f64 / 1e6, n as f64));
        Scorecard {
            tokens_generated_total: of.count(Name::EngineTokens, &[]),
            batch_calls_total: of.count(Name::Batches, &[]),
            last_batch_size: of.count(Name::BatchTokensLast, &[]),
            decode_ms_last: of.millis(Name::EngineDecodeLast),
            decode_ms_ewma: of.millis(Name::EngineDecodeEwma),
            decode_calls: calls,
            decode_ns_total: decode_ns,
            decode_tokens_total: decode_tokens,
            decode_phase_tokens_total: decode_tokens,
            prefill_tokens_total: prefill_tokens,
            decode_ns_total_gen: decode_ns,
            prefill_ns_total: prefill_ns,
            gen_ms_per_token_mean: millis_each(decode_ns, decode_tokens),
            prefill_ms_per_token_mean: millis_each(prefill_ns, prefill_tokens),
            decode_ms_min: of.found(Name::EngineDecodeMin, &[]).map(|least| rounded(least * 1e3)),
            decode_ms_max: of.millis(Name::EngineDecodeMax),
            decode_ms_mean: millis_each(decode_ns, calls),
            decode_tokens_per_call_mean: rounded(ratio(decode_tokens as f64, calls as f64)),
            active_sessions: active_sessions.unwrap_or(of.count(Name::EngineActive, &[])),
            ..of.planned()
        }
    }
}

impl Figures<'_> {
    /// What the document plans, and nothing else.
    fn planned(&self) -> Scorecard {
        let queued = |class: Class| self.count(Name::EngineQueued, &[class.as_str()]);
        let resident = |location| self.count(Name::PrefixResident, &[location]);
        let reads = |path| self.value(Name::EngineLogitsReads, &[path]);
        let (zero_copy, copied) = (reads("zero_copy"), reads("copied"));
        let hits = self.value(Name::PrefixHits, &[]);
        Scorecard {
            slo_violations_ttft_total: self.violations(Slo::Ttft),
            slo_violations_tbt_total: self.violations(Slo::Tbt),
            skipped_prefill_due_to_latency_total: self
                .count(Name::EnginePrefillSkipped, &["latency_guard"]),
            budget_target: self.count(Name::EngineBudget, &["target"]),
            budget_used: self.count(Name::EngineBudget, &["used"]),
            queued_interactive: queued(Class::Interactive),
            queued_background: queued(Class::Background),
            ttft_ms: self.histogram(Name::Ttft, 1e3),
            inter_token_ms: self.histogram(Name::InterToken, 1e3),
            decode_ms: self.histogram(Name::EngineDecode, 1e3),
            batch_size: self.histogram(Name::BatchTokens, 1.0),
            kv_cache_hit_ratio: ratio(hits, self.value(Name::PrefixQueries, &[])),
            kv_cache_evictions_total: self.count(Name::PrefixEvictions, &[]),
            kv_cache_resident_bytes: resident("device") + resident("host"),
            sum_bmt_mb_per_token: self.computed(Name::EngineBytesPerToken) / BYTES_PER_MB,
            copy_free_ratio: ratio(zero_copy, zero_copy + copied),
            gpu_idle_pct: 100.0 * self.computed(Name::EngineIdleRatio),
            ..Scorecard::default()
        }
    }
}
