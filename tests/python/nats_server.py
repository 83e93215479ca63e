"""A real NATS server, and waiting for what happens elsewhere."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import pytest

from test_prometheus import binary, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 30
T = TypeVar("T")


def until(look: Callable[[], T], what: str = "it") -> T:
    """The first true value that `look` gives; fails if there is none for half a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if value := look():
            return value
        time.sleep(0.02)
    return pytest.fail(f"{what} did not come within {PATIENCE_SECONDS} s")


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextmanager
def nats_server(port: int | None = None, *options: str) -> Iterator[str]:
    """The URL of a NATS server that runs within the block."""
    port = free_port() if port is None else port
    command = [binary("nats-server"), "-a", "127.0.0.1", "-p", str(port), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: listens(port), "nats-server")
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=20)
