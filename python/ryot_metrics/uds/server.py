"""Serving an engine on a Unix socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ryot_metrics._running import RunningServer
from ryot_metrics._ryot_metrics import NativeUdsServer

if TYPE_CHECKING:
    import os

    from ryot_metrics.engine import Engine


class UdsServer(RunningServer):
    """A running Unix socket of an engine; `serve_uds` makes it.

    It keeps the engine: one that nobody else keeps lives as long.
    """

    def __init__(self, native: NativeUdsServer, engine: Engine) -> None:
        super().__init__(native)
        self._uds = native
        self._engine = engine

    def drain(self, seconds: float) -> bool:
        """Refuses requests from now on, and waits for those that run. Metrics can still be read.

        Args:
            seconds: How long to wait at most.

        Returns:
            Whether all of them have ended.

        Raises:
            ValueError: If `seconds` is negative or no number.
            RyotError: In a forked child.

        Example:
            >>> import tempfile
            >>> from ryot_metrics import Engine
            >>> with tempfile.TemporaryDirectory() as home, Engine("toy") as engine:
            ...     with serve_uds(engine, f"{home}/engine.sock") as server:
            ...         server.drain(1.0)
            True
        """
        return self._uds.drain(seconds)

    def __repr__(self) -> str:
        return f"<UdsServer {self.address}>"


def serve_uds(
    engine: Engine,
    path: str | os.PathLike[str],
    *,
    max_connections: int | None = None,
    max_frame_bytes: int | None = None,
    max_line_bytes: int | None = None,
    max_prompt_bytes: int | None = None,
    max_unsent_bytes: int | None = None,
    idle_timeout: float | None = None,
    frame_timeout: float | None = None,
    write_timeout: float | None = None,
) -> UdsServer:
    """Starts to answer an engine's clients, on a native thread that never needs the GIL.

    The socket's file can be used by its owner alone (mode 0600). When the function returns,
    clients can connect; when the server is shut down, requests that run are cancelled, their
    clients are told, and the file is removed.

    Args:
        engine: What answers. It stays the caller's to shut down.
        path: The socket's file. One that a dead server left is replaced; any other is left alone.
        max_connections: Connections at a time, 64 by default. One more takes the place of one that
            never asked anything, and is refused if there is none.
        max_frame_bytes: Bytes of JSON in a frame of a client, 1 MiB by default, 16777215 at most.
        max_line_bytes: Bytes in a line of a client, 1024 by default.
        max_prompt_bytes: Bytes of UTF-8 in a prompt, 262144 by default.
        max_unsent_bytes: Bytes of an answer that are kept for a slow reader, 262144 by default;
            then its further tokens wait in the engine.
        idle_timeout: Seconds that a connection may be silent between two requests, and before the
            first; 300 by default.
        frame_timeout: Seconds that a client may take over one frame; 10 by default.
        write_timeout: Seconds that a client may read nothing of what waits for it; 10 by default.

    Returns:
        The running server.

    Raises:
        ValueError: If a limit is outside its range.
        OSError: If another server listens there, the file is no socket, or its directory is
            missing or not allowed.
    """
    native = NativeUdsServer(
        engine._native,
        path,
        max_connections=max_connections,
        max_frame_bytes=max_frame_bytes,
        max_line_bytes=max_line_bytes,
        max_prompt_bytes=max_prompt_bytes,
        max_unsent_bytes=max_unsent_bytes,
        idle_timeout=idle_timeout,
        frame_timeout=frame_timeout,
        write_timeout=write_timeout,
    )
    return UdsServer(native, engine)
