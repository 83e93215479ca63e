"""Reads the files of `prometheus_client`'s multiprocess mode.

So services which still write them join a page. Nothing here writes such files: worker processes of
this package share a mapping (`ryot_metrics.configure(shared=…)`).

The rules of merging are `prometheus_client`'s. A file that is damaged costs its own values, and a
line in the log, not the page.
"""

from __future__ import annotations

import json
import logging
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ryot_metrics.client.families import Metric
from ryot_metrics.client.registry import CollectorRegistry
from ryot_metrics.client.utils import floatToGoString

__all__ = ["MultiProcessCollector", "mark_process_dead"]

_Labels = tuple[tuple[str, str], ...]
_HEADER = 8
_MERGES: dict[str, Callable[[float, float], float]] = {
    "min": min,
    "max": max,
    "sum": lambda a, b: a + b,
}


class _Value(NamedTuple):
    """One value of a file."""

    metric: str
    name: str
    labels: _Labels
    help: str
    value: float
    timestamp: float


def _read(data: bytes) -> Iterator[_Value]:
    (used,) = struct.unpack_from("i", data, 0)
    if used > len(data):
        raise ValueError(f"{used} of its bytes are said to be used, and it has {len(data)}")
    place = _HEADER
    while place < used:
        (length,) = struct.unpack_from("i", data, place)
        begin = place + 4
        if length < 0 or begin + length > used:
            raise ValueError(f"a key at byte {place} has {length} bytes")
        metric, name, labels, text = json.loads(data[begin : begin + length])
        place = begin + length + (8 - (length + 4) % 8)
        value, timestamp = struct.unpack_from("dd", data, place)
        place += 16
        yield _Value(metric, name, tuple(sorted(labels.items())), text, value, timestamp)


class MultiProcessCollector:
    """The metrics in a directory of `*.db` files, merged over its processes.

    Args:
        registry: Where it is registered; None for nowhere.
        path: The directory; by default `PROMETHEUS_MULTIPROC_DIR` names it.

    Raises:
        ValueError: If there is no such directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     list(MultiProcessCollector(None, directory).collect())
        []
    """

    def __init__(
        self, registry: CollectorRegistry | None, path: str | os.PathLike[str] | None = None
    ) -> None:
        path = path or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if not path or not Path(path).is_dir():
            raise ValueError(
                f"{path} is no directory of multiprocess metrics; name one, or set "
                "PROMETHEUS_MULTIPROC_DIR"
            )
        self._path = Path(path)
        if registry is not None:
            registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing: what there is depends on the files."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The families, each with the values of all processes."""
        families: dict[str, _Family] = {}
        for file in sorted(self._path.glob("*.db")):
            kind, _, rest = file.stem.partition("_")
            mode, _, pid = rest.rpartition("_")
            for value in _values(file):
                family = families.setdefault(value.metric, _Family(value, kind, mode))
                family.add(value, pid)
        for family in families.values():
            yield family.metric()


def _values(file: Path) -> list[_Value]:
    try:
        return list(_read(file.read_bytes()))
    except FileNotFoundError:
        return []  # its process was just marked as dead
    except (ValueError, struct.error, TypeError) as error:
        logging.getLogger("ryot_metrics").warning("%s is damaged and left out: %s", file, error)
        return []


class _Family:
    """The merged values of one family."""

    def __init__(self, value: _Value, kind: str, mode: str) -> None:
        self._metric = Metric(value.metric, value.help, kind)
        self._mode = mode.removeprefix("live")
        self._values: dict[tuple[str, _Labels], float] = {}
        self._times: dict[tuple[str, _Labels], float] = {}
        self._buckets: dict[_Labels, dict[float, float]] = {}

    def add(self, value: _Value, pid: str) -> None:
        key = (value.name, value.labels)
        if self._metric.type == "gauge":
            self._add_gauge(key, value, pid)
        elif bound := dict(value.labels).get("le") if self._metric.type == "histogram" else None:
            labels = tuple(label for label in value.labels if label[0] != "le")
            buckets = self._buckets.setdefault(labels, {})
            buckets[float(bound)] = buckets.get(float(bound), 0.0) + value.value
        else:
            self._values[key] = self._values.get(key, 0.0) + value.value

    def _add_gauge(self, key: tuple[str, _Labels], value: _Value, pid: str) -> None:
        if self._mode == "all":
            self._values[value.name, (*value.labels, ("pid", pid))] = value.value
        elif self._mode == "mostrecent":
            if self._times.get(key, 0.0) < value.timestamp:
                self._values[key], self._times[key] = value.value, value.timestamp
        else:
            before = self._values.get(key)
            merge = _MERGES[self._mode]
            self._values[key] = value.value if before is None else merge(before, value.value)

    def metric(self) -> Metric:
        name = self._metric.name
        for labels, buckets in self._buckets.items():
            count = 0.0
            for bound in sorted(buckets):
                count += buckets[bound]
                self._values[f"{name}_bucket", (*labels, ("le", floatToGoString(bound)))] = count
            self._values[f"{name}_count", labels] = count
        for (sample, labels), value in self._values.items():
            self._metric.add_sample(sample, dict(labels), value)
        return self._metric


def mark_process_dead(pid: int, path: str | os.PathLike[str] | None = None) -> None:
    """Removes the files of a process' live gauges.

    Args:
        pid: The number of the process that has ended.
        path: The directory; by default `PROMETHEUS_MULTIPROC_DIR` names it. Without either there
            is nothing to do: what shares a mapping sees by itself which processes are there.
    """
    path = path or os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(path).glob(f"gauge_live*_{pid}.db") if path else ():
        file.unlink(missing_ok=True)
