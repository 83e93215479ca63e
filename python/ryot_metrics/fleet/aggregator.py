"""The aggregator in Python: a shape around the native one."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics._ryot_metrics import NativeFleet
from ryot_metrics.fleet._logged import Logged
from ryot_metrics.fleet.names import COMPONENT, ENDPOINT, NAMESPACE, PUSH_JOB
from ryot_metrics.fleet.server import NatsServer

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence


class Endpoint(NamedTuple):
    """One worker's load; what its page does not say is None.

    Attributes:
        name: `worker-` and its number, or its address.
        subject: Where requests reach it, or its page.
        request_active_slots: Requests that run.
        request_total_slots: Requests that could run at once.
        kv_active_blocks: Blocks of the KV cache that running requests use.
        kv_total_blocks: Blocks that there are.
    """

    name: str
    subject: str
    request_active_slots: int | None
    request_total_slots: int | None
    kv_active_blocks: int | None
    kv_total_blocks: int | None


class Workers(NamedTuple):
    """All workers that are there, and the figures over them.

    Attributes:
        endpoints: The workers, in the order of their numbers.
        load_avg: Active KV blocks of a worker, on average; None if no worker tells them.
        load_std: Their population standard deviation; None if no worker tells them.
    """

    endpoints: list[Endpoint]
    load_avg: float | None
    load_std: float | None


class Fleet(Logged):
    """Collects the load of a component's workers, and serves it to Prometheus.

    Workers on NATS tell their load; the pages of workers that are read over HTTP tell it by the
    families of their engine, of this package or of vLLM. Those pages are added up too, each family
    by its type: counters and histograms never go down, whoever comes and goes; gauges are
    those of the workers that are there. A worker that is slow, gone or talks nonsense costs nobody
    else anything; it is named in the log, counted in `ryot_fleet_failures_total`, and leaves after
    `stale_after`.

    It begins when it is made, and ends with `shutdown`, its `with` block or the process. What it
    has to say goes to the logger `ryot_metrics.fleet`.

    Args:
        namespace: What all components of the deployment share.
        component: Whose workers to collect from.
        endpoint: What the workers serve.
        nats: The NATS server, or its URL. It may be away, now or later.
        service: The name of the workers' service; by default it is made of namespace and
            component.
        host: The address of the page; by default there is none, and `page` has it.
        port: Its port; 0, the default, lets the system choose.
        serve_sd: Whether `/sd` there tells Prometheus of the workers that are read over HTTP, in
            the form of its `http_sd`.
        push: The URL of a Pushgateway, which then takes the place of host and port.
        push_interval: Seconds between two pushes, 2 by default, at least 0.1.
        push_job: The label `job` of what is pushed.
        targets: Workers that are read over HTTP: `host:port`, or URLs.
        file_sd: Files that name workers, in the form of Prometheus' `file_sd`: YAML where the name
            ends in `.yml` or `.yaml`, JSON elsewhere. In a file's name, `*` stands for any text.
        http_sd: URLs that name workers, in the form of Prometheus' `http_sd`.
        dns: `name:port`, of which every address is a worker; or `name`, whose SRV records tell
            hosts and ports.
        dns_server: The DNS server to ask, as `address` or `address:port`; by default, the
            system's.
        refresh_interval: Seconds between two looks at where workers are named, 5 by default, at
            least 0.1.
        timeout: Seconds that an answer over HTTP may take, 1 by default, at least 0.01.
        max_page_bytes: The most bytes of a page, 16777216 by default.
        families: Which families of the pages are added up: names, in which `*` stands for any
            text; all by default.
        gauges: What becomes of gauges, by their names: `sum`, which is the default, `min`, `max`,
            `mean`, or `each`, which keeps those of every worker apart, with a label `worker`. The
            first name that fits counts.
        series_limit: The most series of a family that is added up, 10000 by default.
        poll_interval: Seconds between two polls, 1 by default, at least 0.1.
        stale_after: Seconds that a worker stays after its last answer; by default 3, or three
            polls if that is more.
        events_ttl: Seconds that a worker stays that is known from events alone, 60 by default.
        max_workers: The most workers, 10000 by default. Others are left out and counted.

    Raises:
        ValueError: If a value is outside its range.
        OSError: If the address is taken or not allowed, or a file for NATS cannot be read.

    Example:
        >>> with Fleet("dynemo", nats="nats://127.0.0.1:1", host="127.0.0.1") as fleet:
        ...     print(fleet.page().splitlines()[-1])
        ryot_fleet_workers{source="nats",state="up"} 0.0
    """

    _native: NativeFleet

    def __init__(
        self,
        namespace: str = NAMESPACE,
        component: str = COMPONENT,
        endpoint: str = ENDPOINT,
        *,
        nats: str | NatsServer | None = None,
        service: str | None = None,
        host: str | None = None,
        port: int = 0,
        serve_sd: bool = False,
        push: str | None = None,
        push_interval: float = 2.0,
        push_job: str = PUSH_JOB,
        targets: Sequence[str] = (),
        file_sd: Sequence[str | os.PathLike[str]] = (),
        http_sd: Sequence[str] = (),
        dns: Sequence[str] = (),
        dns_server: str | None = None,
        refresh_interval: float | None = None,
        timeout: float | None = None,
        max_page_bytes: int | None = None,
        families: Sequence[str] | None = None,
        gauges: Mapping[str, str] | None = None,
        series_limit: int | None = None,
        poll_interval: float = 1.0,
        stale_after: float | None = None,
        events_ttl: float | None = None,
        max_workers: int | None = None,
    ) -> None:
        super().__init__(
            NativeFleet(
                namespace,
                component,
                endpoint,
                service=service,
                nats=None if nats is None else NatsServer.of(nats),
                host=host,
                port=port,
                serve_sd=serve_sd,
                push=push,
                push_interval=push_interval,
                push_job=push_job,
                targets=list(targets),
                file_sd=list(file_sd),
                http_sd=list(http_sd),
                dns=list(dns),
                dns_server=dns_server,
                refresh_interval=refresh_interval,
                timeout=timeout,
                max_page_bytes=max_page_bytes,
                families=None if families is None else list(families),
                gauges=[f"{name}={mode}" for name, mode in (gauges or {}).items()],
                series_limit=series_limit,
                poll_interval=poll_interval,
                stale_after=stale_after,
                events_ttl=events_ttl,
                max_workers=max_workers,
            )
        )

    @property
    def url(self) -> str | None:
        """Where the page is, or None if it is not served."""
        address = self._native.address
        return None if address is None else f"http://{address}/metrics"

    def page(self) -> str:
        """The page, in Prometheus' text format.

        Raises:
            RyotError: In a forked child.
        """
        return self._native.page()

    def workers(self) -> Workers:
        """The workers that are there, and the figures over them.

        Raises:
            RyotError: In a forked child.

        Example:
            >>> with Fleet() as fleet:
            ...     fleet.workers()
            Workers(endpoints=[], load_avg=None, load_std=None)
        """
        rows, mean, deviation = self._native.workers()
        return Workers([Endpoint(*row) for row in rows], mean, deviation)
