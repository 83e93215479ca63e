"""What several parts of one request say adds up: one after the other, at once, and nested."""

import asyncio
from types import SimpleNamespace

from ryot_metrics import (
    CostModel,
    Engine,
    InferenceContext,
    SamplingParams,
    set_cost_model,
    track_inference_request,
)

TOKENS = "ryot_tokens_generated_total"


def answer(prompt, completion):
    """A result with OpenAI's usage."""
    return SimpleNamespace(usage={"prompt_tokens": prompt, "completion_tokens": completion})


def check(metrics, model, prompt, completion):
    """One request, with so many tokens, and nothing under another model."""
    requests = "ryot_inference_requests_total"
    metrics.assert_metric(requests, {"model": model, "status": "success"}, delta=1)
    metrics.assert_metric(requests, {"status": "success"}, delta=1)
    metrics.assert_metric(TOKENS, {"token_type": "prompt"}, delta=prompt)
    metrics.assert_metric(TOKENS, {"token_type": "completion"}, delta=completion)
    metrics.assert_metric("ryot_tokens_per_request", {"model": model}, count=1, sum=completion)
    metrics.assert_metric("ryot_prompt_tokens_per_request", {"model": model}, sum=prompt)


@track_inference_request(model="part")
async def call(prompt=5, completion=3):
    await asyncio.sleep(0)
    return answer(prompt, completion)


def test_calls_of_an_engine_add_up(ryot_metrics):
    """Two calls in one function have the prompts of both, as they have outside of it."""
    with Engine("toy", name="engine") as engine:

        @track_inference_request(model="whole")
        def twice():
            engine.generate("hello world", SamplingParams(max_tokens=3))
            engine.generate(["x", "yy"], SamplingParams(max_tokens=2))

        twice()
        prompt = sum(len(engine.tokenize(text)) for text in ("hello world", "x", "yy"))
    check(ryot_metrics, "whole", prompt, 7)


def test_parts_at_once_add_up(ryot_metrics):
    """Each keeps its own account, however they take turns."""

    @track_inference_request(model="whole")
    async def both():
        await asyncio.gather(call(), call(7, 4))

    asyncio.run(both())
    check(ryot_metrics, "whole", 12, 7)


def test_blocks_at_once_add_up(ryot_metrics):
    """A block's count is absolute within the block only."""

    async def part():
        async with InferenceContext("part") as context:
            context.set_prompt_tokens(5)
            context.set_token_count(2)
            await asyncio.sleep(0)
            context.set_token_count(3)
            context.add_tokens(1)
            await asyncio.sleep(0)
            assert context.token_count == 4
        return context.token_count

    async def whole():
        async with InferenceContext("whole") as context:
            counts = await asyncio.gather(part(), part())
            assert context.token_count == sum(counts) == 8

    asyncio.run(whole())
    check(ryot_metrics, "whole", 10, 8)


def test_what_every_wrapper_says_counts_once(ryot_metrics):
    """The usage of one call passes through a part, a block and the whole, which all read it."""

    @track_inference_request(model="whole")
    async def outer():
        async with InferenceContext("block") as context:
            result = await call()
            context.set_prompt_tokens(result.usage["prompt_tokens"])
            context.set_token_count(result.usage["completion_tokens"])
        return result

    asyncio.run(outer())
    check(ryot_metrics, "whole", 5, 3)


def test_the_last_answer_of_several_is_not_all(ryot_metrics):
    """A function that returns one of its calls' answers has the tokens of all."""

    @track_inference_request(model="whole")
    async def chain():
        await call(10, 20)
        return await call(5, 3)

    asyncio.run(chain())
    check(ryot_metrics, "whole", 15, 23)


def test_streams_at_once_count_each_item(ryot_metrics):
    """An item of one stream is not taken for that of another."""

    @track_inference_request(model="part")
    async def stream(count):
        for item in range(count):
            await asyncio.sleep(0)
            yield str(item)

    async def read(count):
        return [item async for item in stream(count)]

    @track_inference_request(model="whole")
    async def both():
        await asyncio.gather(read(3), read(5))
        return answer(2, 1)

    asyncio.run(both())
    check(ryot_metrics, "whole", 2, 8)
    gaps = "ryot_inference_inter_token_latency_seconds"
    ryot_metrics.assert_metric(gaps, {"model": "whole"}, count=7)


def test_the_whole_pays_for_its_parts(ryot_metrics):
    """Cost follows the tokens of all parts."""
    set_cost_model("whole", CostModel.fixed_rate(prompt="1", completion="10"))

    @track_inference_request(model="whole")
    async def chain():
        await call(10, 20)
        await call(5, 3)

    try:
        asyncio.run(chain())
    finally:
        set_cost_model("whole", None)
    cost = "ryot_token_cost_estimate_usd_total"
    ryot_metrics.assert_metric(cost, {"token_type": "prompt"}, delta=0.015)
    ryot_metrics.assert_metric(cost, {"token_type": "completion"}, delta=0.23)


def test_what_outlives_a_part_belongs_to_the_whole(ryot_metrics):
    """A task that a part began, and that goes on after it, is part of the whole."""

    @track_inference_request(model="part")
    async def begin():
        return asyncio.create_task(late())

    async def late():
        await asyncio.sleep(0)
        await call(5, 3)

    @track_inference_request(model="whole")
    async def whole():
        task = await begin()
        await task

    asyncio.run(whole())
    check(ryot_metrics, "whole", 5, 3)


def test_what_a_part_submits_and_leaves_running_counts(ryot_metrics):
    """An engine's request outlives the part that submitted it, and is still one of the whole."""
    with Engine("toy", name="engine") as engine:

        @track_inference_request(model="part", token_count=lambda stream: None)
        def submitted():
            with InferenceContext(model="part"):
                stream = engine.stream("hello", SamplingParams(max_tokens=3, ignore_eos=True))
            return [stream]

        with InferenceContext(model="whole"):
            streams = [submitted()[0] for _ in range(20)]
            for stream in streams:
                assert len(list(stream)) == 3
    ryot_metrics.assert_metric(TOKENS, {"model": "whole", "token_type": "completion"}, delta=60)
    ryot_metrics.assert_metric("ryot_inference_requests_total", {"status": "success"}, delta=1)
