"""Decorators that measure a function as a request, whatever its kind.

A decorated coroutine function is still one, a generator function too. A stream is measured from
its first `next` to its end; between two items only the time of production counts, not the
consumer's own. What a plain function returns is followed to its end as well, where it has one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, overload

from ryot_metrics.client.calls import Wrappers, decorated
from ryot_metrics.options import Options
from ryot_metrics.runs import Run, awaited, followed
from ryot_metrics.streams import tracked, tracked_async
from ryot_metrics.tracking import current, current_request, finish
from ryot_metrics.usage import PLAIN

_F = TypeVar("_F", bound=Callable[..., Any])
_Label = str | Callable[..., object]
_Count = int | Callable[..., object]


@overload
def track_inference_request(function: _F, /) -> _F: ...
@overload
def track_inference_request(
    model: _Label = "default",
    *,
    model_arg: str | None = None,
    endpoint: _Label = "",
    request_type: str | None = None,
    prompt_tokens: _Count | None = None,
    batch_size: _Count = 0,
    token_count: Callable[[Any], object] | None = None,
) -> Callable[[_F], _F]: ...
def track_inference_request(
    function: Any = None,
    /,
    *,
    model: Any = "default",
    model_arg: str | None = None,
    endpoint: _Label = "",
    request_type: str | None = None,
    prompt_tokens: _Count | None = None,
    batch_size: _Count = 0,
    token_count: Callable[[Any], object] | None = None,
) -> Any:
    """Measures each call of a function as one request.

    Works on functions, coroutine functions, generators and async generators; the decorated function
    stays of its kind. The body of an async generator runs in a copy of its consumer's context,
    taken at its first step, as if it were a task. A function that returns a generator, a coroutine,
    a future or another awaitable is measured to the end of that, and so is one that returns an
    iterator that is none of these, such as a `map` or a vendor's stream; a list, a string or a file
    is a result. In place of such an iterator the caller gets one with the same attributes and of
    the same class to `isinstance`, which cancels the request if it is closed or dropped before its
    end. Each item of a stream counts as a token, unless the stream counts its tokens itself; an
    OpenAI-style chunk without text is none. A result, or an item, tells its tokens by `token_count`
    and `ttft_seconds`, or by an OpenAI-style `usage`, and that it was cut off by its
    `finish_reason`, as attributes or keys. Nested decorators, contexts and engine calls join the
    outermost one and count once. Exceptions pass unchanged.

    Options that may be functions are called with the call's own arguments. One that raises, or
    answers nonsense, fails no request: it is logged once, and counted in
    `ryot_metrics_dropped_total{reason="callback_error"}`.

    Args:
        function: The function, if the decorator is used without parentheses; or the model.
        model: The label `model`, or a function that gives it.
        model_arg: The name of the argument that is the model, or a path into it: `request.model`.
        endpoint: The label `endpoint`, or a function that gives it; empty for none.
        request_type: `standard`, `streaming` or `batch`; by default streaming for streams,
            standard for all else.
        prompt_tokens: Tokens of the prompt, or a function that counts them.
        batch_size: Sequences in the request's batch, or a function that counts them; 0 if unknown.
        token_count: Is given the result, or each item of a stream, and says its number of tokens.

    Returns:
        The decorator; or the decorated function, if it is used without parentheses.

    Raises:
        TypeError: If the function has no such argument as `model_arg`, is none itself, or an option
            has a wrong type.
        ValueError: For a number out of its range, another request type, or two models.

    Example:
        >>> @track_inference_request(model="gpt4")
        ... def complete(prompt):
        ...     return prompt.upper()
        >>> complete("hi")
        'HI'
        >>> @track_inference_request(
        ...     model_arg="model", prompt_tokens=lambda prompt, **_: len(prompt.split())
        ... )
        ... def answer(prompt, model="small"):
        ...     return f"{model}: {prompt}"
        >>> answer("hi", model="large")
        'large: hi'
        >>> @track_inference_request(model="gpt4")
        ... def shout(words):
        ...     return map(str.upper, words)
        >>> list(shout(["a", "b"]))
        ['A', 'B']
    """
    if isinstance(function, str):
        model, function = function, None
    options = Options(
        model, model_arg, endpoint, request_type, prompt_tokens, batch_size, token_count
    )
    options.check()
    if function is None:
        return functools.partial(_decorate, options=options)
    return _decorate(function, options)


track_token_generation = track_inference_request
"""Measures a stream of tokens: `track_inference_request` by the name that says so."""


def _decorate(function: Any, options: Options) -> Any:
    if isinstance(function, classmethod | staticmethod):
        return type(function)(_decorate(function.__func__, options))
    if not callable(function):
        raise TypeError(f"{function!r} is no function; only functions can be measured")
    opened = options.resolved(function, "streaming")

    def open_run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        outer = current_request() if current.get() is not None else None
        request = opened(args, kwargs) if outer is None else outer.part()
        return Run(request, options.token_count)

    wrappers = Wrappers(
        lambda function: _function(function, options),
        lambda function: _coroutine(function, options),
        lambda function: tracked(function, open_run),
        lambda function: tracked_async(function, open_run),
    )
    return decorated(function, wrappers)


# The two below are the hot path, so they spell out what a `Run` does.


def _function(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    constant, resolved = options.constant("standard"), options.resolved(function, "standard")
    plain = PLAIN if options.token_count is None else ()
    current_get, set_current, reset = current.get, current.set, current.reset

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if current_get() is not None and (outer := current_request()) is not None:
            request = outer.part()
        else:
            request = constant() if constant is not None else resolved(args, kwargs)
        token = set_current(request)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            finish(request, error)
            raise
        finally:
            reset(token)
        if type(result) in plain:
            finish(request)
            return result
        return followed(result, Run(request, options.token_count))

    return wrapper


def _coroutine(function: Callable[..., Any], options: Options) -> Callable[..., Any]:
    constant, resolved = options.constant("standard"), options.resolved(function, "standard")
    plain = PLAIN if options.token_count is None else ()
    current_get, set_current, reset = current.get, current.set, current.reset

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if current_get() is not None and (outer := current_request()) is not None:
            request = outer.part()
        else:
            request = constant() if constant is not None else resolved(args, kwargs)
        token = set_current(request)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            finish(request, error)
            raise
        finally:
            reset(token)
        if type(result) in plain:
            finish(request)
            return result
        return awaited(result, Run(request, options.token_count))

    return wrapper
