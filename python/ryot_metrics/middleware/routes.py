"""Which requests are measured, and their route's template: `/v1/models/{id}`, never the raw path.

The template is asked of the app's own router before the app runs, since the gauge of active
requests has it as a label. Answers are kept by method and path; the number of kept ones is
bounded. What no route takes is no inference request, whatever is answered: a scanner leaves no
sample, and no error that an objective would count.

No framework is imported before an app of it was seen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ryot_metrics.middleware.finders import finder_of

CACHE_SIZE = 1024
"""How many pairs of method and path are kept with their endpoints."""
DEFAULT_EXCLUDE = (
    "/metrics",
    "/metrics/",
    "/dashboard",
    "/health",
    "/health/*",
    "/healthz",
    "/livez",
    "/readyz",
    "/ping",
    "/favicon.ico",
)
"""Paths that are not measured by default."""
SKIPPED_METHODS = frozenset({"OPTIONS", "HEAD"})
"""Methods that ask for no inference."""

_log = logging.getLogger("ryot_metrics")

Request = Mapping[str, Any]
"""An ASGI scope, or a WSGI environment."""


class Endpoint(NamedTuple):
    """Where a request goes.

    Attributes:
        name: The label `endpoint`; empty if it is unknown.
        known_route: Whether a route of the app takes it, as far as the app's routes are known.
    """

    name: str
    known_route: bool


UNKNOWN = Endpoint("", False)
"""Stands for an endpoint that was not asked for yet."""


class Routes:
    """The endpoints of an app.

    Args:
        app: The app that is measured, in whatever middleware it is wrapped.
        paths: Paths and templates that are measured; None for all. A `*` at the end stands for
            anything.
        exclude: Paths and templates that are not, in the same form.
        endpoint: The endpoint of all requests, or a function that tells it; None to ask the
            app's router.

    Attributes:
        kept: The answers of `endpoint` by method and full path.
    """

    def __init__(
        self,
        app: Any,
        paths: Iterable[str] | None,
        exclude: Iterable[str],
        endpoint: str | Callable[[Any], str] | None,
    ) -> None:
        self._paths = None if paths is None else _patterns("paths", paths)
        self._exclude = _patterns("exclude", exclude)
        self._endpoint = endpoint
        self._finder = finder_of(app)
        self.kept: dict[tuple[str, str], Endpoint | None] = {}

    def endpoint(self, request: Request, method: str, path: str, full: str) -> Endpoint | None:
        """Where a request goes that is not among `kept`; None if it is not measured.

        Args:
            request: The request.
            method: Its method.
            path: Its path, below where the app is mounted.
            full: Its path as the client sees it.
        """
        try:
            endpoint, keep = self._find(request, method, path)
        except Exception:
            _log.warning("the route of %s %s is unknown", method, path, exc_info=True)
            endpoint, keep = Endpoint("", False), True
        if keep:
            if len(self.kept) >= CACHE_SIZE:
                self.kept.clear()
            self.kept[method, full] = endpoint
        return endpoint

    def _find(self, request: Request, method: str, path: str) -> tuple[Endpoint | None, bool]:
        """The endpoint, and whether it is the same for each request of this method and path."""
        if method in SKIPPED_METHODS:
            return None, True
        endpoint, keep = self._named(request)
        if endpoint is None:
            _log.debug("no route takes %s %s, which is not measured", method, path)
            return None, keep
        template = endpoint.name
        if _among(self._exclude, path, template):
            return None, keep
        if self._paths is not None and not _among(self._paths, path, template):
            return None, keep
        return endpoint, keep

    def _named(self, request: Request) -> tuple[Endpoint | None, bool]:
        if self._finder is None and "app" in request:
            self._finder = finder_of(request["app"])
        if callable(self._endpoint):
            return Endpoint(str(self._endpoint(request)), True), False
        if self._endpoint is not None:
            return Endpoint(self._endpoint, True), True
        if template := request.get("path_template"):  # Litestar, once it has routed
            return Endpoint(template, True), True
        if self._finder is None:
            return Endpoint("", False), True
        template = self._finder.find(request)
        if template is None:  # not kept: such paths have no bound, and a route may come later
            return None, False
        return Endpoint(template, True), not self._finder.by_host


def _among(patterns: tuple[str, ...], path: str, template: str) -> bool:
    return any(
        path.startswith(pattern[:-1]) if pattern.endswith("*") else pattern in (path, template)
        for pattern in patterns
    )


def _patterns(name: str, patterns: Iterable[str]) -> tuple[str, ...]:
    given = () if isinstance(patterns, str) else tuple(patterns)
    if isinstance(patterns, str) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"{name} is {patterns!r}; it must be a list of paths")
    for pattern in given:
        if not pattern.startswith(("/", "*")):
            raise ValueError(f"{name} has {pattern!r}; a path must begin with '/'")
    return given
