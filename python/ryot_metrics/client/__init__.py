"""The metrics client, with the names of `prometheus_client`.

Knows nothing of language models; their families stand in `REGISTRY` all the same, because that
is the page a service shows.

Example:
    >>> from ryot_metrics.client import CollectorRegistry, Counter, generate_latest
    >>> registry = CollectorRegistry()
    >>> jobs = Counter("jobs", "Jobs done.", ["queue"], registry=registry)
    >>> jobs.labels(queue="mail").inc()
    >>> print(generate_latest(registry).decode(), end="")
    # HELP jobs_total Jobs done.
    # TYPE jobs_total counter
    jobs_total{queue="mail"} 1.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ryot_metrics import _ryot_metrics
from ryot_metrics._ryot_metrics import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
)
from ryot_metrics.asgi import make_asgi_app
from ryot_metrics.client.families import Metric
from ryot_metrics.client.samples import Sample

__all__ = [
    "CONTENT_TYPE_LATEST",
    "CONTENT_TYPE_OPENMETRICS",
    "REGISTRY",
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "Histogram",
    "Info",
    "Metric",
    "Sample",
    "choose_encoder",
    "collect",
    "generate_latest",
    "generate_openmetrics",
    "make_asgi_app",
]

CONTENT_TYPE_LATEST = _ryot_metrics.negotiate("text/plain")[1]
CONTENT_TYPE_OPENMETRICS = _ryot_metrics.negotiate("application/openmetrics-text")[1]


def collect(registry: CollectorRegistry = REGISTRY) -> Iterator[Metric]:
    """Gives every family of a registry as it stands now.

    Args:
        registry: The registry; the default one holds the families of language models too.

    Yields:
        Families in the order of their registration.
    """
    for name, documentation, kind, unit, rows in _ryot_metrics.collect(registry):
        samples = [Sample(sample, dict(labels), value) for sample, labels, value in rows]
        family = Metric(name, documentation, kind, unit)
        family.samples = samples
        yield family


def generate_latest(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The page in the Prometheus text format 0.0.4."""
    return _ryot_metrics.encode(registry, False)


def generate_openmetrics(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The page in the OpenMetrics text format 1.0.0."""
    return _ryot_metrics.encode(registry, True)


def choose_encoder(accept_header: str | None) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    """The encoder that an `Accept` header likes best, and the content type of its page.

    Example:
        >>> choose_encoder("application/openmetrics-text")[1]
        'application/openmetrics-text; version=1.0.0; charset=utf-8'
    """
    openmetrics, content_type = _ryot_metrics.negotiate(accept_header or "")
    return (generate_openmetrics if openmetrics else generate_latest), content_type
