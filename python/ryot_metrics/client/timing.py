"""Timers, trackers and counters around a block or a function of any kind.

Knows no metric: each takes plain callables, such as the bound methods of one. A decorated function
stays of its kind, and what surrounds it lasts until its end: until a coroutine has returned, until
a generator is exhausted or closed, with whatever its consumer does in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

from ryot_metrics.client.calls import (
    Call,
    Function,
    Wrappers,
    decorated,
    relaying,
    relaying_async,
)

_F = TypeVar("_F", bound=Callable[..., Any])
_Span = Callable[[], AbstractContextManager[object]]


class _Around(ABC):
    """A context manager that is a decorator too; each call of the function is a span of its own."""

    @abstractmethod
    def __enter__(self) -> object: ...

    @abstractmethod
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]: ...

    def _span(self) -> AbstractContextManager[object]:
        return self

    def __call__(self, function: _F) -> _F:
        """Decorates a function, coroutine function, generator or async generator function."""
        span = self._span

        def open_call(args: object, kwargs: object) -> Call:
            return _Spanning(span())

        wrappers = Wrappers(
            lambda function: _function(function, span),
            lambda function: _coroutine(function, span),
            lambda function: relaying(function, open_call),
            lambda function: relaying_async(function, open_call),
        )
        return decorated(function, wrappers)


class Timer(_Around):
    """Tells a callable how long a block, or each call of a function, took.

    One timer may surround nested blocks; blocks that run side by side want a timer each.

    Args:
        observe: Gets the seconds, when the block has ended, be it with an exception.
        clock: Tells the time in seconds.

    Attributes:
        duration: The seconds of the block that ended last; None before.

    Example:
        >>> with Timer(print, clock=iter([10.0, 12.5]).__next__) as timer:
        ...     pass
        2.5
        >>> timer.duration
        2.5
    """

    def __init__(
        self, observe: Callable[[float], object], clock: Callable[[], float] = perf_counter
    ) -> None:
        self.duration: float | None = None
        self._observe = observe
        self._clock = clock
        self._starts: list[float] = []

    def labels(self, *labelvalues: Any, **labelkwargs: Any) -> None:
        """Chooses the series to observe; inside the block, once the labels are known.

        Args:
            *labelvalues: As for the metric's own `labels`.
            **labelkwargs: As for the metric's own `labels`.

        Raises:
            TypeError: If what the timer calls is no method of a metric.
        """
        metric = getattr(self._observe, "__self__", None)
        if not hasattr(metric, "labels"):
            raise TypeError(f"the timer calls {self._observe!r}, which is no method of a metric")
        child = cast("Any", metric).labels(*labelvalues, **labelkwargs)
        self._observe = getattr(child, self._observe.__name__)

    def _span(self) -> Timer:
        return Timer(self._observe, self._clock)

    def __enter__(self) -> Timer:
        self._starts.append(self._clock())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self.duration = max(self._clock() - self._starts.pop(), 0.0)
        self._observe(self.duration)
        return False


class InprogressTracker(_Around):
    """Counts the blocks, or the calls of a function, that have begun and not ended.

    Args:
        inc: Called at the beginning.
        dec: Called at the end, be it with an exception.

    Example:
        >>> running = []
        >>> with InprogressTracker(lambda: running.append(1), running.pop):
        ...     len(running)
        1
        >>> running
        []
    """

    def __init__(self, inc: Callable[[], object], dec: Callable[[], object]) -> None:
        self._inc = inc
        self._dec = dec

    def __enter__(self) -> None:
        self._inc()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        self._dec()
        return False


class ExceptionCounter(_Around):
    """Counts the exceptions that leave a block, or a call of a function; they pass unchanged.

    Args:
        inc: Called for each.
        exception: The class of those that count, or several.

    Example:
        >>> errors = []
        >>> @ExceptionCounter(lambda: errors.append(1), ValueError)
        ... def parse(text):
        ...     return int(text)
        >>> try:
        ...     parse("x")
        ... except ValueError:
        ...     len(errors)
        1
    """

    def __init__(
        self,
        inc: Callable[[], object],
        exception: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    ) -> None:
        self._inc = inc
        self._exception = exception

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        if isinstance(error, self._exception):
            self._inc()
        return False


def _function(function: Function, span: _Span) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with span():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(function: Function, span: _Span) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        with span():
            return await function(*args, **kwargs)

    return wrapper


class _Spanning(Call):
    """A call inside of a context manager."""

    __slots__ = ("_span",)

    def __init__(self, span: AbstractContextManager[object]) -> None:
        self._span = span
        span.__enter__()

    def end(self, error: BaseException | None) -> None:
        """Leaves the context manager."""
        self._span.__exit__(type(error) if error else None, error, None)
