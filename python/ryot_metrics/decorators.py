"""Decorators that measure a function as a request, whatever its kind.

A decorated coroutine function is still one, a generator function too. A stream is measured from
its first `next` to its end; between two items only the time of production counts, not the
consumer's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, TypeVar, cast, overload

from ryot_metrics._ryot_metrics import Request
from ryot_metrics.tracking import Scope, current, current_request, status_of

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


@overload
def track_inference_request(model: _F) -> _F: ...
@overload
def track_inference_request(
    model: str = "default", *, endpoint: str = ""
) -> Callable[[_F], _F]: ...
def track_inference_request(model: Any = "default", *, endpoint: str = "") -> Any:
    """Measures each call of a function as one request.

    Works on functions, coroutine functions, generators and async generators; the decorated
    function stays of its kind. Each item of a stream counts as a token, unless the stream counts
    its tokens itself. The result of a function tells its tokens by `token_count` and
    `ttft_seconds`, or by an OpenAI-style `usage`, where it has them. Nested decorators, contexts
    and engine calls join the outermost one and count once. Exceptions pass unchanged.

    Args:
        model: The label `model`.
        endpoint: The label `endpoint`; empty for none.

    Returns:
        The decorator; or the decorated function, if it is used without parentheses.

    Example:
        >>> @track_inference_request(model="gpt4")
        ... def complete(prompt):
        ...     return prompt.upper()
        >>> complete("hi")
        'HI'
    """
    if callable(model):
        return _decorate(cast("Callable[..., Any]", model), "default", endpoint)
    return functools.partial(_decorate, model=model, endpoint=endpoint)


@overload
def track_token_generation(model: _F) -> _F: ...
@overload
def track_token_generation(model: str = "default", *, endpoint: str = "") -> Callable[[_F], _F]: ...
def track_token_generation(model: Any = "default", *, endpoint: str = "") -> Any:
    """Measures a stream of tokens; the same as `track_inference_request`, by the name that says so.

    Args:
        model: The label `model`.
        endpoint: The label `endpoint`; empty for none.

    Returns:
        The decorator; or the decorated function, if it is used without parentheses.

    Example:
        >>> @track_token_generation(model="gpt4")
        ... def words(text):
        ...     yield from text.split()
        >>> list(words("to be"))
        ['to', 'be']
    """
    return track_inference_request(model, endpoint=endpoint)


class _Run:
    """One call of a decorated function."""

    def __init__(self, model: str, endpoint: str, mode: str) -> None:
        outer = current_request()
        self.request = outer or Request(model, endpoint, mode)
        self._joined = outer is not None
        self._scope = Scope(self.request)
        self._base = self.request.token_count

    def call(self, function: Callable[[], _T]) -> _T:
        token = current.set(self._scope)
        try:
            return function()
        finally:
            current.reset(token)

    async def wait_for(self, function: Callable[[], Awaitable[_T]]) -> _T:
        token = current.set(self._scope)
        try:
            return await function()
        finally:
            current.reset(token)

    def began_item(self) -> int:
        self.request.resumed()
        return self.request.token_count

    def produced_item(self, tokens_before: int) -> None:
        if self.request.token_count == tokens_before:  # nobody inside has counted it
            self.request.token()

    def finish(self, error: BaseException | None) -> None:
        if not self._joined:
            self.request.finish(*status_of(error))

    def returned(self, result: object) -> None:
        """Takes from a result what it tells about its tokens."""
        usage = _field(result, "usage")
        tokens = _field(result, "token_count") or _field(usage, "completion_tokens")
        prompt_tokens = _field(usage, "prompt_tokens")
        ttft = _field(result, "ttft_seconds")
        if isinstance(prompt_tokens, int):
            self.request.set_prompt_tokens(max(prompt_tokens, 0))
        if isinstance(ttft, int | float):
            self.request.set_ttft(ttft)
        if isinstance(tokens, int):
            self.request.set_token_count(self._base + max(tokens, 0))
        self.finish(None)


def _field(result: object, name: str) -> object:
    if isinstance(result, dict):
        return result.get(name)
    try:
        return getattr(result, name, None)
    except Exception:  # a property of the user's; recording must not fail the request
        return None


def _decorate(function: Callable[..., Any], model: str, endpoint: str) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):
        wrap: Callable[..., Any] = _async_generator
    elif inspect.isgeneratorfunction(function):
        wrap = _generator
    elif inspect.iscoroutinefunction(function):
        wrap = _coroutine
    else:
        wrap = _function
    return functools.wraps(function)(wrap(function, model, endpoint))


def _function(function: Callable[..., Any], model: str, endpoint: str) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        run = _Run(model, endpoint, "standard")
        try:
            result = run.call(functools.partial(function, *args, **kwargs))
        except BaseException as error:
            run.finish(error)
            raise
        run.returned(result)
        return result

    return wrapper


def _coroutine(function: Callable[..., Any], model: str, endpoint: str) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        run = _Run(model, endpoint, "standard")
        try:
            result = await run.wait_for(functools.partial(function, *args, **kwargs))
        except BaseException as error:
            run.finish(error)
            raise
        run.returned(result)
        return result

    return wrapper


def _generator(function: Callable[..., Any], model: str, endpoint: str) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        run = _Run(model, endpoint, "streaming")
        try:
            stream = function(*args, **kwargs)
            resume = stream.__next__
            while True:
                tokens = run.began_item()
                try:
                    item = run.call(resume)
                except StopIteration as stop:
                    run.finish(None)
                    return stop.value
                run.produced_item(tokens)
                try:
                    sent = yield item
                except GeneratorExit:
                    stream.close()
                    raise
                except BaseException as error:
                    resume = functools.partial(stream.throw, error)
                else:
                    resume = functools.partial(stream.send, sent)
        except BaseException as error:
            run.finish(error)
            raise

    return wrapper


def _async_generator(function: Callable[..., Any], model: str, endpoint: str) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        run = _Run(model, endpoint, "streaming")
        try:
            stream = function(*args, **kwargs)
            resume = stream.__anext__
            while True:
                tokens = run.began_item()
                try:
                    item = await run.wait_for(resume)
                except StopAsyncIteration:
                    run.finish(None)
                    return
                run.produced_item(tokens)
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as error:
                    resume = functools.partial(stream.athrow, error)
                else:
                    resume = functools.partial(stream.asend, sent)
        except BaseException as error:
            run.finish(error)
            raise

    return wrapper
