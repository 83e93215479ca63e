"""Sends the samples of a registry to Graphite, in its plaintext protocol."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections.abc import Callable

from ryot_metrics.client.registry import REGISTRY, Collector, CollectorRegistry, collect
from ryot_metrics.client.samples import Sample

_logger = logging.getLogger(__name__)
_UNSAFE = re.compile(r"[^a-zA-Z0-9_-]")  # what is no file name, and the dot, which parts names


class GraphiteBridge:
    """Pushes to one Graphite server, once or at intervals.

    Args:
        address: Host and port of the server.
        registry: What to push; by default all of this process.
        timeout_seconds: How long a push may take.
        _timer: Tells the time in seconds since the epoch.
        tags: Whether labels become tags, which Graphite has from 1.1 on, or parts of the name.

    Example:
        >>> bridge = GraphiteBridge(("graphite.example", 2003), tags=True)
        >>> bridge.start(interval=30)  # doctest: +SKIP
    """

    def __init__(
        self,
        address: tuple[str, int],
        registry: CollectorRegistry | Collector = REGISTRY,
        timeout_seconds: float = 30,
        _timer: Callable[[], float] = time.time,
        tags: bool = False,
    ) -> None:
        self._address = address
        self._registry = registry
        self._timeout = timeout_seconds
        self._timer = _timer
        self._pair, self._joint = ("{}={}", ";") if tags else ("{}.{}", ".")
        self._stopped = threading.Event()

    def push(self, prefix: str = "") -> None:
        """Sends all samples once.

        Args:
            prefix: What stands before each name, with a dot between them.

        Raises:
            OSError: If the server cannot be reached.
        """
        now = int(self._timer())
        front = f"{prefix}." if prefix else ""
        lines = [
            f"{front}{self._path(sample)} {float(sample.value)} {now}\n"
            for family in collect(self._registry)
            for sample in family.samples
        ]
        with socket.create_connection(self._address, self._timeout) as connection:
            connection.sendall("".join(lines).encode("ascii"))

    def _path(self, sample: Sample) -> str:
        labels = (
            self._pair.format(_UNSAFE.sub("_", name), _UNSAFE.sub("_", value))
            for name, value in sorted(sample.labels.items())
        )
        return self._joint.join([_UNSAFE.sub("_", sample.name), *labels])

    def start(self, interval: float = 60.0, prefix: str = "") -> None:
        """Pushes now and at intervals, from a daemon thread; a failure is logged, not raised.

        Args:
            interval: Seconds from one push to the next; a push that takes longer skips some.
            prefix: What stands before each name, with a dot between them.
        """
        threading.Thread(
            target=self._push_regularly, args=(interval, prefix), name="graphite", daemon=True
        ).start()

    def stop(self) -> None:
        """Ends, for good, the pushes that `start` began."""
        self._stopped.set()

    def _push_regularly(self, interval: float, prefix: str) -> None:
        due = time.monotonic()
        while not self._stopped.wait(max(due - time.monotonic(), 0)):
            try:
                self.push(prefix)
            except OSError:
                _logger.exception("push to Graphite failed")
            missed = max(time.monotonic() - due, 0) // interval
            due += (missed + 1) * interval
