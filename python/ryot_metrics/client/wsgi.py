"""The page over WSGI and `http.server`, and a small server of the standard library for it.

What is answered is for `answer` to say. Each request has a thread of its own, in which its TLS
handshake happens too: a client that does not finish it keeps nobody waiting.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry
from ryot_metrics.client.answer import answer
from ryot_metrics.client.tls import server_context

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CLIENT_TIMEOUT_SECONDS = 60  # for a client that is silent in the middle of its request


def make_wsgi_app(
    registry: CollectorRegistry = REGISTRY, disable_compression: bool = False
) -> WSGIApplication:
    """A WSGI app that answers with the page, at any path.

    Args:
        registry: What to show; by default all of this process.
        disable_compression: Whether to leave the page as it is, whatever the client accepts.

    Returns:
        The app.

    Example:
        >>> from wsgiref.util import setup_testing_defaults
        >>> request = {}
        >>> setup_testing_defaults(request)
        >>> page = make_wsgi_app()(request, lambda status, headers: print(status))
        200 OK
    """

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO") == "/favicon.ico":  # browsers ask for it beside each page
            start_response("200 OK", [("Content-Length", "0")])
            return [b""]
        status, headers, body = answer(
            registry,
            environ["REQUEST_METHOD"],
            environ.get("HTTP_ACCEPT"),
            environ.get("HTTP_ACCEPT_ENCODING"),
            environ.get("QUERY_STRING", ""),
            compressed=not disable_compression,
        )
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return app


class MetricsHandler(BaseHTTPRequestHandler):
    """A handler of `http.server` that answers with the page of its `registry`."""

    registry: CollectorRegistry = REGISTRY

    def _answer(self) -> None:
        status, headers, body = answer(
            self.registry,
            self.command,
            self.headers.get("Accept"),
            self.headers.get("Accept-Encoding"),
            urlsplit(self.path).query,
        )
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_OPTIONS = _answer  # noqa: N815  # names that `http.server` asks for
    do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Logs nothing."""

    @classmethod
    def factory(cls, registry: CollectorRegistry) -> type[MetricsHandler]:
        """A handler class for one registry.

        Args:
            registry: What to show.

        Returns:
            The class, for `http.server.HTTPServer`.
        """
        return type(cls.__name__, (cls,), {"registry": registry})


class _SilentHandler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Logs nothing."""


class ThreadingWSGIServer(ThreadingMixIn, WSGIServer):
    """A WSGI server with a thread for each request, none of which keeps the process alive."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints an error of the app; a client that went away or spoke no TLS is none."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def start_wsgi_server(
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
) -> tuple[WSGIServer, threading.Thread]:
    """Serves the page from a daemon thread, with TLS if there is a certificate.

    Args:
        port: The port; 0 for any free one, which `server.server_port` then tells.
        addr: The address to listen at, of IPv4 or IPv6.
        registry: What to show; by default all of this process.
        certfile: The server's certificate chain, PEM.
        keyfile: The key of the certificate, PEM.
        client_cafile: The authorities of client certificates, in one file.
        client_capath: The same in a directory.
        protocol: A constant `ssl.PROTOCOL_*`.
        client_auth_required: Whether a client must show a certificate.
        tls_min_version: The oldest version of TLS to speak.
        tls_max_version: The newest version of TLS to speak.

    Returns:
        The server, whose `shutdown()` and `server_close()` end it, and its thread.

    Raises:
        ValueError: If only one of certificate and key is given.
        OSError: If the address is taken, or a file cannot be read.

    Example:
        >>> server, thread = start_wsgi_server(0, "127.0.0.1")
        >>> server.shutdown(), server.server_close(), thread.join()
        (None, None, None)
    """
    if (certfile is None) != (keyfile is None):
        raise ValueError("certfile and keyfile go together; one of them is missing")
    context: ssl.SSLContext | None = None
    if certfile is not None and keyfile is not None:
        context = server_context(
            certfile,
            keyfile,
            protocol,
            client_cafile,
            client_capath,
            client_auth_required,
            tls_min_version,
            tls_max_version,
        )
    family, address = _resolved(addr, port)
    server_class: type[ThreadingWSGIServer] = type(
        "Server", (ThreadingWSGIServer,), {"address_family": family}
    )
    server = make_server(address, port, make_wsgi_app(registry), server_class, _SilentHandler)
    if context is not None:
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread


def _resolved(address: str, port: int) -> tuple[socket.AddressFamily, str]:
    """The family and the numbers of the first address that a name has."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = found[0]
    return family, str(place[0])
