"""One call of a decorated function, and what it returned, measured to its end."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.iterators import is_iterator, measured
from ryot_metrics.streams import AsyncStream, tracked
from ryot_metrics.tracking import current, finish
from ryot_metrics.usage import PLAIN, called, field, is_truncated, tokens_of_item, usage_of

_NONE: frozenset[type] = frozenset()


class Run:
    """A call that is a request, or a part of an outer one.

    Args:
        request: The request, or the part.
        token_count: The user's function that counts the tokens of a result or an item.

    Attributes:
        request: As given.
        counted: Types whose items are a token each; of others, `produced` counts them.
    """

    __slots__ = ("_token_count", "counted", "request")

    def __init__(
        self, request: Request, token_count: Callable[[Any], object] | None = None
    ) -> None:
        self.request = request
        self.counted = PLAIN if token_count is None else _NONE
        self._token_count = token_count

    def gave(self, item: object) -> None:
        """A stream gave an item."""
        if type(item) in self.counted:
            self.request.item()
        else:
            self.produced(item)

    def produced(self, item: object) -> None:
        """A stream gave an item of another type."""
        if self._token_count is not None:
            self.request.produced(called(self._token_count, item) or 0)
        else:
            self.request.produced(tokens_of_item(item))
            self._tell(item)

    def end(self, error: BaseException | None) -> None:
        """The call ended, or its stream."""
        finish(self.request, error)

    def returned(self, result: object) -> None:
        """The call ended with a result."""
        if self._token_count is not None:
            tokens = called(self._token_count, result)
            if tokens is not None:
                self.request.set_token_count(tokens)
        elif type(result) not in PLAIN:
            self._tell(result)
        self.end(None)

    def _tell(self, value: object) -> None:
        usage = usage_of(value)
        if usage.prompt is not None:
            self.request.set_prompt_tokens(usage.prompt)
        if usage.ttft is not None:
            self.request.set_ttft(usage.ttft)
        if usage.completion is not None:
            self.request.set_token_count(usage.completion)
        if is_truncated(value):
            self.request.set_truncated(True)


def followed(result: Any, run: Run) -> Any:
    """What a function returned, ending the run when that ends."""
    stream = streamed(result, run)
    if stream is not None:
        return stream
    if hasattr(type(result), "add_done_callback"):  # a future or task of any library
        result.add_done_callback(lambda future: _done(future, run))
        return result
    if inspect.isawaitable(result):
        return _awaited(result, run)
    run.returned(result)
    return result


def awaited(result: Any, run: Run) -> Any:
    """What a coroutine returned, ending the run now, or when that ends if it is a stream."""
    stream = streamed(result, run)
    if stream is None:
        run.returned(result)
    return result if stream is None else stream


def streamed(result: Any, run: Run) -> Any:
    """A result that is a stream, ending the run when that ends; None if it is no stream."""
    if inspect.isgenerator(result):
        run.request.streams()
        return tracked(lambda: result, lambda *_: run)()
    if inspect.isasyncgen(result):
        run.request.streams()
        return AsyncStream(result, lambda: run)
    # The streams of OpenAI's, Anthropic's and similar clients keep their class, and read from this.
    inner = (field(result, "__dict__") or {}).get("_iterator")
    if inspect.isgenerator(inner) or inspect.isasyncgen(inner):
        result._iterator = streamed(inner, run)
        return result
    if is_iterator(result):
        run.request.streams()
        return measured(result, run)
    return None


async def _awaited(result: Awaitable[Any], run: Run) -> Any:
    token = current.set(run.request)
    run.request.resumed()
    try:
        value = await result
    except BaseException as error:
        current.reset(token)
        run.end(error)
        raise
    current.reset(token)
    run.returned(value)
    return value


def _done(future: Any, run: Run) -> None:
    try:
        value = future.result()
    except BaseException as error:  # the future keeps it for its owner
        run.end(error)
    else:
        run.returned(value)
