"""The native metrics, under the path of `prometheus_client.metrics`."""

from ryot_metrics._ryot_metrics import Counter, Gauge, Histogram, Info

__all__ = ["Counter", "Gauge", "Histogram", "Info"]
