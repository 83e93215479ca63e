"""Our families in `prometheus_client`, and its families here, for services that use both.

Imports `prometheus_client` only when it is asked for. Register one way or the other: both ways at
once would make each registry ask the other without end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ryot_metrics.client import core
from ryot_metrics.client.families import Metric
from ryot_metrics.client.registry import REGISTRY, Collector, CollectorRegistry, collect


class PrometheusClientCollector:
    """A collector for a registry of `prometheus_client` that gives the families of ours.

    Args:
        registry: Whose families to give.
        without: Names of families to leave out.

    Example:
        >>> import prometheus_client
        >>> from ryot_metrics.client import Counter
        >>> ours, theirs = CollectorRegistry(), prometheus_client.CollectorRegistry()
        >>> Counter("jobs", "Jobs done.", registry=ours).inc()
        >>> theirs.register(PrometheusClientCollector(ours))
        >>> b"jobs_total 1.0" in prometheus_client.generate_latest(theirs)
        True
    """

    def __init__(
        self,
        registry: CollectorRegistry | Collector = REGISTRY,
        without: Collection[str] = (),
    ) -> None:
        self._registry = registry
        self._without = frozenset(without)

    def collect(self) -> Iterator[Any]:
        """Gives the families as objects of `prometheus_client`."""
        import prometheus_client.core

        for family in collect(self._registry):
            if family.name not in self._without:
                yield _translated(family, prometheus_client.core)

    describe = collect  # for the names, which that registry refuses to have twice


def register_in_prometheus_client(
    registry: CollectorRegistry | Collector = REGISTRY, into: Any = None
) -> PrometheusClientCollector:
    """Adds our families to a page of `prometheus_client`; what it shows already stays its own.

    Args:
        registry: Whose families to add.
        into: The registry to add them to; by default `prometheus_client.REGISTRY`.

    Returns:
        The collector, for `unregister`.

    Raises:
        ModuleNotFoundError: If `prometheus_client` is not installed.
    """
    import prometheus_client

    target = prometheus_client.REGISTRY if into is None else into
    collector = PrometheusClientCollector(registry, {family.name for family in target.collect()})
    target.register(collector)
    return collector


class _FromPrometheusClient:
    def __init__(self, registry: Any) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            yield _translated(family, core)


def from_prometheus_client(registry: Any = None) -> Collector:
    """A collector of ours that gives the families of a registry of `prometheus_client`.

    Args:
        registry: Whose families to give; by default those of `prometheus_client.REGISTRY`.

    Returns:
        The collector.

    Raises:
        ModuleNotFoundError: If no registry is given and `prometheus_client` is not installed.

    Example:
        >>> import prometheus_client
        >>> theirs = prometheus_client.CollectorRegistry()
        >>> prometheus_client.Gauge("depth", "Waiting jobs.", registry=theirs).set(3)
        >>> [family.samples[0].value for family in from_prometheus_client(theirs).collect()]
        [3.0]
    """
    if registry is None:
        import prometheus_client

        registry = prometheus_client.REGISTRY
    return _FromPrometheusClient(registry)


def _translated(family: Any, words: Any) -> Any:
    """A family in the classes of a module that has `Metric`, `Sample` and what hangs on them.

    Both packages name the classes alike, and their fields too.
    """
    metric = words.Metric(family.name, family.documentation, family.type, family.unit)
    metric.samples = [
        words.Sample(
            name,
            labels,
            value,
            _timestamp(timestamp, words),
            _exemplar(exemplar, words),
            _histogram(histogram, words),
        )
        for name, labels, value, timestamp, exemplar, histogram in family.samples
    ]
    return metric


def _timestamp(timestamp: Any, words: Any) -> Any:
    if timestamp is None or isinstance(timestamp, int | float):
        return timestamp
    return words.Timestamp(timestamp.sec, abs(timestamp.nsec))


def _exemplar(exemplar: Any, words: Any) -> Any:
    if exemplar is None:
        return None
    return words.Exemplar(exemplar.labels, exemplar.value, _timestamp(exemplar.timestamp, words))


def _histogram(histogram: Any, words: Any) -> Any:
    if histogram is None:
        return None
    spans = {
        field: runs and tuple(words.BucketSpan(*run) for run in runs)
        for field, runs in (("pos_spans", histogram.pos_spans), ("neg_spans", histogram.neg_spans))
    }
    exemplars = histogram.nh_exemplars
    translated = exemplars and tuple(_exemplar(exemplar, words) for exemplar in exemplars)
    return words.NativeHistogram(**{**histogram._asdict(), **spans, "nh_exemplars": translated})
