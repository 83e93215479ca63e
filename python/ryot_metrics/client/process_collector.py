"""Processor time, memory and open files of a process, as Linux tells them in `/proc`.

Where there is no `/proc`, the collector gives nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ryot_metrics.client.families import Metric
from ryot_metrics.client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from ryot_metrics.client.registry import Collector, Registrar


class ProcessCollector:
    """The standard families of a process.

    Args:
        namespace: What stands before the names, if anything.
        pid: Gives the id of the process; by default it is this one.
        proc: Where the `proc` file system is mounted.
        registry: Where to register at once, if anywhere.

    Example:
        >>> ours = ProcessCollector(namespace="job")
        >>> all(family.name.startswith("job_process_") for family in ours.collect())
        True
    """

    def __init__(
        self,
        namespace: str = "",
        pid: Callable[[], int | str] = lambda: "self",
        proc: str = "/proc",
        registry: Registrar[Collector] | None = None,
    ) -> None:
        self._prefix = f"{namespace}_process_" if namespace else "process_"
        self._pid = pid
        self._proc = Path(proc)
        self._boot_time = _boot_time(self._proc)
        if registry is not None:
            registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Reads the families as they stand now; leaves out what may not be read."""
        if self._boot_time is None:
            return []
        folder = self._proc / str(self._pid()).strip()
        families: list[Metric] = []
        for part in (_usage(folder, self._prefix, self._boot_time), _files(folder, self._prefix)):
            try:
                families += part
            except OSError:  # the process is gone, or another user's
                continue
        return families


def _boot_time(proc: Path) -> float | None:
    try:
        lines = (proc / "stat").read_bytes().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), None)


def _usage(folder: Path, prefix: str, boot_time: float) -> Iterator[Metric]:
    # The second field is the command in parentheses, which may hold any character.
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    user, system, start, virtual, resident = (float(fields[i]) for i in (11, 12, 19, 20, 21))
    ticks = os.sysconf("SC_CLK_TCK")
    yield GaugeMetricFamily(
        f"{prefix}virtual_memory_bytes", "Virtual memory size in bytes.", virtual
    )
    yield GaugeMetricFamily(
        f"{prefix}resident_memory_bytes",
        "Resident memory size in bytes.",
        resident * os.sysconf("SC_PAGE_SIZE"),
    )
    yield GaugeMetricFamily(
        f"{prefix}start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        start / ticks + boot_time,
    )
    yield CounterMetricFamily(
        f"{prefix}cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        user / ticks + system / ticks,
    )


def _files(folder: Path, prefix: str) -> Iterator[Metric]:
    opened = len(os.listdir(folder / "fd"))
    yield GaugeMetricFamily(f"{prefix}open_fds", "Number of open file descriptors.", opened)
    for line in (folder / "limits").read_bytes().splitlines():
        if line.startswith(b"Max open files"):
            limit = line.split()[3]
            yield GaugeMetricFamily(
                f"{prefix}max_fds",
                "Maximum number of open file descriptors.",
                float("inf") if limit == b"unlimited" else float(limit),
            )


PROCESS_COLLECTOR = ProcessCollector()
