"""The options that both middlewares share, and how a request's labels follow from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import parse_qsl

from ryot_metrics.middleware.body import MAX_BODY_BYTES, json_object
from ryot_metrics.middleware.exchange import Exchange
from ryot_metrics.middleware.routes import DEFAULT_EXCLUDE, Endpoint, Routes
from ryot_metrics.tracking import text_of

MAX_MODEL_CHARS = 128
"""The longest name that a client may give to the label `model`."""
MODES = ("standard", "streaming", "batch")

_log = logging.getLogger("ryot_metrics")


class Middleware:
    """Measures the HTTP requests of an app, each as one request.

    What no route of the app takes is not measured; give `endpoint` to measure what is answered
    without the framework's router.

    Args:
        app: The app.
        paths: Only these are measured: paths or route templates; a `*` at the end stands for
            anything. None for all.
        exclude: These are not, in the same form; by default the usual paths of metrics and
            health checks. OPTIONS and HEAD never are.
        endpoint: The label `endpoint`, or a function of the ASGI scope or WSGI environment that
            gives it; None for the template of the route, empty for an app without routes.
        model: The label `model` where nothing below gives one, or a function of the ASGI scope or
            WSGI environment that gives it.
        model_header: The request header with the model's name.
        model_query: The parameter of the query with the model's name.
        model_body: The field of a JSON body with the model's name. Body, then query, then header
            is asked; the first that has a name gives it. The clock starts once the body is read.
        models: The only names that a client may give; any other is `model`. None for all.
        mode: `standard`, `streaming` or `batch` for all requests; None for `streaming` where the
            client asks for a stream, by `Accept: text/event-stream` or by `"stream": true` in a
            body that is read for its model, or gets one, of events or without a length; else
            `standard`.
        max_body_bytes: The largest JSON body of a request or a response that is looked into.
        read_usage: Whether tokens are taken from OpenAI's `usage` in a JSON response or in an
            event, unless something inside of the app counts them.
        count_events: Whether an event of `text/event-stream` counts as a token, unless something
            inside of the app counts them.

    Raises:
        ValueError: For another mode, a limit below 0, or paths that are none.
    """

    def __init__(
        self,
        app: Any,
        *,
        paths: Iterable[str] | None = None,
        exclude: Iterable[str] = DEFAULT_EXCLUDE,
        endpoint: str | Callable[[Any], str] | None = None,
        model: str | Callable[[Any], str | None] = "default",
        model_header: str | None = None,
        model_query: str | None = None,
        model_body: str | None = None,
        models: Collection[str] | None = None,
        mode: str | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        read_usage: bool = True,
        count_events: bool = True,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
        if max_body_bytes < 0:
            raise ValueError(f"max_body_bytes is {max_body_bytes}; it must be 0 or more")
        self.app = app
        self._routes = Routes(app, paths, exclude, endpoint)
        self._kept = self._routes.kept
        self._model = model
        # As ASGI and as WSGI have it.
        self._header_name = None if model_header is None else model_header.lower().encode()
        self._header_key = None if model_header is None else _key_of(model_header)
        self._model_query = model_query
        self._model_body = model_body
        self._models = None if models is None else frozenset(models)
        self._mode = mode
        self._max_body_bytes = max_body_bytes
        self._max_usage_bytes = max_body_bytes if read_usage else 0
        self._count_events = count_events

    def _open(
        self,
        request: Any,
        endpoint: Endpoint,
        streams: bool,
        named: Iterable[str | None],
        body: bytes | None,
    ) -> Exchange:
        """Begins to measure a request.

        Args:
            request: The ASGI scope or the WSGI environment.
            endpoint: Where it goes.
            streams: Whether its header `Accept` asks for events.
            named: What query and header say of the model.
            body: Its body, if that was read.
        """
        if body is not None:
            document = json_object(body)
            named = (document.get(self._model_body or ""), *named)
            streams = streams or document.get("stream") is True
        asked = "streaming" if streams else "standard"
        for name in named:
            if name is not None and self._allowed(name):
                model = name
                break
        else:
            model = self._default(request)
        how = (self._mode or asked, self._mode is None, self._max_usage_bytes, self._count_events)
        name, known_route = endpoint
        try:
            return Exchange(model, name, known_route, *how)
        except (TypeError, UnicodeError):  # what the service's functions gave is no valid text
            return Exchange(text_of(model) or "default", text_of(name), known_route, *how)

    def _allowed(self, name: object) -> bool:
        """Whether what a client wrote may be a label value."""
        if not isinstance(name, str) or not 0 < len(name) <= MAX_MODEL_CHARS:
            return False
        return name in self._models if self._models is not None else name.isprintable()

    def _default(self, request: Any) -> str:
        if not callable(self._model):
            return self._model
        try:
            name = self._model(request)
        except Exception:
            _log.warning("the function that names the model failed", exc_info=True)
            return "default"
        return name if isinstance(name, str) and name.isprintable() else "default"

    def _queried(self, query: str) -> str | None:
        """The model's name in a query."""
        wanted = self._model_query
        if wanted is None or wanted not in query:
            return None
        return next((value for name, value in parse_qsl(query) if name == wanted), None)


def _key_of(header: str) -> str:
    return f"HTTP_{header.upper().replace('-', '_')}"
