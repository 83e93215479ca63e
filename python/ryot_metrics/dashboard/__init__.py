"""A live page of charts beside the metrics page: latencies, rates, queue, cache, devices.

What is served here is one static file. The browser reads the metrics page itself, every two
seconds and only the samples that are shown, and does the arithmetic (`samples.js`). A stream of
ready numbers from the server would spare that code, but it would need a task for each viewer, would
show one worker of many, and could not stand beside a metrics page that answers without the
interpreter. So the page knows nothing but the address of the metrics, and this module nothing of
metrics at all; it must not import a framework before `mount_dashboard` is called with an app.

The page makes no request but for the metrics, and its `Content-Security-Policy` allows no other.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["dashboard_page", "make_dashboard_app", "make_dashboard_wsgi_app", "mount_dashboard"]

DEFAULT_INTERVAL = 2.0
INTERVAL_MIN = 0.1
INTERVAL_MAX = 60.0
ALLOWED = "GET, HEAD"
SCRIPTS = ("samples.js", "chart.js", "page.js")

_Message = MutableMapping[str, Any]


class _Page(NamedTuple):
    headers: list[tuple[str, str]]
    body: bytes

    def answer(self, method: str) -> tuple[HTTPStatus, list[tuple[str, str]], bytes]:
        """Status, headers and body for a method."""
        if method not in ("GET", "HEAD"):
            headers = [("Allow", ALLOWED), ("Content-Length", "0")]
            return HTTPStatus.METHOD_NOT_ALLOWED, headers, b""
        return HTTPStatus.OK, self.headers, self.body if method == "GET" else b""


def mount_dashboard(
    app: Any,
    path: str = "/dashboard",
    metrics_path: str = "/metrics",
    *,
    interval: float = DEFAULT_INTERVAL,
) -> None:
    """Adds the live page to a FastAPI or Starlette app that has the metrics page.

    Behind a proxy that puts a prefix in front of both, the page finds the metrics too.

    Args:
        app: The app.
        path: The path of the live page.
        metrics_path: The path of the metrics page, as given to `mount_metrics`.
        interval: Seconds from one reading of the metrics to the next, 0.1 to 60.

    Raises:
        ValueError: If a path does not begin with `/`, or `interval` is out of its range.

    Example:
        >>> from fastapi import FastAPI
        >>> from ryot_metrics import mount_dashboard, mount_metrics
        >>> app = FastAPI()
        >>> mount_metrics(app)
        >>> mount_dashboard(app)
    """
    from starlette.routing import Route

    page = make_dashboard_app(_relative(path, metrics_path), interval=interval)
    app.router.routes.append(Route(path, page, include_in_schema=False))


def dashboard_page(
    path: str = "/dashboard",
    metrics_path: str = "/metrics",
    *,
    interval: float = DEFAULT_INTERVAL,
) -> tuple[str, list[tuple[str, str]], bytes]:
    """The live page as a file, for a server that knows no apps.

    Args:
        path: The path of the live page.
        metrics_path: The path of the metrics page, on the same server.
        interval: Seconds from one reading of the metrics to the next, 0.1 to 60.

    Returns:
        The path, the headers of the answer, and its body.

    Raises:
        ValueError: If a path does not begin with `/`, or `interval` is out of its range.

    Example:
        >>> path, headers, body = dashboard_page()
        >>> path, body[:15]
        ('/dashboard', b'<!doctype html>')
    """
    return (path, *_page(_relative(path, metrics_path), interval))


def _relative(path: str, metrics_path: str) -> str:
    for name, value in (("path", path), ("metrics_path", metrics_path)):
        if not value.startswith("/"):
            raise ValueError(f"{name} is {value!r}; it must begin with '/'")
    return posixpath.relpath(metrics_path, posixpath.join("/", path, ".."))


def make_dashboard_app(
    metrics_path: str = "/metrics", *, interval: float = DEFAULT_INTERVAL
) -> Any:
    """An ASGI app that answers with the live page, at any path.

    Args:
        metrics_path: Where a browser finds the metrics page, on the same server: a path, or one
            relative to the live page.
        interval: Seconds from one reading of the metrics to the next, 0.1 to 60.

    Returns:
        The app.

    Raises:
        ValueError: If `metrics_path` names another server, or `interval` is out of its range.

    Example:
        >>> make_dashboard_app(interval=0)
        Traceback (most recent call last):
        ValueError: interval is 0; it must be from 0.1 to 60 seconds
    """
    return _DashboardApp(_page(metrics_path, interval))


def make_dashboard_wsgi_app(
    metrics_path: str = "/metrics", *, interval: float = DEFAULT_INTERVAL
) -> WSGIApplication:
    """A WSGI app that answers with the live page, at any path.

    Args:
        metrics_path: Where a browser finds the metrics page, on the same server: a path, or one
            relative to the live page.
        interval: Seconds from one reading of the metrics to the next, 0.1 to 60.

    Returns:
        The app.

    Raises:
        ValueError: If `metrics_path` names another server, or `interval` is out of its range.

    Example:
        >>> from wsgiref.util import setup_testing_defaults
        >>> request = {}
        >>> setup_testing_defaults(request)
        >>> app = make_dashboard_wsgi_app("/metrics")
        >>> html = app(request, lambda status, headers: print(status))
        200 OK
    """
    page = _page(metrics_path, interval)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = page.answer(environ["REQUEST_METHOD"])
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return app


class _DashboardApp:
    def __init__(self, page: _Page) -> None:
        self._page = page

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the dashboard app answers http, not {scope['type']!r}")
        status, headers, body = self._page.answer(scope["method"])
        sent = [(name.lower().encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status.value, "headers": sent})
        await send({"type": "http.response.body", "body": body})


@cache
def _page(metrics_path: str, interval: float) -> _Page:
    from html import escape
    from urllib.parse import urlsplit

    if not INTERVAL_MIN <= interval <= INTERVAL_MAX:
        limits = f"from {INTERVAL_MIN:g} to {INTERVAL_MAX:g} seconds"
        raise ValueError(f"interval is {interval!r}; it must be {limits}")
    if not metrics_path or "\\" in metrics_path or any(urlsplit(metrics_path)[:2]):
        raise ValueError(f"metrics_path is {metrics_path!r}; it must be a path on this server")
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text("utf-8")
    script = "\n".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    html = (folder / "page.html").read_text("utf-8")
    html = html.replace("{metrics}", escape(metrics_path)).replace("{interval}", f"{interval:g}")
    body = html.replace("{style}", style).replace("{script}", script).encode()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Content-Security-Policy", _policy(style, script)),
        ("Cache-Control", "no-cache"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    return _Page(headers, body)


def _policy(style: str, script: str) -> str:
    """Allows this style, this script, the icon, and requests to this server; nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hash(text: str) -> str:
    from base64 import b64encode
    from hashlib import sha256

    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
