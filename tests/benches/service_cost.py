"""What measuring costs a service that streams: its throughput with everything on, against without.

An ASGI service answers each request with 50 tokens, one piece of the body each, in an async
generator that computes a while for each token, as a tokenizer and a sampler do, and lets other
requests run; so many clients at once wait for an answer and ask again. The work is chosen at the
start so that the bare service has about 500 requests a second on one core. Then the same with the
decorator on the generator, with the middleware around the app, with both, and with a context in the
app that is told each token. The floors show what wrappers cost that are written in Python and do
nothing: an async generator that passes another one on; the same with a context variable that is set
for each step and reset, by which nested requests could be found; a middleware whose `send` passes
each message on; and that around the first.

Variants take turns; each turn is measured in CPU time of the thread against the bare turn of its
round. The loss is a small difference of large numbers, so each variant is measured a second time
with tokens that cost no work: `alone` is what it adds to a token there, and `of 500 requests/s` the
share of a core that this is at the service's rate.

Run: python tests/benches/service_cost.py [--rounds 15] [--requests 200]
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import json
import statistics
from collections.abc import AsyncIterator, Callable
from time import thread_time
from typing import Any

from rich.console import Console
from rich.table import Table

from ryot_metrics import InferenceContext, track_token_generation
from ryot_metrics.middleware import InferenceMiddleware

TOKENS = 50
CLIENTS = 8
REQUESTS_PER_SECOND = 500
LIMIT = 0.005
"""The share of its throughput that a service may lose."""
CHUNK = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": "word"}}]}
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"accept", b"text/event-stream")],
}
START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def work(loops: int) -> bytes:
    """A token's work: its event is written, so often."""
    event = b""
    for _ in range(loops):
        event = b"data: " + json.dumps(CHUNK).encode() + b"\n\n"
    return event


def tokens_of(loops: int) -> Callable[[], AsyncIterator[bytes]]:
    """The generator of an answer's tokens, with so much work for each."""
    idle = work(1)

    async def tokens() -> AsyncIterator[bytes]:
        for _ in range(TOKENS):
            await asyncio.sleep(0)
            yield work(loops) if loops else idle

    return tokens


def app_of(loops: int, decorate: Callable[[Any], Any]) -> Any:
    """The service, with so much work for a token; the generator is decorated."""
    stream = decorate(tokens_of(loops))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async for token in stream():
            await send({"type": "http.response.body", "body": token, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def app_in_context(loops: int) -> Any:
    """The same service, whose tokens are told to a context."""
    stream = tokens_of(loops)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        async with InferenceContext("gpt4", endpoint="/v1/chat/completions") as request:
            async for token in stream():
                request.token()
                await send({"type": "http.response.body", "body": token, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def relayed(function: Callable[[], Any], scope: contextvars.ContextVar[Any] | None = None) -> Any:
    """An async generator function that passes each step on; the variable is set for the step."""

    async def relay() -> AsyncIterator[bytes]:
        stream = function()
        step, value = stream.asend, None
        while True:
            token = None if scope is None else scope.set(stream)
            try:
                item = await step(value)
            except StopAsyncIteration:
                return
            finally:
                if scope is not None and token is not None:
                    scope.reset(token)
            value = yield item

    return relay


class Passing:
    """A middleware that passes each message on."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            await send(message)

        await self.app(scope, receive, sent)


def variants(loops: int) -> dict[str, Any]:
    """The service in all its forms."""
    track = track_token_generation(model="gpt4", endpoint="/v1/chat/completions")
    bare, decorated = app_of(loops, lambda function: function), app_of(loops, track)
    passed_on = app_of(loops, relayed)
    scope: contextvars.ContextVar[Any] = contextvars.ContextVar("scope", default=None)
    return {
        "bare": bare,
        "floor: a generator around it": passed_on,
        "floor: and a context variable": app_of(loops, lambda stream: relayed(stream, scope)),
        "decorator": decorated,
        "context": app_in_context(loops),
        "floor: a `send` around it": Passing(bare),
        "middleware": InferenceMiddleware(bare),
        "floor: both, empty": Passing(passed_on),
        "both": InferenceMiddleware(decorated),
    }


def measured(loops: int, rounds: int, requests: int) -> dict[str, list[float]]:
    """The CPU seconds of a request in each round, by variant."""
    apps = variants(loops)
    taken: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(rounds):
        for name, app in apps.items():
            taken[name].append(turn(app, requests))
    return taken


def over(taken: dict[str, list[float]], name: str) -> float:
    """The median of what a variant adds to a request, in seconds."""
    pairs = zip(taken["bare"], taken[name], strict=True)
    return statistics.median(one - bare for bare, one in pairs)


def turn(app: Any, requests: int) -> float:
    """The CPU seconds of a request, with so many clients at once."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}"}

    async def send(message: Any) -> None:
        pass

    async def client() -> None:
        for _ in range(requests // CLIENTS):
            await app(dict(SCOPE), receive, send)

    async def main() -> float:
        began = thread_time()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        return (thread_time() - began) / (requests // CLIENTS * CLIENTS)

    return asyncio.run(main())


def fitting(requests: int) -> int:
    """The loops of work with which the bare service has its rate."""

    def taken(loops: int) -> float:
        app = app_of(loops, lambda function: function)
        return statistics.median(turn(app, requests) for _ in range(5))

    idle, busy = taken(1), taken(11)
    return max(1, round(1 + (1 / REQUESTS_PER_SECOND - idle) / ((busy - idle) / 10)))


def main() -> None:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    loops = fitting(options.requests)
    taken = measured(loops, options.rounds, options.requests)
    idle = measured(0, options.rounds, options.requests)
    share = f"of {REQUESTS_PER_SECOND} requests/s"
    table = Table("", "requests/s", "loss", "quartiles", "alone, ns", share, f"below {LIMIT:.1%}")
    for name, seconds in taken.items():
        losses = [1 - bare / one for bare, one in zip(taken["bare"], seconds, strict=True)]
        low, loss, high = statistics.quantiles(losses, n=4)
        alone = over(idle, name)
        table.add_row(
            name,
            f"{1 / statistics.median(seconds):.0f}",
            f"{loss:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{alone / TOKENS * 1e9:.0f}",
            f"{alone * REQUESTS_PER_SECOND:.2%}",
            "" if name == "bare" else "yes" if alone * REQUESTS_PER_SECOND < LIMIT else "no",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
