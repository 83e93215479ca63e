"""What a service does now, from two of its pages: rates, quantiles and levels.

Must know neither HTTP nor a clock nor a screen.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ryot_metrics.live.names import RYOT

if TYPE_CHECKING:
    from ryot_metrics.live.snapshot import Snapshot

GPU_MEMORY = "ryot_gpu_memory_usage_bytes"
GPU_UTILIZATION = "ryot_gpu_utilization_percent"
ENGINE_QUEUE = "ryot_engine_queued_sessions"
SLO_VIOLATIONS = "ryot_engine_slo_violations_total"
PREFIX_CACHE = "ryot_engine_prefix_cache"


@dataclass(frozen=True)
class Quantiles:
    """Seconds; None without a sample between the two pages."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Gpu:
    """One device; None for what the page lacks."""

    memory_bytes: float | None = None
    utilization_percent: float | None = None


@dataclass(frozen=True)
class Cache:
    """An engine's prefix cache; None for what the page lacks."""

    hit_ratio: float | None = None
    """Prompt tokens that it had over those that were looked up, between the two pages."""
    device_bytes: float | None = None
    host_bytes: float | None = None


@dataclass(frozen=True)
class Figures:
    """What a service does now, summed over its models; None for what its pages do not tell."""

    seconds: float
    """Between the two pages; the rates are over this time."""
    ttft: Quantiles = Quantiles()
    inter_token: Quantiles = Quantiles()
    latency: Quantiles = Quantiles()
    queue_wait: Quantiles = Quantiles()
    tokens_per_second: float | None = None
    """Of completions."""
    requests_per_second: dict[str, float] = field(default_factory=dict)
    """By status; statuses that the page has at zero too."""
    active: float | None = None
    queue_depth: float | None = None
    batch_size_mean: float | None = None
    kv_cache_bytes: float | None = None
    kv_cache_usage: float | None = None
    """The share in use, 0 to 1, of the fullest engine."""
    kv_cache_hit_ratio: float | None = None
    gpus: dict[str, Gpu] = field(default_factory=dict)
    """By device id."""
    engine_queue: dict[str, float] = field(default_factory=dict)
    """Requests that wait in an engine, by class; empty without an engine."""
    late_tokens_per_second: dict[str, float] = field(default_factory=dict)
    """Tokens of an engine that came later than promised, by the promise: ttft, tbt."""
    prefix_cache: Cache | None = None
    """None without an engine."""

    @classmethod
    def between(cls, before: Snapshot, after: Snapshot) -> Figures:
        """Computes the figures.

        Args:
            before: An earlier page of the service.
            after: A later one; levels are those of this page.

        Raises:
            ValueError: If `after` is not later than `before`.
        """
        seconds = after.at - before.at
        if seconds <= 0:
            raise ValueError(f"after is {seconds:g} s after before; it must be later")
        names = after.names or RYOT
        grown = after.since(before)
        tokens = grown.total(names.tokens, **names.token_labels)
        requests = grown.by(names.requests, names.status)
        return cls(
            seconds=seconds,
            ttft=_quantiles(grown, names.ttft),
            inter_token=_quantiles(grown, names.inter_token),
            latency=_quantiles(grown, names.latency),
            queue_wait=_quantiles(grown, names.queue_wait),
            tokens_per_second=None if tokens is None else tokens / seconds,
            requests_per_second={status: grew / seconds for status, grew in requests.items()},
            active=after.total(names.active),
            queue_depth=after.total(names.queue_depth),
            batch_size_mean=_ratio(grown, f"{names.batch_size}_sum", f"{names.batch_size}_count"),
            kv_cache_bytes=after.total(names.kv_cache_bytes),
            kv_cache_usage=max(after.samples.get(names.kv_cache_usage, {}).values(), default=None),
            kv_cache_hit_ratio=_ratio(grown, names.kv_cache_hits, names.kv_cache_queries),
            gpus=_gpus(after),
            engine_queue=after.by(ENGINE_QUEUE, "class"),
            late_tokens_per_second={
                slo: grew / seconds for slo, grew in grown.by(SLO_VIOLATIONS, "slo").items()
            },
            prefix_cache=_prefix_cache(grown, after),
        )

    def as_dict(self) -> dict[str, Any]:
        """The figures as plain data, ready for JSON."""
        return asdict(self)


def _quantiles(grown: Snapshot, histogram: str) -> Quantiles:
    found = (grown.quantile(histogram, q) for q in (0.5, 0.95, 0.99))
    return Quantiles(*(None if math.isnan(value) else value for value in found))


def _ratio(grown: Snapshot, part: str, whole: str) -> float | None:
    total = grown.total(whole)
    return (grown.total(part) or 0.0) / total if total else None


def _prefix_cache(grown: Snapshot, page: Snapshot) -> Cache | None:
    if f"{PREFIX_CACHE}_queries_total" not in page.samples:
        return None
    resident = page.by(f"{PREFIX_CACHE}_resident_bytes", "location")
    hits = _ratio(grown, f"{PREFIX_CACHE}_hits_total", f"{PREFIX_CACHE}_queries_total")
    return Cache(hits, resident.get("device"), resident.get("host"))


def _gpus(page: Snapshot) -> dict[str, Gpu]:
    memory = page.by(GPU_MEMORY, "device_id", memory_type="used")
    # Every model on a device sees the device's utilisation: the highest is it, the sum is not.
    utilization: dict[str, float] = defaultdict(float)
    for key, value in page.samples.get(GPU_UTILIZATION, {}).items():
        device = dict(key).get("device_id", "")
        utilization[device] = max(utilization[device], value)
    devices = sorted(memory.keys() | utilization.keys())
    return {device: Gpu(memory.get(device), utilization.get(device)) for device in devices}
