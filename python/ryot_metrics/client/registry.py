"""The registry, and what can stand in one beside this package's own metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry, DuplicateTimeseries
from ryot_metrics.client.families import Metric

__all__ = [
    "REGISTRY",
    "Collector",
    "CollectorRegistry",
    "DuplicateTimeseries",
    "Registrar",
    "RestrictedRegistry",
    "collect",
]

_C = TypeVar("_C", contravariant=True)


@runtime_checkable
class Collector(Protocol):
    """Anything that can say its families when it is asked."""

    def collect(self) -> Iterable[Metric]:
        """Gives the families as they stand now."""
        ...


class Registrar(Protocol[_C]):
    """Anything that a collector can be registered in."""

    def register(self, collector: _C, /) -> None:
        """Adds a collector."""
        ...


def RestrictedRegistry(names: Iterable[str], registry: CollectorRegistry) -> CollectorRegistry:  # noqa: N802
    """The view of a registry that shows only the samples of these names, suffixes included."""
    return registry.restricted_registry(list(names))


def collect(registry: CollectorRegistry | Collector = REGISTRY) -> Iterator[Metric]:
    """Gives every family of a registry, or of any collector, as it stands now.

    Args:
        registry: The registry; the default one holds the families of language models too.

    Yields:
        Families in the order of their registration.

    Example:
        >>> from ryot_metrics.client import Gauge
        >>> registry = CollectorRegistry()
        >>> Gauge("depth", "Waiting jobs.", registry=registry).set(3)
        >>> [(family.name, family.samples[0].value) for family in collect(registry)]
        [('depth', 3.0)]
    """
    yield from registry.collect()
