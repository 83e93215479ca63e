"""How a Prometheus finds the page: its own configuration, or what Kubernetes needs to show it.

This module must not know what is on the page.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ryot_metrics._ryot_metrics import PROFILES

DEFAULT_INTERVAL = "15s"
_UNITS = "".join(f"([0-9]+{unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms"))

HINT = """\
# Native histograms come over protobuf, where the service has them and Prometheus asks for them:
#   Prometheus 3.8 and later: scrape_native_histograms: true
#   before that: the flag --enable-feature=native-histograms
"""
POD_HINT = """\
# Native histograms come over protobuf, where the service has them and Prometheus asks for them:
# set `scrapeNativeHistograms: true` in this spec or in the Prometheus resource's.
"""


@dataclass(frozen=True)
class Target:
    """A page to scrape.

    Attributes:
        target: The address, `host:port`; for Kubernetes, the port alone matters.
        path: The page's path.
        interval: The time between two scrapes, as Prometheus writes durations (`15s`, `1m30s`);
            annotations carry none. Default: 15s.
        profile: The names on the page: `ryot` (the default), `vllm` or `otel`.
        name: The job's name, and in Kubernetes the value of the pods' label `app`.

    Raises:
        ValueError: One of them is not of that form; the message names it.

    Example:
        >>> Target("gpu-1:8000").port
        8000
    """

    target: str = "localhost:8000"
    path: str = "/metrics"
    interval: str | None = None
    profile: str = "ryot"
    name: str = "ryot"

    def __post_init__(self) -> None:
        found = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", self.target)
        if not found or not 0 < int(found[2]) < 2**16:
            raise ValueError(f"target must be host:port, not {self.target!r}")
        if not re.fullmatch(r"/[^\s?#]*", self.path):
            raise ValueError(f"path must start with / and have no query, not {self.path!r}")
        if self.interval is not None and (
            not re.fullmatch(_UNITS, self.interval) or not re.search("[1-9]", self.interval)
        ):
            raise ValueError(f"interval must be a duration such as 15s, not {self.interval!r}")
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {self.profile!r}")
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", self.name):
            raise ValueError(f"name must be a DNS label of lower case, not {self.name!r}")

    @property
    def port(self) -> int:
        """The port of the address."""
        return int(self.target.rpartition(":")[2])

    @property
    def params(self) -> dict[str, dict[str, list[str]]]:
        """The scrape's parameters, when the profile is not the default one."""
        return {} if self.profile == PROFILES[0] else {"params": {"profile": [self.profile]}}


def scrape_config(kind: str, target: Target | None = None) -> dict[str, Any]:
    """What makes a Prometheus scrape a page, as data.

    Args:
        kind: `prometheus` (a section of its configuration file), `kubernetes` (the annotations of
            a pod) or `podmonitor` (a resource of the Prometheus operator).
        target: What to scrape.

    Raises:
        ValueError: There is no such kind, or annotations are asked to carry an interval.

    Example:
        >>> scrape_config("kubernetes")["metadata"]["annotations"]["prometheus.io/port"]
        '8000'
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return KINDS[kind](target or Target())


def hint(kind: str) -> str:
    """What the data cannot say, as comments."""
    return {"prometheus": HINT, "podmonitor": POD_HINT}.get(kind, "")


def _prometheus(target: Target) -> dict[str, Any]:
    job = {
        "job_name": target.name,
        "scrape_interval": target.interval or DEFAULT_INTERVAL,
        "metrics_path": target.path,
        **target.params,
        "static_configs": [{"targets": [target.target]}],
    }
    return {"scrape_configs": [job]}


def _kubernetes(target: Target) -> dict[str, Any]:
    if target.interval is not None:
        raise ValueError(f"annotations carry no interval ({target.interval}): the scraper sets it")
    annotations = {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(target.port),
        "prometheus.io/path": target.path,
    }
    if target.params:
        annotations["prometheus.io/param_profile"] = target.profile
    return {"metadata": {"annotations": annotations}}


def _podmonitor(target: Target) -> dict[str, Any]:
    endpoint = {
        "portNumber": target.port,
        "path": target.path,
        "interval": target.interval or DEFAULT_INTERVAL,
        **target.params,
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": target.name},
        "spec": {
            "selector": {"matchLabels": {"app": target.name}},
            "podMetricsEndpoints": [endpoint],
        },
    }


KINDS = {"prometheus": _prometheus, "kubernetes": _kubernetes, "podmonitor": _podmonitor}
