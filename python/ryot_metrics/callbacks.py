"""Calls of the user's own functions, which must not fail the request that is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from ryot_metrics._ryot_metrics import count_dropped

_T = TypeVar("_T")
_log = logging.getLogger("ryot_metrics")
_REPORTED_LIMIT = 1_000
_reported: set[str] = set()


def safely(function: Callable[..., _T], *args: Any, **kwargs: Any) -> _T | None:
    """What the function returns; None if it raises.

    The first exception of each function is logged, and all are counted in
    `ryot_metrics_dropped_total{reason="callback_error"}`.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        named = function if hasattr(function, "__qualname__") else type(function)
        report(f"{named.__module__}.{named.__qualname__}", error)
        return None


def report(name: str, error: BaseException | str) -> None:
    """Counts what a function of the user's did wrong, and logs it the first time."""
    count_dropped("callback_error")
    if name not in _reported and len(_reported) < _REPORTED_LIMIT:
        _reported.add(name)
        failed = error if isinstance(error, BaseException) else None
        _log.warning("%s failed and its answer is ignored: %r", name, error, exc_info=failed)
