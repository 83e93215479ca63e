"""Measures the calls of the `openai` client.

Only `request` is replaced, through which every resource of a client goes, whatever way it is
asked: `create`, `parse`, `stream`, `with_raw_response`, `with_streaming_response`, or `post`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

from ryot_metrics._ryot_metrics import record_retry
from ryot_metrics.instrument._answer import read_answer, reader_of, route_of
from ryot_metrics.instrument._call import Call
from ryot_metrics.instrument._follow import follow, follow_async, measured
from ryot_metrics.instrument._httpx import follow_response
from ryot_metrics.instrument._patch import check, replace
from ryot_metrics.usage import field

_C = TypeVar("_C")


@overload
def openai(client: None = None) -> Any: ...
@overload
def openai(client: _C) -> _C: ...
def openai(client: Any = None) -> Any:
    """Measures the calls of a client of the `openai` package, or of all of them.

    Chat completions, completions, embeddings and responses are requests, streamed or not. The
    label `model` is the model that is asked for, `endpoint` the route, such as
    `/v1/chat/completions`. A stream stays a `Stream` or `AsyncStream`; without a `usage`, which
    `stream_options={"include_usage": True}` asks for, each chunk with content counts as a token.
    Timeouts have the status `timeout`; `BadRequestError` and `UnprocessableEntityError` the error
    type `invalid_prompt`, `NotFoundError` `model_not_found`, the others `inference_error`. A call
    that is retried is one request; its retries are counted in `ryot_inference_retries_total`.

    Args:
        client: An `OpenAI` or `AsyncOpenAI`, or an instance of their subclasses such as
            `AzureOpenAI`; its copies (`with_options`) are measured too. None for all clients, also
            those that exist already. Instrumenting twice is harmless.

    Returns:
        The client; without one the module `openai`, which `uninstrument` takes.

    Raises:
        ModuleNotFoundError: Without a client, if `openai` is not installed.
        TypeError: For something that is no client.

    Example:
        >>> from openai import OpenAI
        >>> from ryot_metrics import instrument
        >>> client = instrument.openai(OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none"))
        >>> client.close()
    """
    if client is not None:
        check(client, "an OpenAI or AsyncOpenAI", "request")
        _instrument(client)
        for name in ("copy", "with_options"):
            replace(client, name, _copying)
        return client
    import openai as module

    _instrument(module.OpenAI)
    _instrument(module.AsyncOpenAI)
    return module


def _instrument(target: Any) -> None:
    replace(target, "request", measured(_begin, _finish))
    replace(target, "_calculate_retry_timeout", _counting_retries)


def _counting_retries(calculate: Callable[..., Any]) -> Callable[..., Any]:
    """Counts the retries: before each one, the client asks how long it is to wait."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        options = next(
            (one for one in (*args, *kwargs.values()) if hasattr(one, "json_data")), None
        )
        if options is not None and route_of(options.url) is not None:
            record_retry(_model(options))
        return calculate(*args, **kwargs)

    return wrapper


def _copying(copy: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return openai(copy(*args, **kwargs))

    return wrapper


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    # The last positional argument, for a class's function and for a client's method.
    options = kwargs["options"] if "options" in kwargs else args[-1]
    route = route_of(options.url)
    if options.method.lower() != "post" or route is None:
        return None
    mode = "streaming" if kwargs.get("stream") else "standard"
    return Call(_model(options), route, mode)


def _model(options: Any) -> str:
    return str(field(options.json_data, "model") or "default")


def _finish(call: Call, result: Any) -> Any:
    from openai import AsyncStream, Stream

    reader = reader_of(call.endpoint)
    if isinstance(result, Stream):
        result._iterator = follow(call, result._iterator, reader)
        replace(result.response, "close", _closing(call))
    elif isinstance(result, AsyncStream):
        result._iterator = follow_async(call, result._iterator, reader)
        replace(result.response, "aclose", _closing(call))
    elif field(result, "status_code") is not None:  # a raw response, ours or httpx's
        follow_response(call, field(result, "http_response") or result)
    else:
        call.read(read_answer, result)
        call.end()
    return result


def _closing(call: Call) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Ends the call when the consumer closes the response; at its end the stream does so itself."""

    def decorate(close: Callable[[], Any]) -> Callable[[], Any]:
        def wrapper() -> Any:
            if not call.is_producing():
                call.abandon()
            return close()

        return wrapper

    return decorate
