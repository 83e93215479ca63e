"""PromQL over families of the catalogue, aggregated the way that keeps it right.

A rate before any sum, `le` kept under a quantile, a ratio of sums and never a mean of ratios. This
module must not know thresholds, YAML or Grafana.
"""

from __future__ import annotations

import re

from ryot_metrics import catalogue

FAILED = 'status=~"error|timeout|partial"'
NOT_CANCELLED = 'status!="cancelled"'
REQUESTS = "ryot_inference_requests_total"
LATENCY = "ryot_inference_latency_seconds"
TTFT = "ryot_ttft_latency_seconds"
INTER_TOKEN = "ryot_inference_inter_token_latency_seconds"
TOKENS = "ryot_tokens_generated_total"
COMPLETION = 'token_type="completion"'


def selector(name: str, where: str = "", window: str = "") -> str:
    """A selector of series, over a window if one is given."""
    return name + (f"{{{where}}}" if where else "") + (f"[{window}]" if window else "")


def aggregate(operator: str, by: str, expression: str) -> str:
    """An aggregation by labels, or over everything when `by` is empty."""
    return f"{operator} by ({by}) ({expression})" if by else f"{operator}({expression})"


def rate(
    name: str, by: str = "model", window: str = "5m", where: str = "", function: str = "rate"
) -> str:
    """The summed rate of a counter, in units per second.

    Example:
        >>> rate("ryot_batches_processed_total", window="1m")
        'sum by (model) (rate(ryot_batches_processed_total[1m]))'
    """
    return aggregate("sum", by, f"{function}({selector(name, where, window)})")


def quantile(
    share: float, histogram: str, by: str = "model", window: str = "5m", where: str = ""
) -> str:
    """A quantile of a histogram, in its unit.

    Example:
        >>> quantile(0.5, "ryot_tokens_per_request", by="")
        'histogram_quantile(0.5, sum by (le) (rate(ryot_tokens_per_request_bucket[5m])))'
    """
    buckets = rate(f"{histogram}_bucket", f"le, {by}".rstrip(", "), window, where)
    return f"histogram_quantile({share:g}, {buckets})"


def mean(histogram: str, by: str = "model", window: str = "5m", where: str = "") -> str:
    """The mean of a histogram's observations, in its unit."""
    total, count = (rate(f"{histogram}_{part}", by, window, where) for part in ("sum", "count"))
    return f"{total} / {count}"


def hit_ratio(hits: str, by: str = "model", window: str = "5m", where: str = "") -> str:
    """The share of lookups that hit, by the counter of hits; that of lookups says `queries`.

    Example:
        >>> hit_ratio("ryot_kv_cache_hits_total", by="", window="1m")
        'sum(rate(ryot_kv_cache_hits_total[1m])) / sum(rate(ryot_kv_cache_queries_total[1m]))'
    """
    queries = hits.replace("_hits_", "_queries_")
    return f"{rate(hits, by, window, where)} / {rate(queries, by, window, where)}"


def failed_ratio(by: str = "model", window: str = "5m", where: str = "") -> str:
    """The share of requests that failed, 0 where none has; cancelled ones are left out of both."""

    def requests(which: str) -> str:
        return rate(REQUESTS, by, window, ",".join(filter(None, (which, where))))

    total = requests(NOT_CANCELLED)
    return f"({requests(FAILED)} or 0 * {total}) / {total}"


def names(expression: str) -> set[str]:
    """The names of this package's families and their samples in an expression.

    Example:
        >>> sorted(names("ryot:x:sum / ryot_queue_depth + up"))
        ['ryot_queue_depth']
    """
    return set(re.findall(r"(?<![\w:])ryot_\w+(?![\w:])", expression))


def row(name: str) -> catalogue.Family | None:
    """The row of the catalogue with this name; None where the table has none."""
    return next((family for family in catalogue.families() if family.name == name), None)
