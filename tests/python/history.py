"""A day of history of every family of the catalogue, for a real Prometheus.

The series are made from the catalogue's rows, with two models: `fast` has short latencies and no
errors, `slow` long ones and one request in ten that fails.
"""

from __future__ import annotations

import subprocess
from itertools import product
from typing import TYPE_CHECKING

from ryot_metrics import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ryot_metrics.catalogue import Family

END = 1_750_000_500  # seconds since the epoch
DAY = 86_400
# Every ten minutes, and every fifteen seconds of the last half hour.
TIMES = [*range(END - 90_000, END - 1800, 600), *range(END - 1800, END + 1, 15)]

VALUES = {
    "model": ["fast", "slow"],
    "status": ["success", "error", "cancelled"],
    "token_type": ["prompt", "completion"],
    "error_type": ["oom", "timeout"],
    "device_id": ["0", "1"],
    "load_type": ["cold_start", "warm_start"],
    "context_type": ["conversation", "batch"],
    "priority_level": ["high", "normal", "low"],
}
ONLY = {("ryot_inference_requests_total", "error_type"): [""]}
# Per second, by family and by the labels that matter.
SLOPES = {
    ("ryot_inference_requests_total", "fast", "success"): 2.0,
    ("ryot_inference_requests_total", "fast", "error"): 0.0,
    ("ryot_inference_requests_total", "slow", "success"): 0.9,
    ("ryot_inference_requests_total", "slow", "error"): 0.1,
    ("ryot_inference_requests_total", "slow", "cancelled"): 0.5,
    ("ryot_inference_errors_total", "fast"): 0.0,
    ("ryot_inference_errors_total", "slow"): 0.05,
    ("ryot_tokens_generated_total", "completion"): 80.0,
    ("ryot_tokens_generated_total", "prompt"): 20.0,
    ("ryot_token_cost_estimate_usd_total", "completion"): 0.006 * 80 / 1000,
    ("ryot_token_cost_estimate_usd_total", "prompt"): 0.0015 * 20 / 1000,
    ("ryot_kv_cache_hits_total", "conversation"): 3.0,
    ("ryot_kv_cache_hits_total", "batch"): 0.5,
    ("ryot_kv_cache_queries_total",): 4.0,
}
GAUGES = {
    ("ryot_gpu_memory_percentage", "0"): 62.5,
    ("ryot_gpu_memory_percentage", "1"): 40.0,
    ("ryot_memory_efficiency_ratio",): 0.75,
}
FLEET = {
    "llm_kv_blocks_active": {"a": 77.0, "b": 29.0},
    "llm_kv_blocks_total": {"a": 100.0, "b": 100.0},
    "llm_requests_active_slots": {"a": 3.0, "b": 1.0},
    "llm_requests_total_slots": {"a": 8.0, "b": 8.0},
    "llm_kv_hit_rate_percent": {"a": 50.0, "b": 20.0},
    "llm_load_avg": {"": 53.0},
    "llm_load_std": {"": 24.0},
}
FLEET_COUNTERS = {"llm_kv_hit_rate_isl_blocks": 10.0, "llm_kv_hit_rate_overlap_blocks": 4.0}


def _chosen(table: dict[tuple[str, ...], float], name: str, values: list[str]) -> float | None:
    """The number of the first row whose name and labels are this series'."""
    for key, number in table.items():
        if key[0] == name and set(key[1:]) <= set(values):
            return number
    return None


def _lines(name: str, labels: dict[str, str], start: float, slope: float) -> Iterator[str]:
    every = {"job": "ryot", "instance": "gpu-1:8000"} | labels
    shown = ",".join(f'{key}="{value}"' for key, value in every.items() if value)
    for time in TIMES:
        yield f"{name}{{{shown}}} {start + slope * (time - TIMES[0]):.9g} {time}\n"


def _histogram(family: Family, labels: dict[str, str]) -> Iterator[str]:
    """An observation a second, in the second bucket (fast) or in the last finite one (slow)."""
    bucket = len(family.buckets) - 1 if labels.get("model") == "slow" else 1
    for index, bound in enumerate([*family.buckets, float("inf")]):
        le = {"le": "+Inf" if bound == float("inf") else repr(bound)}
        yield from _lines(f"{family.name}_bucket", labels | le, 0, float(index >= bucket))
    yield from _lines(f"{family.name}_count", labels, 0, 1)
    yield from _lines(f"{family.name}_sum", labels, 0, family.buckets[bucket])


def _family(family: Family) -> Iterator[str]:
    known = VALUES | {
        label: values for (name, label), values in ONLY.items() if name == family.name
    }
    for values in product(*(known.get(label, ["x"]) for label in family.labels)):
        labels = dict(zip(family.labels, values, strict=True))
        if family.type == "histogram":
            yield from _histogram(family, labels)
        elif family.type == "counter":
            slope = _chosen(SLOPES, family.name, list(values))
            yield from _lines(family.name, labels, 0, 1.0 if slope is None else slope)
        else:
            value = _chosen(GAUGES, family.name, list(values))
            rises = 0.01 if family.name == "ryot_queue_depth" else 0.0
            yield from _lines(family.name, labels, 7.0 if value is None else value, rises)


def _fleet() -> Iterator[str]:
    where = {"component": "backend", "endpoint": "generate"}
    for name, workers in FLEET.items():
        for worker, value in workers.items():
            yield from _lines(name, where | {"worker_id": worker}, value, 0)
    for name, slope in FLEET_COUNTERS.items():
        yield from _lines(name, where | {"worker_id": "a"}, 0, slope)


def write_history(page: Path, blocks: Path) -> None:
    """Writes the history as a page and lets promtool make Prometheus's blocks of it."""
    with page.open("w") as file:
        for family in catalogue.families():
            if not family.name.startswith("llm_"):
                file.writelines(_family(family))
        file.writelines(_fleet())
        file.write("# EOF\n")
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(page), str(blocks)]
    subprocess.run(command, check=True, capture_output=True)
