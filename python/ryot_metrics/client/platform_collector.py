"""Which Python this is, as labels of a constant 1."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from typing import Any

from ryot_metrics.client.families import Metric
from ryot_metrics.client.metrics_core import GaugeMetricFamily
from ryot_metrics.client.registry import Collector, Registrar


class PlatformCollector:
    """The family `python_info`.

    Args:
        registry: Where to register at once, if anywhere.
        platform: What to ask, with the functions of the module `platform`.

    Example:
        >>> (family,) = PlatformCollector().collect()
        >>> family.samples[0].labels["implementation"]
        'CPython'
    """

    def __init__(
        self, registry: Registrar[Collector] | None = None, platform: Any = platform
    ) -> None:
        major, minor, patchlevel = platform.python_version_tuple()
        facts = {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "major": major,
            "minor": minor,
            "patchlevel": patchlevel,
        }
        if platform.system() == "Java":
            facts.update(_java(platform))
        family = GaugeMetricFamily("python_info", "Python platform information", labels=list(facts))
        family.add_metric(list(facts.values()), 1)
        self._families = [family]
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Gives what was found out at the beginning."""
        return self._families


def _java(platform: Any) -> dict[str, str]:
    version, _, (name, release, vendor), _ = platform.java_ver()
    return {
        "jvm_version": version,
        "jvm_release": release,
        "jvm_vendor": vendor,
        "jvm_name": name,
    }


PLATFORM_COLLECTOR = PlatformCollector()
