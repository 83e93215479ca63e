"""The decorators on functions of every kind, against the table of outcomes."""

import asyncio
import gc
import inspect
from types import SimpleNamespace

import pytest

from page import changes
from ryot_metrics import Engine, InferenceContext, SamplingParams
from ryot_metrics import track_inference_request as track
from ryot_metrics import track_token_generation as track_tokens

TOKENS = "ryot_tokens_generated_total"
GAPS = "ryot_inference_inter_token_latency_seconds_count"
TTFT = "ryot_ttft_latency_seconds_count"
LATENCY = "ryot_inference_latency_seconds_count"
ACTIVE = "ryot_active_inference_requests"


def consume(function, limit=None):
    """Runs a function of any kind to its end, or to so many items; gives what came out."""
    if inspect.isasyncgenfunction(function):

        async def take():
            items = []
            stream = function()
            async for item in stream:
                items.append(item)
                if len(items) == limit:
                    await stream.aclose()
                    break
            return items

        return asyncio.run(take())
    if inspect.isgeneratorfunction(function):
        items = []
        for item in function():
            items.append(item)
            if len(items) == limit:
                break
        return items
    result = function()
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def kinds(error=None, items=3):
    """A function, a coroutine function, a generator and an async generator that do the same."""

    def function():
        if error:
            raise error
        return "done"

    async def coroutine():
        await asyncio.sleep(0)
        return function()

    def generator():
        yield from range(items)
        if error:
            raise error

    async def async_generator():
        for item in range(items):
            await asyncio.sleep(0)
            yield item
        if error:
            raise error

    return [function, coroutine, generator, async_generator]


