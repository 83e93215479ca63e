"""Two small services with the middlewares, for servers that run as processes of their own.

`/v1/stream` writes pieces until the client has gone, `/v1/silent` waits for that without writing,
`/v1/three` ends by itself, `/metrics` is the page.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import flask
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from ryot_metrics import mount_metrics
from ryot_metrics.client import make_wsgi_app
from ryot_metrics.middleware import InferenceMiddleware, InferenceWSGIMiddleware

PIECE = b"data: piece\n\n"
SSE = "text/event-stream"

app = FastAPI()
mount_metrics(app)
app.add_middleware(InferenceMiddleware, model="m", mode="streaming")


@app.get("/v1/{name}")
async def stream(name: str) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        if name == "silent":
            await asyncio.Event().wait()
        for _ in range(3) if name == "three" else itertools.count():
            yield PIECE
            await asyncio.sleep(0.01)

    return StreamingResponse(pieces(), media_type=SSE)


wsgi = flask.Flask("service")


@wsgi.get("/v1/<name>")
def stream_wsgi(name: str) -> flask.Response:
    def pieces():
        for _ in range(3) if name == "three" else itertools.count():
            yield PIECE
            time.sleep(0.01)

    return flask.Response(pieces(), mimetype=SSE)


class _WithPage:
    """The page beside the app; `wsgi_app` is what the middleware wraps."""

    def __init__(self, wsgi_app):
        self.wsgi_app = wsgi_app

    def __call__(self, environ, start_response):
        inner = make_wsgi_app() if environ["PATH_INFO"] == "/metrics" else self.wsgi_app
        return inner(environ, start_response)


wsgi.wsgi_app = InferenceWSGIMiddleware(_WithPage(wsgi.wsgi_app), model="m", mode="streaming")
