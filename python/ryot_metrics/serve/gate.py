"""When requests are let in: not before the model is warm, and none any more once it drains.

The outermost layer of the service, which is there before the model is. Must not know what a model
is, or any route but those named here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ryot_metrics.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

READABLE = ("/metrics", "/dashboard")
"""What can still be read while the service drains."""

RETRY_SECONDS = 2
"""What a client that came too early or too late is told to wait, in seconds."""


class Gate:
    """An ASGI app that refuses with 503 before it has an app, and after it was told to drain.

    A refusal's `code` says which of the two it is, also on `/health`: `loading` or `draining`.
    """

    def __init__(self) -> None:
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self._app: ASGIApp | None = None
        self._running = 0

    @property
    def opened(self) -> bool:
        """Whether there is an app."""
        return self._app is not None

    def open(self, app: ASGIApp) -> None:
        """Let requests through to the app, unless the service drains already."""
        self._app = app

    def drain(self) -> None:
        """Refuse new requests from now on; `idle` is set as soon as the running ones have ended.

        May be called from a signal handler.
        """
        self.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        app = self._app
        if self.draining and scope["path"] not in READABLE:
            await _refusal("the service is shutting down", "draining")(scope, receive, send)
        elif app is None:
            await _refusal("the model is loading", "loading")(scope, receive, send)
        else:
            await self._counted(app, scope, receive, send)

    async def _counted(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._running += 1
        self.idle.clear()
        try:
            await app(scope, receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self.idle.set()


def _refusal(message: str, code: str) -> ASGIApp:
    kind = "service_unavailable_error"
    response = ApiError(503, message, kind, code=code, retry_after=RETRY_SECONDS).response()
    response.headers["Connection"] = "close"
    return response
