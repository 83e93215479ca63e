"""Functions that return iterators which are no generators: what is measured, and what it stays."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest

from ryot_metrics import Engine, InferenceContext, SamplingParams
from ryot_metrics import track_inference_request as track
from ryot_metrics.client import generate_latest
from ryot_metrics.testing import isolated
from test_outcomes import left


class Stream:
    """A vendor's stream: an object with attributes, a `with` block and a `close`."""

    def __init__(self, clock, error=None, items=3):
        self.clock, self.error, self.items = clock, error, items
        self.response = "raw"
        self.closed = False

    def __iter__(self):
        return self

    def __next__(self):
        if self.items:
            self.items -= 1
            self.clock.advance(ms=10)
            return "word"
        raise self.error or StopIteration

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


class AsyncStream(Stream):
    """The same with `await`."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        await asyncio.sleep(0)
        try:
            return Stream.__next__(self)
        except StopIteration:
            raise StopAsyncIteration from None

    async def aclose(self):
        self.closed = True

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.aclose()


class OnlyAsync:
    """An asynchronous stream that is no synchronous one."""

    def __init__(self, *args, **kwargs):
        self.inner = AsyncStream(*args, **kwargs)

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await self.inner.__anext__()

    async def aclose(self):
        await self.inner.aclose()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        await self.aclose()


# What the consumer does, what the stream raises at its end, and what is left by one request.
OUTCOMES = [
    ("reads all", None, "success, 3"),
    ("reads all", RuntimeError("boom"), "partial inference, 3"),
    ("reads all", TimeoutError(), "timeout timeout, 3"),
    ("reads all", MemoryError(), "partial oom, 3"),
    ("reads all", KeyboardInterrupt(), "cancelled, 3"),
    ("reads two", None, "cancelled, 2"),
    ("reads two and closes", None, "cancelled, 2"),
    ("reads two in a block", None, "cancelled, 2"),
    ("raises in a block", None, "cancelled, 2"),
    ("drops it in a cycle", None, "cancelled, 2"),
    ("reads nothing", None, "cancelled"),
    ("closes twice", None, "success, 3"),
]


def take(stream, metrics, count):
    """So many items, with a second of the consumer's own after each."""
    for _ in itertools.islice(stream, count):
        metrics.clock.advance(seconds=1)


def consume(what, stream, metrics):
    match what:
        case "reads all":
            take(stream, metrics, None)
        case "reads two":
            take(stream, metrics, 2)
        case "reads two and closes":
            take(stream, metrics, 2)
            stream.close()
            assert stream.closed
        case "reads two in a block" | "raises in a block":
            with stream as entered:
                assert entered is stream
                take(entered, metrics, 2)
                if what.startswith("raises"):
                    raise LookupError
        case "drops it in a cycle":
            take(stream, metrics, 2)
            cycle = [stream]
            cycle.append(cycle)
        case "closes twice":
            take(stream, metrics, None)
            stream.close()
            stream.close()


async def consume_async(what, stream, metrics):
    async def take(count):
        while count:
            count -= 1
            try:
                await anext(stream)
            except StopAsyncIteration:
                break
            metrics.clock.advance(seconds=1)

    match what:
        case "reads all":
            await take(9)
        case "reads two" | "drops it in a cycle":
            await take(2)
        case "reads two and closes":
            await take(2)
            await stream.aclose()
        case "reads two in a block" | "raises in a block":
            async with stream as entered:
                assert entered is stream
                await take(2)
                if what.startswith("raises"):
                    raise LookupError
        case "closes twice":
            await take(9)
            await stream.aclose()
            await stream.aclose()


@pytest.mark.parametrize(("what", "error", "expected"), OUTCOMES)
def test_an_iterator_leaves_what_a_generator_leaves(what, error, expected):
    """One request with its status, tokens, TTFT and gaps; the consumer's time is in none."""
    with isolated() as metrics:
        function = track(model="m")(lambda: Stream(metrics.clock, error))
        with suppress(Exception, KeyboardInterrupt):
            consume(what, function(), metrics)
        gc.collect()
        assert left(metrics) == expected


@pytest.mark.parametrize("kind", ["function", "coroutine"])
@pytest.mark.parametrize(
    ("what", "error", "expected"),
    [row for row in OUTCOMES if not isinstance(row[1], KeyboardInterrupt)],
)
def test_an_asynchronous_iterator_does_too(what, error, expected, kind):
    """The same of `__anext__`, returned by a function or by a coroutine function."""
    with isolated() as metrics:

        async def answer():
            return OnlyAsync(metrics.clock, error)

        async def main():
            plain = track(model="m")(lambda: OnlyAsync(metrics.clock, error))
            stream = plain() if kind == "function" else await track(model="m")(answer)()
            with suppress(Exception):
                await consume_async(what, stream, metrics)

        asyncio.run(main())
        gc.collect()
        assert left(metrics) == expected


def test_a_task_that_waits_for_an_item_can_be_cancelled():
    """The request is cancelled with it."""

    class Endless:
        def __aiter__(self):
            return self

        async def __anext__(self):
            await asyncio.Event().wait()

    async def main():
        stream = track(model="m")(Endless)()
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    with isolated() as metrics:
        asyncio.run(main())
        assert left(metrics) == "cancelled"


