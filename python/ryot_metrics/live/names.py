"""The names under which pages have what is shown of a service: ours, and those of vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Names:
    """The names under which a profile's page has what `Figures` shows; empty for what it lacks."""

    ttft: str
    inter_token: str
    latency: str
    queue_wait: str
    requests: str
    status: str
    """The label of `requests` that says how one ended."""
    tokens: str
    token_labels: Mapping[str, str]
    active: str
    queue_depth: str
    batch_size: str
    kv_cache_bytes: str
    kv_cache_usage: str
    kv_cache_queries: str
    kv_cache_hits: str


RYOT = Names(
    ttft="ryot_ttft_latency_seconds",
    inter_token="ryot_inference_inter_token_latency_seconds",
    latency="ryot_inference_latency_seconds",
    queue_wait="ryot_inference_queue_wait_seconds",
    requests="ryot_inference_requests_total",
    status="status",
    tokens="ryot_tokens_generated_total",
    token_labels={"token_type": "completion"},
    active="ryot_active_inference_requests",
    queue_depth="ryot_queue_depth",
    batch_size="ryot_batch_size_distribution",
    kv_cache_bytes="ryot_kv_cache_size_bytes",
    kv_cache_usage="",
    kv_cache_queries="ryot_kv_cache_queries_total",
    kv_cache_hits="ryot_kv_cache_hits_total",
)
VLLM = Names(
    ttft="vllm:time_to_first_token_seconds",
    inter_token="vllm:inter_token_latency_seconds",
    latency="vllm:e2e_request_latency_seconds",
    queue_wait="vllm:request_queue_time_seconds",
    requests="vllm:request_success_total",
    status="finished_reason",
    tokens="vllm:generation_tokens_total",
    token_labels={},
    active="vllm:num_requests_running",
    queue_depth="vllm:num_requests_waiting",
    batch_size="",
    kv_cache_bytes="",
    kv_cache_usage="vllm:kv_cache_usage_perc",
    kv_cache_queries="vllm:prefix_cache_queries_total",
    kv_cache_hits="vllm:prefix_cache_hits_total",
)
