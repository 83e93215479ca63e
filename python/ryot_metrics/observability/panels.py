"""What the dashboards show: sections of panels, each a family of the catalogue and a way to see it.

A family that the catalogue does not have is left out. This module must not know Grafana's JSON.
"""

from __future__ import annotations

from typing import NamedTuple

from ryot_metrics import catalogue
from ryot_metrics.observability.promql import INTER_TOKEN, LATENCY, REQUESTS, TOKENS, TTFT


class Panel(NamedTuple):
    """A panel.

    Attributes:
        family: The family of the catalogue.
        view: One of `VIEWS` of the module `dashboard`: how it becomes PromQL and a chart.
        by: The labels that make a line each.
        title: Its title.
    """

    family: str
    view: str
    by: str
    title: str


class Plain(NamedTuple):
    """A panel of plain PromQL, for families that the catalogue does not have."""

    title: str
    expr: str
    legend: str
    unit: str


Section = tuple[str, "tuple[Panel | Plain, ...]"]

QUEUE_WAIT = "ryot_inference_queue_wait_seconds"
ACTIVE = "ryot_active_inference_requests"
BATCH = "ryot_batch_size_distribution"
QUEUE = "ryot_queue_depth"

SERVICE: tuple[Section, ...] = (
    (
        "Now",
        (
            Panel(REQUESTS, "rate_now", "", "Requests per second"),
            Panel(REQUESTS, "failed_now", "", "Failed requests"),
            Panel(TTFT, "p95_now", "", "p95 TTFT"),
            Panel(INTER_TOKEN, "p95_now", "", "p95 inter-token latency"),
            Panel(TOKENS, "rate_now", "", "Tokens per second"),
            Panel(ACTIVE, "sum_now", "", "Active requests"),
        ),
    ),
    (
        "Latency",
        (
            Panel(TTFT, "quantiles", "model", "TTFT"),
            Panel(TTFT, "heatmap", "", "TTFT, distribution"),
            Panel(INTER_TOKEN, "quantiles", "model", "Inter-token latency"),
            Panel(INTER_TOKEN, "heatmap", "", "Inter-token latency, distribution"),
            Panel(LATENCY, "quantiles", "model", "Latency"),
            Panel(LATENCY, "heatmap", "", "Latency, distribution"),
        ),
    ),
    (
        "Traffic",
        (
            Panel(REQUESTS, "rate", "model, status", "Requests per second by status"),
            Panel("ryot_inference_errors_total", "rate", "model, error_type", "Errors by type"),
            Panel("ryot_inference_retries_total", "rate", "model", "Retries per second"),
            Panel(TOKENS, "rate", "model, token_type", "Tokens per second"),
            Panel("ryot_tokens_per_request", "quantiles", "model", "Tokens per request"),
            Panel("ryot_request_tokens_per_second", "quantiles", "model", "Speed of a request"),
        ),
    ),
    (
        "Queue and batches",
        (
            Panel(ACTIVE, "sum", "model, request_type", "Active requests"),
            Panel(QUEUE, "sum", "model, priority_level", "Queue depth"),
            Panel(QUEUE_WAIT, "quantiles", "model", "Queue wait"),
            Panel(BATCH, "heatmap", "", "Batch sizes"),
        ),
    ),
    (
        "Memory and GPU",
        (
            Panel("ryot_kv_cache_size_bytes", "sum", "model", "KV cache"),
            Panel("ryot_kv_cache_hit_ratio", "avg", "model, context_type", "KV cache hit ratio"),
            Panel("ryot_gpu_memory_usage_bytes", "sum", "device_id, memory_type", "GPU memory"),
            Panel("ryot_gpu_memory_percentage", "max", "instance, device_id", "GPU memory used"),
            Panel("ryot_gpu_utilization_percent", "max", "instance, device_id", "GPU utilisation"),
            Panel("ryot_memory_efficiency_ratio", "min", "instance, device_id", "Used of reserved"),
        ),
    ),
    (
        "Cost and models",
        (
            Panel("ryot_token_cost_estimate_usd_total", "hourly", "model", "Cost per hour"),
            Panel("ryot_model_load_attempts_total", "increase", "model, result", "Model loads"),
            Panel("ryot_model_loading_time_seconds", "quantiles", "model", "Time of a load"),
            Panel(
                "ryot_model_cache_evictions_total",
                "increase",
                "model, eviction_reason",
                "Evictions",
            ),
            Panel("ryot_metrics_dropped_total", "increase", "reason", "Dropped samples"),
        ),
    ),
)

QUEUED = "ryot_engine_queued_sessions"
SLO_VIOLATIONS = "ryot_engine_slo_violations_total"
PREFIX_HITS = "ryot_engine_prefix_cache_hits_total"

