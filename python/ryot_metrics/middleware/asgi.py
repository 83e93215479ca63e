"""The middleware for ASGI apps: FastAPI, Starlette, Litestar, Django, or one without a framework.

A request ends with the last piece of its response's body, not with the app's return: what runs in
the background after it is not part of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ryot_metrics.middleware.base import Middleware
from ryot_metrics.middleware.body import Message, Receive, is_json, peek
from ryot_metrics.middleware.exchange import Exchange
from ryot_metrics.middleware.finders import path_of
from ryot_metrics.middleware.routes import UNKNOWN, Endpoint
from ryot_metrics.tracking import current, current_request

Send = Callable[[Message], Awaitable[None]]

_get_current, _set_current, _reset_current = current.get, current.set, current.reset


class InferenceMiddleware(Middleware):
    """Measures the HTTP requests of an ASGI app, each as one request; `Middleware` has the options.

    A client is known to have hung up when the app or the server notices: a handler that computes
    a whole answer without asking counts as a success. Websockets pass through.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> app.add_middleware(InferenceMiddleware, paths=["/v1/*"], model_header="x-model")
    """

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answers a request as the app does."""
        endpoint = self._endpoint_of(scope)
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        body = None
        if self._model_body is not None and is_json(_text(headers, b"content-type")):
            body, receive = await peek(
                receive, _text(headers, b"content-length"), self._max_body_bytes
            )
        streams = b"text/event-stream" in headers.get(b"accept", b"")
        exchange = self._open(scope, endpoint, streams, self._named(scope, headers), body)
        wire = _Wire(exchange, receive, send)
        token = _set_current(exchange)
        try:
            await self.app(scope, wire.receive, wire.send)
        except BaseException as error:
            exchange.leaves(error)
            raise
        else:
            exchange.leaves(None)
        finally:
            _reset_current(token)

    def _endpoint_of(self, scope: Any) -> Endpoint | None:
        # Inside a request that is measured already, this one is part of it.
        if scope["type"] != "http" or (
            _get_current() is not None and current_request() is not None
        ):
            return None
        method, path = scope["method"], scope["path"]
        if (kept := self._kept.get((method, path), UNKNOWN)) is not UNKNOWN:
            return kept
        return self._routes.endpoint(scope, method, path_of(scope), path)

    def _named(self, scope: Any, headers: Mapping[bytes, bytes]) -> tuple[str | None, ...]:
        header = self._header_name
        named = None if header is None else _text(headers, header)
        if self._model_query is None:
            return (named,)
        return self._queried(scope.get("query_string", b"").decode("latin-1")), named


class _Wire:
    """What passes between the app and the server."""

    __slots__ = ("_exchange", "_receive", "_send")

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        self._exchange.hears(message)
        return message

    async def send(self, message: Message) -> None:
        exchange = self._exchange
        awaited = exchange.passes(message)
        try:
            await self._send(message)
        except OSError:
            exchange.hangs_up()
            raise
        if awaited:
            exchange.passed(message)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
