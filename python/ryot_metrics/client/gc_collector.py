"""What the garbage collector of CPython has done, by generation."""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterable

from ryot_metrics.client.families import Metric
from ryot_metrics.client.metrics_core import CounterMetricFamily
from ryot_metrics.client.registry import Collector, Registrar

_FAMILIES = {
    "collected": ("python_gc_objects_collected", "Objects collected during gc"),
    "uncollectable": ("python_gc_objects_uncollectable", "Uncollectable objects found during GC"),
    "collections": ("python_gc_collections", "Number of times this generation was collected"),
}


class GCCollector:
    """The families `python_gc_*`.

    Args:
        registry: Where to register at once, if anywhere; only on CPython, as others keep no count.

    Example:
        >>> [len(family.samples) for family in GCCollector().collect()]
        [3, 3, 3]
    """

    def __init__(self, registry: Registrar[Collector] | None = None) -> None:
        if registry is not None and platform.python_implementation() == "CPython":
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Reads the counts as they stand now."""
        statistics = gc.get_stats()
        for fact, (name, documentation) in _FAMILIES.items():
            family = CounterMetricFamily(name, documentation, labels=["generation"])
            for generation, counts in enumerate(statistics):
                family.add_metric([str(generation)], counts[fact])
            yield family


GC_COLLECTOR = GCCollector()
