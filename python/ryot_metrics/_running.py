"""Native parts that run until they are shut down, at the latest at the end of the process.

What each of them does is its own affair.
"""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from typing_extensions import Self

    from ryot_metrics._ryot_metrics import NativeServer, NativeUdsServer


class _Native(Protocol):
    def shutdown(self) -> None: ...


_running: set[Running] = set()


class Running:
    """A part on a native thread.

    It runs until `shutdown`, the end of its `with` block or the end of the process, whether or
    not anybody keeps it. In a forked child it belongs to the parent: every use raises `RyotError`.
    """

    _native: Any

    def __init__(self, native: _Native) -> None:
        self._native = native
        _running.add(self)

    def shutdown(self) -> None:
        """Ends it, after a second at most for what is on its way.

        Without effect the second time.

        Raises:
            RyotError: In a forked child.
        """
        self._native.shutdown()
        _running.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()


class RunningServer(Running):
    """A server, which frees its address when it is shut down."""

    _native: NativeServer | NativeUdsServer

    @property
    def address(self) -> str:
        """Where it listens: `127.0.0.1:9464`, `[::1]:9464`, or the path of the Unix socket."""
        return self._native.address


@atexit.register
def _shutdown_all() -> None:
    for part in list(_running):
        part.shutdown()


# A child has none of them: at its end, there is nothing to shut down.
os.register_at_fork(after_in_child=_running.clear)
