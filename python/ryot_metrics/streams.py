"""Generators, driven step by step, each as a request: its items, and whose time it is.

What a step calls belongs to the request; what the consumer does between two steps does not, and
its time is no part of an inter-token latency. These are the hot path of every service that
streams, so they spell out what `client.calls` does by objects.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextvars import Token
from functools import partial
from types import AsyncGeneratorType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

from ryot_metrics._ryot_metrics import AsyncStream as _AsyncStream
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
    """The same for async generators, which have no `yield from`: in a context of their own.

    A frame does not tell that an async generator is suspended: while it awaits, tasks that its
    consumer began may run. So its steps are run in a copy of its consumer's context, taken when it
    begins, in which the context variable is set.
    """
    return _Function(function, open_run)


class AsyncStream(_AsyncStream):
    """An async generator, measured; to `isinstance` and `inspect` it is still one.

    Args:
        stream: The generator.
        begin: Begins the request, at the first step.
    """

    __slots__ = ()

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return AsyncGeneratorType

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __repr__(self) -> str:
        return repr(self._stream)

    def __del__(self) -> None:
        self._dropped()


class _Function:
    """Calls an async generator function; to `isinstance` and `inspect` it is still one.

    No generator of Python's, since each of its steps costs as much as all the rest.
    """

    __slots__ = ("__dict__", "__weakref__", "_ryot_function", "_ryot_open")

    def __init__(self, function: Callable[..., Any], open_run: OpenRun) -> None:
        self._ryot_function = function
        self._ryot_open = open_run

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return FunctionType

    def __call__(self, /, *args: Any, **kwargs: Any) -> AsyncStream:
        stream = self._ryot_function(*args, **kwargs)
        return AsyncStream(stream, partial(self._ryot_open, args, kwargs))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ryot_function, name)

    def __repr__(self) -> str:
        return repr(self._ryot_function)

    def __reduce__(self) -> Any:
        return self.__qualname__  # by name, as functions are


def _enter(scope: Scope) -> Token[Current] | None:
    """Makes it current, if the consumer is in a block, or a context, of its own now."""
    return None if _get_current() is scope else _set_current(scope)


def _leave(scope: Scope, token: Token[Current] | None) -> None:
    if token is not None:
        _reset_current(token)
    if _get_current() is scope:
        _set_current(scope._outer)
