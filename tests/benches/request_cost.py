"""What measuring a request costs, on top of the undecorated call, against `prometheus_client`.

The other side writes the same families with that package, as its documentation shows (`labels` at
each sample) and with its children kept; it has neither nesting, nor error types, nor cancellation.
All take turns in one process; each figure is the median over the rounds of the CPU time of (loop
with it - loop without it) / calls. The last line is a service: streams of 50 tokens, as an async
generator, with and without the decorator, at 500 requests a second.

Run: python tests/benches/request_cost.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

import prometheus_client
from rich.console import Console
from rich.table import Table

from ryot_metrics import InferenceContext, track_inference_request, track_token_generation

CALLS = 5_000
TOKENS = 50
REQUESTS_PER_SECOND = 500
TARGETS = {"function": 800, "coroutine": 1500, "context": 1000, "token": 250, "token()": 250}
CLAIMS = {"function": (10_000, 100_000), "context": (None, 50_000)}
LABELS = {"active": 3, "requests": 4, "latency": 3, "duration": 1, "gaps": 1, "tokens": 3}


class Peer:
    """The families of a request in `prometheus_client`; `keep` keeps their children."""

    def __init__(self, *, keep: bool) -> None:
        registry = prometheus_client.CollectorRegistry()
        self.families = {}
        for name, count in LABELS.items():
            kind = {"active": "Gauge", "requests": "Counter", "tokens": "Counter"}
            make = getattr(prometheus_client, kind.get(name, "Histogram"))
            labels = [f"label{index}" for index in range(count)]
            self.families[name] = make(name, name, labels, registry=registry)
        values = ("gpt4", "standard", "/complete", "")
        find = {
            name: functools.partial(family.labels, *values[: LABELS[name]])
            for name, family in self.families.items()
        }
        if keep:
            find = {name: functools.partial(lambda it: it, one()) for name, one in find.items()}
        self.find = find

    def __enter__(self) -> Peer:
        self.find["active"]().inc()
        self.began = self.last = perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        seconds = perf_counter() - self.began
        self.find["active"]().dec()
        self.find["requests"]().inc()
        self.find["latency"]().observe(seconds)
        self.find["duration"]().observe(seconds)

    def token(self) -> None:
        """Counts a token and its inter-token latency."""
        now = perf_counter()
        self.find["gaps"]().observe(now - self.last)
        self.find["tokens"]().inc()
        self.last = now

    def function(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates a function."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapper

    def coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates a coroutine function."""

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return wrapper

    def generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorates a generator function."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                for item in function(*args, **kwargs):
                    self.token()
                    yield item

        return wrapper


def answer(prompt: str) -> str:
    """A request that does nothing."""
    return prompt


async def answer_async(prompt: str) -> str:
    """The same, awaited."""
    return prompt


def words(count: int) -> Any:
    """A stream that does nothing."""
    for _ in range(count):
        yield "word"


async def words_async(count: int) -> Any:
    """The same, awaited."""
    for _ in range(count):
        yield "word"


def in_context(prompt: str) -> str:
    """A function whose body is a block."""
    with InferenceContext("gpt4", endpoint="/complete"):
        return prompt


def block(peer: Peer) -> Callable[[str], str]:
    """The same with a peer's."""

    def run(prompt: str) -> str:
        with peer:
            return prompt

    return run


def calls(function: Callable[..., Any]) -> float:
    """The CPU seconds of so many calls."""
    started = thread_time()
    for _ in range(CALLS):
        function("hi")
    return thread_time() - started


def awaits(function: Callable[..., Any]) -> float:
    """The same for a coroutine function."""

    async def main() -> float:
        started = thread_time()
        for _ in range(CALLS):
            await function("hi")
        return thread_time() - started

    return asyncio.run(main())


def items(function: Callable[..., Any]) -> float:
    """The same for a stream of so many items."""
    started = thread_time()
    for _ in function(CALLS):
        pass
    return thread_time() - started


def tokens(token: Callable[[], object]) -> float:
    """The same for calls of a method."""
    started = thread_time()
    for _ in range(CALLS):
        token()
    return thread_time() - started


def streams(function: Callable[..., Any]) -> float:
    """The same for requests of 50 tokens, each."""

    async def main() -> float:
        started = thread_time()
        for _ in range(CALLS // TOKENS):
            async for _ in function(TOKENS):
                pass
        return thread_time() - started

    return asyncio.run(main()) * TOKENS


def cases(context: InferenceContext, peers: list[Peer]) -> dict[str, tuple[Any, ...]]:
    """By name: how it is measured, without it, with ours, and with the peers'."""
    track = track_inference_request(model="gpt4", endpoint="/complete")
    streamed = track_token_generation(model="gpt4", endpoint="/complete")
    return {
        "function": (calls, answer, track(answer), *(it.function(answer) for it in peers)),
        "coroutine": (
            awaits,
            answer_async,
            track(answer_async),
            *(it.coroutine(answer_async) for it in peers),
        ),
        "context": (calls, answer, in_context, *(block(it) for it in peers)),
        "token": (items, words, streamed(words), *(it.generator(words) for it in peers)),
        "token()": (tokens, lambda: None, context.token, *(it.token for it in peers)),
        "service": (streams, words_async, streamed(words_async)),
    }


def main() -> None:
    """Runs the rounds and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    peers = [Peer(keep=False), Peer(keep=True)]
    with InferenceContext("gpt4") as context:
        token_context = context
        with_peer = [peer.__enter__() for peer in peers]
        table = cases(token_context, with_peer)
        seconds: dict[str, list[tuple[float, ...]]] = {name: [] for name in table}
        # In the block, a request would join its context: only `token()` is measured in it.
        for _ in range(rounds):
            measure, *variants = table["token()"]
            seconds["token()"].append(tuple(measure(it) for it in variants))
    for _ in range(rounds):
        for name, (measure, *variants) in table.items():
            if name != "token()":
                seconds[name].append(tuple(measure(it) for it in variants))
    report(seconds)


def report(seconds: dict[str, list[tuple[float, ...]]]) -> None:
    """Prints medians, ratios, targets and the design documents' claims."""
    shown = Table("", "ns", "target", "labels()", "times", "children kept", "times", "claimed, ns")
    for name, times in seconds.items():
        over = [[(it - run[0]) / CALLS * 1e9 for it in run[1:]] for run in times]
        ours, *others = (statistics.median(column) for column in zip(*over, strict=True))
        if name == "service":
            share = ours * REQUESTS_PER_SECOND / 1e9
            loss = f"{share:.2%} of a core at {REQUESTS_PER_SECOND} requests/s x {TOKENS} tokens"
            continue
        cells = [cell for other in others for cell in (f"{other:,.0f}", f"{other / ours:.1f}")]
        claims = ", ".join(f"{claim:,}" for claim in CLAIMS.get(name, ()) if claim)
        shown.add_row(name, f"{ours:.0f}", f"{TARGETS[name]}", *cells, claims)
    console = Console(width=110)
    console.print(shown)
    console.print(f"The decorator on streams costs {loss}.")


if __name__ == "__main__":
    main()
