"""The native metrics, under the path of `prometheus_client.metrics`."""

from abc import ABC

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
    "MetricWrapperBase",
    "Summary",
    "disable_created_metrics",
    "enable_created_metrics",
]


class MetricWrapperBase(ABC):  # noqa: B024
    """What all metrics are an instance of; made for `isinstance`, not to be derived from.

    Example:
        >>> isinstance(Counter("jobs", "Jobs done.", registry=None), MetricWrapperBase)
        True
    """


for _class in (Counter, Enum, Gauge, Histogram, Info, Summary):
    MetricWrapperBase.register(_class)
