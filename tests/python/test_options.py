"""What the decorators are told: models, endpoints and numbers, by constants and by functions."""

import asyncio
import concurrent.futures
import gc
import logging
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest

from calls import left
from ryot_metrics import track_inference_request as track
from ryot_metrics.testing import isolated

CALLBACK_ERRORS = ("ryot_metrics_dropped_total", {"reason": "callback_error"})


@pytest.fixture(autouse=True)
def metrics():
    with isolated() as metrics:
        yield metrics


def requests(metrics):
    """Model, endpoint and request type of what was counted."""
    found = set()
    for family in metrics.registry.collect():
        for sample in family.samples:
            if sample.name == "ryot_inference_requests_total" and sample.value:
                found.add((sample.labels["model"], sample.labels.get("endpoint", "")))
    return found


def value(metrics, name, **labels):
    return sum(
        sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize(
    ("options", "model"),
    [
        ({"model": "fixed"}, "fixed"),
        ({"model": lambda prompt, *_, **__: f"for-{prompt}"}, "for-hi"),
        ({"model_arg": "model"}, "large"),
        ({"model_arg": "request.model"}, "of-request"),
        ({"model_arg": "request.options.name"}, "of-key"),
        ({"model_arg": "request.nothing"}, "default"),
        ({"model_arg": "other"}, "other-default"),
    ],
)
def test_a_model_is_a_constant_an_argument_or_a_function(metrics, options, model):
    """Each way to say the model gives the label; nothing said is `default`."""

    @track(**options)
    def complete(prompt, request, model="small", other="other-default"):
        return prompt

    request = SimpleNamespace(model="of-request", options={"name": "of-key"}, nothing=None)
    complete("hi", request, model="large")
    complete("hi", request, "large")
    assert requests(metrics) == {(model, "")}


def test_the_first_positional_argument_is_the_model_or_the_function(metrics):
    """`track("m")`, `track` and `track()` mean what they look like."""
    track("text")(lambda: None)()
    track(lambda: None)()
    track()(lambda: None)()
    assert requests(metrics) == {("text", ""), ("default", "")}


def test_methods_are_told_apart_by_their_arguments(metrics):
    """A decorated method reads its own arguments, and binds as before."""

    class Service:
        @track(model_arg="name", endpoint=lambda self, name: self.route)
        def answer(self, name):
            return name

        route = "/v1"

    assert Service().answer("a") == Service().answer(name="b")[:0] + "a"
    assert requests(metrics) == {("a", "/v1"), ("b", "/v1")}


def test_numbers_become_classes_of_labels(metrics):
    """Prompt tokens choose the TTFT's prompt size, the batch its latency's batch size."""

    @track(
        model="m",
        prompt_tokens=lambda words: len(words),
        batch_size=8,
        request_type="batch",
        token_count=lambda result: result["n"],
    )
    def complete(words):
        return {"n": 5, "ttft_seconds": 1}

    complete(["word"] * 60)
    labels = {"model": "m", "batch_size": "5-8", "generation_mode": "batch"}
    assert value(metrics, "ryot_inference_latency_seconds_count", **labels) == 1
    assert value(metrics, "ryot_tokens_generated_total", token_type="prompt") == 60
    assert value(metrics, "ryot_tokens_generated_total", token_type="completion") == 5


def test_a_stream_of_chunks_tells_its_tokens(metrics):
    """OpenAI-style chunks: a role is no token, a text is one, and `usage` has the last word."""
    role = {"choices": [{"delta": {"role": "assistant"}}]}
    text = {"choices": [{"delta": {"content": "Hi"}}]}
    usage = {"choices": [], "usage": {"completion_tokens": 9, "prompt_tokens": 4}}

    @track(model="m")
    def stream():
        for chunk in (role, text, text, usage):
            metrics.clock.advance(ms=10)
            yield chunk

    assert len(list(stream())) == 4
    assert value(metrics, "ryot_ttft_latency_seconds_sum") == pytest.approx(0.02)
    assert value(metrics, "ryot_tokens_generated_total", token_type="completion") == 9
    assert value(metrics, "ryot_tokens_generated_total", token_type="prompt") == 4


def test_items_are_counted_by_a_function(metrics):
    """`token_count` is asked for each item of a stream; an item of 0 tokens is none."""

    @track(model="m", token_count=len)
    def stream():
        yield from ("", "ab", "c")

    list(stream())
    assert value(metrics, "ryot_tokens_generated_total") == 3
    assert value(metrics, "ryot_ttft_latency_seconds_count") == 1


@pytest.mark.parametrize(
    "option",
    [
        {"model": lambda: 1 / 0},
        {"endpoint": lambda: 1 / 0},
        {"prompt_tokens": lambda: 1 / 0},
        {"prompt_tokens": lambda: -1},
        {"batch_size": lambda: "eight"},
        {"token_count": lambda result: 1 / 0},
        {"token_count": lambda result: -1},
    ],
)
def test_a_function_that_fails_fails_no_request(metrics, option, caplog):
    """What the user's functions do wrong is logged once and counted each time."""
    caplog.set_level(logging.WARNING, "ryot_metrics")
    decorated = track(**option)(lambda: "done")
    assert decorated() == decorated() == "done"
    name, labels = CALLBACK_ERRORS
    assert value(metrics, name, **labels) == 2
    assert value(metrics, "ryot_inference_requests_total", status="success") == 2
    assert len(caplog.records) <= 1


@pytest.mark.parametrize(
    ("option", "error", "text"),
    [
        ({"model_arg": "nope"}, TypeError, "has no argument 'nope'"),
        ({"model": 3}, TypeError, "model is 3; it must be a text or a function"),
        ({"endpoint": None}, TypeError, "endpoint is None"),
        ({"request_type": "sync"}, ValueError, "'sync'; it must be one of standard, streaming"),
        ({"batch_size": -1}, ValueError, "batch_size is -1; it must be from 0 to 2147483647"),
        ({"prompt_tokens": 2**31}, ValueError, "prompt_tokens is 2147483648"),
        ({"model": "a", "model_arg": "model"}, ValueError, "give one"),
        ({"model": "\ud800"}, TypeError, "it must be a text"),
        ({"model_arg": 3}, TypeError, "model_arg is 3"),
        ({"prompt_tokens": "x"}, ValueError, "prompt_tokens is 'x'"),
        ({"token_count": 3}, TypeError, "token_count is 3; it must be a function"),
    ],
)
def test_nonsense_is_refused_when_the_function_is_decorated(option, error, text):
    """A mistake shows at import, not at the first request."""
    with pytest.raises(error, match=text):
        track(**option)(lambda model: None)


@pytest.mark.parametrize(("model", "label"), [("a\ud800", "a?"), (3, "3"), (None, "default")])
def test_any_model_has_a_label(metrics, model, label):
    """Clients choose models: whatever they send, the request is counted, once."""
    track(model=lambda model: model, endpoint=lambda model: model)(lambda model: "done")(model)
    assert value(metrics, "ryot_inference_requests_total", model=label) == 1


def test_numbers_of_any_library_are_numbers(metrics):
    """The integers of numpy and decimals count as the builtin ones do."""

    @track(model="m", prompt_tokens=lambda: Decimal(3), batch_size=lambda: np.int64(2))
    def complete():
        return {"usage": {"completion_tokens": np.int32(5)}}

    complete()
    assert value(metrics, "ryot_tokens_generated_total", token_type="prompt") == 3
    assert value(metrics, "ryot_tokens_generated_total", token_type="completion") == 5
    assert value(metrics, "ryot_inference_latency_seconds_count", batch_size="2-4") == 1


class Chunks:
    """As the streams of OpenAI's client: an iterator that reads from a generator of its own."""

    def __init__(self):
        self._iterator = (SimpleNamespace(choices=[{"delta": {"content": it}}]) for it in "abc")

    def __iter__(self):
        yield from self._iterator


class AsyncChunks:
    def __init__(self):
        self._iterator = async_words()

    async def __aiter__(self):
        async for item in self._iterator:
            yield item


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_client_s_stream_is_followed_to_its_end(metrics, asynchronous, taken):
    """It stays what it is; its items are tokens; one that is dropped early is cancelled."""

    @track(model="m")
    def ask():
        return Chunks()

    @track(model="m")
    async def ask_async():
        return AsyncChunks()

    async def take():
        stream = await ask_async()
        assert isinstance(stream, AsyncChunks)
        assert value(metrics, "ryot_active_inference_requests", request_type="streaming") == 1
        items = aiter(stream)
        for _ in range(taken):
            await anext(items)
        await (anext(items, None) if taken == 3 else items.aclose())

    if asynchronous:
        asyncio.run(take())
    else:
        stream = ask()
        assert isinstance(stream, Chunks)
        items = iter(stream)
        for _ in range(taken):
            next(items)
        if taken == 3:
            next(items, None)
        del items, stream
    gc.collect()
    status = "success" if taken == 3 else "cancelled"
    assert value(metrics, "ryot_inference_requests_total", status=status) == 1
    assert value(metrics, "ryot_inference_requests_total") == 1
    assert value(metrics, "ryot_tokens_generated_total") == taken
    assert value(metrics, "ryot_ttft_latency_seconds_count") == (taken > 0)


def test_methods_of_every_kind_are_measured(metrics):
    """The decorator may stand above `staticmethod` and `classmethod` as well as below."""

    class Service:
        @track(model="m")
        @staticmethod
        def static():
            return "static"

        @track(model="m")
        @classmethod
        def of_class(cls):
            return cls.__name__

        @track(model="m")
        def method(self):
            return self

    service = Service()
    assert (service.static(), Service.static()) == ("static", "static")
    assert (service.of_class(), service.method()) == ("Service", service)
    assert value(metrics, "ryot_inference_requests_total", status="success") == 4


def test_only_functions_are_decorated():
    """A property, or a number, is refused at once."""
    for thing in (property(len), 3):
        with pytest.raises(TypeError, match="is no function"):
            track(thing)


def words():
    yield from ("a", "b", "c")


async def async_words():
    for word in words():
        yield word


async def work():
    await asyncio.sleep(0)
    return SimpleNamespace(token_count=3)


class Awaitable:
    def __await__(self):
        return work().__await__()


def test_what_a_function_returns_is_followed_to_its_end(metrics):
    """A returned generator, coroutine, task or awaitable is part of the request, as it is."""

    async def main():
        assert [word async for word in track(model="agen")(lambda: async_words())()] == list(
            words()
        )
        pending = track(model="coroutine")(lambda: work())()
        assert left("coroutine") == {}
        assert (await pending).token_count == 3
        assert (await track(model="awaitable")(lambda: Awaitable())()).token_count == 3
        task = asyncio.create_task(work())
        assert track(model="task")(lambda: task)() is task
        await task
        await asyncio.sleep(0)

    stream = track(model="generator")(lambda: words())()
    assert value(metrics, "ryot_active_inference_requests", request_type="streaming") == 1
    assert list(stream) == list(words())
    asyncio.run(main())
    counted = {
        model: value(metrics, "ryot_tokens_generated_total", model=model)
        for model in ("generator", "agen", "coroutine", "awaitable", "task")
    }
    assert counted == dict.fromkeys(counted, 3)
    assert value(metrics, "ryot_inference_requests_total", status="success") == 5
    for mode, number in (("streaming", 2), ("standard", 3)):
        name = "ryot_inference_latency_seconds_count"
        assert value(metrics, name, generation_mode=mode) == number
    assert value(metrics, "ryot_active_inference_requests") == 0


def test_a_future_of_a_thread_is_followed_too(metrics):
    """`Executor.submit` returns at once; the request ends when the work does."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        submit = track(model="pool")(pool.submit)
        futures = [submit(int, "3"), submit(int, "three")]
        assert futures[0].result() == 3
    assert value(metrics, "ryot_inference_requests_total", status="success") == 1
    error = {"status": "error", "error_type": "invalid_prompt"}
    assert value(metrics, "ryot_inference_requests_total", **error) == 1


def test_a_returned_stream_that_nobody_reads_is_cancelled(metrics):
    """A generator that was returned and dropped ends its request."""
    del [track(model="m")(lambda: words())()][0]
    assert value(metrics, "ryot_inference_requests_total", status="cancelled") == 1
    assert value(metrics, "ryot_active_inference_requests") == 0


def test_a_consumer_in_a_block_of_its_own(metrics):
    """A block that is opened between two items is not the stream's, nor the stream the block's."""
    from ryot_metrics import InferenceContext

    stream = track(model="stream")(words)()
    next(stream)
    with InferenceContext(model="block") as context:
        next(stream)
        context.token()
        track(model="inside")(lambda: None)()
    list(stream)
    for model, tokens in (("stream", 3), ("block", 1), ("inside", 0)):
        assert value(metrics, "ryot_tokens_generated_total", model=model) == tokens
    assert requests(metrics) == {("stream", ""), ("block", "")}
    track(model="after")(lambda: None)()
    assert ("after", "") in requests(metrics)
