"""The arithmetic behind the live views: by hand, and as a real Prometheus computes it."""

from __future__ import annotations

import json
import math
import random
import subprocess
from typing import TYPE_CHECKING

import pytest

from ryot_metrics.live import Cache, Figures, Gpu, Quantiles, Snapshot, histogram_quantile
from test_prometheus import binary

if TYPE_CHECKING:
    from pathlib import Path

INF = math.inf


@pytest.mark.parametrize(
    ("q", "bounds", "counts", "value"),
    [
        (0.5, [1, 2, 4, INF], [10, 20, 40, 40], 2.0),  # rank 20 ends the second bucket
        (0.9, [1, 2, 4, INF], [10, 20, 40, 40], 3.6),  # rank 36: 16 of the 20 between 2 and 4
        (0.1, [1, 2, 4, INF], [10, 20, 40, 40], 0.4),  # the first bucket starts at 0
        (0.99, [1, 2, 4, INF], [10, 20, 40, 50], 4),  # beyond the finite bounds: the highest
        (0.5, [1, 2, 4, INF], [0, 0, 6, 6], 3.0),  # empty buckets are passed over
        (0.5, [-1, 0, INF], [4, 4, 4], -1),  # a first bound that is not positive stands for itself
        (1.0, [1, INF], [3, 3], 1.0),
    ],
)
def test_quantile(q: float, bounds: list[float], counts: list[float], value: float) -> None:
    """Quantiles computed by hand by PromQL's rules."""
    assert histogram_quantile(q, bounds, counts) == pytest.approx(value)


@pytest.mark.parametrize(
    ("bounds", "counts"), [([], []), ([INF], [3]), ([1, 2], [1, 2]), ([1, INF], [0, 0])]
)
def test_quantile_of_nothing(bounds: list[float], counts: list[float]) -> None:
    """Without samples, or without a finite and an infinite bound, there is no quantile."""
    assert math.isnan(histogram_quantile(0.5, bounds, counts))


def test_quantile_out_of_range() -> None:
    """A quantile beyond 1 is refused by its value."""
    with pytest.raises(ValueError, match="q is 95"):
        histogram_quantile(95, [1, INF], [1, 1])


BEFORE = """\
# TYPE ryot_inference_requests_total counter
ryot_inference_requests_total{model="a",status="success"} 5
ryot_inference_requests_total{model="b",status="success"} 2
ryot_inference_requests_total{model="a",status="error"} 0
# TYPE ryot_tokens_generated_total counter
ryot_tokens_generated_total{model="a",token_type="completion"} 30
ryot_tokens_generated_total{model="a",token_type="prompt"} 99
# TYPE ryot_ttft_latency_seconds histogram
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="0.1"} 1
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="+Inf"} 1
# TYPE ryot_batch_size_distribution histogram
ryot_batch_size_distribution_sum{model="a"} 10
ryot_batch_size_distribution_count{model="a"} 10
"""
AFTER = """\
# TYPE ryot_inference_requests_total counter
ryot_inference_requests_total{model="a",status="success"} 11
ryot_inference_requests_total{model="b",status="success"} 4
ryot_inference_requests_total{model="a",status="error"} 0
# TYPE ryot_tokens_generated_total counter
ryot_tokens_generated_total{model="a",token_type="completion"} 130
ryot_tokens_generated_total{model="a",token_type="prompt"} 990
# TYPE ryot_ttft_latency_seconds histogram
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="0.1"} 3
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="tiny",le="+Inf"} 3
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="small",le="0.1"} 1
ryot_ttft_latency_seconds_bucket{model="a",prompt_size="small",le="+Inf"} 2
# TYPE ryot_active_inference_requests gauge
ryot_active_inference_requests{model="a",request_type="streaming"} 3
ryot_active_inference_requests{model="b",request_type="standard"} 1
# TYPE ryot_queue_depth gauge
ryot_queue_depth{model="a",priority_level="normal"} 7
# TYPE ryot_batch_size_distribution histogram
ryot_batch_size_distribution_sum{model="a"} 34
ryot_batch_size_distribution_count{model="a"} 18
# TYPE ryot_kv_cache_size_bytes gauge
ryot_kv_cache_size_bytes{model="a",context_length="512"} 1024
# TYPE ryot_kv_cache_queries_total counter
ryot_kv_cache_queries_total{model="a",context_type="conversation"} 8
# TYPE ryot_kv_cache_hits_total counter
ryot_kv_cache_hits_total{model="a",context_type="conversation"} 2
# TYPE ryot_gpu_memory_usage_bytes gauge
ryot_gpu_memory_usage_bytes{model="a",memory_type="used",device_id="0"} 100
ryot_gpu_memory_usage_bytes{model="b",memory_type="used",device_id="0"} 50
ryot_gpu_memory_usage_bytes{model="a",memory_type="peak",device_id="0"} 999
# TYPE ryot_gpu_utilization_percent gauge
ryot_gpu_utilization_percent{model="a",device_id="0",kernel_type="all"} 40
ryot_gpu_utilization_percent{model="b",device_id="0",kernel_type="all"} 40
ryot_gpu_utilization_percent{model="b",device_id="1",kernel_type="all"} 5
"""


