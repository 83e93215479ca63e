//! Facts that a service reports itself, one method each: what neither a request nor the engine's
//! events can know.
//!
//! Recording never fails: a number that makes no sense, and a word that its label's closed set
//! does not have, is dropped and counted under `ryot_metrics_dropped_total{reason="invalid_value"}`.

use std::hash::Hash;

use super::catalogue::Name;
use super::classes::{batch_size_class, context_length_class};
use super::dropped::Limit;
use super::labels::{DTYPES, is_value, known_values};
use super::recorder::Recorder;
use super::reuse::{self, BYTES_PER_BLOCK, TOKENS_PER_BLOCK};
use crate::error::ErrorKind;
use crate::metrics::Series;

impl Recorder {
    /// Writes one sample, or counts it as dropped; whether it was written.
    fn write(
        &self,
        name: Name,
        values: &[&str],
        value: f64,
        write: impl FnOnce(&Series, f64),
    ) -> bool {
        self.write_in(Limit::Number, name, values, value, write)
    }

    /// The same for a value with another limit.
    fn write_in(
        &self,
        limit: Limit,
        name: Name,
        values: &[&str],
        value: f64,
        write: impl FnOnce(&Series, f64),
    ) -> bool {
        let mut labels = name.row().labels.iter().zip(values);
        if let Some((label, value)) = labels.find(|(label, value)| !is_value(label, value)) {
            self.drop_value(name, format_args!("{label} is {value:?}; {}", known_values(label)));
            return false;
        }
        let value = self.checked(name, values[0], value, limit);
        if let Some(value) = value {
            write(&self.family(name).series(values), value);
        }
        value.is_some()
    }

    /// One attempt of a request that had failed before.
    pub fn retry(&self, model: &str) {
        self.write(Name::Retries, &[model], 1.0, Series::add);
    }

    /// An error that no request of this package saw.
    pub fn error(&self, model: &str, kind: ErrorKind) {
        self.count_error(model, kind, kind.severity());
    }

    /// Time that a request spent in a queue of the service's own.
    pub fn queue_wait(&self, model: &str, seconds: f64) {
        self.write(Name::QueueWait, &[model], seconds, Series::observe);
    }

    /// The length of a queue of the service's own. It adds to what requests count by themselves,
    /// so that neither overwrites the other.
    pub fn queue_size(&self, model: &str, priority_level: &str, size: f64) {
        let labels = [model, priority_level];
        self.write_in(Limit::Whole(0.0), Name::QueueDepth, &labels, size, |series, size| {
            let mut reported = self.reported_queues.lock();
            let before = reported.insert(series.labels().text().into(), size);
            series.add(size - before.unwrap_or_default());
        });
    }

    /// A rate of tokens that somebody else measured; on the page as long as no token of the model
    /// is counted here.
    pub fn token_rate(&self, model: &str, tokens_per_second: f64) {
        self.write(Name::TokensPerSecond, &[model, "", ""], tokens_per_second, Series::set);
    }

    /// The model computes in this type; empty if it is unknown.
    pub fn dtype(&self, model: &str, dtype: &str) {
        if let Some(index) = DTYPES.iter().position(|known| *known == dtype) {
            self.rates.of(model).set_dtype(index);
        } else {
            let why = format_args!("dtype is {dtype:?}; {}", known_values("dtype"));
            self.drop_value(Name::TokenEfficiency, why);
        }
    }

    /// GPU memory by what it holds; memory in `use` also raises the `peak`.
    pub fn gpu_memory(&self, model: &str, device_id: &str, memory_type: &str, bytes: f64) {
        let labels = [model, memory_type, device_id];
        if self.write(Name::GpuMemory, &labels, bytes, Series::set) && memory_type == "used" {
            self.write(Name::GpuMemory, &[model, "peak", device_id], bytes, Series::raise);
        }
    }

    /// GPU memory that is reserved.
    pub fn gpu_memory_reserved(&self, model: &str, device_id: &str, bytes: f64) {
        self.write(Name::GpuMemoryReserved, &[model, device_id], bytes, Series::set);
    }

    /// GPU memory in use, 0 to 100, while batches had so many sequences; 0 if that is unknown. Of
    /// a model and device, only the class that was set last stays.
    pub fn gpu_memory_percentage(
        &self,
        model: &str,
        device_id: &str,
        percent: f64,
        batch_size: f64,
    ) {
        let name = Name::GpuMemoryPercentage;
        let Some(batch_size) = self.count(name, model, batch_size) else { return };
        let labels = [model, device_id, batch_size_class(batch_size)];
        self.set_alone(Limit::UpTo(100.0), name, &labels, percent);
    }

    /// Time in which the GPU computed, 0 to 100.
    pub fn gpu_utilization(&self, model: &str, device_id: &str, kernel_type: &str, percent: f64) {
        let labels = [model, device_id, kernel_type];
        self.write_in(Limit::UpTo(100.0), Name::GpuUtilization, &labels, percent, Series::set);
    }

    /// KV cache that holds tokens. Of a model, only the classes that were set last stay.
    pub fn kv_cache_size(&self, model: &str, bytes: f64, context_length: f64, batch_size: f64) {
        let count = |value| self.count(Name::KvCacheSize, model, value);
        let (Some(context_length), Some(batch_size)) = (count(context_length), count(batch_size))
        else {
            return;
        };
        let labels = [model, context_length_class(context_length), batch_size_class(batch_size)];
        self.set_alone(Limit::Number, Name::KvCacheSize, &labels, bytes);
    }

