"""What a service does now, from two of its pages: rates, quantiles and levels.

The terminal view, the dashboard page and the demo show these numbers. All of it is arithmetic as
PromQL does it: this module must know neither HTTP nor a clock nor a screen.

Example:
    >>> before = Snapshot.parse('ryot_tokens_generated_total{token_type="completion"} 10', at=0.0)
    >>> after = Snapshot.parse('ryot_tokens_generated_total{token_type="completion"} 90', at=2.0)
    >>> Figures.between(before, after).tokens_per_second
    40.0
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ryot_metrics.client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ryot_metrics.client.families import Metric

START_TIME = "process_start_time_seconds"
GPU_MEMORY = "ryot_gpu_memory_usage_bytes"
GPU_UTILIZATION = "ryot_gpu_utilization_percent"


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


class Snapshot:
    """The samples of one page.

    Args:
        samples: Values by label set, by name of sample.
        at: When the page was read, in seconds of any clock that does not jump.
    """

    def __init__(
        self, samples: Mapping[str, Mapping[frozenset[tuple[str, str]], float]], at: float
    ) -> None:
        self.samples = samples
        self.at = at

    @classmethod
    def parse(cls, text: str, at: float) -> Snapshot:
        """Reads a page in the text format.

        Args:
            text: The page.
            at: When it was read, in seconds.

        Raises:
            ValueError: If a line cannot be read.
        """
        return cls.read(text_string_to_metric_families(text), at)

    @classmethod
    def read(cls, families: Iterable[Metric], at: float) -> Snapshot:
        """Takes families that a registry gives or a parser has read."""
        samples: dict[str, dict[frozenset[tuple[str, str]], float]] = defaultdict(dict)
        for family in families:
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = sample.value
        return cls(dict(samples), at)

    @property
    def names(self) -> Names | None:
        """The profile of the page; None if it has no family of a language model."""
        for names, prefix in ((RYOT, "ryot_"), (VLLM, "vllm:")):
            if any(name.startswith(prefix) for name in self.samples):
                return names
        return None

    def by(self, name: str, label: str, /, **labels: str) -> dict[str, float]:
        """Sums of a sample's children by one label, of those children that have these labels."""
        sums: dict[str, float] = defaultdict(float)
        for key, value in self.samples.get(name, {}).items():
            if labels.items() <= key:
                sums[dict(key).get(label, "")] += value
        return dict(sums)

    def total(self, name: str, /, **labels: str) -> float | None:
        """The sum of a sample's children that have these labels; None if there is none."""
        return sum(sums.values()) if (sums := self.by(name, "", **labels)) else None

    def quantile(self, histogram: str, q: float) -> float:
        """A quantile of a histogram, summed over its children; NaN if it has no sample."""
        buckets = {float(le): count for le, count in self.by(f"{histogram}_bucket", "le").items()}
        bounds = sorted(buckets)
        # A reset of one child alone can leave a bucket above the next one.
        counts = list(accumulate((buckets[bound] for bound in bounds), max))
        return histogram_quantile(q, bounds, counts)

    def since(self, before: Snapshot) -> Snapshot:
        """What counters and histograms have grown by; for gauges it means nothing.

        One that fell was reset and has grown from zero. If the process is another one, all have.
        """
        restarted = self.samples.get(START_TIME) != before.samples.get(START_TIME)
        old = {} if restarted else before.samples
        grown = {}
        for name, children in self.samples.items():
            past = old.get(name, {})
            grown[name] = {
                key: value - past[key] if value >= past.get(key, math.inf) else value
                for key, value in children.items()
            }
        return Snapshot(grown, self.at - before.at)


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


def _gpus(page: Snapshot) -> dict[str, Gpu]:
    memory = page.by(GPU_MEMORY, "device_id", memory_type="used")
    # Every model on a device sees the device's utilisation: the highest is it, the sum is not.
    utilization: dict[str, float] = defaultdict(float)
    for key, value in page.samples.get(GPU_UTILIZATION, {}).items():
        device = dict(key).get("device_id", "")
        utilization[device] = max(utilization[device], value)
    devices = sorted(memory.keys() | utilization.keys())
    return {device: Gpu(memory.get(device), utilization.get(device)) for device in devices}


def histogram_quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """PromQL's `histogram_quantile` over one classic histogram.

    Args:
        q: The quantile, from 0 to 1.
        bounds: Upper bounds in ascending order, the last one infinite.
        counts: The cumulative count up to each bound.

    Returns:
        The quantile, taking the samples of a bucket as evenly spread. One that falls into the
        infinite bucket is the highest finite bound; NaN without samples or without buckets.

    Raises:
        ValueError: `q` is not within 0 and 1.
    """
    if not 0 <= q <= 1:
        raise ValueError(f"q is {q}; a quantile is from 0 to 1")
    if len(bounds) < 2 or bounds[-1] != math.inf or counts[-1] == 0:
        return math.nan
    rank = q * counts[-1]
    bucket = bisect_left(counts, rank, hi=len(counts) - 1)
    if bucket == len(counts) - 1:
        return bounds[-2]
    if bucket == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[bucket - 1], counts[bucket - 1]) if bucket else (0.0, 0.0)
    inside = counts[bucket] - below
    return lower + (bounds[bucket] - lower) * ((rank - below) / inside) if inside else math.nan
