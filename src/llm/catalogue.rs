//! The catalogue: every family once, as one row of one table. The stored families, the
//! documentation's table and the tests that look names up all come from these rows.
//!
//! A new family is a row here and an arm of the recorder. The names follow the Ryot metric
//! design; where it names one measurement twice, the row with more labels is stored and the other
//! name is a [view](super::view).

use crate::metrics::Kind;

/// What is stored for a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A sum.
    Counter,
    /// A value.
    Gauge,
    /// A value that is computed when a page is written.
    Computed,
    /// A sum that OpenMetrics lets nobody call a counter: without `_total`, its name is that of a
    /// histogram.
    Untyped,
    /// Observations, with the upper bounds of their buckets (without `+Inf`).
    Histogram(&'static [f64]),
    /// Facts as labels.
    Info,
}

impl Shape {
    /// The type of such a family.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Counter => Kind::Counter,
            Self::Gauge | Self::Computed => Kind::Gauge,
            Self::Untyped => Kind::Unknown,
            Self::Histogram(_) => Kind::Histogram,
            Self::Info => Kind::Info,
        }
    }
}

/// A row of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The family's name, without the suffix of its type.
    pub name: &'static str,
    /// What it measures; for an interval, the two events that bound it.
    pub help: &'static str,
    /// What is stored.
    pub shape: Shape,
    /// The labels.
    pub labels: &'static [&'static str],
    /// Labels that are stored behind them for the pages of other profiles; the family's own page
    /// shows the sums over them.
    pub unshown: &'static [&'static str],
}

macro_rules! catalogue {
    ($(#[$about:meta])* $names:ident, $table:ident; $(
        $id:ident: $name:literal, $shape:expr,
        [$($label:literal),*] $(+ [$($unshown:literal),*])?, $help:literal;
    )*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $names {
            $(#[doc = concat!("`", $name, "`")] $id,)*
        }

        /// All rows, in the order in which they stand on the page.
        pub const $table: &[Row] = &[
            $(Row {
                name: $name,
                help: $help,
                shape: $shape,
                labels: &[$($label),*],
                unshown: &[$($($unshown),*)?],
            },)*
        ];

        impl $names {
            #[doc = concat!("All names, in the order of [`", stringify!($table), "`].")]
            pub const ALL: &[Self] = &[$(Self::$id,)*];

            /// The row of this family.
            pub const fn row(self) -> &'static Row {
                &$table[self as usize]
            }
        }
    };
}

