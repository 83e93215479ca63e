"""Which request the running code belongs to, and how a request ends.

Shared by `decorators`, `context` and `engine`. Whatever is tracked inside a tracked request joins
it, so that a request counts once however many wrappers it runs through.
"""

from __future__ import annotations

import contextvars
from types import FrameType

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.cost import charge
from ryot_metrics.errors import classify


class Scope:
    """A request whose code is a generator that holds a block open across its `yield`s.

    Its context variable is still seen while the generator is suspended, by whoever consumes it,
    whose own requests are none of its business.

    Args:
        request: The request.
        frame: The generator's frame.
        outer: What was current before.
    """

    __slots__ = ("frame", "outer", "request")

    def __init__(self, request: Request, frame: FrameType, outer: Request | Scope | None) -> None:
        self.request = request
        self.frame = frame
        self.outer = outer


current: contextvars.ContextVar[Request | Scope | None] = contextvars.ContextVar(
    "ryot_request", default=None
)


def current_request() -> Request | None:
    """The request that the running code belongs to, if there is one."""
    scope = current.get()
    while isinstance(scope, Scope):
        if scope.frame.f_back is not None:  # a suspended generator's frame has no caller
            return scope.request
        scope = scope.outer
    return scope


def finish(request: Request, error: BaseException | None = None) -> None:
    """Ends a request that this exception left, or none."""
    unpriced = request.finish(*classify(error)) if error is not None else request.finish()
    if unpriced is not None:
        charge(request, unpriced)
