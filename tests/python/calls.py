"""What the instrumented calls of one model left on the page, for comparing at one glance."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from ryot_metrics import client

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

FAMILIES = {
    "ryot_inference_latency_seconds_count": "latency",
    "ryot_ttft_latency_seconds_count": "ttft",
    "ryot_inference_inter_token_latency_seconds_count": "gaps",
    "ryot_tokens_per_request_sum": "tokens",
    "ryot_inference_errors_total": "errors",
    "ryot_inference_retries_total": "retries",
    "ryot_active_inference_requests": "active",
}


def left(model: str) -> dict[str, float]:
    """All samples of a model that are not 0, by short names; a request's is its labels."""
    found: dict[str, float] = {}
    for family in client.collect():
        for sample in family.samples:
            labels = sample.labels
            if labels.get("model") != model:
                continue
            name = FAMILIES.get(sample.name, "")
            if sample.name == "ryot_inference_requests_total":
                shown = ("status", "endpoint", "error_type")
                name = " ".join(labels[label] for label in shown if label in labels)
            elif sample.name == "ryot_tokens_generated_total":
                name = labels["token_type"]
            if name and sample.value:
                found[name] = found.get(name, 0) + sample.value
    return found


def finish(main: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine; what it dropped is collected."""
    result = asyncio.run(main)
    gc.collect()
    return result
