"""Generators, driven step by step, each as a request: its items, and whose time it is.

What a step calls belongs to the request; what the consumer does between two steps does not, and
its time is no part of an inter-token latency. These are the hot path of every service that
streams, so they spell out what `client.calls` does by objects.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import Token
from typing import TYPE_CHECKING, Any, TypeAlias

from ryot_metrics.tracking import Current, Scope, current

if TYPE_CHECKING:
    from ryot_metrics.runs import Run

_get_current, _set_current, _reset_current = current.get, current.set, current.reset

OpenRun: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any]], Run]"
"""Begins the request of a call with these arguments."""


def tracked(function: Callable[..., Any], open_run: OpenRun) -> Callable[..., Any]:
    """A generator function that is `yield from function(...)`, measured.

    The context variable stays set between two steps, with the generator's frame, by which
    `current_request` sees that it is suspended.
    """

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = open_run(args, kwargs)
        request, counted = run.request, run.counted
        gave, resumed = request.item, request.resumed
        scope = Scope(request, sys._getframe(), _get_current())
        _set_current(scope)
        token = None
        try:
            resumed()
            stream = function(*args, **kwargs)
            send, value = stream.send, None
            step = send
            while True:
                try:
                    item = step(value)
                except StopIteration as stop:
                    result = stop.value
                    break
                if token is not None:
                    token = _reset_current(token)
                if type(item) in counted:
                    gave()
                else:
                    run.produced(item)
                step = send
                try:
                    value = yield item
                except GeneratorExit:
                    token = _enter(scope)
                    resumed()
                    stream.close()
                    raise
                except BaseException as error:
                    step, value = stream.throw, error
                if _get_current() is not scope:
                    token = _enter(scope)
                resumed()
        except BaseException as error:
            _leave(scope, token)
            run.end(error)
            raise
        _leave(scope, token)
        run.end(None)
        return result

    return wrapper


def tracked_async(function: Callable[..., Any], open_run: OpenRun) -> Callable[..., Any]:
    """The same for async generators, which have no `yield from`.

    A frame does not tell that an async generator is suspended: while it awaits, tasks that its
    consumer began may run. So the context variable is set for each step alone.
    """

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = open_run(args, kwargs)
        request, counted = run.request, run.counted
        gave, resumed = request.item, request.resumed
        token: Any = _set_current(request)  # None in the consumer's time
        try:
            resumed()
            stream = function(*args, **kwargs)
            send, value = stream.asend, None
            step = send
            while True:
                try:
                    item = await step(value)
                except StopAsyncIteration:
                    break
                token = _reset_current(token)
                if type(item) in counted:
                    gave()
                else:
                    run.produced(item)
                step = send
                try:
                    value = yield item
                except GeneratorExit:
                    token = _set_current(request)
                    resumed()
                    await stream.aclose()
                    raise
                except BaseException as error:
                    step, value = stream.athrow, error
                token = _set_current(request)
                resumed()
        except BaseException as error:
            if token is not None:
                _reset_current(token)
            run.end(error)
            raise
        _reset_current(token)
        run.end(None)

    return wrapper


def _enter(scope: Scope) -> Token[Current] | None:
    """Makes it current, if the consumer is in a block, or a context, of its own now."""
    return None if _get_current() is scope else _set_current(scope)


def _leave(scope: Scope, token: Token[Current] | None) -> None:
    if token is not None:
        _reset_current(token)
    if _get_current() is scope:
        _set_current(scope._outer)
