"""Calls of functions of every kind, with something around them; knows no metric.

A decorated function stays of its kind: `decorated` chooses among four wrappers. A stream is driven
step by step, and a `Call` hears of each: the time between two steps is its consumer's.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, NamedTuple, TypeVar, cast

_F = TypeVar("_F", bound=Callable[..., Any])
Function = Callable[..., Any]


class Call:
    """What surrounds one call of a function. This one surrounds it with nothing."""

    __slots__ = ()

    def resume(self) -> None:
        """The function begins, or its stream goes on."""

    def pause(self, item: object) -> None:
        """The stream gave an item."""

    def end(self, error: BaseException | None) -> None:
        """The function ended; also without `pause` after the last `resume`."""


Open = Callable[[tuple[Any, ...], dict[str, Any]], Call]
"""Makes the `Call` for these arguments."""


class Wrappers(NamedTuple):
    """How a function of each kind is wrapped."""

    function: Callable[[Function], Function]
    coroutine: Callable[[Function], Function]
    generator: Callable[[Function], Function]
    async_generator: Callable[[Function], Function]


def decorated(function: _F, wrappers: Wrappers) -> _F:
    """The function in the wrapper of its kind, with its name, signature and kind."""
    if inspect.isasyncgenfunction(function):
        wrap = wrappers.async_generator
    elif inspect.isgeneratorfunction(function):
        wrap = wrappers.generator
    elif inspect.iscoroutinefunction(function):
        wrap = wrappers.coroutine
    else:
        wrap = wrappers.function
    return cast("_F", functools.wraps(function)(wrap(function)))


def relaying(function: Function, open_call: Open) -> Function:
    """A generator function that is `yield from function(...)`, with a call around each step."""

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = open_call(args, kwargs)
        resume, pause = call.resume, call.pause
        try:
            resume()
            stream = function(*args, **kwargs)
            send, value = stream.send, None
            step = send
            while True:
                try:
                    item = step(value)
                except StopIteration as stop:
                    call.end(None)
                    return stop.value
                pause(item)
                step = send
                try:
                    value = yield item
                except GeneratorExit:
                    resume()
                    stream.close()
                    raise
                except BaseException as error:
                    step, value = stream.throw, error
                resume()
        except BaseException as error:
            call.end(error)
            raise

    return wrapper


def relaying_async(function: Function, open_call: Open) -> Function:
    """The same for async generators, which have no `yield from`."""

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = open_call(args, kwargs)
        resume, pause = call.resume, call.pause
        try:
            resume()
            stream = function(*args, **kwargs)
            send, value = stream.asend, None
            step = send
            while True:
                try:
                    item = await step(value)
                except StopAsyncIteration:
                    call.end(None)
                    return
                pause(item)
                step = send
                try:
                    value = yield item
                except GeneratorExit:
                    resume()
                    await stream.aclose()
                    raise
                except BaseException as error:
                    step, value = stream.athrow, error
                resume()
        except BaseException as error:
            call.end(error)
            raise

    return wrapper