def test_figures_by_hand() -> None:
    """Two pages, four seconds apart, and every figure computed on paper."""
    figures = Figures.between(Snapshot.parse(BEFORE, 10.0), Snapshot.parse(AFTER, 14.0))
    # TTFT: 3 of 4 new samples are below 0.1 s, one is beyond the last finite bound.
    assert figures.ttft == Quantiles(p50=pytest.approx(0.1 * 2 / 3), p95=0.1, p99=0.1)
    assert figures.inter_token == figures.latency == figures.queue_wait == Quantiles()
    assert figures.tokens_per_second == 25
    assert figures.requests_per_second == {"success": 2.0, "error": 0.0}
    assert (figures.active, figures.queue_depth) == (4, 7)
    assert figures.batch_size_mean == 3
    assert (figures.kv_cache_bytes, figures.kv_cache_hit_ratio) == (1024, 0.25)
    assert figures.kv_cache_usage is None
    assert figures.gpus == {"0": Gpu(150, 40), "1": Gpu(None, 5)}
    data = json.loads(json.dumps(figures.as_dict()))
    assert data["seconds"] == 4
    assert data["ttft"]["p95"] == 0.1
    assert data["gpus"]["1"] == {"memory_bytes": None, "utilization_percent": 5}


def test_what_only_an_engine_has() -> None:
    """Its queue by class, late tokens by promise, and its prefix cache, on paper."""
    page = (
        'ryot_engine_queued_sessions{{model="a",class="interactive"}} 2\n'
        'ryot_engine_queued_sessions{{model="b",class="interactive"}} 3\n'
        'ryot_engine_queued_sessions{{model="a",class="background"}} 1\n'
        'ryot_engine_slo_violations_total{{model="a",slo="ttft",class="interactive"}} {0}\n'
        'ryot_engine_slo_violations_total{{model="a",slo="tbt",class="background"}} 0\n'
        'ryot_engine_prefix_cache_queries_total{{model="a"}} {1}\n'
        'ryot_engine_prefix_cache_hits_total{{model="a"}} {2}\n'
        'ryot_engine_prefix_cache_resident_bytes{{model="a",location="host"}} 4096\n'
    ).format
    before, after = Snapshot.parse(page(1, 100, 10), 0.0), Snapshot.parse(page(9, 200, 90), 2.0)
    figures = Figures.between(before, after)
    assert figures.engine_queue == {"interactive": 5, "background": 1}
    assert figures.late_tokens_per_second == {"ttft": 4, "tbt": 0}
    assert figures.prefix_cache == Cache(0.8, None, 4096)


def test_nothing_is_unknown_rather_than_zero() -> None:
    """A page without families gives no figure, and belongs to no profile."""
    empty = Snapshot.parse("# TYPE up gauge\nup 1\n", 1.0)
    figures = Figures.between(Snapshot.parse("", 0.0), empty)
    assert figures == Figures(seconds=1.0)
    assert empty.names is None


