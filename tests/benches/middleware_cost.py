"""What the middlewares cost for each request, on top of an app that does nothing.

Beside them, a middleware of the same kind written with `prometheus_client`: a gauge of active
requests, a counter by status and a histogram of latency, under the same labels. It tells neither
hang-ups nor streams, tokens and broken bodies. The floor is a middleware that passes everything on
and records nothing, which whoever sees a response has to pay. The last row is the recording alone.
All take turns in one process; each figure is the median over the rounds of (loop with it - loop
without) / calls, in CPU time of the thread, which other processes do not add to.

Run: python tests/benches/middleware_cost.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import prometheus_client
from rich.console import Console
from rich.table import Table
from starlette.routing import Route, Router

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware

REQUESTS = 2_000
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
HEADERS = [
    (b"host", b"localhost:8000"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"client/1.0"),
    (b"x-model", b"gpt4"),
    (b"content-type", b"application/json"),
    (b"content-length", b"2"),
]
REQUEST = {"type": "http.request", "body": b"{}"}
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"2")],
}
BODY = {"type": "http.response.body", "body": b"ok"}
TEMPLATE = "/v1/models/{name}"


class App:
    """Not a function, which Starlette would call with a request."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        await send(BODY)


app = App()


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


class Families:
    """The peer's families, and what it records of a request."""

    def __init__(self) -> None:
        registry = prometheus_client.CollectorRegistry()
        labels = ["model", "endpoint"]
        self.active = prometheus_client.Gauge("active", "A.", labels, registry=registry)
        self.requests = prometheus_client.Counter(
            "requests", "R.", [*labels, "status"], registry=registry
        )
        self.latency = prometheus_client.Histogram(
            "latency", "L.", ["model", "mode"], buckets=BUCKETS, registry=registry
        )

    def begin(self, model: str, endpoint: str) -> float:
        self.active.labels(model, endpoint).inc()
        return time.perf_counter()

    def end(self, model: str, endpoint: str, status: int, began: float) -> None:
        self.active.labels(model, endpoint).dec()
        word = "success" if status < 400 else "error"
        self.requests.labels(model, endpoint, word).inc()
        self.latency.labels(model, "standard").observe(time.perf_counter() - began)


class Floor:
    """Passes everything on, over ASGI."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def received() -> Any:
            return await receive()

        async def sent(message: Any) -> None:
            await send(message)

        await self.app(scope, received, sent)


class WSGIFloor:
    """Passes everything on, over WSGI."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: Any, start_response: Any) -> Any:
        def started(line: str, headers: Any, *rest: Any) -> Any:
            return start_response(line, headers, *rest)

        yield from self.app(environ, started)


class Peer:
    """The same by hand, over ASGI; it is told the template, which it would have to look up."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.families = Families()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        model = dict(scope["headers"])[b"x-model"].decode("latin-1")
        began = self.families.begin(model, TEMPLATE)
        status = 500

        async def observed(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, observed)
        finally:
            self.families.end(model, TEMPLATE, status, began)


class WSGIPeer:
    """The same by hand, over WSGI."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.families = Families()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        model = environ["HTTP_X_MODEL"]
        began = self.families.begin(model, TEMPLATE)
        status = 500

        def observed(line: str, headers: Any, *rest: Any) -> Any:
            nonlocal status
            status = int(line[:3])
            return start_response(line, headers, *rest)

        try:
            yield from self.app(environ, observed)
        finally:
            self.families.end(model, TEMPLATE, status, began)


def asgi_loop(app: Callable[..., Awaitable[None]]) -> float:
    """The CPU seconds of so many requests over ASGI."""

    async def receive() -> Any:
        return REQUEST

    async def send(message: Any) -> None:
        pass

    async def loop() -> float:
        began = time.thread_time()
        for _ in range(REQUESTS):
            scope = {
                "type": "http",
                "method": "GET",
                "path": "/v1/models/a",
                "query_string": b"",
                "headers": HEADERS,
            }
            await app(scope, receive, send)
        return time.thread_time() - began

    return asyncio.run(loop())


def wsgi_loop(app: Callable[..., Any]) -> float:
    """The CPU seconds of so many requests over WSGI."""
    began = time.thread_time()
    for _ in range(REQUESTS):
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/v1/models/a", "HTTP_X_MODEL": "gpt4"}
        response = app(environ, lambda *_: None)
        for _ in response:
            pass
        if hasattr(response, "close"):
            response.close()
    return time.thread_time() - began


def sample_loop(work: Callable[[], object]) -> float:
    """The CPU seconds of recording so many requests."""
    began = time.thread_time()
    for _ in range(REQUESTS):
        work()
    return time.thread_time() - began


def rows(rounds: int) -> list[tuple[str, list[float]]]:
    """For each protocol: microseconds of the floor, of ours and of the peer."""
    routed = Router([Route(TEMPLATE, app)])
    families = Families()
    table = []
    for name, loop, apps in (
        (
            "ASGI",
            asgi_loop,
            (
                app,
                Floor(app),
                InferenceMiddleware(app, model_header="x-model", endpoint=TEMPLATE),
                Peer(app),
            ),
        ),
        (
            "ASGI, asking Starlette's router",
            asgi_loop,
            (
                routed,
                Floor(routed),
                InferenceMiddleware(routed, model_header="x-model"),
                Peer(routed),
            ),
        ),
        (
            "WSGI",
            wsgi_loop,
            (
                wsgi,
                WSGIFloor(wsgi),
                InferenceWSGIMiddleware(wsgi, model_header="x-model", endpoint=TEMPLATE),
                WSGIPeer(wsgi),
            ),
        ),
        (
            "the samples alone, without HTTP",
            sample_loop,
            (
                lambda: None,
                lambda: None,
                lambda: Request("gpt4", TEMPLATE, "standard").finish("success", None),
                lambda: families.end("gpt4", TEMPLATE, 200, families.begin("gpt4", TEMPLATE)),
            ),
        ),
    ):
        taken = [[loop(one) for one in apps] for _ in range(rounds)]
        over = [[(one - plain) / REQUESTS * 1e6 for one in others] for plain, *others in taken]
        table.append((name, [statistics.median(column) for column in zip(*over, strict=True)]))
    return table


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    peer = "prometheus_client, by hand"
    table = Table("middleware", "µs a request", peer, "times", "floor", "times, above it")
    for name, (floor, ours, theirs) in rows(parser.parse_args().rounds):
        above = (theirs - floor) / (ours - floor)
        cells = (ours, theirs, theirs / ours, floor, above)
        table.add_row(name, *(f"{cell:.2f}" for cell in cells))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
