"""`start_http_server`: the page from a native thread, under the names of `http.server`.

What the native server has no words for (a directory of authorities, bounds of TLS versions, a
registry of another package) is served by `wsgi`, from a thread of Python.
"""

from __future__ import annotations

import ssl
import threading
from wsgiref.simple_server import WSGIServer

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry
from ryot_metrics.client.wsgi import start_wsgi_server
from ryot_metrics.scrape import MetricsServer, serve_metrics


class NativeHTTPServer:
    """A running server, with the names that `http.server.HTTPServer` has for it."""

    def __init__(self, server: MetricsServer) -> None:
        self._server = server
        self._stopped = threading.Event()
        self.server_port = server.port or 0
        self.server_address = (server.address.rpartition(":")[0].strip("[]"), self.server_port)

    def serve_until_shutdown(self) -> None:
        """Waits for `shutdown`."""
        self._stopped.wait()

    def shutdown(self) -> None:
        """Frees the address; without effect the second time."""
        self._server.shutdown()
        self._stopped.set()

    def server_close(self) -> None:
        """The same as `shutdown`, after which programs call it."""
        self.shutdown()


def start_http_server(
    port: int,
    addr: str = "0.0.0.0",
    registry: CollectorRegistry = REGISTRY,
    certfile: str | None = None,
    keyfile: str | None = None,
    client_cafile: str | None = None,
    client_capath: str | None = None,
    protocol: int = ssl.PROTOCOL_TLS_SERVER,
    client_auth_required: bool = False,
    tls_min_version: ssl.TLSVersion | None = None,
    tls_max_version: ssl.TLSVersion | None = None,
) -> tuple[NativeHTTPServer | WSGIServer, threading.Thread]:
    """Serves the page from a native thread, which needs no interpreter.

    The arguments are those of `start_wsgi_server`, which serves in its place where one of
    `client_capath`, `protocol` and the TLS versions is given, or a registry that is not this
    package's or restricted. The native thread has the live page of charts too, at `/dashboard`.
    `ryot_metrics.scrape.serve_metrics` can do more.

    Returns:
        The server, whose `shutdown()` and `server_close()` end it, and a thread that ends with it.

    Raises:
        ValueError: If only one of certificate and key is given.
        OSError: If the address is taken, or a file cannot be read.

    Example:
        >>> server, thread = start_http_server(0, "127.0.0.1")
        >>> server.shutdown(), server.server_close(), thread.join()
        (None, None, None)
    """
    if (certfile is None) != (keyfile is None):
        raise ValueError("certfile and keyfile go together; one of them is missing")
    extras = (client_capath, tls_min_version, tls_max_version)
    plain = all(extra is None for extra in extras)
    known = isinstance(registry, CollectorRegistry) and not registry.is_restricted
    if not (plain and known and protocol == ssl.PROTOCOL_TLS_SERVER):
        return start_wsgi_server(
            port,
            addr,
            registry,
            certfile,
            keyfile,
            client_cafile,
            client_capath,
            protocol,
            client_auth_required,
            tls_min_version,
            tls_max_version,
        )
    server = NativeHTTPServer(
        serve_metrics(
            port,
            addr,
            registry=registry,
            certfile=certfile,
            keyfile=keyfile,
            client_cafile=client_cafile if certfile else None,
            client_auth_required=client_auth_required if certfile else False,
        )
    )
    thread = threading.Thread(target=server.serve_until_shutdown, name="metrics", daemon=True)
    thread.start()
    return server, thread