_ENGINE: tuple[Section, ...] = (
    (
        "Scheduling",
        (
            Panel(BATCH, "mean", "model", "Mean batch size"),
            Panel(BATCH, "heatmap", "", "Batch sizes"),
            Panel("ryot_batches_processed_total", "rate", "model", "Steps per second"),
            Panel(TOKENS, "rate", "model, token_type", "Tokens per second"),
            Panel("ryot_engine_budget_tokens", "avg", "model, kind", "Tokens a step: budget, used"),
            Panel(ACTIVE, "sum", "model", "Active requests"),
        ),
    ),
    (
        "Queue",
        (
            Panel(QUEUED, "sum", "model, class", "Waiting by class"),
            Panel(QUEUE_WAIT, "quantiles", "model", "Queue wait"),
            Panel("ryot_engine_preemptions_total", "rate", "model", "Preemptions per second"),
            Panel(QUEUE, "sum", "model, priority_level", "Queue depth"),
        ),
    ),
    (
        "Promises",
        (
            Panel(SLO_VIOLATIONS, "rate", "model, slo, class", "Late tokens per second"),
            Panel(SLO_VIOLATIONS, "increase", "slo", "Late tokens"),
            Panel(TTFT, "quantiles", "model", "TTFT"),
            Panel(INTER_TOKEN, "quantiles", "model", "Inter-token latency"),
        ),
    ),
    (
        "Prefix cache",
        (
            Panel(PREFIX_HITS, "hit_ratio", "model", "Prompt tokens found"),
            Panel(PREFIX_HITS, "rate", "model", "Prompt tokens spared per second"),
            Panel(
                "ryot_engine_prefix_cache_resident_bytes", "sum", "model, location", "Kept prefixes"
            ),
            Panel("ryot_engine_prefix_cache_evictions_total", "rate", "model", "Evictions"),
        ),
    ),
)
_BY_TYPE = {"counter": "rate", "histogram": "quantiles", "gauge": "avg"}
ENGINE_PREFIX = "ryot_engine_"


def engine() -> tuple[Section, ...]:
    """The engine's sections, and a panel for each family of its own that they leave out."""
    shown = {panel.family for _, panels in _ENGINE for panel in panels if isinstance(panel, Panel)}
    own = tuple(
        Panel(family.name, _BY_TYPE[family.type], ", ".join(family.labels), _title(family.name))
        for family in catalogue.families()
        if family.name.startswith(ENGINE_PREFIX)
        and family.type in _BY_TYPE
        and family.name not in shown
    )
    return (*_ENGINE, ("Engine", own))


def _title(name: str) -> str:
    words = name.removeprefix(ENGINE_PREFIX).removesuffix("_total").split("_")
    return " ".join(words).capitalize()


_LEG = "from_stage, to_stage"
STAGES: tuple[Section, ...] = (
    (
        "Requests",
        (
            Panel("ryot_pipeline_requests_total", "rate", "model, outcome", "Requests per second"),
            Panel("ryot_pipeline_active_requests", "sum", "model", "Active requests"),
            Panel("ryot_pipeline_request_latency_seconds", "quantiles", "model", "Whole request"),
            Panel("ryot_pipeline_tokens_total", "rate", "model", "Tokens per second"),
        ),
    ),
    (
        "Stages",
        (
            Panel("ryot_pipeline_stage_seconds", "quantiles", "stage", "Time in a stage"),
            Panel("ryot_pipeline_stage_active_requests", "sum", "stage", "Requests in a stage"),
            Panel("ryot_pipeline_stage_tokens_total", "rate", "stage, token_type", "Tokens/s"),
            Panel("ryot_pipeline_stage_preprocess_seconds", "quantiles", "stage", "Preprocessing"),
            Panel("ryot_pipeline_stage_batch_size", "mean", "stage", "Mean batch size"),
        ),
    ),
    (
        "Transfers",
        (
            Panel("ryot_pipeline_transfer_size_bytes", "quantiles", _LEG, "Size"),
            Panel("ryot_pipeline_transfer_tx_seconds", "quantiles", _LEG, "Sending"),
            Panel("ryot_pipeline_transfer_in_flight_seconds", "quantiles", _LEG, "In flight"),
            Panel("ryot_pipeline_transfer_rx_decode_seconds", "quantiles", _LEG, "Decoding"),
        ),
    ),
)

_WORKER = "{{component}} {{endpoint}} {{worker_id}}"
_CHOSEN = '{component=~"$component",worker_id=~"$worker_id"}'
_COMPONENT = '{component=~"$component"}'
_HITS = (
    f"sum by (component) (rate(llm_kv_hit_rate_overlap_blocks{_CHOSEN}[$__rate_interval])) / "
    f"sum by (component) (rate(llm_kv_hit_rate_isl_blocks{_CHOSEN}[$__rate_interval]))"
)


def _share(part: str, whole: str) -> str:
    return f"100 * {part}{_CHOSEN} / {whole}{_CHOSEN}"


FLEET: tuple[Section, ...] = (
    (
        "Workers",
        (
            Plain(
                "KV blocks in use",
                _share("llm_kv_blocks_active", "llm_kv_blocks_total"),
                _WORKER,
                "percent",
            ),
            Plain(
                "Request slots in use",
                _share("llm_requests_active_slots", "llm_requests_total_slots"),
                _WORKER,
                "percent",
            ),
            Plain("Active KV blocks", f"llm_kv_blocks_active{_CHOSEN}", _WORKER, "short"),
            Plain("Active requests", f"llm_requests_active_slots{_CHOSEN}", _WORKER, "short"),
        ),
    ),
    (
        "Balance",
        (
            Plain(
                "Mean load in KV blocks",
                f"llm_load_avg{_COMPONENT}",
                "{{component}} {{endpoint}}",
                "short",
            ),
            Plain(
                "Spread of the load",
                f"llm_load_std{_COMPONENT}",
                "{{component}} {{endpoint}}",
                "short",
            ),
        ),
    ),
    (
        "Prefix cache",
        (
            Plain("Hit rate", f"llm_kv_hit_rate_percent{_CHOSEN}", _WORKER, "percent"),
            Plain("Hit rate of recent requests", _HITS, "{{component}}", "percentunit"),
        ),
    ),
)
