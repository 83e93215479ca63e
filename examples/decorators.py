"""Measure functions of any kind with a decorator, and print what was measured.

Run: python examples/decorators.py
"""

import asyncio
from collections.abc import AsyncIterator

from ryot_metrics import track_inference_request, track_token_generation
from ryot_metrics.client import REGISTRY


@track_inference_request(model="echo", endpoint="/complete")
async def complete(prompt: str) -> str:
    """A coroutine function: one request, timed from call to return."""
    await asyncio.sleep(0.02)
    return prompt.upper()


@track_token_generation(model="echo")
async def stream(prompt: str) -> AsyncIterator[str]:
    """An async generator: each item is a token; TTFT, inter-token latency and total time."""
    for word in prompt.split():
        await asyncio.sleep(0.01)
        yield word


@track_inference_request(model="echo")
def fail() -> None:
    """An exception is counted and passes unchanged."""
    raise MemoryError("the model does not fit")


async def main() -> None:
    """Makes one request of each kind."""
    print(await complete("hello"))
    print([word async for word in stream("to be or not to be")])
    try:
        fail()
    except MemoryError as error:
        print(f"failed: {error}")


asyncio.run(main())
for status, endpoint, error_type in [
    ("success", "/complete", ""),
    ("success", "", ""),
    ("error", "", "oom"),
]:
    labels = {"model": "echo", "status": status, "endpoint": endpoint, "error_type": error_type}
    labels = {name: value for name, value in labels.items() if value}
    print(labels, REGISTRY.get_sample_value("ryot_inference_requests_total", labels))
