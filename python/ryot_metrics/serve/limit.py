"""The most bytes that a request's body may have.

A body that is announced as larger is refused unread; one that turns out larger, where it passes
the limit. Knows HTTP, nothing of models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from ryot_metrics.serve.errors import BodyTooLargeError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 8 * 1024 * 1024
"""The default: 8 MiB, some two million tokens of text."""


class BodyLimit:
    """Makes the reading of a body fail that is larger than the limit.

    Args:
        app: The app behind it.
        max_body_bytes: The limit.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        too_large = announced.isdecimal() and int(announced) > self._limit
        read = 0

        async def limited() -> Message:
            nonlocal read
            if too_large:
                raise BodyTooLargeError(f"{int(announced):,}", self._limit)
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._limit:
                raise BodyTooLargeError(f"more than {self._limit:,}", self._limit)
            return message

        await self._app(scope, limited, send)
