"""Running the service on a socket: in the foreground for the CLI, in a thread for demo and tests.

The socket is bound here, before any model is loaded, so that a port in use is one sentence at once.
It listens from then on: a client may connect early and is answered as soon as the service is up.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

PORT_MAX = 65_535
GRACEFUL_SHUTDOWN_SECONDS = 5
"""How long running answers may go on after the service was told to stop."""


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes any free one.

    Raises:
        ValueError: There is no such port.
        OSError: The address cannot be used; the message names it.
    """
    if not 0 <= port <= PORT_MAX:
        raise ValueError(f"port is {port}; it must be from 0 to {PORT_MAX:,}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} on {host} is in use; choose another with --port") from error
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from error


def address(listening: socket.socket) -> str:
    """The URL under which the socket is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; either ends it cleanly."""
    # uvicorn raises the signal again once it has shut down; by then the caller has more to close.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        _server(app, log_level="info").run(sockets=[listening])


@contextmanager
def in_background(app: FastAPI, listening: socket.socket) -> Iterator[str]:
    """Serve from a thread while the block runs; gives the service's URL."""
    server = _server(app, log_level="warning")
    thread = threading.Thread(target=server.run, args=([listening],), name="ryot-serve")
    thread.start()
    try:
        yield address(listening)
    finally:
        server.should_exit = True
        thread.join()


def _server(app: FastAPI, *, log_level: str) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level=log_level,
            access_log=log_level == "info",
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_SECONDS,
        )
    )
