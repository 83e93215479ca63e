"""Iterators that are no generators, measured to their end: `map`, those of `itertools`, a vendor's.

Such an object cannot be driven from within as a generator can, so what the consumer gets is a
stand-in: it steps as the iterator does, and is the iterator in all else, attributes, `isinstance`
and `with` included. What a request is must not be known here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from ryot_metrics.tracking import current

if TYPE_CHECKING:
    from ryot_metrics.runs import Run

_set_current, _reset_current = current.set, current.reset

_CLOSING = frozenset({"close", "aclose"})
_PASSED = ("__len__", "__length_hint__", "__getitem__", "__contains__", "__bool__", "__call__")
"""Methods that Python looks up in the class; a stand-in has those that its iterator has."""


def is_iterator(value: object) -> bool:
    """Whether a value is a stream: an iterator, be it asynchronous, that iterates over itself.

    Lists, strings and dicts are none, nor is what can be awaited or, like a file, read.

    Example:
        >>> import io
        >>> is_iterator(map(str, [1])), is_iterator([1]), is_iterator(io.StringIO("a"))
        (True, False, False)
    """
    kind: Any = type(value)
    steps, steps_async = hasattr(kind, "__next__"), hasattr(kind, "__anext__")
    if not (steps or steps_async) or hasattr(kind, "__await__") or hasattr(kind, "read"):
        return False
    try:
        return (kind.__iter__ if steps else kind.__aiter__)(value) is value
    except Exception:  # the user's own; recording must not fail the request
        return False


def measured(iterator: Any, run: Run) -> Any:
    """What stands in for an iterator, ending the run with it.

    Its items are tokens of the run. It ends with the iterator, with its exception, or cancelled:
    when it is closed, left as a `with` block, or dropped.
    """
    kind: Any = type(iterator)
    return _stand_in(kind)(iterator, run)


class _StandIn:
    __slots__ = ("__weakref__", "_ryot_iterator", "_ryot_run")

    def __init__(self, iterator: Any, run: Run) -> None:
        object.__setattr__(self, "_ryot_iterator", iterator)
        object.__setattr__(self, "_ryot_run", run)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._ryot_iterator)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ryot_iterator, name)
        if name in ("__copy__", "__deepcopy__"):  # a copy would be taken from behind its back
            raise AttributeError(name)
        return partial(self._closed, value) if name in _CLOSING else value

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._ryot_iterator, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._ryot_iterator, name)

    def __repr__(self) -> str:
        return repr(self._ryot_iterator)

    def _closed(self, close: Callable[..., Any], *args: Any) -> Any:
        try:
            return close(*args)
        finally:
            self._ryot_run.end(GeneratorExit())


class _Steps(_StandIn):
    __slots__ = ()

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        run = self._ryot_run
        token = _set_current(run.request)
        run.request.resumed()
        try:
            item = next(self._ryot_iterator)
        except BaseException as error:
            _reset_current(token)
            run.end(None if isinstance(error, StopIteration) else error)
            raise
        _reset_current(token)
        run.gave(item)
        return item


class _AsyncSteps(_StandIn):
    __slots__ = ()

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        run = self._ryot_run
        token = _set_current(run.request)
        run.request.resumed()
        try:
            item = await anext(self._ryot_iterator)
        except BaseException as error:
            _reset_current(token)
            run.end(None if isinstance(error, StopAsyncIteration) else error)
            raise
        _reset_current(token)
        run.gave(item)
        return item


class _Block(_StandIn):
    __slots__ = ()

    def __enter__(self) -> Any:
        entered = self._ryot_iterator.__enter__()
        return self if entered is self._ryot_iterator else entered

    def __exit__(self, *error: object) -> Any:
        return self._closed(self._ryot_iterator.__exit__, *error)


class _AsyncBlock(_StandIn):
    __slots__ = ()

    async def __aenter__(self) -> Any:
        entered = await self._ryot_iterator.__aenter__()
        return self if entered is self._ryot_iterator else entered

    async def __aexit__(self, *error: object) -> Any:
        return await self._closed(self._ryot_iterator.__aexit__, *error)


_ABILITIES = {
    "__next__": _Steps,
    "__anext__": _AsyncSteps,
    "__exit__": _Block,
    "__aexit__": _AsyncBlock,
}


@cache
def _stand_in(kind: type) -> Callable[[Any, Run], Any]:
    """The class that stands in for this one: what it cannot do, this cannot."""
    bases = tuple(able for name, able in _ABILITIES.items() if hasattr(kind, name))
    passed: dict[str, Any] = {name: _passed(name) for name in _PASSED if hasattr(kind, name)}
    return type(kind.__name__, bases, {"__slots__": (), **passed})


def _passed(name: str) -> Callable[..., Any]:
    def method(self: _StandIn, *args: Any, **kwargs: Any) -> Any:
        return getattr(type(self._ryot_iterator), name)(self._ryot_iterator, *args, **kwargs)

    return method
