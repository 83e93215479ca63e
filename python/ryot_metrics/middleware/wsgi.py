"""The middleware for WSGI apps: Flask, Django, or one without a framework.

A request ends when its body is taken to the end or closed. A file that the server sends by itself
(`wsgi.file_wrapper`) ends with the app's return, since nothing is seen of it after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ryot_metrics.middleware.base import Middleware
from ryot_metrics.middleware.body import is_json, peek_wsgi
from ryot_metrics.middleware.exchange import Exchange
from ryot_metrics.middleware.routes import UNKNOWN, Endpoint
from ryot_metrics.tracking import current, current_request

_get_current, _set_current, _reset_current = current.get, current.set, current.reset


class InferenceWSGIMiddleware(Middleware):
    """Measures the HTTP requests of a WSGI app, each as one request; `Middleware` has the options.

    A client is known to have hung up when the server closes a body before its end. A body without
    an announced length is not read for its model.

    Example:
        >>> from flask import Flask
        >>> app = Flask("service")
        >>> app.wsgi_app = InferenceWSGIMiddleware(app.wsgi_app, paths=["/v1/*"])
    """

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answers a request as the app does."""
        # Inside a request that is measured already, this one is part of it.
        if _get_current() is not None and current_request() is not None:
            return self._run(environ, start_response)
        endpoint = self._endpoint_of(environ)
        if endpoint is None:
            return self._run(environ, start_response)
        body = None
        if self._model_body is not None and is_json(environ.get("CONTENT_TYPE", "")):
            body = peek_wsgi(environ, self._max_body_bytes)
        streams = "text/event-stream" in environ.get("HTTP_ACCEPT", "")
        exchange = self._open(environ, endpoint, streams, self._named(environ), body)
        token = _set_current(exchange)
        try:
            response = self._run(environ, _observed(start_response, exchange))
        except BaseException as error:
            exchange.leaves(error)
            raise
        finally:
            _reset_current(token)
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(wrapper, type) and isinstance(response, wrapper):
            exchange.completes()
            exchange.leaves(None)
            return response
        return _Body(response, exchange)

    def _endpoint_of(self, environ: dict[str, Any]) -> Endpoint | None:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        if (kept := self._kept.get((method, path), UNKNOWN)) is not UNKNOWN:
            return kept
        return self._routes.endpoint(environ, method, path, path)

    def _run(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response: Iterable[bytes] = self.app(environ, start_response)
        return response

    def _named(self, environ: dict[str, Any]) -> tuple[str | None, ...]:
        key = self._header_key
        named = None if key is None else environ.get(key)
        if self._model_query is None:
            return (named,)
        return self._queried(environ.get("QUERY_STRING", "")), named


def _observed(start_response: Callable[..., Any], exchange: Exchange) -> Callable[..., Any]:
    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        content_type = length = ""
        for name, value in headers:
            if len(name) == 12 and name.lower() == "content-type":
                content_type = value
            elif len(name) == 14 and name.lower() == "content-length":
                length = value
        exchange.responds(int(status[:3]), content_type, length)
        return start_response(status, headers, *rest)

    return start


class _Body:
    """A response's body, each piece of which is produced as part of the request."""

    __slots__ = ("_exchange", "_pieces", "_response")

    def __init__(self, response: Iterable[bytes], exchange: Exchange) -> None:
        self._response = response
        self._pieces: Iterator[bytes] | None = None
        self._exchange = exchange

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        if exchange.finished and self._pieces is not None:
            return next(self._pieces)
        exchange.resumes()
        token = _set_current(exchange)
        try:
            if self._pieces is None:
                self._pieces = iter(self._response)
            piece = next(self._pieces)
        except StopIteration:
            exchange.completes()
            raise
        except BaseException as error:
            exchange.leaves(error)
            raise
        finally:
            _reset_current(token)
        exchange.produces(piece)
        if exchange.all_sent:  # who reads it need not ask for more than was announced
            exchange.completes()
            exchange.leaves(None)
        return piece

    def close(self) -> None:
        """Ends the response, before its end if the client has hung up."""
        exchange = self._exchange
        exchange.hangs_up()
        token = _set_current(exchange)
        try:
            if close := getattr(self._response, "close", None):
                close()
        except BaseException as error:
            exchange.leaves(error)
            raise
        finally:
            _reset_current(token)
            exchange.leaves(None)
