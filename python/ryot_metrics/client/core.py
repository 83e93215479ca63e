"""What collectors of one's own need, under the path of `prometheus_client.core`."""

from ryot_metrics.client.metrics import Counter, Enum, Gauge, Histogram, Info, Summary
from ryot_metrics.client.metrics_core import (
    CounterMetricFamily,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
    SummaryMetricFamily,
    UnknownMetricFamily,
    UntypedMetricFamily,
)
from ryot_metrics.client.registry import REGISTRY, CollectorRegistry, DuplicateTimeseries
from ryot_metrics.client.samples import BucketSpan, Exemplar, NativeHistogram, Sample, Timestamp

__all__ = [
    "REGISTRY",
    "BucketSpan",
    "CollectorRegistry",
    "Counter",
    "CounterMetricFamily",
    "DuplicateTimeseries",
    "Enum",
    "Exemplar",
    "Gauge",
    "GaugeHistogramMetricFamily",
    "GaugeMetricFamily",
    "Histogram",
    "HistogramMetricFamily",
    "Info",
    "InfoMetricFamily",
    "Metric",
    "NativeHistogram",
    "Sample",
    "StateSetMetricFamily",
    "Summary",
    "SummaryMetricFamily",
    "Timestamp",
    "UnknownMetricFamily",
    "UntypedMetricFamily",
]
