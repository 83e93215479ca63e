"""A fleet of workers on one page: its aggregator, and the workers' side.

The aggregator asks the workers of one component for their load, and shows it with the figures over
all of them; both sides run on native threads that never wait for the interpreter.

Example:
    A worker in two lines; `Load` may also come from an `Engine`:

    >>> from ryot_metrics.fleet import Fleet, Load, publish
    >>> worker = publish(lambda: Load(1, 8, 77, 100), nats="nats://127.0.0.1:1")
    >>> worker.shutdown()

    The aggregator:

    >>> with Fleet(nats="nats://127.0.0.1:1") as fleet:
    ...     fleet.workers().load_avg is None
    True
"""

from __future__ import annotations

from ryot_metrics.fleet.aggregator import Endpoint, Fleet, Workers
from ryot_metrics.fleet.names import COMPONENT, ENDPOINT, NAMESPACE, NATS
from ryot_metrics.fleet.server import NatsServer
from ryot_metrics.fleet.worker import Load, Worker, mock_workers, publish

__all__ = [
    "COMPONENT",
    "ENDPOINT",
    "NAMESPACE",
    "NATS",
    "Endpoint",
    "Fleet",
    "Load",
    "NatsServer",
    "Worker",
    "Workers",
    "mock_workers",
    "publish",
]
