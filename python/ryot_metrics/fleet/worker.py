"""The workers' side: tells an engine's load, or that of anything else, on NATS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics._ryot_metrics import NativeWorker
from ryot_metrics.fleet._logged import Logged
from ryot_metrics.fleet.names import COMPONENT, ENDPOINT, NAMESPACE, NATS
from ryot_metrics.fleet.server import NatsServer

if TYPE_CHECKING:
    from ryot_metrics.engine import Engine


class Load(NamedTuple):
    """What a worker tells of itself; all are whole numbers, at least 0.

    Attributes:
        request_active_slots: Requests that run.
        request_total_slots: Requests that could run at once.
        kv_active_blocks: Blocks of the KV cache that running requests use.
        kv_total_blocks: Blocks that there are.
        isl_blocks: Prompt blocks that were looked up in the KV cache, since the start.
        overlap_blocks: Those of them that were found.
    """

    request_active_slots: int
    request_total_slots: int
    kv_active_blocks: int
    kv_total_blocks: int
    isl_blocks: int = 0
    overlap_blocks: int = 0


class Worker(Logged):
    """Workers on NATS; `publish` and `mock_workers` make it."""

    _native: NativeWorker

    @property
    def ids(self) -> list[int]:
        """Their numbers, which are the values of the label `worker_id`."""
        return self._native.ids


def publish(
    source: Engine | Callable[[], Load | Mapping[str, int]],
    *,
    nats: str | NatsServer = NATS,
    namespace: str = NAMESPACE,
    component: str = COMPONENT,
    endpoint: str = ENDPOINT,
    service: str | None = None,
    worker_id: int | None = None,
    event_interval: float = 1.0,
) -> Worker:
    """Tells a load to whoever asks for it on NATS, from now on.

    An engine's load is read without the GIL: its blocks are the cells of its KV cache, its slots
    the requests that it computes at once. A callable is called for every question, on a native
    thread; what it raises is what the aggregator names this worker with.

    Args:
        source: An engine, or a callable that gives a `Load` or a mapping with its names.
        nats: The NATS server, or its URL. It may be away, now or later.
        namespace: What all components of the deployment share.
        component: Whose worker this is.
        endpoint: What it serves.
        service: The name of its service; by default it is made of namespace and component.
        worker_id: Its number; by default a random one.
        event_interval: Seconds between two events about the cache, 1 by default, at least 0.01.

    Returns:
        The worker, which runs until it is shut down.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> from ryot_metrics import Engine
        >>> with Engine("toy") as engine:
        ...     with publish(engine, nats="nats://127.0.0.1:1", worker_id=7) as worker:
        ...         worker.ids
        [7]
    """
    told = _native(source) if callable(source) else source._native
    return Worker(
        NativeWorker.of(
            told,
            NatsServer.of(nats),
            namespace,
            component,
            endpoint,
            service=service,
            worker_id=worker_id,
            event_interval=event_interval,
        )
    )


def _native(source: Callable[[], Load | Mapping[str, int]]) -> Callable[[], Load]:
    def call() -> Load:
        told = source()
        return Load(**told) if isinstance(told, Mapping) else Load(*told)

    return call


def mock_workers(
    count: int = 1,
    *,
    seed: int | None = None,
    nats: str | NatsServer = NATS,
    namespace: str = NAMESPACE,
    component: str = COMPONENT,
    endpoint: str = ENDPOINT,
    service: str | None = None,
    event_interval: float = 1.0,
) -> Worker:
    """Workers of random loads and events, which do not correlate.

    Args:
        count: How many.
        seed: Makes their numbers, loads and events repeatable.
        nats: The NATS server, or its URL.
        namespace: What all components of the deployment share.
        component: Whose workers they are.
        endpoint: What they serve.
        service: The name of their service; by default it is made of namespace and component.
        event_interval: Seconds between two events of each, 1 by default.

    Returns:
        The workers, which run until they are shut down.

    Raises:
        ValueError: If a value is outside its range.

    Example:
        >>> with mock_workers(2, seed=1, nats="nats://127.0.0.1:1") as one:
        ...     with mock_workers(2, seed=1, nats="nats://127.0.0.1:1") as same:
        ...         one.ids == same.ids
        True
    """
    native = NativeWorker.mock(
        count,
        seed,
        NatsServer.of(nats),
        namespace,
        component,
        endpoint,
        service=service,
        event_interval=event_interval,
    )
    return Worker(native)
