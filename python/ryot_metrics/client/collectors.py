"""The collectors that a service has unless it says otherwise."""

from __future__ import annotations

from ryot_metrics.client.gc_collector import GC_COLLECTOR
from ryot_metrics.client.platform_collector import PLATFORM_COLLECTOR
from ryot_metrics.client.process_collector import PROCESS_COLLECTOR
from ryot_metrics.client.registry import Collector, Registrar


def register_default_collectors(registry: Registrar[Collector]) -> None:
    """Registers what tells about the process, its Python and its garbage collector.

    Args:
        registry: Where to.

    Raises:
        ValueError: If the registry has families of these names.
    """
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
