"""The page over ASGI.

Must not import a web framework, and must not hold up the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry
from ryot_metrics.client.answer import Answer, answer

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _MetricsApp:
    def __init__(self, registry: CollectorRegistry, compress: bool) -> None:
        self._registry = registry
        self._compress = compress

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics app answers http, not {scope['type']!r}")
        status, headers, body = await self._answer(
            scope["method"],
            _header(scope, b"accept"),
            _header(scope, b"accept-encoding"),
            scope.get("query_string", b"").decode("latin-1"),
        )
        sent = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status.value, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, method: str, accept: str, encoding: str, query: str) -> Answer:
        """Answers in a thread: a page may be large, and collectors may be written in Python."""
        work = partial(
            answer, self._registry, method, accept, encoding, query, compressed=self._compress
        )
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a loop of another library, whose threads are not known here
            return work()
        return await loop.run_in_executor(None, work)


def _header(scope: _Scope, name: bytes) -> str:
    return b",".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def make_asgi_app(registry: CollectorRegistry = REGISTRY, disable_compression: bool = False) -> Any:
    """An ASGI app that answers with the page, at any path, in the format that is asked for.

    Args:
        registry: What to show; by default all of this process.
        disable_compression: Whether to leave the page as it is, whatever the client accepts.

    Returns:
        The app.
    """
    return _MetricsApp(registry, not disable_compression)
