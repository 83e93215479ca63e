"""A decorated async generator is driven as the bare one is, whatever its consumer does with it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import pickle
import types
import weakref
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ryot_metrics import InferenceContext
from ryot_metrics import track_inference_request as track
from ryot_metrics.testing import isolated

REQUESTS = "ryot_inference_requests_total"
TOKENS = "ryot_tokens_generated_total"


async def counts():
    for item in range(3):
        await asyncio.sleep(0)
        yield item


async def echoes():
    value = None
    while True:
        value = yield ("got", value)


async def recovers():
    for item in range(3):
        try:
            yield item
        except ValueError as error:
            await asyncio.sleep(0)
            yield error


async def breaks():
    yield StopIteration(1)
    await asyncio.sleep(0)
    raise LookupError("broken")


async def stays():
    while True:
        try:
            yield (1, 2)
        except GeneratorExit:
            yield "still here"
            return


async def nothing():
    return
    yield


BODIES = [counts, echoes, recovers, breaks, stays, nothing]
STEPS = {
    "next": lambda stream: stream.__anext__(),
    "send": lambda stream: stream.asend("value"),
    "throw": lambda stream: stream.athrow(ValueError("thrown")),
    "leave": lambda stream: stream.athrow(GeneratorExit()),
    "close": lambda stream: stream.aclose(),
    "cancel": lambda stream: cancelled(stream.__anext__()),
}


STARTS = {
    "next": next,
    "send": lambda step: step.send(None),
    "throw": lambda step: step.throw(ValueError("thrown")),
    "close": lambda step: step.close(),
}


async def cancelled(step):
    task = asyncio.ensure_future(waiting(step))
    await asyncio.sleep(0)
    task.cancel()
    return await task


async def waiting(step):
    return await step


def outcomes(body, steps):
    """What each of these steps gives, in words."""

    async def main():
        stream, seen = body(), []
        for step in steps:
            try:
                seen.append(repr(await STEPS[step](stream)))
            except BaseException as error:
                seen.append(repr(error))
        for _ in range(2):
            with suppress(BaseException):
                await stream.aclose()
        return seen

    return asyncio.run(main())


@settings(deadline=None, max_examples=200)
@given(body=st.sampled_from(BODIES), steps=st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
def test_every_step_gives_what_the_generator_gives(body, steps):
    """Items, exceptions and their texts are the same, in any order of steps."""
    assert outcomes(track(model="same")(body), steps) == outcomes(body, steps)


@pytest.mark.parametrize("body", [body for body in BODIES if body is not stays])
def test_a_step_is_an_iterator_too(body):
    """What `await` does by a slot of the class, old code does by `next`, `send` and `throw`."""

    def drive(stream):
        seen = []
        for how in (*STARTS, "next"):
            step = STEPS["next"](stream)
            try:
                seen.append(STARTS[how](step))
                if how != "close":
                    seen.append(next(step))
            except BaseException as error:
                seen.append(repr(error))
        return seen

    with isolated():
        assert drive(track(model="old")(body)()) == drive(body())


def test_two_steps_at_once_are_refused_as_the_generator_refuses_them():
    """The request goes on: only the second step fails."""

    def texts(body):
        stream, seen = body(), []
        first = stream.__anext__()
        first.send(None)
        for step in ("next", "send", "throw", "close"):
            with pytest.raises(RuntimeError) as caught:
                STEPS[step](stream).send(None)
            seen.append(str(caught.value))
        with pytest.raises(StopIteration) as stop:
            first.send(None)
        with pytest.raises(RuntimeError, match=r"again|already awaited"):
            first.send(None)
        return seen, stop.value.value, outcome(stream.aclose())

    with isolated() as metrics:
        assert texts(track(model="once")(counts)) == texts(counts)
    assert metrics.value(REQUESTS, {"model": "once", "status": "cancelled"}) == 1
    assert metrics.value(TOKENS, {"model": "once", "token_type": "completion"}) == 1


def outcome(step):
    with pytest.raises(StopIteration) as stop:
        while True:
            step.send(None)
    return stop.value.value


def test_the_body_has_a_context_of_its_own():
    """It begins as its consumer's, and stays whoever takes the next step; nothing leaks out."""
    name = contextvars.ContextVar("name")

    @track(model="context")
    async def body():
        for _ in range(3):
            yield name.get()
            name.set(name.get() + "+")

    async def main():
        name.set("consumer")
        stream, seen = body(), []
        for turn in range(3):
            seen.append(await asyncio.create_task(waiting(stream.__anext__())))
            assert name.get() == ("consumer" if turn == 0 else "changed")
            name.set("changed")
        return seen

    assert asyncio.run(main()) == ["consumer", "consumer+", "consumer++"]