def test_counter_that_fell_was_reset() -> None:
    """A counter lower than before has grown from zero, and only that one."""
    page = 'x_total{{worker="1"}} {}\nx_total{{worker="2"}} {}\n'.format
    grown = Snapshot.parse(page(3, 30), 1.0).since(Snapshot.parse(page(100, 20), 0.0))
    assert grown.by("x_total", "worker") == {"1": 3, "2": 10}


def test_restarted_process_counts_from_zero() -> None:
    """With another start time all counters are new, those too that have overtaken the old ones."""
    page = "process_start_time_seconds {}\nx_total {}\n".format
    grown = Snapshot.parse(page(2000, 50), 1.0).since(Snapshot.parse(page(1000, 40), 0.0))
    assert grown.total("x_total") == 50


def test_pages_in_the_wrong_order() -> None:
    """Rates over no time, or backwards, are refused."""
    page = Snapshot.parse(BEFORE, 5.0)
    with pytest.raises(ValueError, match="after is 0 s after before"):
        Figures.between(page, page)


def test_reads_a_vllm_page() -> None:
    """The names of vLLM are read as the same figures."""
    page = (
        'vllm:generation_tokens_total{{model_name="m",engine="0"}} {}\n'
        'vllm:num_requests_waiting{{model_name="m",engine="0"}} 4\n'
        'vllm:kv_cache_usage_perc{{model_name="m",engine="0"}} 0.75\n'
        'vllm:request_success_total{{model_name="m",finished_reason="stop"}} {}\n'
    ).format
    figures = Figures.between(Snapshot.parse(page(10, 1), 0.0), Snapshot.parse(page(50, 3), 2.0))
    assert (figures.tokens_per_second, figures.queue_depth) == (20, 4)
    assert figures.kv_cache_usage == 0.75
    assert figures.requests_per_second == {"stop": 1.0}


BOUNDS = ["0.005", "0.1", "0.5", "2.5", "+Inf"]


def _cumulative(chance: random.Random, start: list[int]) -> list[int]:
    """Bucket counts that have grown from these by a few samples in some buckets."""
    grown = [chance.choice([0, 0, 1, 7, 40]) for _ in BOUNDS]
    return [old + sum(grown[: place + 1]) for place, old in enumerate(start)]


def test_quantiles_are_those_of_prometheus(tmp_path: Path) -> None:
    """Over 60 random pairs of pages of two children, PromQL gives our quantiles."""
    promtool = binary("promtool")
    chance = random.Random(7)
    series, expected = [], []
    for case in range(60):
        pages = ["", ""]
        for child in "ab":
            before = _cumulative(chance, [0] * len(BOUNDS))
            after = _cumulative(chance, before)
            for le, old, new in zip(BOUNDS, before, after, strict=True):
                name = f'ttft_bucket{{case="{case}",child="{child}",le="{le}"}}'
                pages = [
                    f"{page}{name} {value}\n" for page, value in zip(pages, (old, new), strict=True)
                ]
                series.append({"series": name, "values": f"{old} {new}"})
        first, last = (Snapshot.parse(page, float(at)) for at, page in enumerate(pages))
        for q in (0.0, 0.5, 0.95, 0.99, 1.0):
            by = f'sum by (le) (ttft_bucket{{case="{case}"}}'
            expression = f"histogram_quantile({q}, {by}) - {by} offset 1m)) >= 0"  # drops NaN
            ours = last.since(first).quantile("ttft", q)
            samples = [] if math.isnan(ours) else [{"labels": "{}", "value": ours}]
            expected.append({"expr": expression, "eval_time": "1m", "exp_samples": samples})
    group = {"interval": "1m", "input_series": series, "promql_expr_test": expected}
    tests = tmp_path / "tests.json"  # JSON is YAML
    tests.write_text(json.dumps({"rule_files": [], "tests": [group]}))
    done = subprocess.run([promtool, "test", "rules", tests], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(bool(test["exp_samples"]) for test in expected) > 200
