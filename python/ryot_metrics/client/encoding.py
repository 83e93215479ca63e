"""Pages of a registry, in the format that is asked for.

The only door from Python to the native encoder, which does its work without the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ryot_metrics import _ryot_metrics
from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry

ALLOWUTF8 = "allow-utf-8"
UNDERSCORES = "underscores"
DOTS = "dots"
VALUES = "values"

_PLAIN, _PLAIN_UTF8, _OPENMETRICS, _PROTOBUF = (
    "text-0.0.4",
    "text-1.0.0",
    "openmetrics-1.0.0",
    "protobuf",
)

CONTENT_TYPE_PLAIN_0_0_4 = _ryot_metrics.negotiate("text/plain")[2]
CONTENT_TYPE_PLAIN_1_0_0 = _ryot_metrics.negotiate("text/plain;version=1.0.0")[2]
CONTENT_TYPE_LATEST = CONTENT_TYPE_PLAIN_1_0_0.partition("; escaping")[0]
CONTENT_TYPE_OPENMETRICS = _ryot_metrics.negotiate("application/openmetrics-text")[2]

Encoder = Callable[[CollectorRegistry], bytes]


def _encode(registry: Any, format: str, escaping: str | None = None) -> bytes:  # noqa: A002
    if not isinstance(registry, CollectorRegistry):  # another package's, or any collector
        collector, registry = registry, CollectorRegistry()
        registry.register(collector)
    return _ryot_metrics.encode(registry, format, escaping)


def generate_latest(registry: CollectorRegistry = REGISTRY, escaping: str = UNDERSCORES) -> bytes:
    """The page in the Prometheus text format.

    Args:
        registry: What to show: a registry, or any object with a method `collect`.
        escaping: How names outside of the old alphabet are written: `underscores`, `dots`,
            `values`, or `allow-utf-8` to leave them.

    Raises:
        ValueError: For another escaping.

    Example:
        >>> registry = CollectorRegistry()
        >>> _ryot_metrics.Gauge("queue.depth", "Waiting.", registry=registry).set(3)
        >>> print(generate_latest(registry).decode().splitlines()[-1])
        queue_depth 3.0
        >>> print(generate_latest(registry, ALLOWUTF8).decode().splitlines()[-1])
        {"queue.depth"} 3.0
    """
    return _encode(registry, _PLAIN if escaping == UNDERSCORES else _PLAIN_UTF8, escaping)


def generate_openmetrics(
    registry: CollectorRegistry = REGISTRY, escaping: str = UNDERSCORES
) -> bytes:
    """The page in the OpenMetrics text format 1.0.0; arguments and errors as `generate_latest`."""
    return _encode(registry, _OPENMETRICS, escaping)


def generate_protobuf(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The page as length-delimited protobuf messages, the format that has native histograms."""
    return _encode(registry, _PROTOBUF)


def choose_encoder(accept_header: str | None) -> tuple[Encoder, str]:
    """The encoder that an `Accept` header likes best, and the content type of its page.

    Example:
        >>> choose_encoder("application/openmetrics-text")[1]
        'application/openmetrics-text; version=1.0.0; charset=utf-8'
    """
    chosen, escaping, content_type = _ryot_metrics.negotiate(accept_header or "")
    return partial(_encode, format=chosen, escaping=escaping), content_type
