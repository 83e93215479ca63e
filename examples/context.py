"""Measure a block as one request, where a decorator does not fit.

Run: python examples/context.py
"""

import time

from ryot_metrics import InferenceContext
from ryot_metrics.client import REGISTRY


def tokens() -> list[str]:
    """What a model might say."""
    return ["Paris", "is", "the", "capital", "."]


with InferenceContext(model="gpt4", endpoint="/chat") as context:
    context.queued()
    time.sleep(0.005)  # waiting for a place
    context.scheduled()
    context.set_prompt_tokens(12)
    for token in tokens():
        time.sleep(0.01)  # computing
        context.token()  # TTFT at the first, inter-token latency at each other
        print(token, end=" ")

print(f"\n{context.token_count} tokens, {context.status}")
for name in (
    "ryot_inference_inter_token_latency_seconds_count",
    "ryot_inference_queue_wait_seconds_count",
    "ryot_tokens_per_request_sum",
):
    print(name, REGISTRY.get_sample_value(name, {"model": "gpt4"}))