@pytest.mark.parametrize("index", range(4))
def test_a_decorated_function_stays_of_its_kind(index):
    """`inspect` says the same of a function with and without the decorator."""
    function = kinds()[index]
    decorated = track(model="kind")(function)
    for question in (
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert question(decorated) == question(function)
    assert decorated.__name__ == function.__name__
    assert consume(decorated) == consume(function)


@pytest.mark.parametrize("index", range(4))
def test_success_is_one_request_with_its_latency(index):
    """A call that ends well is one success; a stream's items are tokens with TTFT and gaps."""
    streams = index > 1
    with changes() as change:
        consume(track(model="ok", endpoint="/e")(kinds()[index]))
    assert change.statuses("ok") == {"success": 1}
    assert change.sum("ryot_inference_requests_total", model="ok", endpoint="/e") == 1
    assert change.sum(LATENCY, model="ok") == 1
    assert change.sum(TOKENS, model="ok") == (3 if streams else 0)
    assert change.sum(TTFT, model="ok") == (1 if streams else 0)
    assert change.sum(GAPS, model="ok") == (2 if streams else 0)
    assert change.sum(ACTIVE, model="ok") == 0


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (RuntimeError("boom"), "error", "inference_error"),
        (MemoryError(), "error", "oom"),
        (RuntimeError("CUDA out of memory"), "error", "oom"),
        (RuntimeError("CUDA error: launch failure"), "error", "cuda_error"),
        (TimeoutError(), "timeout", "timeout"),
        (asyncio.TimeoutError(), "timeout", "timeout"),
        (asyncio.CancelledError(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
    ],
)
@pytest.mark.parametrize("items", [0, 2])
def test_an_exception_has_its_status_and_passes_unchanged(index, error, status, error_type, items):
    """Each exception is one request of its status; after a stream's first token it is partial."""
    if isinstance(error, KeyboardInterrupt) and index in (1, 3):
        pytest.skip("asyncio's runner ends on it")
    if index > 1 and items and status == "error":
        status = "partial"
    function = kinds(error, items)[index]
    with changes() as change, pytest.raises(type(error)) as raised:
        consume(track(model="bad")(function))
    assert raised.value is error or isinstance(error, asyncio.CancelledError)
    assert change.statuses("bad") == {status: 1}
    assert change.sum("ryot_inference_errors_total", model="bad") == (error_type is not None)
    if error_type:
        labels = {"model": "bad", "error_type": error_type}
        assert change.sum("ryot_inference_errors_total", **labels) == 1
        assert change.sum("ryot_inference_requests_total", **labels) == 1
    assert change.sum(LATENCY, model="bad") == 1
    assert change.sum(ACTIVE, model="bad") == 0


@pytest.mark.parametrize("index", [2, 3])
def test_a_consumer_that_breaks_out_cancels(index):
    """A stream that is left early is cancelled; the tokens it gave count."""
    with changes() as change:
        assert consume(track_tokens(model="left")(kinds()[index]), limit=2) == [0, 1]
        gc.collect()
    assert change.statuses("left") == {"cancelled": 1}
    assert change.sum(TOKENS, model="left") == 2
    assert change.sum("ryot_inference_errors_total", model="left") == 0
    assert change.sum(ACTIVE, model="left") == 0


def test_a_dropped_generator_counts_as_cancelled_when_it_is_collected():
    """Garbage collection ends a forgotten stream's request."""
    stream = track(model="dropped")(kinds()[2])()
    with changes() as change:
        next(stream)
        assert change.sum(ACTIVE, model="dropped") == 1
        del stream
        gc.collect()
    assert change.statuses("dropped") == {"cancelled": 1}
    assert change.sum(ACTIVE, model="dropped") == 0


def test_a_cancelled_task_is_cancelled():
    """Cancelling the task that awaits a tracked coroutine is no error."""

    @track(model="cancelled-task")
    async def work():
        await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with changes() as change:
        asyncio.run(main())
    assert change.statuses("cancelled-task") == {"cancelled": 1}


def test_a_generator_keeps_its_protocol():
    """`send`, `throw` and the return value go through a decorated generator."""
    seen = []

    @track(model="protocol")
    def echo():
        value = yield "first"
        while value != "stop":
            try:
                value = yield value
            except KeyError as error:
                seen.append(error)
                value = "caught"
        return "returned"

    stream = echo()
    assert next(stream) == "first"
    assert stream.send("x") == "x"
    assert stream.throw(KeyError("k")) == "caught"
    with pytest.raises(StopIteration) as stop:
        stream.send("stop")
    assert stop.value.value == "returned"
    assert len(seen) == 1


def test_an_async_generator_keeps_its_protocol():
    """`asend` and `athrow` go through, and `aclose` runs its clean-up."""
    seen = []

    @track(model="protocol")
    async def echo():
        try:
            value = yield "first"
            while True:
                try:
                    value = yield value
                except KeyError:
                    value = "caught"
        finally:
            await asyncio.sleep(0)
            seen.append("closed")

    async def main():
        stream = echo()
        assert await stream.__anext__() == "first"
        assert await stream.asend("x") == "x"
        assert await stream.athrow(KeyError("k")) == "caught"
        await stream.aclose()

    with changes() as change:
        asyncio.run(main())
    assert seen == ["closed"]
    assert change.statuses("protocol") == {"cancelled": 1}


def test_nested_decorators_count_once():
    """Stacked decorators, and a context inside, are one request, and a token is one token."""

    @track(model="outer")
    @track_tokens(model="inner")
    def stream():
        with InferenceContext(model="innermost") as context:
            for item in range(5):
                context.token()
                yield item

    @track(model="outermost")
    def all_of_it():
        return SimpleNamespace(items=list(stream()))

    with changes() as change:
        assert list(stream()) == list(range(5))
        assert all_of_it().items == list(range(5))
    assert change.statuses("outer") == {"success": 1}
    assert change.statuses("outermost") == {"success": 1}
    assert change.statuses("inner") == change.statuses("innermost") == {}
    assert change.sum(TOKENS, model="outer") == 5
    assert change.sum(TOKENS, model="outermost") == 5
    assert change.sum(GAPS) == 8


def test_a_consumer_s_own_requests_are_not_part_of_the_stream():
    """Between two items of a tracked stream, the consumer's tracked calls count for themselves."""

    @track(model="stream")
    def stream():
        yield from range(3)

    async def context_stream():
        with InferenceContext(model="context-stream"):
            for item in range(3):
                yield item

    @track(model="moderation")
    def moderate(item):
        return item

    async def main():
        async for item in context_stream():
            moderate(item)

    with changes() as change:
        for item in stream():
            moderate(item)
        asyncio.run(main())
    assert change.statuses("stream") == change.statuses("context-stream") == {"success": 1}
    assert change.statuses("moderation") == {"success": 6}


def test_tasks_of_a_request_belong_to_it():
    """Calls in tasks that a tracked coroutine starts join its request."""

    @track(model="part")
    async def part():
        return SimpleNamespace(token_count=3)

    @track(model="whole")
    async def whole():
        await asyncio.gather(part(), part())

    with changes() as change:
        asyncio.run(whole())
    assert change.statuses("whole") == {"success": 1}
    assert change.statuses("part") == {}


@pytest.mark.parametrize(
    ("kind", "own", "tokens"), [("coroutine", 3, 5), ("stream", 3, 5), ("context", 2, 3)]
)
def test_a_task_that_outlives_its_request_has_requests_of_its_own(kind, own, tokens):
    """A worker that the first request starts goes on for hours; each of its calls counts."""

    @track(model="later")
    def call():
        return SimpleNamespace(token_count=2)

    @track(model="first")
    async def coroutine():
        return asyncio.create_task(worker())

    @track(model="first")
    async def stream():
        yield asyncio.create_task(worker())

    async def worker():
        call()
        await ended.wait()
        call()
        with InferenceContext("later") as context:
            context.token()

    async def main():
        if kind == "coroutine":
            task = await coroutine()
        elif kind == "stream":
            [task] = [task async for task in stream()]
        else:
            with InferenceContext("first"):
                task = asyncio.create_task(worker())
                await asyncio.sleep(0)  # its first call is part of the block
        ended.set()
        await task

    ended = asyncio.Event()
    with changes() as change:
        asyncio.run(main())
    assert change.statuses("first") == {"success": 1}
    assert change.statuses("later") == {"success": own}
    assert change.sum(TOKENS, model="later") == tokens


@pytest.mark.parametrize(
    "result",
    [
        SimpleNamespace(token_count=7, ttft_seconds=0.25),
        SimpleNamespace(usage=SimpleNamespace(completion_tokens=7, prompt_tokens=11)),
        {"usage": {"completion_tokens": 7, "prompt_tokens": 11}},
    ],
)
def test_a_result_tells_its_tokens(result):
    """`token_count`, `ttft_seconds` and an OpenAI-style `usage` of a result are recorded."""

    @track_tokens(model="inner")
    def complete():
        return result

    with changes() as change:
        assert track(model="told")(complete)() is result
    usage = not hasattr(result, "ttft_seconds")
    assert change.sum(TOKENS, model="told", token_type="completion") == 7
    assert change.sum(TOKENS, model="told", token_type="prompt") == (11 if usage else 0)
    assert change.sum("ryot_tokens_per_request_sum", model="told") == 7
    assert change.sum("ryot_ttft_latency_seconds_sum", model="told") == (0 if usage else 0.25)


def test_recording_never_raises_into_the_request():
    """A result whose attributes raise, or make no sense, is returned all the same."""

    class Hostile:
        @property
        def token_count(self):
            raise RuntimeError("no")

    for result in (Hostile(), SimpleNamespace(token_count=-4, ttft_seconds=float("nan"))):
        with changes() as change:
            assert track(model="hostile")(lambda result=result: result)() is result
        assert change.statuses("hostile") == {"success": 1}


def test_the_decorator_works_without_parentheses():
    """Bare use has the model `default`."""
    with changes() as change:
        assert consume(track(kinds()[0])) == "done"
        assert consume(track_tokens(kinds()[2])) == [0, 1, 2]
    assert change.statuses("default") == {"success": 2}


def test_an_engine_inside_a_decorated_function_is_part_of_its_request():
    """The engine's tokens and first token are the outer request's, and nothing counts twice."""
    with Engine("toy", name="engine") as engine:

        @track(model="service")
        def answer():
            return engine.generate("hello", SamplingParams(max_tokens=6))

        @track_tokens(model="service")
        async def stream():
            async for chunk in engine.stream("hello", SamplingParams(max_tokens=6)):
                yield chunk

        with changes() as change:
            assert answer().token_count == 6
            assert len(consume(stream)) == 6
    assert change.statuses("service") == {"success": 2}
    assert change.statuses("engine") == {}
    assert change.sum(TOKENS, model="service", token_type="completion") == 12
    assert change.sum(TOKENS, model="engine") == 0
    assert change.sum(TTFT, model="service") == 2
    assert change.sum(GAPS, model="service") == 10