const LATENCY: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const TTFT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const INTER_TOKEN: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];
const QUEUE_WAIT: &[f64] = &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0];
/// The ends of the classes of prompts among them.
const PROMPT_TOKENS: &[f64] = &[10.0, 50.0, 100.0, 500.0, 1e3, 2e3, 5e3, 1e4, 5e4, 1e5];
const TOKENS: &[f64] = &[1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0];
const RATE: &[f64] = &[10.0, 25.0, 50.0, 100.0, 150.0, 250.0, 400.0, 600.0];
const SHARE: &[f64] = &[0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0];
const STARTUP: &[f64] = &[1.0, 5.0, 10.0, 30.0, 60.0];
const LOADING: &[f64] = &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];
/// The upper ends of the batch size classes 1, 2-4, 5-8, 9-16, 17-32, 33+.
const BATCH_SIZE: &[f64] = &[1.0, 4.0, 8.0, 16.0, 32.0];
const BATCH_TOKENS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0];
/// Those of vLLM-Omni for stages: `SECONDS`, for what takes as long as a model, and `FAST`.
const STAGE: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
const STAGE_FAST: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Those of vLLM-Omni for transfers: from 1 KiB to 256 MiB, each four times the one before.
const TRANSFER_BYTES: &[f64] = &[
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

catalogue! {
    /// The families, by a name that the compiler checks.
    Name, CATALOGUE;
    Requests: "ryot_inference_requests", Shape::Counter,
        ["model", "status", "endpoint", "error_type"] + ["finish_reason"],
        "Requests by how they ended.";
    Errors: "ryot_inference_errors", Shape::Counter,
        ["model", "error_type", "severity"],
        "Errors by type; a timeout counts as one.";
    Retries: "ryot_inference_retries", Shape::Counter,
        ["model"],
        "Requests that were tried again.";
    Latency: "ryot_inference_latency_seconds", Shape::Histogram(LATENCY),
        ["model", "batch_size", "generation_mode"] + ["error_type"],
        "Time of a request from queued to finished.";
    Ttft: "ryot_ttft_latency_seconds", Shape::Histogram(TTFT),
        ["model", "prompt_size", "device"],
        "Time to first token, from queued to the first token.";
    InterToken: "ryot_inference_inter_token_latency_seconds", Shape::Histogram(INTER_TOKEN),
        ["model"],
        "Inter-token latency, from one token produced to the next.";
    QueueWait: "ryot_inference_queue_wait_seconds", Shape::Histogram(QUEUE_WAIT),
        ["model"],
        "Time in the queue, from queued to scheduled.";
    Prefill: "ryot_request_prefill_seconds", Shape::Histogram(TTFT),
        ["model"],
        "Prefill of a request that was queued, from scheduled to the first token.";
    Decode: "ryot_request_decode_seconds", Shape::Histogram(LATENCY),
        ["model"],
        "Decode of a request that was queued, from the first token to finished.";
    Inference: "ryot_request_inference_seconds", Shape::Histogram(LATENCY),
        ["model"],
        "Prefill and decode of a request that was queued, from scheduled to finished.";
    ModelLoading: "ryot_model_loading_time_seconds", Shape::Histogram(LOADING),
        ["model", "load_type", "device_type"],
        "Time of a model load, from its start to the model being ready.";
    ModelLoadingLast: "ryot_model_loading_duration_seconds", Shape::Gauge,
        ["model"],
        "Time of the last model load.";
    ModelLoadAttempts: "ryot_model_load_attempts", Shape::Counter,
        ["model", "result", "load_type"],
        "Model loads by result.";
    Startup: "ryot_initialization_startup_time_seconds", Shape::Histogram(STARTUP),
        ["startup_phase"],
        "Time of a phase of the start; for ready, from the start to the service being ready.";
    TokensGenerated: "ryot_tokens_generated", Shape::Counter,
        ["model", "token_type", "generation_mode"],
        "Tokens of finished prompts and of completions.";
    TokensPerRequest: "ryot_tokens_per_request", Shape::Histogram(TOKENS),
        ["model"],
        "Completion tokens of a successful request.";
    PromptTokensPerRequest: "ryot_prompt_tokens_per_request", Shape::Histogram(PROMPT_TOKENS),
        ["model"],
        "Prompt tokens of a request whose prompt was finished.";
    RequestTokensPerSecond: "ryot_request_tokens_per_second", Shape::Histogram(RATE),
        ["model"],
        "Completion tokens of a successful request over its latency.";
    TokensPerSecond: "ryot_tokens_per_second", Shape::Computed,
        ["model", "time_window", "batch_size"],
        "Completion tokens per second over rolling windows; by default 1, 5 and 15 minutes.";
    TokensPerMinute: "ryot_average_tokens_per_minute", Shape::Computed,
        ["model"],
        "Completion tokens per minute over the last 5 minutes.";
    TokenEfficiency: "ryot_token_efficiency_ratio", Shape::Computed,
        ["model", "batch_size", "dtype"],
        "Completion tokens per second over 1 minute, per percent of GPU memory in use.";
    TokenCost: "ryot_token_cost_estimate_usd", Shape::Counter,
        ["model", "token_type", "cost_model"],
        "Estimated cost of tokens in US dollars.";
    GpuMemory: "ryot_gpu_memory_usage_bytes", Shape::Gauge,
        ["model", "memory_type", "device_id"],
        "GPU memory by what it holds; used is all that is in use, peak the most so far.";
    GpuMemoryReserved: "ryot_gpu_memory_reserved_bytes", Shape::Gauge,
        ["model", "device_id"],
        "GPU memory that is reserved: by the service's allocator, or by the driver for itself.";
    GpuMemoryTotal: "ryot_gpu_memory_total_bytes", Shape::Gauge,
        ["model", "device_id"],
        "GPU memory that there is.";
    GpuMemoryPercentage: "ryot_gpu_memory_percentage", Shape::Gauge,
        ["model", "device_id", "batch_size"],
        "GPU memory in use, 0 to 100.";
    GpuUtilization: "ryot_gpu_utilization_percent", Shape::Gauge,
        ["model", "device_id", "kernel_type"],
        "Time in which the GPU computed, 0 to 100.";
    GpuPower: "ryot_gpu_power_watts", Shape::Gauge,
        ["model", "device_id"],
        "Power that the GPU draws.";
    GpuTemperature: "ryot_gpu_temperature_celsius", Shape::Gauge,
        ["model", "device_id"],
        "Temperature of the GPU's chip.";
    MemoryEfficiency: "ryot_memory_efficiency_ratio", Shape::Computed,
        ["model", "device_id"],
        "GPU memory in use over GPU memory reserved.";
    KvCacheSize: "ryot_kv_cache_size_bytes", Shape::Gauge,
        ["model", "context_length", "batch_size"],
        "KV cache that holds tokens.";
    KvCacheUsage: "ryot_kv_cache_usage_ratio", Shape::Gauge,
        ["model"],
        "KV cells that hold a token over those that there are, 0 to 1.";
    KvCacheInfo: "ryot_kv_cache_info", Shape::Gauge,
        ["model", "block_size", "blocks"],
        "Always 1; the KV cache's blocks, and how many tokens one has room for.";
    KvCacheQueries: "ryot_kv_cache_queries", Shape::Counter,
        ["model", "context_type"],
        "Prompt tokens that were looked up in the KV cache.";
    KvCacheHits: "ryot_kv_cache_hits", Shape::Counter,
        ["model", "context_type"],
        "Prompt tokens that were found in the KV cache.";
    KvCacheHitRatio: "ryot_kv_cache_hit_ratio", Shape::Computed,
        ["model", "context_type"],
        "Prompt tokens found in the KV cache over those looked up, since the start.";
    PromptReuse: "ryot_prompt_cache_effectiveness", Shape::Histogram(SHARE),
        ["model", "context_reuse_window"],
        "Share of a prompt that began a prompt within the last 1h, 24h, 7d too.";
    CacheEvictions: "ryot_model_cache_evictions", Shape::Counter,
        ["model", "eviction_reason"],
        "Models or their caches that were evicted.";
    ActiveRequests: "ryot_active_inference_requests", Shape::Gauge,
        ["model", "request_type", "endpoint"],
        "Requests between queued and finished.";
    QueueDepth: "ryot_queue_depth", Shape::Gauge,
        ["model", "priority_level"],
        "Requests that are queued and not scheduled yet.";
    BatchSize: "ryot_batch_size_distribution", Shape::Histogram(BATCH_SIZE),
        ["model", "request_type"],
        "Sequences in one batch, in the classes 1, 2-4, 5-8, 9-16, 17-32, 33+.";
    Batches: "ryot_batches_processed", Shape::Counter,
        ["model"],
        "Batches computed.";
    BatchTokens: "ryot_engine_batch_tokens", Shape::Histogram(BATCH_TOKENS),
        ["model"],
        "Tokens in one step of the engine, of prompts and of answers.";
    BatchTokensLast: "ryot_engine_batch_tokens_last", Shape::Gauge,
        ["model"],
        "Tokens in the last step of the engine.";
    EngineDecodeTotal: "ryot_engine_decode_seconds_total", Shape::Untyped,
        ["model"],
        "Time of steps that is attributed to decode tokens, by their share of a step's tokens.";
    EngineDecode: "ryot_engine_decode_seconds", Shape::Histogram(INTER_TOKEN),
        ["model"],
        "Time of a step with decode tokens that is attributed to them.";
    EngineDecodeLast: "ryot_engine_decode_seconds_last", Shape::Gauge,
        ["model"],
        "Time that was attributed to decode tokens in the last step that had any.";
    EngineDecodeEwma: "ryot_engine_decode_seconds_ewma", Shape::Gauge,
        ["model"],
        "Moving mean of the time attributed to decode tokens; the last step weighs 0.2.";
    EngineDecodeMin: "ryot_engine_decode_seconds_min", Shape::Gauge,
        ["model"],
        "Least time attributed to the decode tokens of a step so far.";
    EngineDecodeMax: "ryot_engine_decode_seconds_max", Shape::Gauge,
        ["model"],
        "Most time attributed to the decode tokens of a step so far.";
    EngineDecodeCalls: "ryot_engine_decode_calls", Shape::Counter,
        ["model"],
        "Steps that had decode tokens.";
    EngineDecodeTokens: "ryot_engine_decode_tokens", Shape::Counter,
        ["model"],
        "Tokens of running answers that were computed; an answer's first token follows its prompt.";
    EnginePrefill: "ryot_engine_prefill_seconds", Shape::Counter,
        ["model"],
        "Time of steps that is attributed to prompt tokens: what decode tokens leave.";
    EnginePrefillTokens: "ryot_engine_prefill_tokens", Shape::Counter,
        ["model"],
        "Prompt tokens that were computed.";
    EnginePrefillSkipped: "ryot_engine_prefill_skipped", Shape::Counter,
        ["model", "reason"],
        "Steps in which prompts waited and none of their tokens was let in.";
    EngineInterrupted: "ryot_engine_interrupted_seconds", Shape::Counter,
        ["model"],
        "Time of steps that were given up for a request or a cancellation that came.";
    EngineTokens: "ryot_engine_generated_tokens", Shape::Counter,
        ["model"],
        "Tokens of answers that the engine gave.";
    EngineBudget: "ryot_engine_budget_tokens", Shape::Gauge,
        ["model", "kind"],
        "Tokens that the last step was allowed, and those that it had.";
    EngineActive: "ryot_engine_active_sessions", Shape::Gauge,
        ["model"],
        "Requests that the engine holds, waiting or running.";
    EngineSlots: "ryot_engine_slots", Shape::Gauge,
        ["model"],
        "Requests that the engine can run at once.";
    EngineQueued: "ryot_engine_queued_sessions", Shape::Gauge,
        ["model", "class"],
        "Requests that wait for a place, parked ones included.";
    SloViolations: "ryot_engine_slo_violations", Shape::Counter,
        ["model", "slo", "class"],
        "Tokens that came later than their request was promised.";
    Preemptions: "ryot_engine_preemptions", Shape::Counter,
        ["model"],
        "Running requests that gave up their place and waited again.";
    PrefixQueries: "ryot_engine_prefix_cache_queries", Shape::Counter,
        ["model"],
        "Prompt tokens that the engine looked up in its prefix cache.";
    PrefixHits: "ryot_engine_prefix_cache_hits", Shape::Counter,
        ["model"],
        "Prompt tokens that the engine found in its prefix cache.";
    PrefixEvictions: "ryot_engine_prefix_cache_evictions", Shape::Counter,
        ["model"],
        "Entries that left the engine's prefix cache for good.";
    PrefixResident: "ryot_engine_prefix_cache_resident_bytes", Shape::Gauge,
        ["model", "location"],
        "Prefixes that no request uses: in the KV cache (device), as snapshots (host).";
    EngineBytesMoved: "ryot_engine_bytes_moved", Shape::Counter,
        ["model"],
        "Estimate of the memory traffic: the weights once a step, KV cells read and written.";
    EngineBytesPerToken: "ryot_engine_bytes_moved_per_token", Shape::Computed,
        ["model"],
        "Estimate of the memory traffic over the tokens computed, since the start.";
    EngineLogitsReads: "ryot_engine_logits_reads", Shape::Counter,
        ["model", "path"],
        "Rows of logits that were read: where the backend left them (zero_copy), or copied.";
    EngineIdle: "ryot_engine_idle_seconds", Shape::Counter,
        ["model"],
        "Time in which the engine held a request and computed no step.";
    EngineIdleRatio: "ryot_engine_idle_ratio", Shape::Computed,
        ["model"],
        "Time in which the engine held a request and computed no step, over all since its start.";
    PipelineRequests: "ryot_pipeline_requests", Shape::Counter,
        ["model", "outcome"],
        "Requests of a pipeline by how they ended: completed, or the reason of their failure.";
    PipelineActive: "ryot_pipeline_active_requests", Shape::Gauge,
        ["model"],
        "Requests of a pipeline between started and finished.";
    PipelineLatency: "ryot_pipeline_request_latency_seconds", Shape::Histogram(STAGE),
        ["model"],
        "Time of a request that completed, from started to finished.";
    PipelineTokens: "ryot_pipeline_tokens", Shape::Counter,
        ["model"],
        "Tokens of requests that completed: into the first stage, and out of every stage.";
    PipelineStageActive: "ryot_pipeline_stage_active_requests", Shape::Gauge,
        ["model", "stage"],
        "Requests that a stage works on, between its start and its end.";
    PipelineStage: "ryot_pipeline_stage_seconds", Shape::Histogram(STAGE),
        ["model", "stage"],
        "Time of a request in a stage, from its start to its end, preprocessing included.";
    PipelinePreprocess: "ryot_pipeline_stage_preprocess_seconds", Shape::Histogram(STAGE_FAST),
        ["model", "stage"],
        "Time of a request in a stage that was preprocessing.";
    PipelineStageTokens: "ryot_pipeline_stage_tokens", Shape::Counter,
        ["model", "stage", "token_type"],
        "Tokens into a stage (prompt) and out of it (completion).";
    PipelineBatchSize: "ryot_pipeline_stage_batch_size", Shape::Histogram(BATCH_SIZE),
        ["model", "stage"],
        "Requests in the batch in which a stage worked on a request.";
    PipelineTransferSize: "ryot_pipeline_transfer_size_bytes", Shape::Histogram(TRANSFER_BYTES),
        ["model", "from_stage", "to_stage"],
        "What a request had transferred from one stage to another.";
    PipelineTransferTx: "ryot_pipeline_transfer_tx_seconds", Shape::Histogram(STAGE_FAST),
        ["model", "from_stage", "to_stage"],
        "Time of sending what a request had transferred.";
    PipelineTransferRx: "ryot_pipeline_transfer_rx_decode_seconds", Shape::Histogram(STAGE_FAST),
        ["model", "from_stage", "to_stage"],
        "Time of decoding what a request had transferred.";
    PipelineTransferInFlight: "ryot_pipeline_transfer_in_flight_seconds",
        Shape::Histogram(STAGE_FAST),
        ["model", "from_stage", "to_stage"],
        "Time of what a request had transferred between sending and decoding.";
    SystemInfo: "ryot_system", Shape::Info, [],
        "Facts about the system.";
    ModelInfo: "ryot_model", Shape::Info, [],
        "Facts about the models.";
    Dropped: "ryot_metrics_dropped", Shape::Counter,
        ["reason"],
        "Samples that could not be recorded as asked.";
    ScrapeSeconds: "ryot_metrics_scrape_seconds", Shape::Computed, [],
        "Time that the last page took to write.";
    SeriesCount: "ryot_metrics_series", Shape::Computed, [],
        "Series of the catalogue's stored families.";
    UnsharedCount: "ryot_metrics_unshared_series", Shape::Computed, [],
        "Series that worker processes count alone, because what they share has no room for them.";
}

catalogue! {
    /// The families of a fleet of workers, which an aggregator fills and not a recorder.
    FleetName, FLEET;
    KvBlocksActive: "llm_kv_blocks_active", Shape::Computed,
        ["component", "endpoint", "worker_id"],
        "Active KV cache blocks.";
    KvBlocksTotal: "llm_kv_blocks_total", Shape::Computed,
        ["component", "endpoint", "worker_id"],
        "Total KV cache blocks.";
    ActiveSlots: "llm_requests_active_slots", Shape::Computed,
        ["component", "endpoint", "worker_id"],
        "Requests that the worker runs.";
    TotalSlots: "llm_requests_total_slots", Shape::Computed,
        ["component", "endpoint", "worker_id"],
        "Requests that the worker could run at once.";
    HitRate: "llm_kv_hit_rate_percent", Shape::Computed,
        ["component", "endpoint", "worker_id"],
        "Prompt blocks found in the KV cache over those looked up, 0 to 100.";
    HitRateIsl: "llm_kv_hit_rate_isl_blocks", Shape::Untyped,
        ["component", "endpoint", "worker_id"],
        "Prompt blocks that were looked up in the KV cache.";
    HitRateOverlap: "llm_kv_hit_rate_overlap_blocks", Shape::Untyped,
        ["component", "endpoint", "worker_id"],
        "Prompt blocks that were found in the KV cache.";
    LoadAvg: "llm_load_avg", Shape::Computed,
        ["component", "endpoint"],
        "Active KV cache blocks of a worker, on average.";
    LoadStd: "llm_load_std", Shape::Computed,
        ["component", "endpoint"],
        "Population standard deviation of the workers' active KV cache blocks.";
    Workers: "ryot_fleet_workers", Shape::Computed,
        ["source", "state"],
        "Workers that an aggregator reads: those that answer (up) and those that do not (down).";
    Failures: "ryot_fleet_failures", Shape::Counter,
        ["source", "reason"],
        "Answers of workers that an aggregator could not use.";
}

impl FleetName {
    /// The families that have a series for each worker.
    pub const BOARD: &[Self] = Self::ALL.split_at(7).0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Desc;

    #[test]
    fn every_row_describes_a_valid_family() {
        for row in CATALOGUE.iter().chain(FLEET) {
            let desc = Desc::new(row.shape.kind(), row.name, row.help, row.labels).unwrap();
            assert_eq!(&*desc.name, row.name, "the name carries no suffix of its type");
            if let Shape::Histogram(bounds) = row.shape {
                desc.with_bounds(bounds).unwrap();
            }
            assert!(row.help.ends_with('.'), "{}", row.name);
        }
    }

    #[test]
    fn a_name_finds_its_row() {
        assert_eq!(Name::Dropped.row().name, "ryot_metrics_dropped");
        assert_eq!(Name::ALL.len(), CATALOGUE.len());
        assert_eq!(FleetName::LoadStd.row().name, "llm_load_std");
    }
}
