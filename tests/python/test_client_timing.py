"""Timers, trackers and exception counters, around functions of every kind."""

import asyncio
import inspect
import itertools

import prometheus_client
import pytest

from ryot_metrics import client
from ryot_metrics.client.timing import ExceptionCounter, InprogressTracker, Timer


def function(fail=False):
    if fail:
        raise KeyError("x")
    return 3


async def coroutine(fail=False):
    await asyncio.sleep(0)
    return function(fail)


def generator(fail=False):
    got = yield 1
    yield got
    return function(fail)


async def async_generator(fail=False):
    got = yield 1
    yield got
    function(fail)


KINDS = [function, coroutine, generator, async_generator]
PREDICATES = [
    inspect.iscoroutinefunction,
    inspect.isgeneratorfunction,
    inspect.isasyncgenfunction,
    inspect.signature,
]


def run(decorated, **kwargs):
    """Calls a function of any kind and drives it to its end; what it gave."""

    async def drive():
        result = decorated(**kwargs)
        if inspect.isawaitable(result):
            return await result
        if inspect.isasyncgen(result):
            return [await result.__anext__(), await result.asend("sent")] + [
                x async for x in result
            ]
        if inspect.isgenerator(result):
            return [next(result), result.send("sent"), *result]
        return result

    return asyncio.run(drive())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "around",
    [Timer(len), InprogressTracker(list, list), ExceptionCounter(list)],
    ids=["timer", "inprogress", "exceptions"],
)
def test_a_decorated_function_stays_of_its_kind(around, kind):
    """Name, signature and kind are those of the function, and so is what it gives."""
    decorated = Timer(lambda seconds: None)(kind) if isinstance(around, Timer) else around(kind)
    assert decorated.__name__ == kind.__name__
    for predicate in PREDICATES:
        assert predicate(decorated) == predicate(kind)
    assert run(decorated) == run(kind)


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_call_is_observed_once_at_its_end(kind, fail):
    """One duration for each call, from its beginning to its end, be it an exception."""
    clock = itertools.count(0, 5).__next__
    seen = []
    decorated = Timer(seen.append, clock)(kind)
    for _ in range(2):
        try:
            run(decorated, fail=fail)
        except KeyError:
            assert fail
    assert seen == [5, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_exceptions_are_counted_wherever_they_surface(kind):
    """Only those of the given class count, also behind an `await` or a `yield`."""
    seen = []

    def inc():
        seen.append(1)

    with pytest.raises(KeyError):
        run(ExceptionCounter(inc, KeyError)(kind), fail=True)
    with pytest.raises(KeyError):
        run(ExceptionCounter(inc, (ValueError, OSError))(kind), fail=True)
    assert len(seen) == 1


def test_a_stream_is_in_progress_until_it_ends():
    """A generator counts from its first item until it is exhausted, closed or broken."""
    running = []
    tracked = InprogressTracker(lambda: running.append(1), running.pop)(generator)
    first, second = tracked(), tracked()
    assert running == []
    next(first)
    next(second)
    assert len(running) == 2
    first.close()
    assert len(running) == 1
    with pytest.raises(ZeroDivisionError):
        second.throw(ZeroDivisionError)
    assert running == []


def test_an_async_stream_is_in_progress_until_it_ends():
    """The same for an async generator; what is thrown into it arrives in it."""
    running, caught = [], []

    @InprogressTracker(lambda: running.append(1), running.pop)
    async def stream():
        try:
            yield 1
        except ZeroDivisionError as error:
            caught.append(error)
            yield 2

    async def drive():
        closed, thrown = stream(), stream()
        await closed.__anext__()
        assert await thrown.__anext__() == 1
        assert len(running) == 2
        await closed.aclose()
        assert len(running) == 1
        assert await thrown.athrow(ZeroDivisionError()) == 2
        assert [item async for item in thrown] == []

    asyncio.run(drive())
    assert running == []
    assert len(caught) == 1


def test_a_cancelled_coroutine_ends_its_span():
    """Cancellation is an end like any other, and an exception that can be counted."""
    seen, cancelled = [], []

    @ExceptionCounter(lambda: cancelled.append(1), asyncio.CancelledError)
    @Timer(seen.append)
    async def wait():
        await asyncio.Event().wait()

    async def drive():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(drive())
    assert len(seen) == len(cancelled) == 1


def test_timers_nest():
    """A decorated function may call itself, and one timer may surround nested blocks."""
    seen = []
    timer = Timer(seen.append, itertools.count().__next__)

    @timer
    def count_down(n):
        return n and count_down(n - 1)

    count_down(2)
    assert seen == [1, 3, 5]
    with timer, timer:
        pass
    assert seen[3:] == [1, 3]
    assert timer.duration == 3


def test_time_that_goes_backwards_is_no_time():
    """A duration is never negative."""
    seen = []
    with Timer(seen.append, iter([5.0, 3.0]).__next__):
        pass
    assert seen == [0.0]


def test_a_timer_takes_its_labels_inside_the_block():
    """The series may be chosen when its labels are known, as with `prometheus_client`."""

    def pages(module, make_timer):
        registry = module.CollectorRegistry()
        histogram = module.Histogram("a", "", ["code"], registry=registry)
        with make_timer(histogram) as timer:
            timer.labels(code=200)
        return registry.get_sample_value("a_count", {"code": "200"})

    ours = pages(client, lambda histogram: Timer(histogram.observe))
    assert ours == pages(prometheus_client, lambda histogram: histogram.time()) == 1.0


def test_a_timer_of_a_plain_function_has_no_labels():
    """Without a metric there is nothing to choose from."""
    with pytest.raises(TypeError, match="no method of a metric"):
        Timer(lambda seconds: None).labels("x")
