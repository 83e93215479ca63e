"""Measures the calls of an OpenAI-compatible endpoint through a client of httpx (or httpx2).

Only `send` is replaced, through which every method of a client goes; bytes pass unchanged.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

from ryot_metrics.instrument._answer import route_of
from ryot_metrics.instrument._call import Call
from ryot_metrics.instrument._errors import outcome_of_status
from ryot_metrics.instrument._follow import follow, follow_async, measured
from ryot_metrics.instrument._patch import check, replace
from ryot_metrics.instrument._wire import Meter, Tail, meter_of

_C = TypeVar("_C")


def httpx(client: _C) -> _C:
    """Measures the calls that a client makes of an OpenAI-compatible endpoint.

    A POST whose path ends with `/chat/completions`, `/completions`, `/embeddings` or `/responses`
    is a request; its model and whether it streams are read from its JSON, its tokens from the
    answer's `usage`, TTFT and inter-token latency from the events as they pass. The label
    `endpoint` is the route, such as `/v1/chat/completions`. An error status is an error: 404
    `model_not_found`, 400, 413 and 422 `invalid_prompt`, 408 and 504 `timeout`. Events without
    `usage` count as a token each; of a stream in `br` or `zstd` only latency and status are known.

    Args:
        client: An `httpx.Client` or `httpx.AsyncClient`. Instrumenting it twice is harmless.

    Returns:
        The client.

    Raises:
        TypeError: For something else.

    Example:
        >>> import httpx
        >>> from ryot_metrics import instrument
        >>> def answer(request):
        ...     return httpx.Response(200, json={"usage": {"prompt_tokens": 3}})
        >>> client = instrument.httpx(httpx.Client(transport=httpx.MockTransport(answer)))
        >>> client.post("http://llm/v1/embeddings", json={"model": "m", "input": "a"}).status_code
        200
    """
    check(client, "an httpx.Client or httpx.AsyncClient", "build_request")
    replace(client, "send", measured(_begin, follow_response))
    return client


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    request = args[0] if args else kwargs["request"]
    route = route_of(request.url.path)
    if request.method != "POST" or route is None:
        return None
    try:
        body = json.loads(request.content)
    except Exception:  # a body that is streamed, or is no JSON
        body = None
    body = body if isinstance(body, dict) else {}
    mode = "streaming" if body.get("stream") else "standard"
    return Call(str(body.get("model") or "default"), route, mode)


def follow_response(call: Call, response: Any) -> Any:
    """Measures an answer: at once if it is there already, else as its bytes pass."""
    if response.status_code >= 400:
        call.end(*outcome_of_status(response.status_code))
    elif response.is_closed:
        tail = Tail(call)
        tail.feed(response.content)
        _at_end(call, tail)
    else:
        headers = response.headers
        kind, encoding = headers.get("content-type", ""), headers.get("content-encoding", "")
        inner = response.stream
        home: Any = type(response)
        passing = _stream_class(home, hasattr(inner, "aclose"))
        response.stream = passing(inner, call, meter_of(call, kind, encoding))
    return response


def _at_end(call: Call, meter: Meter | None) -> None:
    if meter is not None:
        call.read(lambda _, meter: meter.close(), meter)
    call.end()


class _Passing:
    """The bytes of an answer on their way, read by a meter."""

    def __init__(self, inner: Any, call: Call, meter: Meter | None) -> None:
        self._inner = inner
        self._call = call
        self._meter = meter

    def _read(self, _: Call, data: bytes) -> None:
        if self._meter is not None:
            self._meter.feed(data)

    def _close(self, call: Call) -> None:
        _at_end(call, self._meter)

    def __iter__(self) -> Iterator[bytes]:
        return follow(self._call, iter(self._inner), self._read, self._close)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return follow_async(self._call, aiter(self._inner), self._read, self._close)

    def close(self) -> None:
        self._call.abandon()
        self._inner.close()

    async def aclose(self) -> None:
        self._call.abandon()
        await self._inner.aclose()


@functools.cache
def _stream_class(response: Any, is_async: bool) -> type[_Passing]:
    """`_Passing` as a stream of the library that the response is of; httpx insists on its own."""
    home = next(base for base in response.__mro__ if base.__name__ == "Response").__module__
    library: Any = sys.modules[home.partition(".")[0]]
    base = library.AsyncByteStream if is_async else library.SyncByteStream
    return type("Passing", (_Passing, base), {})
