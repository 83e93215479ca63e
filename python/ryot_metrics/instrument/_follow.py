"""Functions and streams that are measured: what runs around a `Call`.

A function stays of its kind. Knows nothing of the libraries.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any, TypeAlias

from ryot_metrics.instrument._call import Call, Reader, inside

Begin: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], Call | None]
"""Makes a call of the arguments; None if it is not to be measured."""
Finish: TypeAlias = Callable[[Call, Any], Any]
"""Takes the result to its end, now or later, and gives what the caller is to have."""

_log = logging.getLogger("ryot_metrics")
_END = object()


def measured(begin: Begin, finish: Finish) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator that measures each call of a function or a coroutine function."""

    def begun(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        try:
            return None if inside() else begin(args, kwargs)
        except Exception:
            _log.debug("a call could not be measured", exc_info=True)
            return None

    def finished(call: Call, result: Any) -> Any:
        try:
            return finish(call, result)
        except Exception:
            _log.debug("a result could not be measured", exc_info=True)
            return result

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            call = begun(args, kwargs)
            if call is None:
                return await function(*args, **kwargs)
            with call:
                result = await function(*args, **kwargs)
            return finished(call, result)

        def plain(*args: Any, **kwargs: Any) -> Any:
            call = begun(args, kwargs)
            if call is None:
                return function(*args, **kwargs)
            with call:
                result = function(*args, **kwargs)
            return finished(call, result)

        return coroutine if inspect.iscoroutinefunction(function) else plain

    return decorate


def follow(
    call: Call,
    items: Iterator[Any],
    reader: Reader,
    at_end: Callable[[Call], object] = Call.end,
) -> Generator[Any, None, None]:
    """Passes a stream on and measures its production."""
    try:
        while True:
            with call:
                item = next(items, _END)
            if item is _END:
                at_end(call)
                return
            call.read(reader, item)
            yield item
    finally:
        call.abandon()
        if isinstance(items, Generator):
            items.close()


async def follow_async(
    call: Call,
    items: AsyncIterator[Any],
    reader: Reader,
    at_end: Callable[[Call], object] = Call.end,
) -> AsyncGenerator[Any, None]:
    """Passes an asynchronous stream on and measures its production."""
    try:
        while True:
            with call:
                item = await anext(items, _END)
            if item is _END:
                at_end(call)
                return
            call.read(reader, item)
            yield item
    finally:
        call.abandon()
        if isinstance(items, AsyncGenerator):
            await items.aclose()
