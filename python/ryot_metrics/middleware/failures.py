"""Exceptions that a framework answers with a 500 itself: Flask, Django and Litestar tell of them.

What is raised in their handlers never leaves the app, so that the response alone would say nothing
of its cause. Each framework is only asked once an app of it was seen.
"""

from __future__ import annotations

import sys
from typing import Any

from ryot_metrics.middleware.exchange import Exchange
from ryot_metrics.tracking import SCOPES, current


def of_flask(app: Any) -> None:
    """Listens to an app of Flask."""
    from flask import got_request_exception

    got_request_exception.connect(_on_flask, app)


def of_django() -> None:
    """Listens to the app of Django, of which a process has one."""
    from django.core.signals import (  # type: ignore[import-untyped]
        got_request_exception,
    )

    got_request_exception.connect(_on_django)


def of_litestar(app: Any) -> None:
    """Listens to an app of Litestar."""
    if _on_litestar not in app.after_exception:
        app.after_exception.append(_on_litestar)


def _on_flask(sender: object, *, exception: BaseException, **_: object) -> None:
    _explain(exception)


def _on_django(**_: object) -> None:
    _explain(sys.exc_info()[1])  # it is sent where the exception is handled


async def _on_litestar(error: Exception, scope: object) -> None:
    _explain(error)


def _explain(error: BaseException | None) -> None:
    """Tells the exchange that the running code belongs to."""
    scope = current.get()
    while isinstance(scope, SCOPES):
        if isinstance(scope, Exchange):
            scope.explains(error)
            return
        scope = scope._outer
