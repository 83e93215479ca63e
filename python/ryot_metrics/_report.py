"""What a service's own metrics say about the load it has had.

Computes quantiles from buckets as PromQL does, so the numbers are those that a dashboard would
show. This module knows neither engine nor HTTP.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ryot_metrics.client import collect

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ryot_metrics.client import Metric

REQUESTS = "ryot_inference_requests_total"
TOKENS = "ryot_tokens_generated_total"
TTFT = "ryot_ttft_latency_seconds"
INTER_TOKEN = "ryot_inference_inter_token_latency_seconds"
LATENCY = "ryot_inference_latency_seconds"


@dataclass(frozen=True)
class Report:
    """The samples of a registry, summed over the labels that the demo does not ask about."""

    requests: dict[str, float]
    """Requests by status; statuses without any are left out."""
    completion_tokens: float
    buckets: dict[str, dict[float, float]]
    """Cumulative counts by upper bound, per histogram."""

    @classmethod
    def read(cls, families: Iterable[Metric] | None = None) -> Report:
        """Take the families of the default registry, or others."""
        requests: dict[str, float] = defaultdict(float)
        buckets: dict[str, dict[float, float]] = {
            name: defaultdict(float) for name in (TTFT, INTER_TOKEN, LATENCY)
        }
        tokens = 0.0
        for family in collect() if families is None else families:
            for sample in family.samples:
                histogram = sample.name.removesuffix("_bucket")
                if sample.name == REQUESTS and sample.value > 0:
                    requests[sample.labels["status"]] += sample.value
                elif sample.name == TOKENS and sample.labels["token_type"] == "completion":
                    tokens += sample.value
                elif "le" in sample.labels and histogram in buckets:
                    buckets[histogram][float(sample.labels["le"])] += sample.value
        return cls(dict(requests), tokens, buckets)

    def quantile(self, histogram: str, q: float) -> float:
        """A quantile of one histogram in seconds; NaN if it has no sample."""
        buckets = sorted(self.buckets[histogram].items())
        return histogram_quantile(q, [le for le, _ in buckets], [count for _, count in buckets])


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
    return lower + (bounds[bucket] - lower) * (rank - below) / inside if inside else math.nan
