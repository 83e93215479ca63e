"""How each framework tells the template of a request's route: Starlette, Litestar, Flask, Django.

A finder asks the framework's own router, so that both always agree. It gives None where no route
takes the request. Frameworks are recognised by their attributes, never imported for it; one that
answers exceptions itself is asked to tell of them (`failures`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ryot_metrics.middleware import failures

MAX_WRAPPERS = 64
"""How many middlewares are looked through for the app inside of them."""


class Finder(NamedTuple):
    """Finds templates.

    Attributes:
        find: Gives the template of a request, None if no route takes it.
        by_host: The answer depends on more than method and path.
    """

    find: Callable[[Mapping[str, Any]], str | None]
    by_host: bool


def finder_of(app: Any) -> Finder | None:
    """The finder of an app, in whatever middleware it is wrapped; None for one without routes.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> @app.get("/v1/models/{name}")
        ... def model(name): ...
        >>> scope = {"type": "http", "method": "GET", "path": "/v1/models/gpt4"}
        >>> finder_of(app).find(scope)
        '/v1/models/{name}'
    """
    for _ in range(MAX_WRAPPERS):
        app = getattr(app, "__self__", app)  # `app.wsgi_app` is a method of Flask's
        if finder := _of_framework(app):
            return finder
        names = (name for name in ("app", "wsgi_app", "application") if hasattr(app, name))
        app = getattr(app, next(names, ""), None)
    return None


def _of_framework(app: Any) -> Finder | None:
    if hasattr(app, "asgi_router"):
        failures.of_litestar(app)
        return Finder(partial(_litestar, app), False)
    if hasattr(app, "url_map") and hasattr(app, "create_url_adapter"):
        failures.of_flask(app)
        return Finder(partial(_flask, app), app.url_map.host_matching or app.subdomain_matching)
    if hasattr(app, "resolve_request"):
        failures.of_django()
        return Finder(_django, False)
    router = getattr(app, "router", app)
    if hasattr(router, "routes"):
        by_host = any(hasattr(route, "host_format") for route in router.routes)
        return Finder(lambda scope: _starlette(router.routes, scope), by_host)
    return None


def path_of(scope: Mapping[str, Any]) -> str:
    """The path of an ASGI request below where the app is mounted.

    Example:
        >>> path_of({"path": "/api/v1", "root_path": "/api"})
        '/v1'
    """
    path: str = scope["path"]
    root = scope.get("root_path")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _starlette(routes: Iterable[Any], scope: Mapping[str, Any]) -> str | None:
    for route in _flat(routes):
        own = dict(scope)  # a route may write into it while it looks
        match, child = route.matches(own)
        if match.name == "FULL":
            return _template(route, {**own, **child})
    return None


def _template(route: Any, scope: Mapping[str, Any]) -> str | None:
    if not hasattr(route, "routes"):
        return str(route.path_format)
    prefix = "" if hasattr(route, "host_format") else route.path_format.removesuffix("/{path}")
    inner = finder_of(route.app)
    if inner is None:  # a mounted app of which no more is known
        return prefix or "/"
    template = inner.find(scope)
    return None if template is None else prefix + template


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """The routes, with those of FastAPI's included routers, which it keeps apart."""
    flatten = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    found: Iterable[Any] = flatten(routes) if flatten else routes
    return found


def _litestar(app: Any, scope: Mapping[str, Any]) -> str | None:
    from litestar.exceptions import HTTPException
    from litestar.utils import normalize_path

    path = normalize_path(path_of(scope))
    try:
        return str(app.asgi_router.handle_routing(path=path, method=scope["method"])[-1])
    except HTTPException:
        return None


def _flask(app: Any, environ: Mapping[str, Any]) -> str | None:
    from werkzeug.exceptions import HTTPException

    adapter = app.create_url_adapter(app.request_class(environ, populate_request=False))
    try:
        return str(adapter.match(return_rule=True)[0].rule)
    except HTTPException:
        return None


def _django(request: Mapping[str, Any]) -> str | None:
    from django.core.handlers.wsgi import get_path_info  # type: ignore[import-untyped]
    from django.urls import Resolver404, get_resolver  # type: ignore[import-untyped]

    path = path_of(request) if "path" in request else get_path_info(request)
    try:
        return f"/{get_resolver().resolve(path).route}"
    except Resolver404:
        return None