def test_tasks_belong_to_who_began_them():
    """Those of the body to its request; those of its consumer, run while the body waits, do not."""
    call = track(model="inner")(partial(asyncio.sleep, 0))

    @track(model="outer")
    async def body():
        yield 1
        await asyncio.gather(call(), call())
        with InferenceContext("block"):
            yield 2

    async def main():
        theirs = []
        async for _ in body():
            theirs.append(asyncio.create_task(call()))
        await asyncio.gather(*theirs)

    with isolated() as metrics:
        asyncio.run(main())
    assert metrics.value(REQUESTS, {"model": "outer", "status": "success"}) == 1
    assert metrics.value(REQUESTS, {"model": "inner", "status": "success"}) == 2
    assert not metrics.value(REQUESTS, {"model": "block", "status": "success"})


def test_it_is_of_its_kind_to_whoever_asks():
    """To `inspect` and `isinstance`, as function, method, and what these return."""

    class Service:
        @track(model="kind")
        async def stream(self):
            yield self

        @staticmethod
        @track(model="kind")
        async def alone():
            yield 1

    service = Service()
    for function in (service.stream, Service.stream, Service.alone, named):
        assert inspect.isasyncgenfunction(function)
        assert not inspect.iscoroutinefunction(function)
    assert inspect.ismethod(service.stream)
    assert inspect.isfunction(named)
    assert str(inspect.signature(named)) == "(a: 'int', *, b: 'str' = 'x') -> 'AsyncGenerator[int]'"
    assert named.__defaults__ is None
    assert named.__kwdefaults__ == {"b": "x"}
    assert pickle.loads(pickle.dumps(named)) is named
    stream = service.stream()
    assert inspect.isasyncgen(stream)
    assert isinstance(stream, AsyncGenerator)
    assert isinstance(stream, types.AsyncGeneratorType)
    assert not inspect.isawaitable(stream)
    assert inspect.isawaitable(stream.__anext__())
    assert not stream.ag_running
    assert stream.ag_code is Service.stream.__wrapped__.__code__
    assert "Service.stream" in repr(stream)
    assert repr(named) == repr(named.__wrapped__)
    assert weakref.ref(stream)() is stream
    with pytest.raises(AttributeError, match="nonsense"):
        _ = stream.nonsense
    with pytest.raises(TypeError, match="missing 1 required"):
        named()  # as the bare one: at once


@track(model="kind")
async def named(a: int, *, b: str = "x") -> AsyncGenerator[int]:
    """A function of the module, as `pickle` wants it."""
    yield a


def test_a_circle_of_a_stream_is_collected():
    """Its request is cancelled then."""

    class Holder:
        stream = None

    async def body(holder):
        yield 1
        yield holder

    async def main():
        holder = Holder()
        holder.stream = track(model="circle")(body)(holder)
        await holder.stream.__anext__()
        held = weakref.ref(holder.stream)
        del holder
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        return held()

    with isolated() as metrics:
        assert asyncio.run(main()) is None
    assert metrics.value(REQUESTS, {"model": "circle", "status": "cancelled"}) == 1


def test_steps_leak_nothing():
    """Ten thousand steps leave as many objects as there were."""

    @track(model="leak")
    async def body():
        for item in range(100):
            await asyncio.sleep(0)
            yield object() if item % 2 else str(item)

    async def main(streams):
        for _ in range(streams):
            async for _ in body():
                pass
            stream = body()
            await stream.__anext__()
            await stream.aclose()

    asyncio.run(main(2))
    gc.collect()
    before = len(gc.get_objects())
    asyncio.run(main(100))
    gc.collect()
    assert len(gc.get_objects()) - before < 100
