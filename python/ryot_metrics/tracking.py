"""Which request the running code belongs to, how a request begins, and how it ends.

Shared by `decorators`, `context` and `engine`. Whatever is tracked inside a tracked request is a
part of it, so that a request counts once however many wrappers it runs through.
"""

from __future__ import annotations

import contextvars
from types import FrameType
from typing import TypeAlias

from ryot_metrics._ryot_metrics import Block, Exchange, Request
from ryot_metrics._ryot_metrics import current as _current
from ryot_metrics.callbacks import safely
from ryot_metrics.cost import charge
from ryot_metrics.errors import classify
from ryot_metrics.usage import whole


class Scope:
    """Code of a request, where more must be known of it than the request.

    Args:
        request: The request.
        frame: The frame of a generator that holds a block open across its `yield`s. Its context
            variable is still seen while it is suspended, by whoever consumes it, whose own
            requests are none of its business.
        outer: What was current before.
    """

    __slots__ = ("_frame", "_outer", "_request")

    def __init__(
        self,
        request: Request,
        frame: FrameType | None = None,
        outer: Current = None,
    ) -> None:
        self._request = request
        self._frame = frame
        self._outer = outer


Current: TypeAlias = "Request | Scope | Block | Exchange | None"
current: contextvars.ContextVar[Current] = _current
SCOPES = (Scope, Block, Exchange)
"""What may be current besides a request; blocks and exchanges are scopes themselves."""


def current_request() -> Request | None:
    """The open request that the running code belongs to, if there is one.

    A task that a request began, and that outlives it, belongs to none from then on: what it runs
    are requests of their own.
    """
    scope = current.get()
    while isinstance(scope, SCOPES):
        # A suspended generator's frame has no caller.
        suspended = scope._frame is not None and scope._frame.f_back is None
        if not suspended and not scope._request.finished:
            return scope._request
        scope = scope._outer
    while scope is not None and scope.finished:
        scope = scope.whole
    return scope


def begin(model: object, endpoint: object, mode: str, batch_size: object = 0) -> Request:
    """Opens a request whose labels may be anything, since clients choose them.

    Raises:
        ValueError: For another mode.
    """
    return Request(text_of(model) or "default", text_of(endpoint), mode, whole(batch_size) or 0)


def text_of(value: object) -> str:
    r"""The value as a label's: what `str` makes of it, in valid Unicode; empty for None.

    Example:
        >>> text_of(None), text_of(3), text_of("a\ud800")
        ('', '3', 'a?')
    """
    text = value if isinstance(value, str) else "" if value is None else safely(str, value) or ""
    return text if text.isascii() else text.encode(errors="replace").decode()


def finish(request: Request, error: BaseException | None = None) -> None:
    """Ends a request that this exception left, or none."""
    if error is not None:
        end(request, *classify(error))
    elif (unpriced := request.finish()) is not None:
        charge(request, unpriced)


def end(
    request: Request, status: str, error_type: str | None = None, severity: str | None = None
) -> None:
    """Ends a request under a status."""
    unpriced = request.finish(status, error_type, severity)
    if unpriced is not None:
        charge(request, unpriced)
