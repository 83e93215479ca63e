"""The page over ASGI.

Must not import a web framework before `mount_metrics` is called with one of its apps.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ryot_metrics import _ryot_metrics
from ryot_metrics._ryot_metrics import REGISTRY, CollectorRegistry

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class _MetricsApp:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the metrics app answers http, not {scope['type']!r}")
        if scope["method"] not in ("GET", "HEAD"):
            await _respond(send, 405, [(b"allow", b"GET, HEAD")], b"")
            return
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        openmetrics, content_type = _ryot_metrics.negotiate(accept.decode("latin-1"))
        page = _ryot_metrics.encode(self._registry, openmetrics)
        headers = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(page)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await _respond(send, 200, headers, b"" if scope["method"] == "HEAD" else page)


async def _respond(
    send: _Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def make_asgi_app(registry: CollectorRegistry = REGISTRY) -> Any:
    """An ASGI app that answers GET and HEAD with the page, in the format that is asked for.

    Args:
        registry: What to show; by default all of this process.

    Returns:
        The app.
    """
    return _MetricsApp(registry)


def mount_metrics(
    app: Any, path: str = "/metrics", *, registry: CollectorRegistry = REGISTRY
) -> None:
    """Adds the page to a FastAPI or Starlette app, at exactly this path, without a redirect.

    Args:
        app: The app.
        path: The path of the page.
        registry: What to show; by default all of this process.

    Raises:
        ValueError: If the path does not begin with `/`.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> mount_metrics(app)
    """
    from starlette.routing import Route

    if not path.startswith("/"):
        raise ValueError(f"path is {path!r}; it must begin with '/'")
    app.router.routes.append(
        Route(path, make_asgi_app(registry), methods=["GET", "HEAD"], include_in_schema=False)
    )
