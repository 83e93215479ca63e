//! The profile `vllm`: the names, labels and buckets of vLLM's V1 engine, for its dashboards and
//! for the Gateway API Inference Extension.

use crate::llm::catalogue::{Name, Shape};
use crate::llm::derived::{DerivedRow, Label, Term};

const LABELS: &[&str] = &["model_name", "engine"];
/// There is one engine behind a model name.
const MODEL: &[Label] = &[Label::Of("model"), Label::Fixed("0")];
const CACHE: &[Label] = &[MODEL[0], MODEL[1], Label::Of("block_size"), Label::Of("blocks")];
const FINISH: &[Label] =
    &[Label::Of("model"), Label::Fixed("0"), Label::Said("finish_reason", finished_reason)];

const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const STEP: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
/// 1, 2, 5 in each decade. vLLM ends at the model's context length, which differs by model.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];

/// vLLM's word for how a request ended.
fn finished_reason(finish_reason: &str) -> &'static str {
    match finish_reason {
        "stop" => "stop",
        "length" => "length",
        "cancelled" => "abort",
        _ => "error",
    }
}

const fn row(
    name: &'static str,
    shape: Shape,
    terms: &'static [Term],
    help: &'static str,
) -> DerivedRow {
    DerivedRow { name, help, shape, labels: LABELS, terms }
}

pub(super) const ROWS: &[DerivedRow] = &[
    row(
        "vllm:num_requests_running",
        Shape::Gauge,
        &[Term::all(Name::ActiveRequests, MODEL), Term::all(Name::QueueDepth, MODEL).less()],
        "Requests that are active and not queued.",
    ),
    row(
        "vllm:num_requests_waiting",
        Shape::Gauge,
        &[Term::all(Name::QueueDepth, MODEL)],
        "Requests that are queued and not scheduled yet.",
    ),
    row(
        "vllm:kv_cache_usage_perc",
        Shape::Gauge,
        &[Term::all(Name::KvCacheUsage, MODEL)],
        "KV cells that hold a token over those that there are; 1 is all of them.",
    ),
    DerivedRow {
        name: "vllm:cache_config_info",
        help: "Always 1; the KV cache's blocks, and how many tokens one has room for.",
        shape: Shape::Gauge,
        labels: &["model_name", "engine", "block_size", "num_gpu_blocks"],
        terms: &[Term::all(Name::KvCacheInfo, CACHE)],
    },
    row(
        "vllm:num_preemptions",
        Shape::Counter,
        &[Term::all(Name::Preemptions, MODEL)],
        "Running requests that gave up their place and waited again.",
    ),
    row(
        "vllm:prompt_tokens",
        Shape::Counter,
        &[Term::all(Name::TokensGenerated, MODEL).only("token_type", "prompt")],
        "Tokens of finished prompts.",
    ),
    row(
        "vllm:generation_tokens",
        Shape::Counter,
        &[Term::all(Name::TokensGenerated, MODEL).only("token_type", "completion")],
        "Tokens of completions.",
    ),
    DerivedRow {
        name: "vllm:request_success",
        help: "Finished requests by stop, length, abort or error; a timeout is an error.",
        shape: Shape::Counter,
        labels: &["model_name", "engine", "finished_reason"],
        terms: &[Term::all(Name::Requests, FINISH)],
    },
    row(
        "vllm:prefix_cache_queries",
        Shape::Counter,
        &[Term::all(Name::KvCacheQueries, MODEL)],
        "Prompt tokens that were looked up in the KV cache.",
    ),
    row(
        "vllm:prefix_cache_hits",
        Shape::Counter,
        &[Term::all(Name::KvCacheHits, MODEL)],
        "Prompt tokens that were found in the KV cache.",
    ),
    row(
        "vllm:time_to_first_token_seconds",
        Shape::Histogram(TTFT),
        &[Term::all(Name::Ttft, MODEL)],
        "Time to first token, from queued to the first token.",
    ),
    row(
        "vllm:inter_token_latency_seconds",
        Shape::Histogram(INTER_TOKEN),
        &[Term::all(Name::InterToken, MODEL)],
        "Inter-token latency, from one token produced to the next.",
    ),
    row(
        "vllm:e2e_request_latency_seconds",
        Shape::Histogram(LATENCY),
        &[Term::all(Name::Latency, MODEL)],
        "Time of a request from queued to finished.",
    ),
    row(
        "vllm:request_queue_time_seconds",
        Shape::Histogram(LATENCY),
        &[Term::all(Name::QueueWait, MODEL)],
        "Time in the queue, from queued to scheduled.",
    ),
    row(
        "vllm:request_prefill_time_seconds",
        Shape::Histogram(LATENCY),
        &[Term::all(Name::Prefill, MODEL)],
        "Prefill of a request that was queued, from scheduled to the first token.",
    ),
    row(
        "vllm:request_decode_time_seconds",
        Shape::Histogram(LATENCY),
        &[Term::all(Name::Decode, MODEL)],
        "Decode of a request that was queued, from the first token to finished.",
    ),
    row(
        "vllm:request_inference_time_seconds",
        Shape::Histogram(LATENCY),
        &[Term::all(Name::Inference, MODEL)],
        "Prefill and decode of a request that was queued, from scheduled to finished.",
    ),
    row(
        "vllm:iteration_tokens_total",
        Shape::Histogram(STEP),
        &[Term::all(Name::BatchTokens, MODEL)],
        "Tokens in one step of the engine, of prompts and of answers.",
    ),
    row(
        "vllm:request_prompt_tokens",
        Shape::Histogram(TOKENS),
        &[Term::all(Name::PromptTokensPerRequest, MODEL)],
        "Prompt tokens of a request whose prompt was finished.",
    ),
    row(
        "vllm:request_generation_tokens",
        Shape::Histogram(TOKENS),
        &[Term::all(Name::TokensPerRequest, MODEL)],
        "Completion tokens of a successful request.",
    ),
];