@pytest.mark.parametrize(
    ("make", "tokens"),
    [
        (lambda: map(str, range(4)), 4),
        (lambda: filter(None, [0, 1, 2]), 2),
        (lambda: zip("ab", "cd", strict=True), 2),
        (lambda: iter(["a", "b", "c"]), 3),
        (lambda: itertools.chain("ab", "c"), 3),
        (lambda: reversed([1, 2]), 2),
        (lambda: enumerate("ab"), 2),
    ],
)
def test_python_s_own_iterators_are_streams(make, tokens):
    """Each item is a token, the mode is streaming, and what comes out is the same."""
    with isolated() as metrics:
        stream = track(model="m")(make)()
        assert isinstance(stream, type(make()))
        assert isinstance(stream, Iterator)
        assert list(stream) == list(make())
        metrics.assert_metric(
            "ryot_tokens_generated_total",
            {"model": "m", "token_type": "completion", "generation_mode": "streaming"},
            value=tokens,
        )
        metrics.assert_metric(
            "ryot_inference_requests_total", {"model": "m", "status": "success"}, value=1
        )


class File:
    """Iterates over itself, and can be read."""

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration

    def read(self):
        return ""


class Strange:
    """Claims to be an iterator, and fails when it is asked."""

    def __iter__(self):
        raise RuntimeError("no")

    def __next__(self):
        raise StopIteration


@pytest.mark.parametrize(
    "result",
    [
        ["a"],
        ("a",),
        {"a": 1},
        {"a"},
        "text",
        b"x",
        range(3),
        io.StringIO("a"),
        File(),
        Strange(),
        Iterator,
        None,
    ],
)
def test_what_is_no_stream_is_a_result(result):
    """Collections, text and files are given back as they are, and the request has ended."""
    with isolated() as metrics:
        assert track(model="m")(lambda: result)() is result
        assert left(metrics) == "success"


def test_a_stream_stays_what_it_is():
    """`isinstance`, attributes, `with` and `repr` are those of the object; others it has not."""
    with isolated() as metrics:
        original = Stream(metrics.clock)
        stream = track(model="m")(lambda: original)()
        assert isinstance(stream, Stream)
        assert not isinstance(stream, AsyncIterator)
        assert stream.response == "raw"
        stream.response = "changed"
        assert original.response == "changed"
        del stream.error
        assert not hasattr(original, "error")
        assert repr(stream) == repr(original)
        assert iter(stream) is stream
        for missing in ("aclose", "__aenter__", "__len__", "nothing"):
            assert not hasattr(stream, missing)
        plain = track(model="m")(lambda: iter([1, 2]))()
        assert plain.__length_hint__() == 2
        with pytest.raises((TypeError, AttributeError)), plain:
            pass


def test_both_ways_of_iterating():
    """What can be taken with `for` and with `async for` is measured by either."""
    for asynchronous in (False, True):
        with isolated() as metrics:
            stream = track(model="m")(lambda: AsyncStream(metrics.clock))()

            async def read():
                return [item async for item in stream]  # noqa: B023

            items = asyncio.run(read()) if asynchronous else list(stream)
            assert items == ["word"] * 3
            assert left(metrics) == "success, 3"


def test_what_an_item_calls_is_part_of_the_request():
    """Tracked calls within `__next__` join; the consumer's own between two items do not."""

    def produce(number):
        with InferenceContext(model="inner"):
            return str(number)

    with isolated() as metrics:
        for _ in track(model="outer")(lambda: map(produce, range(3)))():
            with InferenceContext(model="consumer"):
                pass
        counts = {"outer": 1, "consumer": 3}
        for model, count in counts.items():
            labels = {"model": model, "status": "success"}
            metrics.assert_metric("ryot_inference_requests_total", labels, value=count)
        assert 'model="inner"' not in generate_latest(metrics.registry).decode()


def test_a_function_counts_the_tokens_of_each_item():
    """`token_count` is given the items, not the iterator."""
    with isolated() as metrics:
        list(track(model="m", token_count=len)(lambda: iter(["abc", "de"]))())
        labels = {"model": "m", "token_type": "completion", "generation_mode": "streaming"}
        metrics.assert_metric("ryot_tokens_generated_total", labels, value=5)


def test_an_engine_s_stream_that_a_function_returns():
    """It is measured to its end, its tokens count once, and a dropped one is cancelled."""
    with isolated() as metrics, Engine("toy", name="engine") as engine:
        answer = track(model="m")(lambda: engine.stream("hi", SamplingParams(max_tokens=5)))
        assert len(list(answer())) == 5
        labels = {"model": "m", "token_type": "completion", "generation_mode": "streaming"}
        metrics.assert_metric("ryot_tokens_generated_total", labels, value=5)
        stream = answer()
        next(stream)
        del stream
        gc.collect()
        for status in ("success", "cancelled"):
            labels = {"model": "m", "status": status}
            metrics.assert_metric("ryot_inference_requests_total", labels, value=1)


@pytest.mark.parametrize("kind", ["generator", "iterator"])
def test_an_engine_that_is_ahead_of_a_slow_consumer(kind):
    """All its tokens are counted before the second item is taken, and none of them again."""
    with isolated() as metrics, Engine("toy", name="engine") as engine:

        def iterator():
            return engine.stream("hi", SamplingParams(max_tokens=6))

        def generator():
            yield from iterator()

        stream = track(model="m")({"generator": generator, "iterator": iterator}[kind])()
        next(stream)
        name = "ryot_tokens_generated_total"
        labels = {"model": "m", "token_type": "completion", "generation_mode": "streaming"}
        while metrics.registry.get_sample_value(name, labels) < 6:
            pass
        assert len(list(stream)) == 5
        metrics.assert_metric(name, labels, value=6)
        metrics.assert_metric("ryot_tokens_per_request", {"model": "m"}, count=1, sum=6)
