"""Running the service on a socket: in the foreground for the CLI, in a thread for demo and tests.

The socket is bound here, before any model is loaded, so that a port in use is one sentence at once.
It answers from then on, with 503 until the model is warm.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from ryot_metrics.serve.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from starlette.types import ASGIApp

PORT_MAX = 65_535
DRAIN_SECONDS = 30.0
"""How long running answers may go on after the service was told to stop."""
DRAIN_SECONDS_MAX = 86_400.0
"""The longest that it may be set to: a day."""
CLOSE_SECONDS = 5
"""How long a client may take to read the end of an answer that was cancelled then."""


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


class Service(NamedTuple):
    """What is served, and how its running answers are ended.

    Attributes:
        app: What answers HTTP.
        cancel: Ends all answers.
        drain: Refuses new requests that come another way than by HTTP, and waits for those that
            run, for so many seconds at most.
    """

    app: ASGIApp
    cancel: Callable[[], None]
    drain: Callable[[float], object] = float


def serve(
    load: Callable[[], Service], listening: socket.socket, *, drain_seconds: float = DRAIN_SECONDS
) -> None:
    """Serve until SIGINT or SIGTERM.

    The signal stops the admission of requests; those that run may end for a while, then they are
    cancelled. A second signal, or one before the model is loaded, ends the process at once, with
    the status 128 + its number.

    Args:
        load: Makes the service, on a thread of its own. Until it has, clients are told to wait.
        listening: The socket.
        drain_seconds: How long running answers may go on, in seconds, 0 to 86,400.

    Raises:
        ValueError: If `drain_seconds` is out of its range.
        Exception: What `load` raises.
    """
    if not 0 <= drain_seconds <= DRAIN_SECONDS_MAX:
        raise ValueError(
            f"drain_seconds is {drain_seconds}; it must be from 0 to {DRAIN_SECONDS_MAX:,.0f}"
        )
    _Foreground(load, drain_seconds).run(sockets=[listening])


@contextmanager
def in_background(app: ASGIApp, listening: socket.socket) -> Iterator[str]:
    """Serve from a thread while the block runs; gives the service's URL."""
    server = uvicorn.Server(_config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, args=([listening],), name="ryot-serve")
    thread.start()
    try:
        yield address(listening)
    finally:
        server.should_exit = True
        thread.join()


class _Foreground(uvicorn.Server):
    """uvicorn's server, which here listens while the model is loaded and while it drains."""

    def __init__(self, load: Callable[[], Service], drain_seconds: float) -> None:
        self._gate = Gate()
        super().__init__(_config(self._gate, log_level="info"))
        # Requests are logged; that the server starts and ends, the command says itself.
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._load = load
        self._drain_seconds = drain_seconds
        self._told = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        life = asyncio.create_task(self._live())
        await super().serve(sockets)
        await life

    async def _live(self) -> None:
        try:
            service = await asyncio.to_thread(self._load)
            self._gate.open(service.app)
            await self._told.wait()
            drain = asyncio.to_thread(service.drain, self._drain_seconds)
            drained = asyncio.gather(self._gate.idle.wait(), drain)
            try:
                await asyncio.wait_for(drained, self._drain_seconds)
            except asyncio.TimeoutError:
                await asyncio.to_thread(service.cancel)
        finally:
            self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._gate.draining or not self._gate.opened:
            os._exit(128 + sig)
        self._gate.drain()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)


def _config(app: ASGIApp, *, log_level: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_level=log_level,
        access_log=log_level == "info",
        timeout_graceful_shutdown=CLOSE_SECONDS,
        lifespan="off",
        ws="none",
    )
