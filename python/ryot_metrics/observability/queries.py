"""Queries to start from: those of the Ryot metric design and the module's documentation, corrected.

Copy them into Prometheus or Grafana; `ryot-metrics queries` prints them. This module must not know
rules: every query reads families alone, so that it runs where no rule is loaded.
"""

from __future__ import annotations

from typing import NamedTuple

from ryot_metrics.observability.promql import (
    INTER_TOKEN,
    LATENCY,
    REQUESTS,
    TOKENS,
    TTFT,
    failed_ratio,
    mean,
    quantile,
    rate,
)

ERRORS = "ryot_inference_errors_total"
COST = "ryot_token_cost_estimate_usd_total"
GPU_MEMORY = "ryot_gpu_memory_percentage"
COLD = 'load_type="cold_start"'


class Query(NamedTuple):
    """A query: where it belongs, what it answers, and its PromQL."""

    section: str
    title: str
    expr: str


def _day(name: str, by: str) -> str:
    return rate(name, by, "24h", function="increase")


QUERIES = tuple(
    Query(section, title, expr)
    for section, rows in {
        "SLO monitoring": (
            ("p95 latency (target: < 500 ms)", quantile(0.95, LATENCY)),
            ("p99 latency (target: < 2.5 s)", quantile(0.99, LATENCY)),
            ("Success rate in percent (target: > 99.9)", f"(1 - {failed_ratio()}) * 100"),
            ("Errors per second by model and type", rate(ERRORS, "model, error_type")),
        ),
        "Capacity and resources": (
            ("Tokens per second by model", rate(TOKENS, "model, token_type")),
            ("GPU memory in percent", f"avg by (model, device_id) ({GPU_MEMORY})"),
            ("Batch sizes in use", rate("ryot_batch_size_distribution_bucket", "le")),
            ("Growth of the queue per second", "sum by (model) (deriv(ryot_queue_depth[5m]))"),
        ),
        "Performance": (
            ("p95 TTFT", quantile(0.95, TTFT)),
            ("p95 time from token to token", quantile(0.95, INTER_TOKEN)),
            (
                "Cold model loads in an hour, by time",
                rate("ryot_model_loading_time_seconds_bucket", "model, le", "1h", COLD, "increase"),
            ),
            (
                "KV cache hit ratio",
                f"{rate('ryot_kv_cache_hits_total', 'context_type')} / "
                f"{rate('ryot_kv_cache_queries_total', 'context_type')}",
            ),
        ),
        "Cost": (
            ("Dollars in 24 hours by type of token", _day(COST, "token_type")),
            ("Dollars in 24 hours by model", _day(COST, "model")),
            ("Dollars per request", f"{_day(COST, 'model')} / {_day(REQUESTS, 'model')}"),
        ),
        "Debugging": (
            ("Models with more than 1% errors", f"{rate(ERRORS)} / {rate(REQUESTS)} > 0.01"),
            ("Models with a p95 latency above 2.5 s", f"{quantile(0.95, LATENCY)} > 2.5"),
            ("The fullest GPUs", f"topk(5, {GPU_MEMORY})"),
            ("Mean batch size", mean("ryot_batch_size_distribution")),
        ),
        "By the names of the module's documentation": (
            ("Slowest models", quantile(0.95, "ryot_inference_request_duration_seconds")),
            ("Tokens per second", rate(TOKENS, "model", "1m")),
            ("Median TTFT", quantile(0.5, "ryot_inference_ttft_seconds")),
            ("Used share of reserved GPU memory", "ryot_memory_efficiency_ratio"),
        ),
    }.items()
    for title, expr in rows
)


def text() -> str:
    """The queries under their titles, as PromQL with comments."""
    lines = []
    section = ""
    for query in QUERIES:
        if query.section != section:
            section = query.section
            lines += [f"## {section}", ""]
        lines += [f"# {query.title}", query.expr, ""]
    return "\n".join(lines)
