"""The native metrics, under the path of `prometheus_client.metrics`."""

from ryot_metrics._ryot_metrics import (
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    disable_created_metrics,
    enable_created_metrics,
)

__all__ = [
    "Counter",
    "Enum",
    "Gauge",
    "Histogram",
    "Info",
    "Summary",
    "disable_created_metrics",
    "enable_created_metrics",
]
