"""Which request the running code belongs to, and how a request ends.

Shared by `decorators`, `context` and `engine`. Whatever is tracked inside a tracked request joins
it, so that a request counts once however many wrappers it runs through.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
from types import FrameType

from ryot_metrics._ryot_metrics import OutOfMemoryError, Request

_CANCELLED = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)
# Before Python 3.11 these were three classes.
_TIMEOUT = (TimeoutError, asyncio.TimeoutError, concurrent.futures.TimeoutError)
_GENERATORS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Scope:
    """Code that runs for one request.

    Args:
        request: The request.
        frame: The frame that opened the scope, if it stays open across `yield`s.
    """

    __slots__ = ("_frame", "request")

    def __init__(self, request: Request, frame: FrameType | None = None) -> None:
        self.request = request
        generator = frame is not None and frame.f_code.co_flags & _GENERATORS
        self._frame = frame if generator else None

    def is_running(self) -> bool:
        """False while the generator that opened the scope is suspended.

        Its context variable is still seen then by whoever consumes the generator, whose own
        requests are none of its business. A suspended generator's frame has no caller.
        """
        return self._frame is None or self._frame.f_back is not None


current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("ryot_scope", default=None)


def current_request() -> Request | None:
    """The request that the running code belongs to, if there is one."""
    scope = current.get()
    return scope.request if scope is not None and scope.is_running() else None


def status_of(error: BaseException | None) -> tuple[str, str | None]:
    """How a request ended that left with this exception: its status and its error type.

    Example:
        >>> status_of(MemoryError())
        ('error', 'oom')
        >>> status_of(KeyboardInterrupt())
        ('cancelled', None)
    """
    if error is None:
        return "success", None
    if isinstance(error, _CANCELLED):
        return "cancelled", None
    if isinstance(error, _TIMEOUT):
        return "timeout", "timeout"
    return "error", _error_type(error)


def _error_type(error: BaseException) -> str:
    # By name and text, because torch must not be imported to recognise its errors.
    name, text = type(error).__name__, str(error).lower()
    if isinstance(error, MemoryError | OutOfMemoryError) or "OutOfMemory" in name:
        return "oom"
    if "cuda" in text:
        return "oom" if "out of memory" in text else "cuda_error"
    if isinstance(error, UnicodeError):
        return "tokenization_error"
    return "inference_error"
