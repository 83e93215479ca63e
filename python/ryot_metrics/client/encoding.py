"""Pages of a registry, in the format that is asked for.

The only door from Python to the native encoder, which does its work without the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Callable

from ryot_metrics import _ryot_metrics
from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry

CONTENT_TYPE_PLAIN_0_0_4 = _ryot_metrics.negotiate("text/plain")[1]
CONTENT_TYPE_PLAIN_1_0_0 = CONTENT_TYPE_PLAIN_0_0_4.replace("0.0.4", "1.0.0")
CONTENT_TYPE_LATEST = CONTENT_TYPE_PLAIN_0_0_4
CONTENT_TYPE_OPENMETRICS = _ryot_metrics.negotiate("application/openmetrics-text")[1]


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
