"""A test suite with the fixture `ryot_metrics`: run it with `pytest examples/test_service.py`."""

from __future__ import annotations

import pytest

from ryot_metrics import track_inference_request
from ryot_metrics.client import Counter

REFUSED = Counter("chat_refused_total", "Prompts that the filter refused.", ["reason"])


@track_inference_request(model="small", endpoint="/chat")
def chat(prompt, produce):
    """The code under test: streams words, and refuses an empty prompt."""
    if not prompt:
        REFUSED.labels(reason="empty").inc()
        raise ValueError("the prompt is empty")
    for word in prompt.split():
        produce()
        yield word


def test_stream_is_timed(ryot_metrics):
    """Each word takes 20 ms of the test's own clock: nothing sleeps, and times are exact."""
    assert list(chat("to be or", lambda: ryot_metrics.clock.advance(ms=20))) == ["to", "be", "or"]
    done = {"model": "small", "status": "success"}
    ryot_metrics.assert_metric("ryot_inference_requests_total", done, delta=1)
    ryot_metrics.assert_metric("ryot_ttft_latency_seconds", count=1, sum=0.020)
    ryot_metrics.assert_metric("ryot_inference_inter_token_latency_seconds", count=2, sum=0.040)
    ryot_metrics.assert_metric("ryot_active_inference_requests", value=0)


def test_refusal_is_an_error(ryot_metrics):
    """A metric of the service's own is measured from the beginning of the test."""
    with pytest.raises(ValueError, match="empty"):
        list(chat("", lambda: None))
    ryot_metrics.assert_metric("chat_refused_total", {"reason": "empty"}, delta=1)
    ryot_metrics.assert_metric("ryot_inference_requests_total", {"status": "error"}, delta=1)
    ryot_metrics.assert_metric("ryot_ttft_latency_seconds", count=0)


@track_inference_request(model="small")
async def answer(clock):
    """Takes a second, and tells its tokens as OpenAI does."""
    clock.advance(seconds=1)
    return {"usage": {"prompt_tokens": 4, "completion_tokens": 2}}


def test_coroutine(ryot_metrics):
    """Asynchronous code is no different; with pytest-asyncio the test is `async` itself."""
    import asyncio

    asyncio.run(answer(ryot_metrics.clock))
    ryot_metrics.assert_metric("ryot_inference_latency_seconds", {"model": "small"}, count=1, sum=1)
    completion = {"token_type": "completion"}
    ryot_metrics.assert_metric("ryot_tokens_generated_total", completion, delta=2)