    /// The share of the KV cache that holds tokens, 0 to 1.
    pub fn kv_cache_usage(&self, model: &str, ratio: f64) {
        self.write_in(Limit::UpTo(1.0), Name::KvCacheUsage, &[model], ratio, Series::set);
    }

    /// How the KV cache is divided. Of a model, only what was said last stays.
    pub fn kv_cache_blocks(&self, model: &str, block_size: usize, blocks: usize) {
        let labels = [model, &block_size.to_string(), &blocks.to_string()];
        self.set_alone(Limit::Number, Name::KvCacheInfo, &labels, 1.0);
    }

    /// Prompt tokens that were looked up in the KV cache, and those of them that were found.
    pub fn kv_cache_lookup(&self, model: &str, context_type: &str, queries: f64, hits: f64) {
        let labels = [model, context_type];
        let (name, whole) = (Name::KvCacheQueries, Limit::Whole(0.0));
        // Both or none: a hit without its query would be a ratio above 1.
        if whole.admits(queries) && (!whole.admits(hits) || hits > queries) {
            let why =
                format_args!("hits of {model:?} are {hits}, which is not {whole} to {queries}");
            return self.drop_value(name, why);
        }
        if self.write_in(whole, name, &labels, queries, Series::add) {
            self.write(Name::KvCacheHits, &labels, hits, Series::add);
        }
    }

    /// A hit ratio, 0 to 1, that somebody else measured; on the page as long as no lookup of the
    /// model is counted here.
    pub fn cache_hit_ratio(&self, model: &str, ratio: f64) {
        let labels = [model, ""];
        self.write_in(Limit::UpTo(1.0), Name::KvCacheHitRatio, &labels, ratio, Series::set);
    }

    /// A model, or its cache, was evicted.
    pub fn cache_eviction(&self, model: &str, reason: &str) {
        self.write(Name::CacheEvictions, &[model, reason], 1.0, Series::add);
    }

    /// Records how much of a prompt of tokens began an earlier prompt.
    pub fn prompt_tokens_seen(&self, model: &str, tokens: &[impl Hash]) {
        self.prompt_seen(model, tokens, TOKENS_PER_BLOCK);
    }

    /// Records how much of a prompt's text began an earlier prompt.
    pub fn prompt_text_seen(&self, model: &str, text: &str) {
        self.prompt_seen(model, text.as_bytes(), BYTES_PER_BLOCK);
    }

    fn prompt_seen(&self, model: &str, prompt: &[impl Hash], block: usize) {
        if prompt.is_empty() {
            return;
        }
        let shares = self.reuse.lock().see(self.clock().now(), model, prompt, block);
        for ((window, _), share) in reuse::WINDOWS.iter().zip(shares) {
            self.write(Name::PromptReuse, &[model, window], share, Series::observe);
        }
    }

    /// A model load that took this long and made the model ready.
    pub fn model_loaded(&self, model: &str, device_type: &str, load_type: &str, seconds: f64) {
        let labels = [model, load_type, device_type];
        if self.write(Name::ModelLoading, &labels, seconds, Series::observe) {
            self.write(Name::ModelLoadingLast, &[model], seconds, Series::set);
            self.model_load_attempt(model, "success", load_type);
        }
    }

    /// One attempt to load a model, by its result.
    pub fn model_load_attempt(&self, model: &str, result: &str, load_type: &str) {
        let attempts = Name::ModelLoadAttempts;
        if self.write(attempts, &[model, result, load_type], 1.0, Series::add) {
            // So that the first failure is an increase.
            self.family(attempts).series(&[model, "failed", load_type]);
        }
    }

    /// A phase of the start took this long.
    pub fn startup_phase(&self, phase: &str, seconds: f64) {
        self.write(Name::Startup, &[phase], seconds, Series::observe);
    }

    /// One batch of this many sequences.
    pub fn batch(&self, model: &str, request_type: &str, sequences: f64) {
        let labels = [model, request_type];
        let limit = Limit::Whole(1.0);
        if self.write_in(limit, Name::BatchSize, &labels, sequences, Series::observe) {
            self.write(Name::Batches, &[model], 1.0, Series::add);
        }
    }

    /// A number of sequences or tokens, 0 if it is unknown; None if it is none, and dropped.
    fn count(&self, name: Name, model: &str, value: f64) -> Option<usize> {
        self.checked(name, model, value, Limit::Whole(0.0)).map(|count| count as usize)
    }

    /// Sets a gauge whose last labels say what is the case just now, and takes the series that say
    /// otherwise away: they are the case no more.
    fn set_alone(&self, limit: Limit, name: Name, values: &[&str; 3], value: f64) {
        if self.write_in(limit, name, values, value, Series::set) {
            let fixed = if name == Name::GpuMemoryPercentage { 2 } else { 1 };
            self.family(name).remove_where(|other| {
                let same = |range: std::ops::Range<usize>| {
                    range.into_iter().all(|index| *other[index] == *values[index])
                };
                same(0..fixed) && !same(fixed..3)
            });
        }
    }
}
