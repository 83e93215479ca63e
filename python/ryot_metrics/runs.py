"""One call of a decorated function, and what it returned, measured to its end."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.client.calls import Call, relaying, relaying_async
from ryot_metrics.tracking import Current, Scope, current, finish
from ryot_metrics.usage import PLAIN, called, field, tokens_of_item, usage_of

# Bound once: a stream calls them for each item.
_get_current, _set_current, _reset_current = current.get, current.set, current.reset


class Run(Call):
    """A call that is a request, or a part of an outer one.

    Args:
        request: The request, or the part.
        token_count: The user's function that counts the tokens of a result or an item.
    """

    __slots__ = ("_request", "_token", "_token_count")

    def __init__(
        self, request: Request, token_count: Callable[[Any], object] | None = None
    ) -> None:
        self._request = request
        self._token_count = token_count
        self._token: Token[Current] | None = None

    def resume(self) -> None:
        """Production goes on, and what it calls belongs to the request."""
        self._token = _set_current(self._request)
        self._request.resumed()

    def pause(self, item: object) -> None:
        """An item was produced; what follows is the consumer's."""
        if self._token is not None:
            _reset_current(self._token)
            self._token = None
        if type(item) in PLAIN and self._token_count is None:
            self._request.item()
        else:
            self._produced(item)

    def end(self, error: BaseException | None) -> None:
        """The call ended, a stream maybe in the middle of a step."""
        self._leave()
        finish(self._request, error)

    def returned(self, result: object) -> None:
        """The call ended with a result."""
        if self._token_count is not None:
            tokens = called(self._token_count, result)
            if tokens is not None:
                self._request.set_token_count(tokens)
        elif type(result) not in PLAIN:
            self._tell(result)
        self.end(None)

    def streams(self) -> None:
        """The result is a stream, which the function's kind did not say."""
        self._request.streams()

    def of_generator(self) -> GeneratorRun:
        """The run of a generator that the function returned."""
        return GeneratorRun(self._request, self._token_count)

    def _produced(self, item: object) -> None:
        if self._token_count is not None:
            self._request.produced(called(self._token_count, item) or 0)
        else:
            self._request.produced(tokens_of_item(item))
            self._tell(item)

    def _tell(self, value: object) -> None:
        usage = usage_of(value)
        if usage.prompt is not None:
            self._request.set_prompt_tokens(usage.prompt)
        if usage.ttft is not None:
            self._request.set_ttft(usage.ttft)
        if usage.completion is not None:
            self._request.set_token_count(usage.completion)

    def _leave(self) -> None:
        if self._token is not None:
            current.reset(self._token)
            self._token = None


class GeneratorRun(Run):
    """The same for a generator, at half the price for each item.

    The context variable stays set between two steps, with the generator's frame, by which
    `current_request` sees that it is suspended. An async generator's frame does not tell that:
    while it awaits, tasks that its consumer began may run.
    """

    __slots__ = ("_scope",)

    def __init__(
        self, request: Request, token_count: Callable[[Any], object] | None = None
    ) -> None:
        super().__init__(request, token_count)
        self._scope: Scope | None = None

    def resume(self) -> None:
        """Production goes on; called by the generator itself."""
        seen = _get_current()
        if seen is not self._scope or seen is None:
            if self._scope is None:
                self._scope = Scope(self._request, sys._getframe(1), seen)
                current.set(self._scope)
            else:  # the consumer is in a block, or a context, of its own now
                self._token = current.set(self._scope)
        self._request.resumed()

    def end(self, error: BaseException | None) -> None:
        """The generator ended."""
        super().end(error)
        if self._scope is not None and current.get() is self._scope:
            current.set(self._scope._outer)
        self._scope = None


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
        run.streams()
        return relaying(lambda: result, lambda *_: run.of_generator())()
    if inspect.isasyncgen(result):
        run.streams()
        return relaying_async(lambda: result, lambda *_: run)()
    # The streams of OpenAI's, Anthropic's and similar clients keep their class, and read from this.
    inner = (field(result, "__dict__") or {}).get("_iterator")
    if inspect.isgenerator(inner) or inspect.isasyncgen(inner):
        result._iterator = streamed(inner, run)
        return result
    return None


async def _awaited(result: Awaitable[Any], run: Run) -> Any:
    run.resume()
    try:
        value = await result
    except BaseException as error:
        run.end(error)
        raise
    run.returned(value)
    return value


def _done(future: Any, run: Run) -> None:
    try:
        value = future.result()
    except BaseException as error:  # the future keeps it for its owner
        run.end(error)
    else:
        run.returned(value)
