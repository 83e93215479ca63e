"""A metrics endpoint that answers while the interpreter is busy.

`prometheus_client` and frameworks answer a scrape in Python: while a request holds the GIL, the
page waits, and the service looks dead exactly when its metrics are needed. The server here is a
native thread that never touches the interpreter.

Example:
    >>> from urllib.request import urlopen
    >>> from ryot_metrics.client import CollectorRegistry, Gauge
    >>> from ryot_metrics.scrape import serve_metrics
    >>> registry = CollectorRegistry()
    >>> Gauge("depth", "Jobs that wait.", registry=registry).inc()
    >>> with serve_metrics(port=0, registry=registry) as server:
    ...     page = urlopen(server.url).read()
    >>> print(page.decode(), end="")
    # HELP depth Jobs that wait.
    # TYPE depth gauge
    depth 1.0
"""

from __future__ import annotations

import os

from ryot_metrics._running import RunningServer
from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry, NativeServer
from ryot_metrics.client.answer import with_profile
from ryot_metrics.dashboard import dashboard_page

__all__ = ["DEFAULT_PORT", "MetricsServer", "serve_metrics"]

DEFAULT_PORT = 9464
"""The port that OpenTelemetry's Prometheus exporters use too; 9100 is `node_exporter`'s."""


class MetricsServer(RunningServer):
    """A running metrics endpoint; `serve_metrics` makes it.

    It runs until `shutdown`, the end of its `with` block or the end of the process, whether or
    not anybody keeps it. In a forked child it belongs to the parent: every use raises `RyotError`.
    """

    _native: NativeServer

    def __init__(self, native: NativeServer, scheme: str) -> None:
        super().__init__(native)
        self._scheme = scheme

    @property
    def port(self) -> int | None:
        """The port, or None for a Unix socket."""
        return self._native.port

    @property
    def url(self) -> str:
        """The page's URL; for a Unix socket `unix://` and its path, as Docker and gRPC write it."""
        if self.port is None:
            return f"unix://{self.address}"
        return f"{self._scheme}://{self.address}/metrics"

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}>"


def serve_metrics(
    port: int = DEFAULT_PORT,
    host: str = "127.0.0.1",
    *,
    unix_socket: str | os.PathLike[str] | None = None,
    unix_mode: int = 0o600,
    registry: CollectorRegistry = REGISTRY,
    profile: str | None = None,
    path: str | None = None,
    dashboard: str | None = "/dashboard",
    certfile: str | os.PathLike[str] | None = None,
    keyfile: str | os.PathLike[str] | None = None,
    client_cafile: str | os.PathLike[str] | None = None,
    client_auth_required: bool = False,
    max_connections: int | None = None,
    max_header_bytes: int | None = None,
    read_timeout: float | None = None,
    write_timeout: float | None = None,
    compress_min_bytes: int | None = None,
) -> MetricsServer:
    """Starts to answer scrapes, on a native thread that never needs the GIL.

    The page is there as text, OpenMetrics and protobuf, compressed for who takes gzip; `name[]`
    in the query restricts it. When the function returns, clients can connect.

    Args:
        port: The port; 0 lets the system choose, and `MetricsServer.port` says which.
        host: A name or an address, of IPv4 or IPv6 (`"::1"`, without brackets). The default
            answers this machine only; `"0.0.0.0"` and `"::"` answer everybody.
        unix_socket: The file of a Unix socket, which then takes the place of host and port. One
            that a dead server left is replaced; any other file is left alone.
        unix_mode: The permissions of that file. Who may write to it may connect.
        registry: Whose families the page shows; by default those of language models too.
        profile: The names of the families of language models, `ryot`, `vllm` or `otel`, on a page
            whose query names none (`/metrics?profile=vllm`); by default the registry's own.
        path: The one path that has the page, such as `"/metrics"`; by default, all paths have it
            but that of the live page.
        dashboard: The path of the live page of charts, which is not there for a registry without
            the families of language models; None for none.
        certfile: A PEM file with the server's certificate and its chain; turns HTTP into HTTPS.
        keyfile: A PEM file with its private key; by default it is in `certfile`.
        client_cafile: A PEM file with the authorities whose client certificates are good.
        client_auth_required: Whether a client without a certificate is turned away.
        max_connections: Connections at a time, 128 by default. One more closes the one that has
            been quiet the longest.
        max_header_bytes: Bytes of a request's line and headers, 16384 by default, at least 8192.
        read_timeout: Seconds that a connection may take to ask something, idle time included;
            30 by default.
        write_timeout: Seconds that a client may leave an answer unread; 10 by default.
        compress_min_bytes: Bytes below which a page is not compressed, 1024 by default.

    Returns:
        The running server.

    Raises:
        ValueError: If a value is outside its range, for an unknown profile, or if a file holds no
            certificate or key.
        OSError: If the address is taken or not allowed, or a file cannot be read.

    Example:
        >>> from ryot_metrics.scrape import serve_metrics
        >>> server = serve_metrics(port=0)
        >>> server.url.startswith("http://127.0.0.1:")
        True
        >>> server.shutdown()
    """
    pages = []
    if dashboard is not None and registry.profiles:
        pages.append(dashboard_page(dashboard, path or "/metrics"))
    native = NativeServer(
        with_profile(registry, profile),
        host,
        port,
        unix_socket=unix_socket,
        unix_mode=unix_mode,
        path=path,
        pages=pages,
        certfile=certfile,
        keyfile=keyfile,
        client_cafile=client_cafile,
        client_auth_required=client_auth_required,
        max_connections=max_connections,
        max_header_bytes=max_header_bytes,
        read_timeout=read_timeout,
        write_timeout=write_timeout,
        compress_min_bytes=compress_min_bytes,
    )
    return MetricsServer(native, "http" if certfile is None else "https")
